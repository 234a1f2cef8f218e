"""What several processes that share the branches of a cohort send and hold,
against DistributedDataParallel.

    python benchmarks/branch_parallel.py measure [CONFIG] [--processes 2]
    python benchmarks/branch_parallel.py paper

``measure`` trains a config on the CPU of this machine, by tools/train.py and
torchrun, with the same images a step in each case: half of the steps do not
distil, the other half do. The bytes are those that the kernel has counted on
a loopback interface where nothing else happens (``unshare --net``, for which
Linux has to allow namespaces).

``paper`` works out what larger cohorts send and hold.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mcod_plugin.cli import ToolParser, user_errors
from mcod_plugin.engine.parallel.deal import deal, speed_bound
from mcod_plugin.errors import ConfigError, check_integer

ROOT = Path(__file__).resolve().parents[1]
MB, GB = 1e6, 1e9
# Steps before the first look, in which buffers are made.
LEAD_IN = 4


@HOOKS.register_module()
class TrafficHook(Hook):
    """Notes, after some of the steps, what was sent so far and what the
    process holds.

    Args:
        steps (list[int]): After how many steps.
        out (str): Where to; a file for each process.
    """

    priority = 'LOWEST'

    def __init__(self, steps, out):
        self.steps, self.out, self.sent = steps, out, []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        from mmengine.dist import barrier, get_rank

        from mcod_plugin.utils.machine import process_memory
        if runner.iter + 1 not in self.steps:
            return
        barrier()
        self.sent.append(sent_bytes())
        if len(self.sent) < len(self.steps):
            return
        parameters = list(runner.model.parameters())
        states = [
            value for state in runner.optim_wrapper.optimizer.state.values()
            for value in state.values() if hasattr(value, 'nbytes')
        ]
        held = dict(
            sent=self.sent,
            weights=sum(value.nbytes for value in parameters),
            states=sum(value.nbytes for value in states),
            resident=process_memory('VmRSS'))
        Path(f'{self.out}.{get_rank()}').write_text(json.dumps(held))


def sent_bytes():
    """What was sent over the loopback interface so far."""
    for line in Path('/proc/net/dev').read_text().splitlines():
        name, _, numbers = line.partition(':')
        if name.strip() == 'lo':
            return int(numbers.split()[8])
    raise ConfigError('/proc/net/dev has no interface lo')


def run(config, processes, branch, steps, batch_size):
    """Train in some processes.

    Args:
        config (str): The config.
        processes (int): Their number.
        branch (int): How many share the branches.
        steps (int): How many do not distil, and how many do.
        batch_size (int): Images of a step, on all processes together.

    Returns:
        dict: Bytes ``sent`` a step that does not distil and a step that does,
        and for each process what it holds.
    """
    half = LEAD_IN + steps
    marks = [LEAD_IN, half, half + LEAD_IN, 2 * half]
    with tempfile.TemporaryDirectory() as folder:
        schedule = dict(
            type='mcod_plugin.DiscontinuousKDHook',
            by_epoch=False,
            on=1,
            gap=(0, 0),
            begin=half,
            weight=(1., 1.))
        traffic = dict(type='TrafficHook', steps=marks, out=f'{folder}/found')
        text = f"""\
_base_ = [{str(Path(config).resolve())!r}]
custom_imports = dict(
    imports=['mcod_plugin', 'branch_parallel'], allow_failed_imports=False)
custom_hooks = [{schedule!r}, {traffic!r}]
train_cfg = dict(_delete_=True, by_epoch=False, max_iters={marks[-1]})
val_cfg = val_dataloader = val_evaluator = None
train_dataloader = dict(batch_size={batch_size * branch // processes})
param_scheduler = []
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=-1, save_last=False),
    logger=dict(interval=1000))
