import pytest
from mmpretrain.datasets import CIFAR100, CustomDataset

from mcod_plugin.config.missing_data import explain_missing_data
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import DATASETS


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for scheme in ('http', 'https'):
        monkeypatch.setenv(f'{scheme}_proxy', 'http://127.0.0.1:9')


def explained(cfg):
    with pytest.raises(ConfigError) as info:
        with explain_missing_data(cfg):
            DATASETS.build(cfg)
    return str(info.value)


def cifar(root, **kwargs):
    return dict(
        type='CIFAR100',
        data_root=str(root),
        split='train',
        pipeline=[],
        **kwargs)


@pytest.mark.parametrize('download', [True, False])
def test_missing(tmp_path, download):
    root = tmp_path / 'a' / 'data'
    text = explained(cifar(root, download=download))
    assert text.startswith(
        'data set CIFAR100 is missing: looked for '
        f'{root}/{CIFAR100.base_folder}; get {CIFAR100.url} and unpack it '
        f'into {root} (')
    assert '\n' not in text
    # what the attempt made is gone
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_stays(tmp_path):
    root = tmp_path / 'data'
    root.mkdir()
    explained(cifar(root))
    assert root.is_dir()


@pytest.mark.parametrize('download', [True, False])
def test_damaged(tmp_path, download):
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    for name in ('train', 'test', 'meta'):
        (folder / name).write_text('mine')
    archive = tmp_path / CIFAR100.filename
    archive.write_text('mine, too')
    text = explained(cifar(tmp_path, download=download))
    assert f'CIFAR100 is damaged: looked for {folder};' in text
    assert archive.read_text() == 'mine, too'
    for path in folder.iterdir():
        assert path.read_text() == 'mine'
    assert len(list(folder.iterdir())) == 3


def test_relative_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = explained(cifar('data'))
    assert f'{tmp_path}/data/{CIFAR100.base_folder};' in text


def test_wrapped(tmp_path):
    text = explained(
        dict(type='RepeatDataset', times=2, dataset=cifar(tmp_path / 'x')))
    assert f'CIFAR100 is missing: looked for {tmp_path}/x/' in text


def test_one_of_several(tmp_path):
    digits = dict(type='mcod_plugin.Digits', pipeline=[])
    text = explained(
        dict(type='ConcatDataset', datasets=[digits,
                                             cifar(tmp_path / 'x')]))
    assert f'CIFAR100 is missing: looked for {tmp_path}/x/' in text


@pytest.mark.parametrize('download', [True, False])
def test_held_in_memory(tmp_path, download):
    cfg = dict(
        cifar(tmp_path / 'x', download=download),
        type='mcod_plugin.InMemoryDataset',
        source='CIFAR100',
        max_gib=1,
        per_class=(0, 5))
    text = explained(cfg)
    assert f'CIFAR100 is missing: looked for {tmp_path}/x/' in text


def test_a_mistake_beside_missing_data_is_told_first(tmp_path):
    """What is wrong in the settings has nothing to do with the data."""
    cfg = dict(cifar(tmp_path / 'x'), split='trian')
    with pytest.raises(AssertionError, match='split must be one of'):
        with explain_missing_data(cfg):
            DATASETS.build(cfg)


def test_folder_of_images(tmp_path):
    root = tmp_path / 'images'
    text = explained(
        dict(type='CustomDataset', data_root=str(root), data_prefix='train'))
    assert f'CustomDataset is missing: looked for {root}/train' in text
    assert 'get ' not in text


def test_wrong_settings_are_left_alone(tmp_path):
    with pytest.raises(AssertionError, match='split must be one of'):
        with explain_missing_data({}):
            CIFAR100(data_root=str(tmp_path), split='trian')
    with pytest.raises(AssertionError, match='must be specified'):
        with explain_missing_data({}):
            CustomDataset()


def test_other_errors_are_left_alone():
    with pytest.raises(KeyError):
        with explain_missing_data({}):
            raise KeyError('x')
    # Not even where the data are none as well.
    empty = dict(type='CustomDataset', data_root=str('nowhere'))
    with pytest.raises(ConfigError, match='^mine$'):
        with explain_missing_data(empty):
            raise ConfigError('mine')
    with explain_missing_data({}):
        pass
