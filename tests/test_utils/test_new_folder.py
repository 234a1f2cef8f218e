import subprocess
import sys
from pathlib import Path

import pytest

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.new_folder import new_folder

WRITER = """\
import os, sys, time
from mcod_plugin.utils.new_folder import new_folder
with new_folder(sys.argv[1]) as folder:
    open(os.path.join(folder, 'half'), 'w').close()
    print(folder, flush=True)
    time.sleep(600)
"""


def test_takes_its_place_or_is_gone(tmp_path):
    with new_folder(str(tmp_path / 'new' / 'out')) as folder:
        (Path(folder) / 'file').write_text('text')
        assert not (tmp_path / 'new' / 'out').exists()
    assert (tmp_path / 'new' / 'out' / 'file').read_text() == 'text'
    with pytest.raises(KeyError):
        with new_folder(str(tmp_path / 'other' / 'out')):
            raise KeyError
    assert list(tmp_path.iterdir()) == [tmp_path / 'new']
    with pytest.raises(ConfigError, match='is not empty'):
        with new_folder(str(tmp_path / 'new' / 'out')):
            pass


def test_only_what_dead_writers_left_is_removed(tmp_path):
    out = str(tmp_path / 'out')
    other = tmp_path / '.out.own.part'
    other.mkdir()
    writer = subprocess.Popen([sys.executable, '-c', WRITER, out],
                              stdout=subprocess.PIPE,
                              text=True)
    try:
        part = Path(writer.stdout.readline().strip())
        with pytest.raises(KeyError):
            with new_folder(out):
                raise KeyError
        assert (part / 'half').exists()
    finally:
        writer.kill()
        writer.communicate()
    assert (part / 'half').exists()
    with new_folder(out):
        pass
    assert sorted(tmp_path.iterdir()) == [other, tmp_path / 'out']
