from fractions import Fraction

import pytest

from mcod_plugin.compose.own_settings import (KEPT_BY, left_out, own_settings,
                                              table)
from mcod_plugin.engine.optim_wrapper.branch_optim_wrapper_constructor import (
    FACTORS)
from mcod_plugin.models.utils.branch_settings import BranchSettings
from speed.optimizer_alone import optim_wrapper_alone


def values(sources, lines='', first=''):
    """What the second keeps beside the first, by name."""
    recipe, source = sources(lines, first)
    assert own_settings(recipe, recipe) == {}
    found = own_settings(source, recipe)
    assert set(found) <= set(KEPT_BY)
    return {key: setting.value for key, setting in found.items()}


def test_equal_recipes(sources):
    assert values(sources) == {}


def test_rate_and_decay(sources):
    found = values(
        sources,
        'optim_wrapper = dict(optimizer=dict(lr=0.02, weight_decay=4e-3))')
    assert found == dict(lr_mult=0.2, decay_mult=4.)
    found = values(sources,
                   'optim_wrapper = dict(optimizer=dict(weight_decay=0))')
    assert found == dict(decay_mult=0.)


@pytest.mark.parametrize('lr, batch', [('0.02', 256), ('0.1', 512),
                                       ('0.05', 32), ('0.3', 192)])
def test_rate_for_another_batch_size(sources, lr, batch):
    """The rate for a single image counts."""
    found = values(
        sources, f'optim_wrapper = dict(optimizer=dict(lr={lr}))\n'
        f'auto_scale_lr = dict(base_batch_size={batch})')
    expected = (Fraction(lr) / batch) / (Fraction('0.1') / 64)
    assert found.get('lr_mult', 1) == pytest.approx(float(expected), rel=1e-5)
    # Equal ones need no factor.
    assert ('lr_mult' in found) == (expected != 1)


def test_batch_size_that_is_not_known(sources):
    found = values(
        sources, 'optim_wrapper = dict(optimizer=dict(lr=0.02))\n'
        'auto_scale_lr = dict(_delete_=True)')
    assert found == dict(lr_mult=0.2)


def test_no_optimizer(sources):
    assert values(sources, 'optim_wrapper = None') == {}


ADAMW = ("optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', "
         'lr=1e-3{}))')


def test_another_optimizer_is_kept(sources):
    found = values(sources, ADAMW.format(', betas=(.9, .99)'))
    assert found == dict(
        optimizer=dict(type='AdamW', lr=1e-3, betas=(.9, .99)))
    # For the recipe's batches, as a factor is.
    found = values(
        sources,
        ADAMW.format('') + '\nauto_scale_lr = dict(base_batch_size=128)')
    assert found == dict(optimizer=dict(type='AdamW', lr=5e-4))
    # Factors of the recipe are of what its optimizer does by default.
    found = values(
        sources, ADAMW.format(''),
        'optim_wrapper["paramwise_cfg"] = dict(norm_decay_mult=0.)')
    assert found == dict(
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-2))
    found = values(
        sources, 'optim_wrapper = dict(optimizer=dict(nesterov=True))')
    assert found == dict(
        optimizer=dict(
            type='SGD', lr=.1, momentum=.9, weight_decay=1e-3, nesterov=True))
    # Nor is there a factor of nothing.
    found = values(
        sources,
        'optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=0.1))',
        "optim_wrapper['optimizer'].pop('weight_decay')")
    assert found == dict(
        optimizer=dict(type='SGD', lr=.1, momentum=.9, weight_decay=.1))


def test_a_decay_that_is_not_stated(sources):
    """It is the optimizer's default, not 0."""
    first = ("optim_wrapper['optimizer'] = dict("
             "type='AdamW', lr=1e-3, weight_decay={})")
    lines = ('optim_wrapper = dict(optimizer=dict('
             "_delete_=True, type='AdamW', lr=1e-3))")
    assert values(sources, lines, first.format(.05)) == dict(decay_mult=.2)
    assert values(sources, lines, first.format(.01)) == {}


CLIP = 'optim_wrapper = dict(clip_grad=dict(max_norm={}))'
FIRST_CLIP = "optim_wrapper['clip_grad'] = dict(max_norm=1.)"


@pytest.mark.parametrize('lines, first, own, of_recipe', [
    (CLIP.format(2.), '', dict(max_norm=2.), 'joint'),
    (CLIP.format(2.), FIRST_CLIP, dict(max_norm=2.), dict(max_norm=1.)),
    ('', FIRST_CLIP, dict(max_norm=1.), dict(max_norm=1.)),
    ('optim_wrapper = dict(clip_grad=None)', FIRST_CLIP, None,
     dict(max_norm=1.)),
    ('optim_wrapper = None', FIRST_CLIP, dict(max_norm=1.), dict(max_norm=1.)),
])
def test_limits_of_gradients(sources, lines, first, own, of_recipe):
    """Each has its own, as a norm over all is another one."""
    recipe, source = sources(lines, first)
    assert own_settings(source, recipe)['clip_grad'].value == own
    kept = own_settings(recipe, recipe)
    if of_recipe == 'joint':
        # There is no norm over all.
        assert kept == {}
    else:
        assert kept['clip_grad'].value == of_recipe
    assert 'clip_grad' not in left_out([recipe, source], recipe).get(
        'second', {})


