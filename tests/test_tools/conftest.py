import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from .. import tiny

ROOT = tiny.ROOT
# No test may download anything: whoever tries is refused at once. Networks as
# small as these are fastest with one thread.
ENVIRON = {
    **os.environ, 'OMP_NUM_THREADS': '1',
    # As in an environment that is activated.
    'PATH': os.pathsep.join(
        [os.path.dirname(sys.executable), os.environ['PATH']]),
    **{
        f'{scheme}_proxy': 'http://127.0.0.1:9'
        for scheme in ('http', 'https', 'HTTP', 'HTTPS')
    }
}

TINY = f"""\
{tiny.TINY}
train_dataloader['dataset']['indices'] = 384
val_dataloader['batch_size'] = 8
optim_wrapper = dict(optimizer=dict(lr=0.01))
default_hooks = dict(logger=dict(interval=12))
"""


@pytest.fixture(scope='session')
def server():
    """The process from which those of the tools are forked."""
    script = Path(__file__).with_name('tool_server.py')
    with subprocess.Popen([sys.executable, str(script)],
                          stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE,
                          env=ENVIRON,
                          text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope='session')
def run_tool(server, tmp_path_factory):
    """Runs a tool, and returns its exit code, output and errors."""

    def run(tool, *args, cwd, env=None, fresh=False):
        # A path is taken as it is; a name is that of one of our tools.
        path = ROOT / 'tools' / f'{tool}.py' if '/' not in tool else tool
        argv = [str(path), *map(str, args)]
        if fresh:
            done = subprocess.run([sys.executable, *argv],
                                  cwd=cwd,
                                  env={
                                      **ENVIRON,
                                      **(env or {})
                                  },
                                  capture_output=True,
                                  text=True)
            return SimpleNamespace(
                code=done.returncode, out=done.stdout, err=done.stderr)
        streams = tmp_path_factory.mktemp('streams')
        out, err = streams / 'out', streams / 'err'
        request = dict(
            argv=argv, cwd=str(cwd), env=env or {}, out=str(out), err=str(err))
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return SimpleNamespace(
            code=code, out=out.read_text(), err=err.read_text())

    return run


@pytest.fixture
def tiny(tmp_path):
    """A folder with the config of a tiny run, ``tiny.py``."""
    (tmp_path / 'tiny.py').write_text(TINY)
    return tmp_path


@pytest.fixture(scope='session')
def trained(run_tool, tmp_path_factory):
    """A tiny run of two epochs: its folder and what it printed."""
    folder = tmp_path_factory.mktemp('trained')
    # With its picture.
    (folder / 'tiny.py').write_text(
        TINY.replace('run_figure=None', ''))
    done = run_tool('train', 'tiny.py', cwd=folder, fresh=True)
    assert done.code == 0, done.err
    return SimpleNamespace(
        folder=folder,
        work_dir=folder / 'work_dirs' / 'tiny',
        out=done.out,
        err=done.err)
