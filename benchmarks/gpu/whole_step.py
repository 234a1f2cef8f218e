"""Whether the whole training step as one CUDA graph is right, and what it is
worth: the first minutes on a GPU.

    python benchmarks/gpu/whole_step.py check CONFIG
    python benchmarks/gpu/whole_step.py time CONFIG [--ways eager graph ...]
    python benchmarks/gpu/whole_step.py launches CONFIG

``check`` trains a few steps each way and compares all losses and weights, bit
by bit. ``time`` has a process for each way, which prints its milliseconds.
``launches`` counts the kernels of a step, and needs no GPU. Without one the
others take small batches, and the tape of the tests for a graph: to see that
they work.
"""
import argparse
import copy
import json
import os
import os.path as osp
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager, nullcontext
from unittest import mock

# Matrix products in one order, in graphs too.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402

from mcod_plugin.cli import ToolParser, user_errors  # noqa: E402
from mcod_plugin.config.read import merge_options, read_config  # noqa: E402
from mcod_plugin.engine.graph import GraphedStep  # noqa: E402
from mcod_plugin.engine.optim_wrapper.gradient_norms import (  # noqa: E402
    GradientNorms)
from mcod_plugin.structures import BatchDataSample  # noqa: E402

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
sys.path[:0] = [osp.join(ROOT, 'benchmarks'), osp.join(ROOT, 'benchmarks/gpu')]
from estimate import KernelCounter  # noqa: E402
from speed.cases import cohort_runner  # noqa: E402

STEPS = 24
WAYS = ('eager', 'branch', 'graph', 'graph+streams', 'graph+streams+compile')
# Images of a batch without a GPU.
FEW = 4


def parse_args():
    parser = ToolParser(
        description=__doc__.partition('\n\n')[0],
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('check', 'time', 'launches'))
    parser.add_argument('config')
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS)
    parser.add_argument(
        '--steps',
        type=int,
        default=200,
        help='steps of a sample of "time" (default: 200)')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    return parser.parse_args()


def on_gpu():
    return torch.cuda.is_available()


def make_recorder(model, optim_wrapper, streams):
    """What records: on a GPU graphs, else the tape of the tests."""
    if on_gpu():
        from mcod_plugin.engine.graph.cuda_recorder import CudaRecorder
        recorder = CudaRecorder(list(model.branches))
        if not streams:
            recorder.streams = None
        return recorder
    sys.path.insert(0, osp.join(ROOT, 'tests'))
    from tape import TapeRecorder
    return TapeRecorder(model, optim_wrapper)


class Counter:
    """Counts what is recorded, and replays nothing."""
    rate_type = torch.float32
    streams = None

    def warming_up(self):
        return nullcontext()

    def forget(self):
        pass

    def record(self, function):
        with KernelCounter() as counter:
            found = function()
        self.kernels = counter.kernels
        return (lambda: None), found


