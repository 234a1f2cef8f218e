"""What pip installs holds configs, tools and the model index, not the
benchmarks."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LOOK = """
import sys
from pathlib import Path

import mcod_plugin
import mmpretrain
from mcod_plugin.config.methods import find_method
from mmengine.config import Config

library = Path(sys.argv[1])
home = library / 'mcod_plugin' / '.mim'
assert Path(mcod_plugin.__file__).is_relative_to(library)
assert find_method('dml') == str(home / 'configs' / 'methods' / 'dml.py')
for name in mmpretrain.list_models('mcod'):
    cfg = mmpretrain.apis.model.ModelHub.get(name).config
    assert cfg.filename == str(home / 'configs' / (name + '.py'))
    print(name, *cfg.model.branches)
"""


def relative(folder):
    return {
        str(path.relative_to(folder))
        for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


def test_wheel(tmp_path):
    library = tmp_path / 'library'
    left = library / 'mcod_plugin' / '.mim' / 'configs' / 'left.py'
    left.parent.mkdir(parents=True)
    left.write_text('')  # of an earlier build
    # As a wheel is built, short of the archive.
    subprocess.run([
        sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', tmp_path,
        'build_py', '--build-lib', library
    ],
                   cwd=ROOT,
                   check=True,
                   capture_output=True)
    home = library / 'mcod_plugin' / '.mim'
    for folder in ('configs', 'tools'):
        assert relative(home / folder) == relative(ROOT / folder)
    template = Path('mcod_plugin', 'publish', 'card.md')
    assert (library / template).read_bytes() == (ROOT / template).read_bytes()

    def run(*args):
        return subprocess.run([sys.executable, *args],
                              cwd=tmp_path,
                              env={
                                  **os.environ, 'PYTHONPATH': str(library)
                              },
                              capture_output=True,
                              text=True)

    done = run('-c', LOOK, library)
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == names
    assert 'mcod_quickstart resnet vgg' in lines
    done = run(home / 'tools' / 'benchmark.py',
               home / 'configs' / 'mcod_quickstart.py')
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'needs a clone' in done.stderr


def test_source_archive():
    """It names what the wheel is built from."""
    words = (ROOT / 'MANIFEST.in').read_text().split()
    assert {'model-index.yml', 'configs', 'tools'} <= set(words)
    kinds = {path.suffix for path in (ROOT / 'configs').rglob('*.*')}
    assert {f'*{kind}' for kind in kinds - {'.pyc'}} <= set(words)
