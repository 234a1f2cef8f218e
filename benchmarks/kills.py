"""Kill a training again and again, and look whether it ends as an unbroken
one does.

    python benchmarks/kills.py

A tiny cohort learns digits through tools/train.py. Half of the kills, all by
SIGKILL, come at any time, the others at or within the writing of a file. Each
run then goes on with --resume until it ends. Weights and optimizer must be
equal bit by bit, and so must the best checkpoints, curves, record and table;
nothing else may be left. Prints a table, and ends with exit code 1 if a run
differs.
"""
import json
import os
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from mcod_plugin.cli import ToolParser, user_errors
from mcod_plugin.errors import check_integer

ROOT = Path(__file__).resolve().parents[1]
CONFIG = f"""\
_base_ = [{str(ROOT / 'configs' / 'mcod_quickstart.py')!r}]
model = dict(
    memory_format='contiguous',
    branches=dict(
        _delete_=True,
        resnet=dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
            head=dict(type='LinearClsHead', num_classes=10)),
        vgg=dict(
            backbone=dict(type='mcod_plugin.CifarVGG', depth=11, width=4),
            head=dict(type='LinearClsHead', num_classes=10))))
crop = dict(type='RandomCrop', crop_size=32, padding=4)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        size=32, indices=96, pipeline=[crop, dict(type='PackInputs')]))
val_dataloader = dict(batch_size=40, dataset=dict(size=32, indices=80))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=4)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
custom_hooks = [
    dict(type='mcod_plugin.DiscontinuousKDHook', gap=(1, 0)),
    dict(type='mcod_plugin.RunRecordHook')
]
randomness = dict(seed=0)
"""
# What differs from run to run: costs, the code that others may commit, and
# that one was resumed.
DIFFER = ('train_seconds', 'seconds', 'peak_memory_bytes', 'date', 'commit',
          'dirty', 'experiment_name', 'cfg')

# The moments: what is killed, the audit event of Python before it, and the
# most seconds from then on.
MOMENTS = {
    'at any time': None,
    'while a file is written': ('open', 0.004),
    'before a written file takes its place': ('os.rename', 0.),
    'before a replaced checkpoint is removed': ('os.remove', 0.),
}


def concerns(event, args):
    """Whether an audit event is one of a moment."""
    if event == 'open':
        return str(args[0]).endswith('.part') and 'w' in (args[1] or '')
    if event == 'os.rename':
        return str(args[0]).endswith('.part')
    return event == 'os.remove' and str(args[0]).endswith('.pth')


class Watch:
    """Counts the events of a process, and kills it at one of them.

    Args:
        event (str, optional): The event.
        number (int): Which of them, counted from 1. Defaults to 0.
        delay (float): Seconds from then on. Defaults to 0.
    """

    def __init__(self, event=None, number=0, delay=0.):
        self.event, self.number, self.delay = event, number, delay
        self.counts = Counter()

    def __call__(self, event, args):
        if not concerns(event, args):
            return
        self.counts[event] += 1
        if event == self.event and self.counts[event] == self.number:
            if self.delay:
                threading.Timer(self.delay, self.kill).start()
            else:
                self.kill()

    def kill(self):
        """Kill this process."""
        os.kill(os.getpid(), signal.SIGKILL)


def start(folder, *args, watch=None):
    """Start tools/train.py in a process of its own, forked from this one,
    which has imported all that it needs.

    Args:
        folder (Path): Where.
        *args (str): Arguments besides config and work directory.
        watch (Watch, optional): Watches the process.

    Returns:
        int: The number of the process.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    os.chdir(folder)
    log = os.open('log.txt', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    watch = watch or Watch()
    sys.addaudithook(watch)
    tool = ROOT / 'tools' / 'train.py'
    sys.argv = [str(tool), 'tiny.py', '--work-dir', 'run', *args]
    code = 1
    try:
        runpy.run_path(str(tool), run_name='__main__')
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        Path('events.json').write_text(json.dumps(watch.counts))
        os._exit(code)


def ended(pid):
    """Wait for a process, and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def plain(value):
    """A value to compare: tensors as bytes, paths as names."""
    if isinstance(value, dict):
        return {
            key: plain(child)
            for key, child in value.items() if key not in DIFFER
        }
    if isinstance(value, (list, tuple)):
        return [plain(child) for child in value]
    if hasattr(value, 'numpy'):
        return str(value.dtype), list(value.shape), value.numpy().tobytes()
    if isinstance(value, str):
        return os.path.basename(value)
    return value


