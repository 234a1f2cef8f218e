import pytest

from mcod_plugin.config.read import read_config
from mcod_plugin.errors import ConfigError

BROKEN = 'x = 1\ny = (\n'


@pytest.mark.parametrize('top', [
    "_base_ = 'middle.py'\n",
    "_base_ = ['_base_/good.py', './middle.py']\n",
])
def test_a_base_that_cannot_be_parsed_is_named(tmp_path, top):
    """MMEngine's error names a temporary file at best."""
    (tmp_path / '_base_').mkdir()
    (tmp_path / '_base_' / 'good.py').write_text('z = 1\n')
    (tmp_path / '_base_' / 'broken.py').write_text(BROKEN)
    (tmp_path / 'middle.py').write_text("_base_ = ['_base_/broken.py']\n")
    path = tmp_path / 'top.py'
    path.write_text(top)
    with pytest.raises(ConfigError) as info:
        read_config(str(path))
    assert str(info.value).startswith(
        f'config {tmp_path}/_base_/broken.py, line 2: ')


def test_so_is_one_of_a_config_in_pure_python(tmp_path):
    (tmp_path / 'base').mkdir()
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'base' / 'broken.py').write_text(BROKEN)
    path = tmp_path / 'configs' / 'top.py'
    path.write_text('from mmengine.config import read_base\n'
                    'with read_base():\n'
                    '    from ..base.broken import *\n')
    with pytest.raises(ConfigError) as info:
        read_config(str(path))
    assert 'base/broken.py, line 2: ' in str(info.value)


def test_a_config_that_fails_for_another_reason(tmp_path):
    path = tmp_path / 'top.py'
    path.write_text("x = dict(a=1)['b']\n")
    with pytest.raises(ConfigError, match=f"^config {path}: 'b'$|: b$"):
        read_config(str(path))
