import dataclasses
import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mcod_plugin.compare.plan import Run, choose, plan, shard
from mcod_plugin.compare.state import latest_checkpoint
from mcod_plugin.compare.study import read_study
from mcod_plugin.errors import ConfigError
from mcod_plugin.config.methods import METHODS


def make(path, options=()):
    return plan(read_study(path), 'work', options)


def test_runs_of_a_seed_stay_together(write_study):
    runs = make(write_study())
    assert [(run.method, run.seed) for run in runs] == [('solo', 0),
                                                        ('always_on', 0),
                                                        ('solo', 1),
                                                        ('always_on', 1)]
    for run in runs:
        assert run.name == f'{run.method}_seed{run.seed}'
        assert run.cfg.randomness.seed == run.seed
        assert run.work_dir == f'work/study/{run.name}'
        assert run.result.endswith(f'study/{run.name}.json')
        assert run.needs == []
        info = run.cfg.custom_hooks[-1].info
        assert info == dict(
            study='study',
            method=run.method,
            seed=run.seed,
            config_hash=run.config_hash)


def test_runs_differ_in_method_and_seed_only(write_study):
    runs = make(write_study(settings={'train_cfg.max_epochs': 3}))
    assert len({run.config_hash for run in runs}) == 4
    first, second = (dict(run.cfg.to_dict()) for run in runs[:2])
    for cfg in (first, second):
        schedule, record = cfg.pop('custom_hooks')
        assert schedule['type'] == 'mcod_plugin.DiscontinuousKDHook'
        cfg['model'] = {
            key: value
            for key, value in cfg['model'].items()
            if key not in ('teacher', 'distill')
        }
    assert first == second
    assert first['train_cfg']['max_epochs'] == 3


def test_solo_counts_as_it_was_written_before(write_study, tmp_path):
    """Results of runs whose config has a loss at weight 0 are solo's."""
    text = Path(METHODS, 'solo.py').read_text()
    assert text.count('distill=None') == text.count('(0.0, 0.0)') == 1
    loss = "dict(_delete_=True, type='mcod_plugin.DiscontinuousKDLoss', " \
        'temperature=3.0)'
    texts = dict(
        old=text.replace('distill=None', f'distill={loss}'),
        scheduled=text.replace('(0.0, 0.0)', '(1.0, 1.0)'),
        distilled=text.replace('distill=None', f'distill={loss}').replace(
            '(0.0, 0.0)', '(1.0, 1.0)'),
        another=text.replace("fusion='mean'", "fusion='prob_mean'"))
    for name, content in texts.items():
        (tmp_path / f'{name}.py').write_text(content)
    methods = {name: str(tmp_path / f'{name}.py') for name in texts}
    hashes = {
        run.method: run.config_hash
        for run in make(
            write_study(seeds=[0], methods=dict(solo='solo', **methods)))
    }
    assert hashes.pop('old') == hashes['solo']
    assert len(set(hashes.values())) == 4


def test_order_of_settings(write_study):
    """A method's own settings win over those of all, options over both."""
    path = write_study(
        settings={
            'train_cfg.max_epochs': 3,
            'train_cfg.val_interval': 3
        },
        methods=dict(
            solo='solo',
            long=dict(method='mcod', settings={'train_cfg.max_epochs': 4})))
    for options, lengths in (((), (3, 4)), (('train_cfg.max_epochs=5', ),
                                            (5, 5))):
        runs = make(path, options)[:2]
        assert tuple(run.cfg.train_cfg.max_epochs for run in runs) == lengths
        assert all(run.cfg.train_cfg.val_interval == 3 for run in runs)


def test_hash(write_study):
    """It is that of what is trained, wherever that is."""
    first = make(write_study())
    again = plan(read_study(write_study(results='elsewhere')), 'other')
    other = make(write_study(), ['optim_wrapper.optimizer.lr=0.5'])
    for one, two, three in zip(first, again, other):
        assert one.config_hash == two.config_hash != three.config_hash


def test_amp(write_study):
    for amp in (True, False):
        run = make(write_study(amp=amp))[0]
        kind = run.cfg.optim_wrapper.get('type', '')
        assert kind.endswith(
            ('AutocastOptimWrapper', 'AmpOptimWrapper')) == amp