def outcome(folder):
    """All that a run leaves, as far as it does not depend on the clock."""
    import torch
    found = {}
    for path in sorted((folder / 'run').iterdir()):
        if path.suffix == '.pth':
            content = torch.load(path, weights_only=True)
            hub = content.pop('message_hub')['runtime_info']
            meta = content.pop('meta')
            meta = {key: meta[key] for key in ('epoch', 'iter', 'seed')}
            found[path.name] = plain(dict(content, hub=hub, meta=meta))
        elif path.name == 'record.json':
            found[path.name] = plain(json.loads(path.read_text()))
        elif path.name == 'last_checkpoint':
            found[path.name] = os.path.basename(path.read_text())
        elif path.is_file():
            # What should not be there may be no text.
            text = path.read_text(errors='replace').replace(
                'resume = True', 'resume = False')
            found[path.name] = '' if path.stem == 'progress' else text
    tables = re.findall(r'Result after .*?\n((?:[┏┃┡│└].*\n)+)',
                        (folder / 'log.txt').read_text())
    found['table'] = tables[-1] if tables else None
    return found


def fresh(folder):
    """An empty folder with the config."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / 'tiny.py').write_text(CONFIG)
    return folder


def kill(folder, moment, counts, seconds, *args):
    """Train until the process is killed.

    Returns:
        list[str] | None: The incomplete files that are left; None if it had
        ended before.
    """
    if MOMENTS[moment] is None:
        pid = start(folder, *args)
        time.sleep(random.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
    else:
        event, delay = MOMENTS[moment]
        number = random.randint(1, counts[event])
        pid = start(
            folder,
            *args,
            watch=Watch(event, number, random.uniform(0, delay)))
    if ended(pid) != -signal.SIGKILL:
        return None
    run = folder / 'run'
    return sorted(path.name for path in run.glob('*.part'))


def main():
    parser = ToolParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument(
        '--kills', type=int, default=48, help='how many (default: 48)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    args = parser.parse_args()
    with user_errors():
        check_integer('--kills', args.kills)
    random.seed(args.seed)
    # Before the processes are forked.
    import mmpretrain.models  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import mcod_plugin.engine  # noqa: F401
    place = Path(tempfile.mkdtemp(prefix='kills_'))
    whole = fresh(place / 'whole')
    begin = time.monotonic()
    if ended(start(whole)):
        sys.exit((whole / 'log.txt').read_text())
    seconds = time.monotonic() - begin
    expected = outcome(whole)
    counts = json.loads((whole / 'events.json').read_text())

    kills, parts, equal, victims = (Counter() for _ in range(4))
    anytime, *within = MOMENTS
    number = 0
    while sum(kills.values()) < args.kills:
        # Half at any time, of which some are killed again when they go on.
        number += 1
        if 2 * kills[anytime] <= sum(kills.values()):
            moment = anytime
        else:
            moment = min(within, key=lambda moment: kills[moment])
        folder = fresh(place / f'{number:03}')
        left = kill(folder, moment, counts, seconds)
        if left is None:
            continue
        again = 0
        if moment == anytime and number % 3 == 0:
            again = kill(folder, moment, counts, seconds,
                         '--resume') is not None
        code = ended(start(folder, '--resume'))
        found = outcome(folder)
        same = code == 0 or 'error: nothing to resume: ' in (
            folder / 'log.txt').read_text()
        differs = sorted(key for key in {*expected, *found}
                         if expected.get(key) != found.get(key))
        same = same and not differs
        kills[moment] += 1 + again
        parts[moment] += bool(left)
        victims.update(
            re.sub(r'\d+', 'N', re.sub(r'(best_).*(_epoch)', r'\1*\2', name))
            for name in (part[:-len('.part') - 33] for part in left))
        equal[moment] += same * (1 + again)
        if same:
            shutil.rmtree(folder)
        else:
            print(
                f'{folder}: exit code {code}, differs in '
                f'{", ".join(differs)}; left {left}',
                flush=True)

    print('| killed | kills | left an incomplete file | ended as the unbroken '
          'run |\n|---|---|---|---|')
    for moment in MOMENTS:
        print(f'| {moment} | {kills[moment]} | {parts[moment]} | '
              f'{equal[moment]} |')
    print(f'| together | {sum(kills.values())} | {sum(parts.values())} | '
          f'{sum(equal.values())} |\n')
    print(
        'Incomplete files:',
        ', '.join(f'{number} of {name}'
                  for name, number in sorted(victims.items())))
    if equal != kills:
        sys.exit(1)
    shutil.rmtree(place)


if __name__ == '__main__':
    main()
