import sys

import pytest
from mmengine.config import Config

from mcod_plugin.compare.plan import Run
from ..tiny import TINY

STUDY = """\
config = 'cohort.py'
methods = dict(solo='solo', always_on='always_on')
seeds = [0, 1]
"""

# In the place of tools/train.py: notes how it was called, trains as many
# epochs as it is told to, and leaves what that leaves.
TRAINER = """\
import json, os, sys, time
from mmengine.config import Config
cfg = Config.fromfile(sys.argv[1])
work_dir = sys.argv[sys.argv.index('--work-dir') + 1]
first = 0
if '--resume' in sys.argv:
    first = max(
        int(name[6:-4]) for name in os.listdir(work_dir)
        if name.endswith('.pth'))
with open(os.path.join(cfg.diary), 'a') as file:
    threads = os.environ.get('OMP_NUM_THREADS')
    print(json.dumps([cfg.name, first, threads, cfg.teacher]), file=file)
if cfg.error:
    print(cfg.error, file=sys.stderr)
    sys.exit(cfg.code)
for epoch in range(first, cfg.train_cfg.max_epochs):
    time.sleep(cfg.seconds)
    open(os.path.join(work_dir, f'epoch_{epoch + 1}.pth'), 'w').close()
with open(cfg.out, 'w') as file:
    json.dump(dict(config_hash=cfg.config_hash, **cfg.content), file)
"""


@pytest.fixture
def write_study(tmp_path):
    """Writes a study of a tiny cohort, with other lines than usual or more
    of them, and returns its path."""

    def write(**lines):
        (tmp_path / 'cohort.py').write_text(TINY)
        path = tmp_path / 'study.py'
        text = STUDY
        for key, value in lines.items():
            kept = [
                line for line in text.split('\n')
                if not line.startswith(f'{key} =')
            ]
            text = '\n'.join(kept)
            if value is not None:
                text += f'{key} = {value!r}\n'
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def trainer(tmp_path):
    """The command that trains, see ``TRAINER``."""
    path = tmp_path / 'trainer.py'
    path.write_text(TRAINER)
    return [sys.executable, str(path)]


@pytest.fixture
def make_run(tmp_path):
    """Makes runs that ``TRAINER`` can train."""

    def make(name, seed=0, needs=(), teacher=None, **settings):
        full = f'{name}_seed{seed}'
        result = str(tmp_path / 'results' / f'{full}.json')
        cfg = Config(
            dict(
                dict(
                    name=full,
                    train_cfg=dict(max_epochs=3),
                    seconds=0.,
                    error='',
                    code=0,
                    content=dict(),
                    teacher=teacher,
                    diary=str(tmp_path / 'diary'),
                    out=result,
                    config_hash=f'hash of {full}'), **settings))
        return Run(full, name, seed, cfg, f'hash of {full}',
                   str(tmp_path / 'work' / full), result, list(needs))

    return make
