"""The examples of docs/extending.md, taken from the page itself."""
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.registry import TRANSFORMS

from mcod_plugin.config.methods import apply_method
from mcod_plugin.config.read import merge_options
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import EnsembleTeacher
from mcod_plugin.models.losses import BaseKDLoss, dkd_loss
from mcod_plugin.registry import MODELS, RUNNERS

PAGE = (Path(__file__).parents[2] / 'docs' / 'extending.md').read_text()
FILES = {
    name: text
    for name, text in re.findall(r'```python\n# (\w+\.py)\n(.*?)```', PAGE,
                                 re.DOTALL)
}
METHODS = [name for name, text in FILES.items() if 'custom_imports' in text]
# By the heading of each example, its module.
SECTIONS = {
    title.lower().replace(' ', '-'): re.search(r'# (\w+\.py)', text)[1]
    for title, text in re.findall(r'^## (.*?)\n(.*?)(?=^## |\Z)', PAGE,
                                  re.DOTALL | re.MULTILINE)
    if '```python' in text
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A user's folder with all files of the page."""
    home = tmp_path_factory.mktemp('mine')
    for name, text in FILES.items():
        (home / name).write_text(text)
    before = {*sys.modules}
    sys.path.insert(0, str(home))
    yield home
    sys.path.remove(str(home))
    for name in {*sys.modules} - before:
        if str(home) in str(getattr(sys.modules[name], '__file__', '')):
            del sys.modules[name]
    for registry in (MODELS, MMPRETRAIN_MODELS, HOOKS, TRANSFORMS):
        for name, part in list(registry.module_dict.items()):
            if part.__module__ not in sys.modules:
                del registry.module_dict[name]


class Tape(Hook):

    def __init__(self):
        self.logs = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.logs.append(outputs)


def train(tiny_config, path, **changes):
    changes.setdefault('train_dataloader.dataset.indices', 32)
    cfg = tiny_config(epochs=2, **changes)
    apply_method(cfg, str(path))
    tape = Tape()
    runner = RUNNERS.build(cfg)
    runner.register_hook(tape)
    runner.train()
    return runner.model, tape.logs


def test_the_page_is_complete():
    assert len(FILES) == 2 * len(METHODS) == 2 * len(SECTIONS) == 14
    rows = re.findall(r'^\| \[.*?\]\(#(.*?)\) \|.*\| (\d+) \|$', PAGE, re.M)
    assert [anchor for anchor, _ in rows] == list(SECTIONS)
    for anchor, number in rows:
        # Imports and empty lines do not count.
        lines = FILES[SECTIONS[anchor]].splitlines()
        lines = [
            line for line in lines
            if line and not line.startswith(('from', 'import'))
        ]
        assert int(number) == len(lines), anchor


@pytest.mark.parametrize('method', METHODS)
def test_example_trains(tiny_config, folder, method):
    changes = {'in_memory': method != 'noise.py'}
    if method == 'cosine.py':
        # It compares maps, and so do not all networks have.
        changes['model.branches.vit.backbone'] = dict(
            type='mcod_plugin.CifarResNet', depth=8, width=2, _delete_=True)
    model, logs = train(tiny_config, folder / method, **changes)
    kind = re.search(r"type='(?:mcod_plugin\.)?(\w+)'(?!, weight=\(0)",
                     FILES[method])[1]
    parts = {type(part).__name__ for part in (model.teacher, model.distill)}
    assert kind in parts or method in ('turns.py', 'noise.py')
    learned = [{key for key in log if key.endswith('.loss_kd')}
               for log in logs]
    if kind == 'TurnsHook':
        assert learned == 2 * [{'resnet.loss_kd'}] + 2 * [{'vit.loss_kd'}]
    else:
        # The gap after the first epoch has shrunk to nothing.
        assert {'resnet.loss_kd', 'vit.loss_kd'} in learned
    for log in logs:
        for key, value in log.items():
            assert value.isfinite(), key
            if key.endswith('.loss_kd'):
                assert value >= 0, key


def test_views_of_data_in_memory(tiny_config):
    """The setting that the page names."""
    option, = re.findall(r'--cfg-options (train_dataloader\S+views=True)`',
                         PAGE)
    cfg = tiny_config(epochs=1)
    merge_options(cfg, [option])
    inputs = next(iter(RUNNERS.build(cfg).train_dataloader))['inputs']
    assert not torch.equal(inputs['resnet'], inputs['vit'])


# What the examples say that they are


def part(folder, name, kind, **settings):
    module = __import__(name)
    return getattr(module, kind)(**settings)


def make_logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).double()