def test_checkpoint_of_another_method(write_study):
    teacher = dict(
        method='always_on',
        settings={
            'model.branches.vgg.init_cfg':
            dict(
                type='Pretrained',
                checkpoint='{checkpoint of solo}',
                prefix='branches.vgg')
        })
    runs = make(write_study(methods=dict(solo='solo', taught=teacher)))
    assert [run.needs for run in runs] == [[], ['solo_seed0'], [],
                                           ['solo_seed1']]
    with pytest.raises(ConfigError, match='solo.*is of no method'):
        make(write_study(methods=dict(mcod='mcod', taught=teacher)))


def taught_by(name):
    """A method that starts from the weights of another one."""
    checkpoint = f'{{checkpoint of {name}}}'
    return dict(
        method='mcod',
        settings={
            'model.branches.vgg.init_cfg':
            dict(type='Pretrained', checkpoint=checkpoint)
        })


@pytest.mark.parametrize('teachers, circle', [
    (dict(a='a'), 'a needs that of a'),
    (dict(a='b', b='a'), '(a needs that of b needs that of a|'
     'b needs that of a needs that of b)'),
    (dict(a='b', b='c', c='b'), '(b needs that of c needs that of b|'
     'c needs that of b needs that of c)'),
])
def test_circle_of_checkpoints(write_study, teachers, circle):
    methods = {name: taught_by(other) for name, other in teachers.items()}
    path = write_study(methods=dict(methods, solo='solo'))
    with pytest.raises(ConfigError, match=f'in a circle: {circle}$'):
        make(path)


def test_cohort_is_built_as_the_runner_does(write_study):
    """With the size of the data's images and the config's preprocessor."""
    head = dict(type='LinearClsHead', num_classes=10)
    transformer = dict(
        type='TIMMBackbone',
        model_name='vit_tiny_patch16_224',
        img_size=64,
        patch_size=16,
        embed_dim=16,
        depth=1,
        num_heads=2,
        in_channels=1)
    settings = {
        'train_dataloader.dataset.pipeline.0.crop_size': 64,
        'data_preprocessor.mean': [78.],
        'data_preprocessor.std': [96.],
        'model.branches.resnet.backbone.in_channels': 1,
        'model.branches.vgg':
        dict(_delete_=True, backbone=transformer, head=head),
    }
    assert len(make(write_study(settings=settings))) == 4
    settings['train_dataloader.dataset.pipeline.0.crop_size'] = 32
    with pytest.raises(ConfigError, match='64'):
        make(write_study(settings=settings))


def test_recipe_that_counts_iterations(write_study, tmp_path):
    path = write_study(settings={
        'train_cfg.by_epoch': False,
        'train_cfg.max_iters': 100
    })
    for run in make(path):
        checkpoint = run.cfg.default_hooks.checkpoint
        assert not checkpoint.by_epoch and checkpoint.interval == 5
    run = dataclasses.replace(run, work_dir=str(tmp_path / 'run'))
    os.makedirs(run.work_dir)
    for number in (5, 95, 100):
        Path(run.work_dir, f'iter_{number}.pth').touch()
    assert latest_checkpoint(run).endswith('iter_100.pth')


def test_only_the_runs(write_study):
    """Without anything being built, as for a report."""
    path = write_study(settings={'custom_hooks.0.curve': 'line'})
    assert len(plan(read_study(path), 'work', build=False)) == 4
    with pytest.raises(ConfigError, match='curve'):
        make(path)


def rewrite(tmp_path, without, **settings):
    """Write the cohort's config without some settings."""
    path = tmp_path / 'cohort.py'
    cfg = Config.fromfile(path).to_dict()
    del cfg[without]
    Config(dict(cfg, **settings)).dump(path)


@pytest.mark.parametrize('key', ['custom_imports', 'default_hooks'])
def test_what_a_config_need_not_have(write_study, tmp_path, key):
    path = write_study()
    rewrite(tmp_path, key)
    hook = make(path)[0].cfg.default_hooks.checkpoint
    assert hook.type == 'mcod_plugin.BranchCheckpointHook'


@pytest.mark.parametrize('key', [
    'train_cfg', 'optim_wrapper', 'train_dataloader', 'val_dataloader',
    'val_evaluator'
])
def test_what_a_config_must_have(write_study, tmp_path, key):
    path = write_study(amp=True)
    rewrite(tmp_path, key)
    with pytest.raises(
            ConfigError,
            match=r'methods\.solo: config .*cohort\.py lacks the setting '
            f'{key}$'):
        make(path)


