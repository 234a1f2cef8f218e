import re

from mcod_plugin.compose.differences import left_out, table

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
    assert found['clip_grad'] == ['-', 'max_norm=1', 'as first']
    assert found['custom hooks'] == [
        '-', 'EMAHook(momentum=0.0001)', 'as first'
    ]
    assert found['weight decay'] == ['0.001', '0.001', '']
    assert left_out(pair, pair[0]) == {
        'second': {
            'clip_grad': 'max_norm=1',
            'schedule': 'MultiStepLR(milestones=[1], gamma=0.1)',
            'custom hooks': 'EMAHook(momentum=0.0001)'
        }
    }


def test_recipe_of_the_second(sources):
    pair = sources(OTHER)
    found = rows(table(pair, pair[1], 10))
    assert found['clip_grad'] == ['-', 'max_norm=1', 'as second']
    lost = left_out(pair, pair[1])
    assert set(lost) == {'first'}
    assert lost['first']['clip_grad'] == lost['first']['custom hooks'] == ''


def test_another_optimizer(sources):
    """Its rate is told, and the recipe's holds."""
    pair = sources('optim_wrapper = dict(optimizer=dict('
                   "_delete_=True, type='AdamW', lr=1e-3))")
    found = rows(table(pair, pair[0], 10))
    assert found['optimizer'] == ['SGD(momentum=0.9)', 'AdamW', 'as first']
    assert found['learning rate'] == ['0.1', '0.001', 'as first']
    assert re.search('AdamW', str(left_out(pair, pair[0])))
