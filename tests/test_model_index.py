import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from mmengine.config import Config
from mmpretrain import (ImageClassificationInferencer, get_model,
                        inference_model, init_model, list_models)

import mcod_plugin.model_index as model_index
from mcod_plugin.engine.hooks.cohort_report_hook import count_flops
from mcod_plugin.errors import ConfigError

ROOT = Path(__file__).parents[1]
MODELS = {
    model['Name']: model
    for model in yaml.safe_load((ROOT / 'configs' /
                                 'metafile.yml').read_text())['Models']
}
SIZES = dict(quickstart=16, cifar10=32, cifar100=32, in1k=224)
DATA = dict(
    quickstart='scikit-learn digits',
    cifar10='CIFAR-10',
    cifar100='CIFAR-100',
    in1k='ImageNet-1k')
SMALL = 'mcod_small_cifar100'

# Whichever is imported first, the names are known.
EITHER_ORDER = """
import sys
import mmpretrain
assert not mmpretrain.list_models('mcod')
before = list(sys.meta_path)
import mcod_plugin
assert sys.meta_path == before
print(*mmpretrain.list_models('mcod'))
"""


def test_every_config_is_listed():
    configs = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    assert set(MODELS) == configs
    assert set(list_models('*mcod*')) == configs
    assert list_models('mcod*small*', task='Image Classification') == [SMALL]
    # the toolbox's own are still there
    assert 'resnet18_8xb16_cifar10' in list_models()


def test_mmpretrain_first():
    done = subprocess.run([sys.executable, '-c', EITHER_ORDER],
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(MODELS)


@pytest.mark.parametrize('name', MODELS)
def test_what_the_index_says(name):
    """It is what the config builds."""
    model, kind = get_model(name), name.split('_')[-1]
    assert type(model).__name__ == 'MultiBackboneClassifier'
    assert Path(model._config.filename) == ROOT / 'configs' / f'{name}.py'
    given, cfg = MODELS[name]['Metadata'], Config.fromfile(
        model._config.filename)
    assert given['Epochs'] == cfg.train_cfg.max_epochs
    assert given['Batch Size'] == cfg.train_dataloader.batch_size
    assert given['Training Data'] == DATA[kind]
    assert given['Parameters'] == sum(value.numel()
                                      for value in model.parameters())
    shape = (1, 3, SIZES[kind], SIZES[kind])
    assert given['FLOPs'] == sum(
        count_flops(branch, shape) for branch in model.branches.values())


@pytest.mark.parametrize('use', [
    lambda: get_model(SMALL, pretrained=True),
    lambda: init_model(SMALL, True),
    lambda: ImageClassificationInferencer(SMALL),
    lambda: inference_model(SMALL, 'image.png'),
])
def test_no_weights_yet(use):
    with pytest.raises(
            ConfigError,
            match=f'^pretrained=True: no weights of {SMALL} are published'):
        use()


def test_another_toolbox(monkeypatch):
    """One that is laid out otherwise is imported all the same."""
    with pytest.warns(UserWarning, match='does not know the models.*ModelHub'):
        model_index._enter(ModuleType('hub'))
    # a finder for a module that there is not finds nothing
    monkeypatch.setattr(model_index, 'HUB', 'mmpretrain.hub_of_another_day')
    before = list(sys.meta_path)
    model_index.enter_models()
    assert len(sys.meta_path) == len(before) + 1
    with pytest.raises(ImportError):
        __import__(model_index.HUB)
    assert sys.meta_path == before
