"""Every method can be applied to every cohort, and changes nothing else."""
import ast
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mcod_plugin.config.methods import apply_method, find_method
from mcod_plugin.config.read import merge_options
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS, MODELS, RUNNERS
from mcod_plugin.schedule import DiscontinuousSchedule

ROOT = Path(__file__).parents[2]
METHODS = sorted(
    path.stem for path in (ROOT / 'configs' / 'methods').glob('*.py'))
CIFAR = sorted((ROOT / 'configs').glob('*cifar*.py'))
# What each of them does: teacher, its settings, temperature, gap, weight.
EXPECTED = dict(
    solo=('EnsembleTeacher', dict(fusion='mean'), 3, (0, 0), (0, 0)),
    always_on=('EnsembleTeacher', dict(fusion='mean'), 3, (0, 0), (1, 1)),
    ramp=('EnsembleTeacher', dict(fusion='mean'), 3, (0, 0), (.5, 1.5)),
    slow_start=('EnsembleTeacher', dict(fusion='mean'), 3, (0, 0), (0, 1)),
    on_off=('EnsembleTeacher', dict(fusion='mean'), 3, (1, 1), (1, 1)),
    mcod=('EnsembleTeacher', dict(fusion='mean'), 3, (1, 0), (0, 1)),
    mcod_constant=('EnsembleTeacher', dict(fusion='mean'), 3, (1, 0), (1, 1)),
    prob_mean=('EnsembleTeacher', dict(fusion='prob_mean'), 3, (1, 0), (0, 1)),
    confidence=('EnsembleTeacher', dict(fusion='confidence'), 3, (1, 0), (0,
                                                                          1)),
    leave_one_out=('EnsembleTeacher', dict(fusion='mean', leave_one_out=True),
                   3, (1, 0), (0, 1)),
    dml=('PeerTeacher', {}, 1, (0, 0), (1, 1)),
    kdcl_mean=('EnsembleTeacher', dict(fusion='mean'), 4, (0, 0), (1, 1)),
    kdcl_min_logit=('EnsembleTeacher', dict(fusion='min_logit'), 4, (0, 0),
                    (1, 1)),
    mean_t4_w05=('EnsembleTeacher', dict(fusion='mean'), 4, (0, 0), (.5, .5)),
    min_logit_t4_w05=('EnsembleTeacher', dict(fusion='min_logit'), 4, (0, 0),
                      (.5, .5)),
    one=('GatedTeacher', dict(norm=True), 3, (0, 0), (.006738, 1)),
    dkd=('EnsembleTeacher', dict(fusion='mean'), 4, (0, 0), (.05, 1)),
    dist=('EnsembleTeacher', dict(fusion='mean'), 1, (0, 0), (0, 1)),
    features=('EnsembleTeacher', dict(fusion='mean'), None, (0, 0), (1, 1)),
    standardized=('EnsembleTeacher', dict(fusion='mean'), 2, (0, 0), (1, 1)),
    averaged=('EnsembleTeacher', dict(fusion='mean',
                                      decay=.999), 3, (0, 0), (1, 1)),
    balanced=('EnsembleTeacher', dict(fusion='mean'), 3, (0, 0), (.3, .3)),
    kd=('EnsembleTeacher', dict(fusion='mean',
                                members=['vgg']), 3, (0, 0), (1, 1)))
# What else the schedules say, and other losses.
SCHEDULES = dict(
    one=dict(curve='exp', ramp=.2667),
    dkd=dict(ramp=.0792),
    dist=dict(begin=.3, ramp=.5),
    slow_start=dict(ramp=.2),
    **dict.fromkeys(('mcod', 'prob_mean', 'confidence', 'leave_one_out'),
                    dict(ramp=.5)))
LOSSES = dict(
    dml='MutualKDLoss',
    dkd='DKDLoss',
    dist='DISTLoss',
    features='FeatureKDLoss')
HALF = ('kdcl_mean', 'kdcl_min_logit')


def options(name, branch='vgg'):
    """What the user must add: kd cannot know which branch teaches."""
    return [] if name != 'kd' else [
        f'model.teacher.members={branch}',
        f'model.branches.{branch}.frozen=True'
    ]


def apply(cfg, name, *settings, branch='vgg'):
    apply_method(cfg, find_method(name))
    merge_options(cfg, [*options(name, branch), *settings])
    return cfg


