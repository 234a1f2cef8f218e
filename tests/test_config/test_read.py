import pytest

from mmengine.config import Config

from mcod_plugin.config.read import merge_settings, read_config
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


def test_imports_and_paths(tmp_path):
    """What a config imports is no setting, and a path is written as text."""
    path = tmp_path / 'top.py'
    path.write_text("""\
_base_ = []
from collections import OrderedDict
from os.path import join
from pathlib import Path as P
root = P('data')
train_dataloader = dict(dataset=dict(data_root=root, files=[(root / 'a', )]))
""")
    cfg = read_config(str(path))
    assert cfg.to_dict() == dict(
        root='data',
        train_dataloader=dict(
            dataset=dict(data_root='data', files=[('data/a', )])))
    path.write_text(cfg.pretty_text)
    assert read_config(str(path)).to_dict() == cfg.to_dict()


@pytest.mark.parametrize('text', [
    "from pathlib import Path\n_base_ = ['base.py']\n",
    "from pathlib import Path\nroot = Path('data')\n",
])
def test_import_above_the_base(tmp_path, text):
    """MMEngine takes it for a config in pure Python."""
    (tmp_path / 'base.py').write_text('x = 1\n')
    path = tmp_path / 'top.py'
    path.write_text(text)
    with pytest.raises(ConfigError) as info:
        read_config(str(path))
    told = str(info.value)
    assert told.startswith(f'config {path}: an import above _base_ ')
    assert 'write _base_ first' in told and len(told) < 300 + len(str(path))


def test_an_error_of_the_file(tmp_path):
    path = tmp_path / 'top.py'
    path.write_text("raise RuntimeError('out of memory on device 3')")
    with pytest.raises(ConfigError) as info:
        read_config(str(path))
    assert str(info.value) == f'config {path}: out of memory on device 3'


@pytest.mark.parametrize('name, value, kind', [
    ('model', 3, 'a dict'),
    ('optim_wrapper', True, 'a dict'),
    ('train_dataloader', [dict(batch_size=1)], 'a dict'),
    ('custom_hooks', dict(type='EMAHook'), 'a list of dicts'),
    ('custom_hooks', ['EMAHook'], 'a list of dicts'),
    ('val_evaluator', 3, 'a dict or a list of dicts'),
    ('test_evaluator', ['Accuracy'], 'a dict or a list of dicts'),
])
def test_a_setting_of_another_kind(tmp_path, name, value, kind):
    """Whoever reads it later may take its kind for granted."""
    path = tmp_path / 'top.py'
    path.write_text(f'{name} = {value!r}\n')
    words = f'{name} must be {kind}; got {value!r}'
    with pytest.raises(ConfigError) as info:
        read_config(str(path))
    assert str(info.value) == f'config {path}: {words}'
    with pytest.raises(ConfigError) as info:
        merge_settings(Config(), {name: value}, 'settings')
    assert str(info.value) == f'settings {name}: {words}'


def test_settings_of_their_kind(tmp_path):
    path = tmp_path / 'top.py'
    path.write_text("model = None\nval_cfg = dict()\ncustom_hooks = ()\n"
                    "test_evaluator = [dict(type='Accuracy')]\n"
                    "val_evaluator = dict(type='Accuracy')\n")
    assert len(read_config(str(path))) == 5