class Training:
    """A cohort and what trains it, on random images: no data set need be
    carried for a speed.

    Args:
        cfg (Config): The config.
        way (str): Parts joined by ``+``: ``eager``, ``branch``, ``graph``,
            ``streams``, ``compile``.
        state (dict, optional): Weights to begin with. Defaults to None.
        recorder (Any, optional): What records, if not :func:`make_recorder`
            is to make it. Defaults to None.
    """

    def __init__(self, cfg, way, state=None, recorder=None):
        cfg, parts = copy.deepcopy(cfg), set(way.split('+'))
        # The data set is built, and not read.
        cfg.train_dataloader.dataset.indices = cfg.train_dataloader.batch_size
        # MMEngine keeps what it makes by this name.
        cfg.experiment_name = f'whole_step_{uuid.uuid4().hex}'
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        with tempfile.TemporaryDirectory() as folder:
            runner = cohort_runner(cfg, folder)
            self.model = runner.model
            torch.manual_seed(0)
            self.model.init_weights()
            if state is not None:
                self.model.load_state_dict(state)
            self.model.train()
            self.wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
        GradientNorms.defer(self.wrapper)
        for branch in self.model.branches.values():
            if 'branch' in parts:
                branch.compile(mode='reduce-overhead')
            elif 'compile' in parts:
                branch.compile()
        self.graphed = None
        self.step = self.model.train_step
        if 'graph' in parts:
            recorder = recorder or make_recorder(self.model, self.wrapper,
                                                 'streams' in parts)
            self.step = self.graphed = GraphedStep(
                self.model, self.wrapper, recorder, strict=True)
        size, device = cfg.train_dataloader.batch_size, next(
            self.model.parameters()).device
        generator = torch.Generator().manual_seed(1)
        shape = (size, *self.model.input_size, self.model.in_channels)
        self.batches = [
            dict(
                inputs=torch.randint(
                    0, 256, shape, dtype=torch.uint8,
                    generator=generator).to(device).permute(0, 3, 1, 2),
                data_samples=BatchDataSample(
                    gt_label=torch.randint(
                        self.model.num_classes, (size, ),
                        generator=generator).to(device),
                    sample_idx=torch.arange(size))) for _ in range(4)
        ]

    def train(self, begin, end, before=None):
        """Make some steps, with learning rates and weights that change.

        Args:
            begin (int): The first step.
            end (int): That before which it stops.
            before (Callable, optional): Is called with each step before it.
                Defaults to None.

        Returns:
            list[float]: The losses.
        """
        torch.manual_seed(begin)
        losses = []
        for number in range(begin, end):
            self.model.kd_weight = (0., 1., .5)[number // 4 % 3]
            # A graph takes it in single precision.
            rate = torch.tensor(.05 / (1 + number)).item()
            for group in self.wrapper.param_groups:
                group['lr'] = rate
            if before is not None:
                before(number)
            batch = self.batches[number % len(self.batches)]
            losses.append(self.step(batch, self.wrapper)['loss'].detach())
        return torch.stack(losses).tolist()

    def state(self):
        return copy.deepcopy(
            (self.model.state_dict(), self.wrapper.optimizer.state_dict()))


def differences(one, other):
    """How far two trainings are apart.

    Args:
        one (tuple): Losses and the training.
        other (tuple): The same.

    Returns:
        str: ``'equal'``, or where they differ first and the most.
    """
    found = []
    (losses, first), (others, second) = one, other
    for number, pair in enumerate(zip(losses, others)):
        if pair[0] != pair[1]:
            found.append(f'loss of step {number}: {pair[0]!r} {pair[1]!r}')
            break
    theirs = second.model.state_dict()
    gaps = {
        key: (value.double() - theirs[key].double()).abs().max().item()
        for key, value in first.model.state_dict().items()
    }
    worst = max(gaps, key=gaps.get)
    if gaps[worst] != 0:
        found.append(f'{sum(map(bool, gaps.values()))} of {len(gaps)} '
                     f'weights, {worst} by {gaps[worst]:.3g}')
    return '; '.join(found) or 'equal'


def check(cfg):
    """Compare ways to train; see :func:`main`."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = cfg.env_cfg.cudnn_benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    state = Training(cfg, 'eager').state()[0]

    def whole(way, before=None, steps=STEPS):
        training = Training(cfg, way, state)
        return training.train(0, steps, before and before(training)), training

    def validated(training):

        def before(number):
            if number % 6 == 5:
                training.model.eval()
                with torch.no_grad():
                    training.model.val_step(
                        copy.copy(training.batches[number % 4]))
                training.model.train()
                if training.graphed is not None:
                    training.graphed.doubt()

        return before

    def moved(training):

        def before(number):
            if number == 14:
                value = next(training.model.parameters())
                value.data = value.data.clone()
                training.graphed.doubt()

        return before

    def with_dropout(training):
        for branch in training.model.branches.values():
            branch.backbone.register_forward_hook(
                lambda module, args, found: tree_map(
                    lambda value: F.dropout(value, .2), found))

    def resumed(way):
        losses, training = whole(way, steps=12)
        weights, optimizer = training.state()
        training = Training(cfg, way, weights)
        training.wrapper.optimizer.load_state_dict(optimizer)
        return losses + training.train(12, STEPS), training

    def broken(way):
        """What :func:`resumed` does, in one training: the seed begins anew."""
        training = Training(cfg, way, state)
        return training.train(0, 12) + training.train(12, STEPS), training

    def no_waits(training):

        def before(number):
            # When all kinds are recorded.
            if on_gpu() and number == 12 + 9:
                torch.cuda.set_sync_debug_mode('error')

        return before

    eager, graph = whole('eager'), whole('graph')
    good = []

    def tell(name, one, other):
        text = differences(one, other)
        good.append(text == 'equal')
        print(f'{name}: {text}', flush=True)

    tell('eager twice', eager, whole('eager'))
    tell('graph', eager, graph)
    print(f'  of {STEPS} steps {graph[1].graphed.replays} were replayed, of '
          f'{graph[1].graphed.recordings} kinds')
    tell('graph with streams', eager, whole('graph+streams'))
    tell('dropout', whole('eager', with_dropout),
         whole('graph+streams', with_dropout))
    tell('validation in between', whole('eager', validated),
         whole('graph+streams', validated))
    tell('resumed', broken('eager'), resumed('graph+streams'))
    other = whole('graph+streams', moved)
    tell('memory that changes', eager, other)
    good.append(other[1].graphed.recordings > graph[1].graphed.recordings)
    print(f'  recorded anew: {good[-1]}')
    try:
        tell('no wait of the host', eager, whole('graph+streams', no_waits))
    finally:
        if on_gpu():
            torch.cuda.set_sync_debug_mode('default')
    print('All is right.' if all(good) else 'Something is wrong.')
    return all(good)


def measure(cfg, way, steps):
    """The speed of one way; see :func:`main`."""
    torch.backends.cudnn.benchmark = True
    sync = torch.cuda.synchronize if on_gpu() else (lambda: None)
    start = time.perf_counter()
    training = Training(cfg, way)
    training.train(0, STEPS)
    sync()
    result = dict(way=way, first_s=round(time.perf_counter() - start, 1))
    for phase, weight in dict(on=1., off=0.).items():
        training.model.kd_weight = weight
        samples = []
        for number in range(6):
            sync()
            begin = time.perf_counter()
            for step in range(steps):
                training.step(training.batches[step % 4], training.wrapper)
            host = time.perf_counter() - begin
            sync()
            if number:
                # The first one warms up.
                samples.append((time.perf_counter() - begin, host))
        whole, host = ([1e3 * value / steps for value in values]
                       for values in zip(*samples))
        result[phase] = dict(
            ms=round(statistics.median(whole), 3),
            least=round(min(whole), 3),
            most=round(max(whole), 3),
            host_ms=round(statistics.median(host), 3))
    if on_gpu():
        result['reserved_mib'] = torch.cuda.memory_reserved() >> 20
    print(json.dumps(result), flush=True)


@contextmanager
def counted_one_by_one():
    """Batch norms count their batches as they do in PyTorch."""
    with mock.patch(
            'mcod_plugin.models.classifiers.multi_backbone_classifier.'
            'counted_together', lambda modules: nullcontext()):
        yield


def launches(cfg):
    """Count the kernels of a step while it distils; see :func:`main`."""
    counts = {}
    for name, context in {
            'eager, batch norms one by one': counted_one_by_one(),
            'eager': nullcontext()
    }.items():
        with context:
            training = Training(cfg, 'eager')
            training.model.kd_weight = 1.
            training.step(training.batches[0], training.wrapper)
            with KernelCounter() as counter:
                training.step(training.batches[1], training.wrapper)
        counts[name] = counter.kernels
    recorder = Counter()
    training = Training(cfg, 'graph', recorder=recorder)
    training.model.kd_weight = 1.
    # Two as they are, and one that is recorded.
    for number in range(3):
        training.step(training.batches[number], training.wrapper)
    with KernelCounter() as counter:
        training.step(training.batches[3], training.wrapper)
    counts['within the graph'] = recorder.kernels
    counts['outside of it'] = counter.kernels
    for name, number in counts.items():
        print(f'{name}: {number}')
    return counts


def main():
    args = parse_args()
    with user_errors():
        cfg = read_config(args.config)
        merge_options(cfg, args.cfg_options)
        init_default_scope(cfg.default_scope)
        cfg.log_level = 'ERROR'
        cfg.optim_wrapper.type = 'mcod_plugin.AutocastOptimWrapper'
        if not on_gpu():
            cfg.train_dataloader.batch_size = FEW
        if args.what == 'check':
            sys.exit(not check(cfg))
        if args.what == 'launches':
            launches(cfg)
        elif len(args.ways) == 1:
            measure(cfg, args.ways[0], args.steps)
        else:
            for way in args.ways:
                # A process of its own has memory of its own.
                command = [*sys.argv, '--ways', way]
                subprocess.run([sys.executable, *command], check=False)


if __name__ == '__main__':
    main()
