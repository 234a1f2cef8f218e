"""A run that is stopped and resumed must equal one that is not."""
import copy
import glob
import re

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mcod_plugin.errors import ConfigError
from ..conftest import HEAD, TRANSFORMER


class Tape(Hook):
    """Notes the images and the weight of every step."""

    def __init__(self):
        self.images, self.weights = [], []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        inputs = data_batch['inputs']
        if isinstance(inputs, dict):
            one, other = (inputs[name] for name in sorted(inputs))
            assert not torch.equal(one, other)
            inputs = torch.cat([one, other])
        self.images.append(inputs.clone())
        self.weights.append(float(outputs['kd_weight']))


def release(runner):
    """End the workers of a run that counts iterations: of those that are left
    to the garbage collector each takes seconds."""
    vars(runner.train_loop).pop('dataloader_iterator', None)


def run(runner):
    tape = Tape()
    runner.register_hook(tape)
    runner.train()
    release(runner)
    state = runner.model.state_dict()
    return tape, {key: value.clone() for key, value in state.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) for key in one)


CROP = [
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='PackInputs')
]
VIEWS = [
    dict(
        type='mcod_plugin.BranchViews', pipelines=dict(resnet=CROP, vit=CROP))
]
CHANGES = [
    {},
    # A seed that is drawn must be resumed with the run, sampler included.
    {
        'randomness.seed': None
    },
    {
        'in_memory': False
    },
    {
        'in_memory': False,
        'train_dataloader.num_workers': 1
    },
    # An adaptive optimizer, and targets mixed by random weights.
    {
        'optim_wrapper.optimizer': dict(type='AdamW', lr=1e-3, _delete_=True),
        'model.train_cfg': dict(augments=dict(type='Mixup', alpha=0.8)),
        'model.data_preprocessor.num_classes': 10
    },
    {
        'model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.)),
        'model.memory_format': 'contiguous'
    },
    {
        'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper'
    },
    # It divides the four iterations of an epoch.
    {
        'optim_wrapper.accumulative_counts': 2
    },
    # A teacher with parameters.
    {
        'model.teacher': dict(type='mcod_plugin.GatedTeacher')
    },
    # Averages, which go on over gaps, of real steps only.
    {
        'model.teacher': dict(type='mcod_plugin.EnsembleTeacher', ema=0.9),
        'optim_wrapper.accumulative_counts': 2
    },
    # Views of their own, mixed alike.
    {
        'train_dataloader.dataset.views': True,
        'model.teacher': dict(type='mcod_plugin.EnsembleTeacher', ema=0.9),
        'model.train_cfg': dict(augments=dict(type='Mixup', alpha=0.8)),
        'model.data_preprocessor.num_classes': 10
    },
    {
        'in_memory': False,
        'train_dataloader.dataset.pipeline': VIEWS,
        'train_dataloader.num_workers': 2,
        'model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.)),
        'model.data_preprocessor.num_classes': 10
    },
    # A weight in units of the labels' pull, whose average goes on over gaps.
    {
        'model.distill': dict(type='mcod_plugin.BalancedKDLoss'),
        'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper',
        'optim_wrapper.accumulative_counts': 2
    },
    # Projections of features, which are learned as the branches are.
    {
        'model.distill': dict(type='mcod_plugin.FeatureKDLoss'),
        'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper'
    },
    # A branch with an optimizer and limits of its own.
    {
        'model.branches.vit.optimizer': dict(type='AdamW', lr=1e-3),
        'model.branches.vit.clip_grad': dict(max_norm=0.5),
        'optim_wrapper.clip_grad': dict(max_norm=1.),
        'optim_wrapper.accumulative_counts': 2
    },
    # Branches that differ.
    {
        'model.branches.resnet.input_size': 20,
        'model.branches.resnet.mean': [80.] * 3,
        'model.branches.resnet.std': [90.] * 3,
        'model.branches.vit.lr_mult': 0.5,
        'model.branches.vit.loss_weight': 2.0
    },
]


