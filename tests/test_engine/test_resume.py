"""A run that is stopped and resumed must equal one that is not."""
import glob

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook


class Tape(Hook):
    """Notes the images and the weight of every step."""

    def __init__(self):
        self.images, self.weights = [], []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.images.append(data_batch['inputs'].clone())
        self.weights.append(float(outputs['kd_weight']))


def run(runner):
    tape = Tape()
    runner.register_hook(tape)
    runner.train()
    state = runner.model.state_dict()
    return tape, {key: value.clone() for key, value in state.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) for key in one)


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
    # A weight in units of the labels' pull, whose average goes on over gaps.
    {
        'model.distill': dict(type='mcod_plugin.BalancedKDLoss'),
        'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper',
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
    keys = [f'best_score_{name}/top1' for name in names] + ['cohort_best']
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