env_cfg = dict(keep_freed_memory=False)
parallel = dict(branch={branch})
"""
        Path(f'{folder}/case.py').write_text(text)
        command = [
            sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node',
            str(processes),
            str(ROOT / 'tools' / 'train.py'), f'{folder}/case.py',
            '--launcher', 'pytorch', '--work-dir', f'{folder}/run'
        ]
        alone = [
            'unshare', '--map-root-user', '--net', 'sh', '-c',
            'ip link set lo up && exec "$@"', 'sh'
        ]
        folders = [str(Path(__file__).parent), str(ROOT)]
        variables = dict(
            os.environ,
            OMP_NUM_THREADS='1',
            PYTHONPATH=os.pathsep.join(folders))
        done = subprocess.run([*alone, *command],
                              env=variables,
                              capture_output=True,
                              text=True)
        if done.returncode:
            raise ConfigError(f'{" ".join(command)} failed: '
                              f'{" ".join(done.stderr.split())[-2000:]}')
        held = [
            json.loads(Path(f'{folder}/found.{rank}').read_text())
            for rank in range(processes)
        ]
    first, second, third, fourth = held[0].pop('sent')
    for part in held[1:]:
        del part['sent']
    return dict(
        off=(second - first) / steps, on=(fourth - third) / steps, held=held)


def measure(args):
    """Measure DistributedDataParallel, and processes that share the branches.
    """
    from mcod_plugin.runs.tables import render
    check_integer('--processes', args.processes, 2)
    check_integer('--steps', args.steps, 1)
    if args.batch_size % args.processes:
        raise ConfigError(f'--batch-size must be a multiple of --processes, '
                          f'{args.processes}; got {args.batch_size}')
    rows, found = [], {}
    for branch in (1, args.processes):
        name = f'{args.processes // branch} x {branch}'
        case = found[name] = run(args.config, args.processes, branch,
                                 args.steps, args.batch_size)
        columns = [
            ', '.join(f'{sum(part[key] for key in keys) / MB:.1f}'
                      for part in case['held'])
            for keys in (('weights', 'states'), ('resident', ))
        ]
        rows.append((name, f'{case["off"] / MB:.3f}', f'{case["on"] / MB:.3f}',
                     *columns))
    print(
        render(('data x branch', 'sent a step in a gap, MB',
                'sent a step that distils, MB',
                'weights and states of each process, MB',
                'resident memory of each process, MB'), rows))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=1) + '\n')


def held_and_sent(parameters, costs, size, branch, logits, per_parameter):
    """What the fullest of some devices holds and sends.

    Args:
        parameters (dict[str, int]): Their numbers by branch.
        costs (dict[str, float]): What a step costs by branch.
        size (int): The number of devices.
        branch (int): How many share the branches.
        logits (int): Bytes of a branch's logits, of the images that such
            devices see.
        per_parameter (int): Bytes of a parameter with its gradient and its
            states.

    Returns:
        tuple[float, float, float]: Bytes that a device holds, bytes that it
        sends in a step that distils, and the bound on speed against one
        device that trains the same images.
    """
    shares = deal(costs, branch)
    most = max(sum(parameters[name] for name in share) for share in shares)
    data = size // branch
    # A ring sends each value twice but for the own part.
    reduced = 2 * (data - 1) / data * 4 * most
    gathered = (branch - 1) * max(map(len, shares)) * logits
    return (per_parameter * most, reduced + gathered,
            data * speed_bound(costs, shares))


def facts(config):
    """Parameters and FLOPs of the branches of a config."""
    from mmengine.config import Config

    from mcod_plugin.engine.hooks.cohort_report_hook import branch_facts
    from mcod_plugin.registry import MODELS
    cfg = Config.fromfile(config)
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=cfg.get('data_preprocessor')))
    found = {name: branch_facts(model, name) for name in model.branches}
    parameters = {name: fact[1] for name, fact in found.items()}
    return (parameters, {name: fact[2]
                         for name, fact in found.items()}, model.num_classes)


def four_large():
    """Four of timm's ViT-L/16 at 224 pixels."""
    import timm

    from mcod_plugin.engine.hooks.cohort_report_hook import count_flops
    network = timm.create_model('vit_large_patch16_224')
    number = sum(value.numel() for value in network.parameters())
    flops = count_flops(network, (1, 3, 224, 224))
    return (dict.fromkeys('abcd', number), dict.fromkeys('abcd', flops), 1000)


def paper(args):
    """Print what larger cohorts hold and send."""
    from mcod_plugin.runs.tables import render
    configs = ROOT / 'configs'
    pair = facts(configs / 'mcod_resnet_vgg_cifar100.py')
    families = facts(
        configs / 'mcod_alexnet_vgg_resnet_densenet_cifar100.py')
    # SGD with momentum takes 12 bytes a parameter, AdamW 16. Of each layout
    # the number of devices, and of those that share the branches.
    cases = [
        ('main pair', pair, 128, 12, [(2, 1), (2, 2)]),
        ('families', families, 128, 12, [(4, 1), (4, 4)]),
        ('4 x ViT-L/16', four_large(), 1024, 16, [(4, 1), (4, 4), (8, 1),
                                                   (8, 4)]),
    ]
    rows = []
    for name, found, images, per_parameter, layouts in cases:
        parameters, costs, classes = found
        for size, branch in layouts:
            logits = 4 * classes * images * branch // size
            held, sent, bound = held_and_sent(parameters, costs, size, branch,
                                              logits, per_parameter)
            rows.append((name, str(size), f'{size // branch} x {branch}',
                         str(images), f'{held / GB:.3f}', f'{sent / MB:.2f}',
                         f'{bound:.2f}'))
    print(
        render(('cohort', 'devices', 'data x branch', 'images a step',
                'weights, gradients and states of a device, GB',
                'sent by a device a step that distils, MB',
                'at most times as fast as one device'), rows))


def parse_args():
    parser = ToolParser(description=__doc__.partition('\n\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    found = commands.add_parser('measure')
    found.add_argument(
        'config',
        nargs='?',
        default=str(ROOT / 'configs' / 'mcod_quickstart.py'))
    found.add_argument('--processes', type=int, default=2)
    found.add_argument('--steps', type=int, default=20)
    found.add_argument('--batch-size', type=int, default=64)
    found.add_argument('--out', help='a .json file for the numbers')
    found.set_defaults(function=measure)
    found = commands.add_parser('paper')
    found.set_defaults(function=paper)
    return parser.parse_args()


def main():
    args = parse_args()
    with user_errors():
        args.function(args)


if __name__ == '__main__':
    main()