def test_statistics_and_size(sources):
    found = values(
        sources, 'data_preprocessor = dict(mean=[1., 2., 3.])\n'
        "train_dataloader = dict(dataset=dict(pipeline=["
        "dict(type='RandomResizedCrop', scale=24)]))")
    assert found == dict(mean=[1, 2, 3], std=[96] * 3, input_size=24)
    found = values(
        sources, 'data_preprocessor = dict(_delete_=True, num_classes=10)\n'
        "train_dataloader = dict(dataset=dict(pipeline=["
        "dict(type='Resize', scale=(32, 24))]))")
    assert found == dict(mean=[0] * 3, std=[1] * 3, input_size=(24, 32))


def test_channels_in_another_order(sources):
    """The statistics belong to the colours, not to their places."""
    order = ('data_preprocessor = dict('
             'mean=[1., 2., 3.], std=[4., 5., 6.], to_rgb={})')
    turned = ('data_preprocessor = dict('
              'mean=[3., 2., 1.], std=[6., 5., 4.], to_rgb={})')
    assert values(sources, turned.format(True), order.format(False)) == {}
    found = values(sources, order.format(True), order.format(False))
    assert found == dict(mean=[3, 2, 1], std=[6, 5, 4])


def test_weights(sources):
    recipe, source = sources("load_from = 'b.pth'", "load_from = 'a.pth'")
    for own, file in ((recipe, 'a.pth'), (source, 'b.pth')):
        found = own_settings(own, recipe)
        assert found['init_cfg'].value == dict(
            type='Pretrained', checkpoint=file)


OTHER = """\
optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=1.))
param_scheduler = dict(milestones=[1])
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]
"""


def rows(text):
    """The cells of each row by its first one."""
    found = [[cell.strip() for cell in line.strip('│').split('│')]
             for line in text.splitlines() if line.startswith('│')]
    return {cells[0]: cells[1:] for cells in found}


def test_nothing_differs(sources):
    pair = sources()
    assert left_out(pair, pair[0]) == {}
    found = rows(table(pair, pair[0], 10))
    assert found['num_classes'] == ['10', '10', '']
    assert found['data set'] == ['Digits', 'Digits', '']
    assert all(cells[2] == '' for cells in found.values())
    # What none of them has is left out.
    assert 'custom hooks' not in found and 'clip_grad' not in found


def test_what_differs(sources):
    pair = sources(OTHER)
    found = rows(table(pair, pair[0], 10))
    assert found['learning rate'] == ['0.1', '0.02', 'each its own']
    assert found['clip_grad'] == ['-', 'max_norm=1', 'each its own']
    assert found['custom hooks'] == [
        '-', 'EMAHook(momentum=0.0001)', 'as first'
    ]
    assert found['weight decay'] == ['0.001', '0.001', '']
    assert left_out(pair, pair[0]) == {
        'second': {
            'schedule': 'MultiStepLR(milestones=[1], gamma=0.1)',
            'custom hooks': 'EMAHook(momentum=0.0001)'
        }
    }


def test_recipe_of_the_second(sources):
    pair = sources(OTHER)
    found = rows(table(pair, pair[1], 10))
    assert found['clip_grad'] == ['-', 'max_norm=1', 'each its own']
    lost = left_out(pair, pair[1])
    assert set(lost) == {'first'}
    assert lost['first']['custom hooks'] == ''
    assert 'clip_grad' not in lost['first']


def test_another_optimizer(sources):
    """Its rate and its decay go with it."""
    pair = sources('optim_wrapper = dict(optimizer=dict('
                   "_delete_=True, type='AdamW', lr=1e-3))")
    found = rows(table(pair, pair[0], 10))
    assert found['optimizer'] == [
        'SGD(momentum=0.9)', 'AdamW', 'each its own'
    ]
    assert found['learning rate'] == ['0.1', '0.001', 'each its own']
    assert found['weight decay'] == ['0.001', '0.01', 'each its own']
    assert left_out(pair, pair[0]) == {}


def test_a_branch_alone_gets_back_what_its_config_says(sources):
    """For the recipe's batches, that is: 0.02 for 32 is 0.04 for 64."""
    recipe, source = sources(
        'optim_wrapper = dict(optimizer=dict(lr=0.02, weight_decay=4e-3))\n'
        'auto_scale_lr = dict(base_batch_size=32)')
    kept = own_settings(source, recipe)
    found = optim_wrapper_alone(
        recipe.optim_wrapper,
        BranchSettings((16, 16), **{key: kept[key].value
                                    for key in FACTORS}))['optimizer']
    assert found['lr'] == pytest.approx(0.04)
    assert found['weight_decay'] == pytest.approx(4e-3)
    found.update(lr=0.02, weight_decay=4e-3)
    assert found == source.optimizer