def test_js_loss(folder):
    loss = part(folder, 'js_loss', 'JSLoss')
    one, other = make_logits(2, 4, 5), make_logits(4, 5, seed=1)
    found = loss(one, other)
    assert found.shape == (2, ) and (found > 0).all()
    torch.testing.assert_close(loss(other.expand(2, 4, 5), one), found)
    far = 99 * torch.eye(5).double()[[0, 1, 2, 3]]
    assert loss(far[None], far.roll(1, 0)).item() == pytest.approx(
        torch.tensor(2.).log().item())


def test_target_loss(folder):
    """The package's own, at temperature 1."""
    loss = part(folder, 'target_loss', 'TargetLoss', beta=2.)
    labels = torch.eye(5).double()[[3, 0, 4, 1]]
    one, other = make_logits(2, 4, 5), make_logits(4, 5, seed=1)
    torch.testing.assert_close(
        loss(one, other, labels=labels),
        dkd_loss(one, other, labels, 1., 1., 2.))


@pytest.mark.parametrize('name, kind', [('js_loss', 'JSLoss'),
                                        ('target_loss', 'TargetLoss')])
def test_sure_logits(folder, name, kind):
    """Of probabilities that are 0 to single precision, in both directions."""
    loss = part(folder, name, kind)
    sure = 200 * torch.eye(5)[[0, 1, 2, 3]]
    logits = sure.roll(1, 0)[None].requires_grad_()
    labels = dict(labels=torch.eye(5)[:4]) if loss.needs_labels else {}
    found = loss(logits, sure, **labels)
    gradient, = torch.autograd.grad(found.sum(), logits)
    assert found.isfinite().all() and gradient.isfinite().all()


def test_surest_teacher(folder):
    teacher = part(folder, 'surest_teacher', 'SurestTeacher')
    logits = dict(a=make_logits(4, 5), b=3 * make_logits(4, 5, seed=1))
    fused = teacher.ensemble(logits)
    for row, *rows in zip(fused, *logits.values()):
        assert torch.equal(
            row, max(rows, key=lambda z: z.softmax(0).max().item()))
    assert torch.equal(teacher(logits)['a'], fused)


def test_noise(folder):
    noise = part(folder, 'noise_transform', 'Noise', std=20.)
    image = np.full((99, 99, 3), 128, np.uint8)
    np.random.seed(0)
    found = noise(dict(img=image, gt_label=3))
    assert found['img'].dtype == np.uint8 and found['gt_label'] == 3
    assert found['img'].std() == pytest.approx(20, rel=.02)
    assert (image == 128).all()


def test_it_is_found(tiny_config, folder):
    """In a config of either scope, also if its file has the same name."""
    for scope in ('mmpretrain', 'mcod_plugin'):
        for registry in ('mmpretrain', 'mcod_plugin'):
            name = f'Loss_{scope}_{registry}'
            text = FILES['js_loss.py'].replace('JSLoss', name)
            text = text.replace('from mcod_plugin.registry',
                                f'from {registry}.registry')
            (folder / f'{name}.py').write_text(text)
            (folder / 'method.py').write_text(FILES['js.py'].replace(
                'js_loss', name).replace('mcod_plugin.JSLoss', name))
            cfg = tiny_config(work_dir=name, default_scope=scope)
            apply_method(cfg, str(folder / 'method.py'))
            model = RUNNERS.build(cfg).model
            assert type(model.distill).__name__ == name


# The lines that mistakes give


class JSLoss(BaseKDLoss):

    def forward(self, logits, targets):
        return (logits - targets).mean()


class TargetLoss(BaseKDLoss):

    def forward(self, logits, targets, labels):
        return (logits - targets).mean((1, 2))


class SurestTeacher(EnsembleTeacher):

    def forward(self, logits):
        return dict(vgg=logits['vgg'].amax(1))


@pytest.mark.parametrize('part', [JSLoss, SurestTeacher, TargetLoss])
def test_mistake(part):
    line, = re.findall(rf'^model\.\w+\.type {part.__name__} .*$', PAGE, re.M)
    network = dict(
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=2),
        head=dict(type='LinearClsHead', num_classes=10))
    key = 'teacher' if part is SurestTeacher else 'distill'
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=8,
            branches=dict(resnet=network, vgg=network),
            **{key: part()}))
    with pytest.raises(ConfigError, match=f'^{re.escape(line)}$'):
        cohort.check_distillation()
