import math

from mcod_plugin.runs.tables import accuracy_table, markdown, render
from ..cells import cells


def test_render():
    table = render(['name', 'top-1'], [['a', '40.00'], ['ensemble', '5.00']])
    assert cells(table) == [['name', 'top-1'], ['a', '40.00'],
                            ['ensemble', '5.00']]
    assert '│ a        │ 40.00 │' in table
    assert '│ ensemble │  5.00 │' in table


def test_cells_are_no_markup():
    row = ['[red]', '[bold]a[/bold]', ':smile:', '[0.1, 0.2]']
    assert cells(render(row, [row])) == [row, row]


def test_markdown():
    assert markdown(
        ['method', 'a', 'b'],
        [['`solo`', '**40.00**', 'frozen'], ['`mcod`', '5.00', '-']]) == """\
| method |         a |      b |
| :----- | --------: | -----: |
| `solo` | **40.00** | frozen |
| `mcod` |      5.00 |      - |"""
    # Flush left as well, a column of one character, and no row at all.
    assert markdown(['', 'net', 'x'], [['1', 'A', '2']], left=2) == """\
|    | net |  x |
| :- | :-- | -: |
| 1  | A   |  2 |"""
    assert markdown(['file'], []) == '| file |\n| :--- |'


def test_accuracy():
    last = {
        'ensemble/top1': 50.,
        'ensemble/top5': 80.,
        'a/top1': 40.,
        'a/top5': 70.,
        'diversity/disagreement': 0.25
    }
    table = accuracy_table(last, dict(a=(45., 3), ensemble=(50., 4)))
    assert cells(table) == [['', 'top-1 %', 'top-5 %', 'best top-1 %'],
                            ['a', '40.00', '70.00', '45.00 (epoch 3)'],
                            ['ensemble', '50.00', '80.00', '50.00 (epoch 4)']]
    assert 'disagree' not in table
    last['b/top1'] = 30.
    table = accuracy_table(last)
    assert table.endswith('The branches disagree on 25.0 % of the images.')


def test_accuracy_of_a_branch_that_has_diverged():
    last = {
        'ensemble/top1': 50.,
        'a/top1': 40.,
        'b/top1': math.nan,
        'diversity/disagreement': 0.
    }
    table = accuracy_table(last,
                           dict(a=(45., 3), b=(30., 1), ensemble=(50., 4)))
    assert cells(table)[1:] == [['a', '40.00', '45.00 (epoch 3)'],
                                ['b', 'diverged', '30.00 (epoch 1)'],
                                ['ensemble', '50.00', '50.00 (epoch 4)']]
    assert 'disagree' not in table
    table = accuracy_table(last, dict(a=(45., 3), ensemble=(50., 4)))
    assert cells(table)[2] == ['b', 'diverged', '-']