@pytest.mark.parametrize('changes', CHANGES)
def test_resume_is_exact(tiny_runner, tiny_config, changes):
    # Both have the schedules of the whole run.
    changes = {'custom_hooks.0.end': 4, **changes}
    first, _ = run(tiny_runner('broken', 2, **changes))
    resumed, weights = run(tiny_runner('broken', 4, resume=True, **changes))
    checkpoint = torch.load(
        glob.glob(tiny_config('broken').work_dir + '/epoch_4.pth')[0],
        weights_only=True)
    if changes.get('randomness.seed', 0) is None:
        changes['randomness.seed'] = checkpoint['meta']['seed']
    whole, expected = run(tiny_runner('whole', 4, **changes))

    assert len(whole.images) == 16
    assert len(first.images) == len(resumed.images) == 8
    images = first.images + resumed.images
    assert all(map(torch.equal, images, whole.images))
    assert not torch.equal(images[0], images[4])
    assert first.weights + resumed.weights == whole.weights
    assert equal(weights, expected)


INFINITE = {
    'train_dataloader.sampler': dict(
        type='InfiniteSampler', shuffle=True, _delete_=True)
}


@pytest.mark.parametrize('changes', [
    {
        'model.train_cfg': dict(augments=dict(type='Mixup', alpha=0.8)),
        'optim_wrapper.accumulative_counts': 2
    },
    {
        'in_memory': False,
        'train_dataloader.num_workers': 1,
    },
    {
        'in_memory': False,
        'train_dataloader.num_workers': 1,
        **INFINITE
    },
    # A seed that is drawn, and a schedule that counts passes over the data.
    {
        'randomness.seed': None,
        'custom_hooks.0.by_epoch': True
    },
    {
        'in_memory': False,
        'randomness.seed': None,
        **INFINITE
    },
    # Between two passes.
    {
        'default_hooks.checkpoint.interval': 4
    },
    {
        'in_memory': False,
        'default_hooks.checkpoint.interval': 4
    },
])
def test_resume_is_exact_where_training_counts_iterations(
        tiny_runner, tiny_config, changes):
    """From the midst of the second of three passes over the data."""

    class Stop(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 7:
                raise KeyboardInterrupt

    changes = {
        'train_cfg': dict(
            by_epoch=False, max_iters=10, val_interval=4, _delete_=True),
        'param_scheduler': [
            dict(type='LinearLR', start_factor=.5, end=4, by_epoch=False),
            dict(type='CosineAnnealingLR', begin=4, end=10, by_epoch=False)
        ],
        'custom_hooks.0.by_epoch': False,
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 6,
        'default_hooks.checkpoint.save_last': False,
        **changes
    }
    done = changes['default_hooks.checkpoint.interval']
    runner = tiny_runner('broken', **copy.deepcopy(changes))
    runner.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    release(runner)
    resumed, weights = run(
        tiny_runner('broken', resume=True, **copy.deepcopy(changes)))
    if changes.get('randomness.seed', 0) is None:
        checkpoint = torch.load(
            tiny_config('broken').work_dir + '/iter_6.pth', weights_only=True)
        changes['randomness.seed'] = checkpoint['meta']['seed']
    whole, expected = run(tiny_runner('whole', **changes))
    assert len(whole.images) == 10 and len(resumed.images) == 10 - done
    assert all(map(torch.equal, resumed.images, whole.images[done:]))
    assert not torch.equal(whole.images[2], whole.images[6])
    assert resumed.weights == whole.weights[done:]
    assert equal(weights, expected)


def test_resume_after_an_interruption(tiny_runner):

    class Stop(Hook):

        def before_train_epoch(self, runner):
            if runner.epoch == 2:
                raise KeyboardInterrupt

    whole = tiny_runner('whole', 4)
    _, expected = run(whole)
    runner = tiny_runner('broken', 4)
    runner.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    resumed = tiny_runner('broken', 4, resume=True)
    _, weights = run(resumed)
    assert equal(weights, expected)

    # The best results so far are resumed, too, even if the last validation
    # before the interruption was the best.
    names = ('resnet', 'vit', 'ensemble')
    keys = [f'best_score_{name}/top1' for name in names] + ['cohort_top1']
    for key in keys:
        assert resumed.message_hub.get_info(
            key) == whole.message_hub.get_info(key)


@pytest.mark.parametrize('optimizer', [
    dict(type='SGD', lr=0.02, momentum=0.9),
    dict(type='AdamW', lr=1e-3),
])
def test_resume_in_another_memory_format(tiny_runner, optimizer):
    """Only rounding tells the difference."""
    changes = {
        'custom_hooks.0.end': 4,
        'model.branches.resnet.backbone.width': 16,
        'optim_wrapper.optimizer': dict(optimizer, _delete_=True)
    }
    first, then = ({
        'model.memory_format': name,
        **changes
    } for name in ('contiguous', 'channels_last'))
    _, expected = run(tiny_runner('whole', 4, **first))
    run(tiny_runner('broken', 2, **first))
    _, weights = run(tiny_runner('broken', 4, resume=True, **then))
    torch.testing.assert_close(dict(weights), expected, rtol=1e-2, atol=1e-3)


def test_epochs_differ_and_seeds_matter(tiny_runner):
    tape, _ = run(tiny_runner('a', 2, **{'randomness.seed': 1}))
    other, _ = run(tiny_runner('b', 2, **{'randomness.seed': 2}))
    assert not torch.equal(tape.images[0], other.images[0])
    assert not any(
        torch.equal(one, another) for one in tape.images[:4]
        for another in tape.images[4:])
    assert np.isfinite(tape.weights).all()


RESNET = dict(
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4), head=HEAD)
# Dropout would draw its numbers in the order of the branches.
VIT = dict(backbone=dict(TRANSFORMER, proj_drop_rate=0.), head=HEAD)