def test_hooks_of_a_method_are_a_list_or_a_tuple(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text("custom_hooks = (dict(type='EMAHook'), )\n")
    cfg = Config(
        dict(
            model=dict(branches=dict()),
            custom_hooks=[dict(type='EMAHook', momentum=.5),
                          dict(type='Other')]))
    apply_method(cfg, str(path))
    assert cfg.custom_hooks == [dict(type='EMAHook'), dict(type='Other')]
    path.write_text("custom_hooks = dict(type='EMAHook')\n")
    with pytest.raises(ConfigError, match='custom_hooks must be a list'):
        apply_method(cfg, str(path))


def test_there_are_the_methods():
    assert METHODS == sorted(EXPECTED)


@pytest.mark.parametrize('name', METHODS)
def test_is_short_and_tells_what_it_is(name):
    text = (ROOT / 'configs' / 'methods' / f'{name}.py').read_text()
    assert len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 79
    docstring = ast.get_docstring(ast.parse(text))
    assert len(docstring.split()) > 20
    if name not in ('solo', 'kd'):
        assert 'detached' in docstring
    assert 'import ' not in text


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('path', CIFAR, ids=[path.stem for path in CIFAR])
def test_applies_to_every_cohort(path, name):
    before, cfg = Config.fromfile(path), Config.fromfile(path)
    apply(cfg, name)
    gap, weight = EXPECTED[name][3:]
    hook = HOOKS.build(cfg.custom_hooks[0])
    assert len(cfg.custom_hooks) == 1
    assert hook.schedule == DiscontinuousSchedule(
        gap=gap, weight=weight, **SCHEDULES.get(name, {}))
    assert '_delete_' not in cfg.pretty_text
    # the rest is the cohort's
    assert cfg.model.pop('loss_weight', 1) == (.5 if name in HALF else 1)
    for key in ('teacher', 'distill', 'branches'):
        del cfg.model[key], before.model[key]
    for key in cfg:
        assert key == 'custom_hooks' or cfg[key] == before[key], key


@pytest.fixture(scope='module')
def networks():
    """Branches of each config that were built already: they take seconds."""
    return {}


# A build takes seconds: each with a small cohort, and some with one of four.
BUILDS = [('mcod_small_cifar100', name) for name in METHODS
          ] + [('mcod_alexnet_vgg_resnet_densenet_cifar100', name)
               for name in ('mcod', 'one', 'features')]


@pytest.mark.parametrize('config, name', BUILDS)
def test_builds(networks, config, name):
    path = ROOT / 'configs' / f'{config}.py'
    kind, settings, temperature, _, _ = EXPECTED[name]
    model = apply(Config.fromfile(path), name).model.to_dict()
    for large in {'resnet', 'densenet'} if len(model['branches']) > 2 else ():
        del model['branches'][large]
    if name != 'kd' and path in networks:
        model['branches'] = networks[path]
    model = MODELS.build(model)
    if name != 'kd':
        networks[path] = dict(model.branches.items())
    assert type(model.teacher).__name__ == kind
    for key, value in settings.items():
        assert getattr(model.teacher, key) == value
    distill = model.distill
    assert (distill is None) == (name == 'solo')
    assert model.frozen == (['vgg'] if name == 'kd' else [])
    if name == 'solo':
        return
    assert (type(distill).__name__ == 'BalancedKDLoss') == (name == 'balanced')
    distill = getattr(distill, 'loss', distill)
    assert type(distill).__name__ == LOSSES.get(name, 'DiscontinuousKDLoss')
    assert getattr(distill, 'temperature', None) == temperature
    assert getattr(distill, 'standardize', False) == (name == 'standardized')
    if name == 'one':
        number = len(model.branches)
        assert model.teacher.gate.weight.shape == (number,
                                                   number * model.num_classes)


def test_kd_must_know_its_teacher():
    cfg = Config.fromfile(CIFAR[0])
    apply_method(cfg, find_method('kd'))
    with pytest.raises(ConfigError, match='^model.teacher.members must name'):
        MODELS.build(cfg.model.teacher)


def test_mcod_is_the_default():
    """Of the hook, and of the configs."""
    cfg = apply(Config.fromfile(CIFAR[-1]), 'mcod')
    hook, own = cfg.custom_hooks[0], Config.fromfile(CIFAR[-1])
    default = HOOKS.build(dict(type='mcod_plugin.DiscontinuousKDHook'))
    assert set(hook) == {
        'type', 'on', 'gap', 'weight', 'curve', 'ramp', 'begin', 'end',
        'by_epoch'
    }
    for given in (hook, own.custom_hooks[0]):
        given = HOOKS.build(given)
        assert given.schedule == default.schedule
        assert given.by_epoch == default.by_epoch
    assert cfg.model == own.model


# Training


class Tape(Hook):
    """Notes the weights and images with which a run begins, and the losses
    of each step."""

    def __init__(self):
        self.logs = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.logs:
            self.images = data_batch['inputs'].clone()
            self.weights = {
                key: value.clone()
                for key, value in runner.model.state_dict().items()
            }

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.logs.append({key: value.item() for key, value in outputs.items()})


def run(cfg):
    tape = Tape()
    # The picture takes longer than the run.
    cfg.default_hooks.run_figure = None
    runner = RUNNERS.build(cfg)
    runner.register_hook(tape)
    runner.train()
    return runner, tape


# One iteration is on, the next is off.
TWO_STEPS = [
    'custom_hooks.0.by_epoch=False', 'custom_hooks.0.gap=1,1',
    'train_dataloader.dataset.indices=32', 'train_cfg.max_epochs=1'
]


@pytest.fixture(scope='module')
def beginning():
    """Weights and images of the first run, for the others to compare."""
    return {}


@pytest.mark.parametrize('name', METHODS)
def test_trains(tiny_config, beginning, name):
    options = list(TWO_STEPS)
    if name != 'solo' and not EXPECTED[name][4][0]:
        # It grows from nothing.
        options += ['custom_hooks.0.weight=1,1', 'custom_hooks.0.begin=0']
    cfg = apply(tiny_config(name), name, *options, branch='vit')
    runner, tape = run(cfg)
    on, off = tape.logs
    learning = {'resnet', 'vit'} - set(runner.model.frozen)
    own = {f'{branch}.loss_ce' for branch in learning}
    if name == 'one':
        own.add('teacher.loss_ce')
    # MMEngine adds the sum.
    assert off.keys() == own | {'kd_weight', 'loss'}
    distilled = set() if name == 'solo' else {
        f'{branch}.loss_kd'
        for branch in learning
    }
    # The first step of an epoch that distils measures how hard it pulls.
    ratios = {key.replace('loss_kd', 'kd_ratio') for key in distilled}
    assert on.keys() == off.keys() | distilled | ratios
    # Features do not pull at the logits.
    assert all((on[key] > 0) == (name != 'features') for key in ratios)
    assert all(on[key] > 0 for key in distilled)
    assert on['loss'] == pytest.approx(
        sum(on[key] for key in own | distilled), rel=1e-5)

    weights = {
        key: value
        for key, value in tape.weights.items() if key.startswith('branches.')
    }
    assert len(tape.weights) - len(weights) == dict(
        one=7, balanced=1, features=4, averaged=len(weights)).get(name, 0)
    beginning.setdefault('weights', weights)
    beginning.setdefault('images', tape.images)
    assert weights.keys() == beginning['weights'].keys()
    for key, value in weights.items():
        assert torch.equal(value, beginning['weights'][key]), key
    assert torch.equal(tape.images, beginning['images'])
    for key, value in runner.model.state_dict().items():
        if key.startswith('branches.vit.') and name == 'kd':
            assert torch.equal(value, weights[key])
        elif key.endswith('weight'):
            assert not torch.equal(value, tape.weights[key]), key


def test_gate_is_resumed(tiny_config):
    """As if the run had never stopped."""
    end = 'custom_hooks.0.end=2'
    whole, _ = run(
        apply(tiny_config('whole', 2), 'one', 'custom_hooks.0.gap=1,0', end))
    run(apply(tiny_config('broken', 1), 'one', 'custom_hooks.0.gap=1,0', end))
    resumed, tape = run(
        apply(
            tiny_config('broken', 2, resume=True), 'one',
            'custom_hooks.0.gap=1,0', end))
    assert tape.weights['teacher.gate.weight'].any()
    expected = whole.model.state_dict()
    assert 'teacher.gate.bias' in expected
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_teacher_of_another_run(tiny_config):
    """First solo, then one of its branches teaches the other."""
    solo, _ = run(apply(tiny_config('solo'), 'solo', *TWO_STEPS))
    path = Path(solo.work_dir, 'epoch_1.pth')
    cfg = apply(
        tiny_config('kd'),
        'kd',
        *TWO_STEPS,
        'model.branches.resnet.init_cfg.type=Pretrained',
        f'model.branches.resnet.init_cfg.checkpoint={path}',
        'model.branches.resnet.init_cfg.prefix=branches.resnet',
        # Weight decay must not reach it either.
        'optim_wrapper.optimizer.weight_decay=0.1',
        branch='resnet')
    runner, _ = run(cfg)
    for key, value in solo.model.branches['resnet'].state_dict().items():
        assert torch.equal(runner.model.branches['resnet'].state_dict()[key],
                           value), key


# Merging


def write(tmp_path, text):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    return str(path)


def cohort(**changes):
    return Config(
        dict(
            model=dict(branches=dict(a=dict(depth=1)), teacher=dict(x=1)),
            **changes))


def test_marks_do_not_remain(tmp_path):
    path = write(
        tmp_path, "model = dict(teacher=dict(_delete_=True, type='T'), "
        "distill=dict(_delete_=True, type='D', part=dict(_delete_=True)))\n"
        'hooks = [dict(_delete_=True, a=1)]\n')
    cfg = cohort()
    apply_method(cfg, path)
    assert cfg.model.to_dict() == dict(
        branches=dict(a=dict(depth=1)),
        teacher=dict(type='T'),
        distill=dict(type='D', part={}))
    assert cfg.hooks == [dict(a=1)]


@pytest.mark.parametrize('given, expected', [
    (None, 'KM'),
    ([], 'KM'),
    (['EMAHook', 'mcod_plugin.K', 'X'], ['EMAHook', 'K', 'M', 'X']),
    (['K', 'EMAHook', 'mcod_plugin.M'], ['K', 'M', 'EMAHook']),
    (['EMAHook', 'EMAHook'], ['EMAHook', 'EMAHook', 'K', 'M']),
])
def test_hooks(tmp_path, given, expected):
    path = write(
        tmp_path, "custom_hooks = [dict(type='mcod_plugin.K', own=1), "
        "dict(type='mcod_plugin.M', own=1)]")
    cfg = cohort() if given is None else cohort(
        custom_hooks=[dict(type=kind) for kind in given])
    apply_method(cfg, path)
    assert [hook.type.rpartition('.')[2]
            for hook in cfg.custom_hooks] == list(expected)
    for hook in cfg.custom_hooks:
        assert (hook.get('own') == 1) == hook.type.endswith(('K', 'M'))
    # what stays can be dumped and read again
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()


def test_hooks_stay_without_a_schedule(tmp_path):
    cfg = cohort(custom_hooks=[dict(type='EMAHook')])
    apply_method(cfg, write(tmp_path, 'model = dict(teacher=dict(y=2))'))
    assert cfg.custom_hooks == [dict(type='EMAHook')]
    assert cfg.model.teacher == dict(x=1, y=2)


@pytest.mark.parametrize('given, expected', [
    ({}, ['math']),
    (dict(imports='json'), ['json', 'math']),
    (dict(imports=['json', 'math'],
          allow_failed_imports=True), ['json', 'math']),
])
def test_imports(tmp_path, given, expected):
    """Those of the cohort, such as its data set, are needed as before."""
    path = write(
        tmp_path, "custom_imports = dict(imports=['math'], "
        'allow_failed_imports=False)')
    cfg = cohort(custom_imports=given) if given else cohort()
    apply_method(cfg, path)
    assert cfg.custom_imports == dict(
        imports=expected, allow_failed_imports=False)


def test_find_method(tmp_path, monkeypatch):
    assert Path(find_method('dml')) == ROOT / 'configs' / 'methods' / 'dml.py'
    path = write(tmp_path, '')
    assert find_method(path) == path
    monkeypatch.chdir(tmp_path)
    assert find_method('mine.py') == 'mine.py'


@pytest.mark.parametrize('name, words', [
    ('kdcl', ['kdcl is unknown', 'did you mean', 'kdcl_mean']),
    ('xyz', ['xyz is unknown', 'there are always_on,']),
    ('none.py', ['none.py: there is no such file']),
    ('_base_', ['_base_ is unknown']),
])
def test_unknown_method(name, words):
    with pytest.raises(ConfigError) as info:
        find_method(name)
    for word in ['method', *words]:
        assert word in str(info.value)


def test_refused(tmp_path):
    with pytest.raises(ConfigError, match='cohorts.*lacks model.branches'):
        apply_method(Config(dict(model=dict(type='X'))), find_method('dml'))
    with pytest.raises(ConfigError, match='mine.py, line 1'):
        apply_method(cohort(), write(tmp_path, 'model = dict('))
    with pytest.raises(ConfigError, match='method .*mine.py: lr=.*in child'):
        apply_method(cohort(lr=1), write(tmp_path, 'lr = dict(a=1)'))