@pytest.mark.parametrize('lines, words', [
    (dict(config='gone.py'), ('methods.solo', 'gone.py', 'no such file')),
    (dict(settings={'train_cfgs.max_epochs': 1}), ('settings', 'train_cfg')),
    (dict(
        methods=dict(
            a=dict(method='mcod', settings={'custom_hooks.0.curve': 'line'}))),
     ('methods.a', 'curve', 'linear', "'line'")),
    (dict(
        methods=dict(
            a=dict(method='mcod', settings={'custom_hooks.0.gaps': 1}))),
     ('methods.a', 'gaps', 'gap')),
    (dict(
        methods=dict(
            a=dict(method='mcod', settings={'model.teacher.fusion': 'max'}))),
     ('methods.a', 'fusion', "'max'")),
    (dict(settings={'model.branches.vgg.backbone.depth': 12}),
     ('depth', '12')),
    (dict(settings={'train_cfg.by_epoch': 'no'}),
     ('train_cfg.by_epoch', 'True or False', "'no'")),
    (dict(settings={'train_cfg.by_epoch': False}),
     ('train_cfg.max_iters', 'None')),
    (dict(settings={'train_cfg.max_epochs': 'ten'}),
     ('train_cfg.max_epochs', "'ten'")),
    (dict(settings={'custom_imports.imports': ['no_such_module']}),
     ('no_such_module', )),
    (dict(settings={'val_evaluator.topk': 5}),
     ('val_evaluator', 'BranchMetrics', '1 in its topk', '"topk": 5')),
    (dict(settings={'val_evaluator': [dict(type='Accuracy')]}),
     ('val_evaluator', 'BranchMetrics', '"Accuracy"')),
])
def test_mistakes(write_study, lines, words):
    path = write_study(**lines)
    with pytest.raises(ConfigError) as error:
        make(path)
    for word in words:
        assert word in str(error.value)


def test_evaluator_of_a_class(write_study, tmp_path):
    path = write_study()
    with open(tmp_path / 'cohort.py', 'a') as file:
        file.write('from mmpretrain.evaluation import Accuracy\n'
                   'val_evaluator = dict(_delete_=True, type=Accuracy)\n')
    with pytest.raises(ConfigError, match='val_evaluator must .*Accuracy'):
        make(path)


def test_config_without_a_cohort(write_study, tmp_path):
    path = write_study()
    (tmp_path /
     'cohort.py').write_text("model = dict(type='ImageClassifier')\n")
    with pytest.raises(ConfigError, match='no cohort.*model.branches'):
        make(path)


def test_choose(write_study):
    runs = make(write_study())
    assert choose(runs, []) == runs
    assert [run.name for run in choose(runs, ['*_seed1', 'solo_*'])
            ] == ['solo_seed0', 'solo_seed1', 'always_on_seed1']
    with pytest.raises(ConfigError, match='--only mcod.* matches no run'):
        choose(runs, ['solo_*', 'mcod*'])


@pytest.mark.parametrize('number', [1, 2, 3, 7])
def test_shares_are_all_runs_once(number):
    runs = [
        Run(f'{name}_seed{seed}', name, seed, Config(), '', '', '',
            [f'solo_seed{seed}'] if name == 'kd' else [])
        for name in ('solo', 'mcod', 'kd') for seed in range(3)
    ]
    shares = [shard(runs, index, number) for index in range(1, number + 1)]
    together = [run.name for share in shares for run in share]
    assert sorted(together) == sorted(run.name for run in runs)
    for share in shares:
        names = [run.name for run in share]
        assert all({*run.needs} <= {*names} for run in share)
    sizes = [len(share) for share in shares]
    assert number > 2 or max(sizes) - min(sizes) < 3


@pytest.mark.parametrize('needs', [
    dict(a=[], b=[], c=['a', 'b']),
    dict(d=['c'], c=['a'], x=[], a=[]),
])
def test_runs_that_need_each_other_share(needs):
    runs = [
        Run(name, name, 0, Config(), '', '', '', own)
        for name, own in needs.items()
    ]
    for index in (1, 2):
        share = shard(runs, index, 2)
        names = {run.name for run in share}
        assert all({*run.needs} <= names for run in share)


@pytest.mark.parametrize('weight', ['', 'weight=None, '])
def test_schedule_that_is_left_out_is_told(write_study, tmp_path, weight):
    """As what it gets: it may be something else in another version."""
    hashes = []
    for text in (weight, 'weight=(0.0, 1.0), ramp=0.5, '):
        (tmp_path / 'own.py').write_text(
            "custom_hooks = [dict(type='mcod_plugin.DiscontinuousKDHook', "
            f'{text}on=1)]\n')
        run = make(write_study(methods=dict(own='own.py'), seeds=[0]))[0]
        hashes.append(run.config_hash)
    assert hashes[0] == hashes[1]