def cohort(**branches):
    return {'model.branches': dict(_delete_=True, **branches)}


def optimizer_state(runner):
    """Values and options of the optimizer by name of the parameter."""
    names = {value: name for name, value in runner.model.named_parameters()}
    optimizer = runner.optim_wrapper.optimizer
    options = {
        names[value]: {
            key: group[key]
            for key in ('lr', 'initial_lr', 'weight_decay')
        }
        for group in optimizer.param_groups
        for value in group['params']
    }
    state = {
        f'{names[parameter]}.{key}': value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    return options, state


SCHEDULERS = [
    dict(type='CosineAnnealingLR', end=4, eta_min=1e-3),
    dict(type='LinearLR', start_factor=0.5, end=3),
    dict(type='MultiStepLR', milestones=[3], gamma=0.3, end=4)
]


@pytest.mark.parametrize('other, changes', [
    # They fit in any order.
    (RESNET, {}),
    (RESNET, {
        'train_dataloader.dataset.views': True
    }),
    (dict(VIT, lr_mult=0.25, decay_mult=2.), {
        'param_scheduler': SCHEDULERS
    }),
    # A group for each parameter, and another optimizer.
    (VIT, {
        'param_scheduler':
        SCHEDULERS,
        'optim_wrapper.paramwise_cfg':
        dict(norm_decay_mult=0., custom_keys={'.head': dict(lr_mult=3.)}),
        'optim_wrapper.optimizer':
        dict(type='AdamW', lr=1e-3, weight_decay=0.1, _delete_=True)
    }),
    (dict(VIT, optimizer=dict(type='AdamW', lr=1e-3), lr_mult=.5), {
        'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.)
    }),
    # No group at all for one of the branches.
    (dict(VIT, frozen=True), {
        'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.)
    }),
    (VIT, {
        'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper',
        'optim_wrapper.dtype': 'bfloat16'
    }),
])
def test_branches_in_another_order(tiny_runner, other, changes):
    changes = {
        'custom_hooks.0.end': 4,
        'optim_wrapper.optimizer.weight_decay': 1e-3,
        **changes
    }
    whole = tiny_runner('whole', 4, **changes, **cohort(p=RESNET, q=other))
    _, expected = run(whole)
    run(tiny_runner('broken', 2, **changes, **cohort(p=RESNET, q=other)))
    resumed = tiny_runner(
        'broken', 4, resume=True, **changes, **cohort(q=other, p=RESNET))
    _, weights = run(resumed)
    assert list(resumed.model.branches) == ['q', 'p']
    assert set(weights) == set(expected)
    for key, value in expected.items():
        assert torch.equal(weights[key], value), key
    (options, state), (their_options, theirs) = map(optimizer_state,
                                                    (resumed, whole))
    assert options == their_options and len(state) > 0
    assert equal(state, theirs)


def broken(tiny_runner, tiny_config, revise=None, **changes):
    """Train one epoch; the path of the checkpoint, which is revised."""
    run(tiny_runner('broken', 1, **changes))
    path = tiny_config('broken').work_dir + '/epoch_1.pth'
    if revise is not None:
        checkpoint = torch.load(path, weights_only=True)
        revise(checkpoint)
        torch.save(checkpoint, path)
    return path


def without_names(checkpoint):
    """As checkpoints were before they held names."""
    for group in checkpoint['optimizer']['param_groups']:
        del group['param_names']
    without_class(checkpoint)


def without_class(checkpoint):
    del checkpoint['message_hub']['runtime_info']['optimizer']


def test_names_are_in_the_checkpoint(tiny_runner, tiny_config):
    path = broken(tiny_runner, tiny_config, **cohort(p=RESNET, q=VIT))
    checkpoint = torch.load(path, weights_only=True)
    model = tiny_runner(**cohort(p=RESNET, q=VIT)).model
    group, = checkpoint['optimizer']['param_groups']
    assert group['param_names'] == [
        name for name, _ in model.named_parameters()
    ]
    # It is PyTorch's own format.
    plain = torch.optim.SGD(model.parameters(), lr=1.)
    plain.load_state_dict(checkpoint['optimizer'])
    for name, value in model.named_parameters():
        number = group['param_names'].index(name)
        assert torch.equal(
            plain.state[value]['momentum_buffer'],
            checkpoint['optimizer']['state'][number]['momentum_buffer'])


def test_without_names_by_position(tiny_runner, tiny_config):
    changes = {'custom_hooks.0.end': 3}
    whole = tiny_runner('whole', 3, **changes)
    _, expected = run(whole)
    broken(tiny_runner, tiny_config, without_names, **changes)
    resumed = tiny_runner('broken', 3, resume=True, **changes)
    _, weights = run(resumed)
    assert equal(weights, expected)
    # From here on there are names.
    group, = resumed.optim_wrapper.optimizer.param_groups
    assert len(group['param_names']) == len(group['params'])


OWN = dict(type='AdamW', lr=1e-3)
ADAMW = dict(OWN, _delete_=True)


@pytest.mark.parametrize(
    'first, revise, then, words',
    [
        ({}, without_names, cohort(q=VIT, p=RESNET),
         r'the state of its optimizer does not fit: momentum_buffer of '
         r'branches\.q\.\S+ is of shape \(.*\) instead of \(.*\)'),
        ({}, without_names, cohort(q=dict(VIT, lr_mult=.5), p=RESNET),
         'the state of its optimizer names no parameters, and by position '
         'it does '
         r'not fit: group 0 has \d+ parameters instead of \d+'),
        ({}, None, {
            'optim_wrapper.optimizer': ADAMW
        }, 'it was saved by the optimizer SGD, not by '
         r'optim_wrapper\.optimizer\.type, AdamW'),
        ({}, without_class, {
            'optim_wrapper.optimizer': ADAMW
        }, r'saved by another optimizer than optim_wrapper\.optimizer\.type, '
         'AdamW: it lacks amsgrad, betas, eps'),
        ({
            'optim_wrapper.optimizer': ADAMW
        }, without_names, {},
         'another optimizer than .*, SGD: it lacks dampening'
         ', momentum, nesterov'),
        # Optimizers of the branches.
        ({}, None, cohort(p=RESNET, q=dict(VIT, optimizer=OWN)),
         'it was saved by the optimizer SGD, not by '
         r'model\.branches\.q\.optimizer\.type, AdamW$'),
        ({}, without_class, cohort(p=RESNET, q=dict(VIT, optimizer=OWN)),
         r'by another optimizer than model\.branches\.q\.optimizer\.type, '
         'AdamW: it lacks amsgrad, betas, eps'),
        (cohort(p=RESNET, q=dict(VIT, optimizer=OWN)), None, {},
         'it was saved by the optimizer AdamW, not by '
         r'optim_wrapper\.optimizer\.type, SGD$'),
        (cohort(p=RESNET, q=dict(VIT, optimizer=OWN)), None,
         cohort(p=RESNET, q=dict(VIT, optimizer=dict(type='Adam', lr=1e-3))),
         'it was saved by the optimizer AdamW, not by '
         r'model\.branches\.q\.optimizer\.type, Adam$'),
        ({}, None,
         cohort(p=RESNET, q=dict(VIT, optimizer=dict(type='SGD', lr=.1))),
         'it was saved by one optimizer for what now has several: '
         r'model\.branches\.q\.optimizer, optim_wrapper\.optimizer; '),
        ({}, None, cohort(p=RESNET, renamed=VIT), r'not of this cohort \(p, '
         r'renamed\): it lacks branches\.renamed .*adds branches\.q '),
        ({}, None, cohort(p=RESNET),
         r'not of this cohort .*adds branches\.q '),
        ({}, None, cohort(p=RESNET, q=VIT,
                          r=VIT), r'not of this cohort .*lacks branches\.r '),
        # The weights are all there.
        ({
            'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.),
            **cohort(p=RESNET, q=dict(VIT, frozen=True))
        }, None, {},
         'the state of its optimizer is of other parameters: it lacks '
         r'branches\.q \(\d+ keys such as branches\.q'),
        ({
            'model.teacher': dict(type='mcod_plugin.GatedTeacher')
        }, None, {
            'model.teacher': dict(type='mcod_plugin.GatedTeacher'),
            **cohort(q=VIT, p=RESNET)
        },
         'model.teacher.type GatedTeacher takes the branches in their order, '
         'so model.branches must be in that of the checkpoint, p, q; got q, p'
         ),
        ({
            'model.distill': dict(type='mcod_plugin.BalancedKDLoss')
        }, None, {
            'model.distill': dict(type='mcod_plugin.BalancedKDLoss'),
            **cohort(q=VIT, p=RESNET)
        }, 'model.distill.type BalancedKDLoss takes the branches in their '
         'order, so model.branches must be in that of the checkpoint, p, q; '
         'got q, p'),
        ({}, None, {
            'model.teacher': dict(type='mcod_plugin.EnsembleTeacher', ema=.9)
        }, 'its run had no averages of the branches, so it cannot go on with '
         r'model\.teacher\.ema'),
        ({
            'model.teacher': dict(type='mcod_plugin.EnsembleTeacher', ema=.9)
        }, None, {}, r'not of this cohort .*adds teacher \(\d+ keys such as '
         r'teacher\.ema\.p\.'),
        ({}, None, {
            'param_scheduler': SCHEDULERS
        }, 'its run has 1 schedulers, unlike param_scheduler, which has 3'),
        ({}, None, {
            'param_scheduler': SCHEDULERS[-1:]
        }, r'another one than param_scheduler\[0\]\.type, MultiStepLR'),
    ])
def test_what_does_not_fit_is_refused(tiny_runner, tiny_config, first, revise,
                                      then, words):
    first = {'optim_wrapper.optimizer.weight_decay': 1e-3, **first}
    whole = cohort(p=RESNET, q=VIT)
    path = broken(tiny_runner, tiny_config, revise, **{**whole, **first})
    resumed = tiny_runner(
        'broken',
        3,
        resume=True,
        **{
            'optim_wrapper.optimizer.weight_decay': 1e-3,
            **whole,
            **then
        })
    with pytest.raises(ConfigError, match=f'^{re.escape(path)}: .*{words}'):
        resumed.train()
    # Nothing was loaded.
    assert resumed.iter == resumed.epoch == 0
    assert not resumed.optim_wrapper.optimizer.state
    saved = torch.load(path, weights_only=True)['state_dict']
    key = 'branches.p.head.fc.weight'
    assert not torch.equal(resumed.model.state_dict()[key], saved[key])


def test_other_settings_of_the_optimizer_are_told(tiny_runner, capsys):
    changes = {'optim_wrapper.optimizer.weight_decay': 1e-3}
    run(tiny_runner('broken', 1, **changes, **cohort(p=RESNET, q=VIT)))
    capsys.readouterr()
    resumed = tiny_runner(
        'broken',
        2,
        resume=True,
        **changes,
        **cohort(q=dict(VIT, lr_mult=.5), p=RESNET))
    run(resumed)
    line, = [
        line for line in capsys.readouterr().out.split('\n')
        if 'its own settings of the optimizer' in line
    ]
    assert re.search(
        r'not those of the config: lr 0\.05 instead of 0\.025 \(\d+ '
        r'parameters such as branches\.q\.\S+\)\.$', line)
    options, _ = optimizer_state(resumed)
    assert {values['initial_lr'] for values in options.values()} == {.05}


def test_an_own_optimizer_of_the_same_type_may_be_given_up(
        tiny_runner, capsys):
    """Its rate stays, since the state says so."""
    own = dict(VIT, optimizer=dict(type='SGD', lr=.01, momentum=.9))
    first = tiny_runner('broken', 1, **cohort(p=RESNET, q=own))
    run(first)
    before, state = optimizer_state(first)
    capsys.readouterr()
    resumed = tiny_runner('broken', 2, resume=True, **cohort(p=RESNET, q=VIT))
    run(resumed)
    assert 'lr 0.01 instead of 0.05 (' in capsys.readouterr().out
    options, _ = optimizer_state(resumed)
    assert {
        name.split('.')[1]: values['initial_lr']
        for name, values in options.items()
    } == dict(p=.05, q=.01)
