"""The recipe on a card is the one that was trained."""
from dataclasses import replace

import pytest

from mcod_plugin.publish.trained_run import read_run
from mcod_plugin.publish.training import training_steps

MIXUP = dict(type='Mixup', alpha=0.8)
CUTMIX = dict(type='CutMix', alpha=1.0)


@pytest.fixture
def section(runs, published):
    """The section of the cohort's card, with some settings changed."""
    run = read_run('WORK_DIR', str(runs.cohort))

    def make(record=None, **changes):
        if record is not None:
            run.content.pop('run_record', None)
            run.record = record
        run.cfg.merge_from_dict(changes)
        steps = training_steps(replace(published.publication, run=run))
        return ''.join(f'- {step}\n' for step in steps)

    return make


def test_what_was_not_set_is_not_told(section):
    text = section()
    assert 'batch augmentation' not in text and '- branches' not in text
    assert ', by OptimWrapper\n' in text


@pytest.mark.parametrize('key', [
    'model.train_cfg', 'model.data_preprocessor.batch_augments',
    'data_preprocessor.batch_augments'
])
def test_batch_augmentations(section, key):
    text = section(**{key: dict(augments=[MIXUP, CUTMIX], probs=[0.3, 0.7])})
    assert ('\n- batch augmentation: `Mixup(alpha=0.8)` or '
            '`CutMix(alpha=1.0)`, probs=[0.3, 0.7]\n') in text


def test_one_batch_augmentation(section):
    text = section(**{'model.train_cfg': dict(augments=MIXUP)})
    assert '\n- batch augmentation: `Mixup(alpha=0.8)`\n' in text


def test_views_of_branches(section):
    """In memory, and by pipelines."""
    pipeline = 'train_dataloader.dataset.pipeline'
    crop = '`RandomCrop(crop_size=32, padding=4)`'
    steps = [
        dict(type='RandomCrop', crop_size=32, padding=4),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs')
    ]
    views = dict(
        type='mcod_plugin.BranchViews',
        pipelines=dict(resnet=steps[1:], vgg=steps[2:]))
    text = section(**{
        pipeline: [steps[0], steps[2]],
        'train_dataloader.dataset.views': True
    })
    assert f'augmentation: {crop}, anew for each branch\n' in text
    text = section(**{pipeline: [steps[0], views]})
    assert (f'augmentation: of resnet {crop}, `RandomFlip(prob=0.5)`; of vgg '
            f'{crop}\n') in text


def test_settings_of_the_optimizer_wrapper(section):
    text = section(
        optim_wrapper=dict(
            accumulative_counts=3,
            clip_grad=dict(max_norm=1.0),
            paramwise_cfg=dict(norm_decay_mult=0.0)))
    assert (
        ", by OptimWrapper with `accumulative_counts=3, clip_grad="
        "{'max_norm': 1.0}, paramwise_cfg={'norm_decay_mult': 0.0}`\n") in text


def test_settings_of_branches(section):
    text = section(
        **{
            'model.branches.resnet': dict(lr_mult=0.5, decay_mult=1),
            'model.branches.vgg': dict(decay_mult=0.0, loss_weight=2.0)
        })
    assert ('\n- branches: resnet with `lr_mult=0.5` and vgg with '
            '`decay_mult=0.0, loss_weight=2.0`\n') in text


def test_optimizers_of_branches(section):
    text = section(
        **{
            'model.branches.resnet.clip_grad': None,
            'model.branches.vgg': dict(
                lr_mult=0.5,
                optimizer=dict(type='AdamW', lr=0.01),
                clip_grad=dict(max_norm=1.0))
        })
    assert ('\n- branches: resnet with gradients not clipped and vgg with '
            '`lr_mult=0.5`, its own optimizer, `AdamW(lr=0.01)` and '
            "`clip_grad={'max_norm': 1.0}`\n") in text


def test_no_distillation_loss(section):
    text = section(dict(kd_weight=[0., 0., 0.]), **{'model.distill': None})
    assert '\n- distillation: none\n- schedule: never distilled\n' in text


def test_iterations_that_distilled_count(section):
    text = section(
        dict(kd_weight=[1., .5, 0.], kd_on=[1., .25, 0.], until=[1, 2, 3]))
    assert 'distilled in 41.7 % of the steps, mean weight 0.5\n' in text


def test_settings_that_were_changed(section):
    settings = [
        dict(setting='a.lr', before=1, now=2, takes_effect=False),
        dict(setting='a.t', before=3., now=2., takes_effect=True),
        dict(setting='a.u', now=4, takes_effect=True),
    ]
    text = section(
        dict(
            kd_weight=[1., 0., 1.],
            changes=[dict(epoch=1, settings=settings[:1]),
                     dict(epoch=2, settings=settings),
                     dict(epoch=3, settings=settings)]))
    assert ('\n- changed when the run was resumed: after 2 epochs `a.t` from '
            '3.0 to 2.0 and `a.u` from None to 4\n') in text
    assert 'changed when' not in section(dict(kd_weight=[1.]))


def test_loss_weight_of_all_branches(section):
    text = section(**{
        'model.loss_weight': 0.5,
        'model.branches.vgg': dict(loss_weight=1.0)
    })
    assert '\n- branches: resnet with `loss_weight=0.5`\n' in text
