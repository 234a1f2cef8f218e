import json

import pytest

from speed.report import results, tables, write
from speed.score import Score

SCORES = {
    'bare/a':
    Score(10, 2**21, turns=[(1., 2), (3., 2), (2., 2)]),
    'step/on':
    Score(10, facts=dict(memory_formats=dict(a='x')), turns=[(4000., 2)] * 3),
}
SETTINGS = dict(
    config='c.py',
    batch_size=10,
    precision='float32',
    memory_formats=dict(a='channels_last', b='contiguous_format'),
    device='some CPU',
    threads=2,
    versions=dict(torch='9.9'),
    rounds=3,
    growth_branch=None)


@pytest.fixture
def report():
    return dict(SETTINGS, **results(SCORES, {'a : b': [2., 4., 1.]}))


def test_results(report):
    assert report['contenders']['bare/a'] == dict(
        turns=[
            dict(seconds=1., steps=2),
            dict(seconds=3., steps=2),
            dict(seconds=2., steps=2)
        ],
        milliseconds=1000,
        spread=.5,
        images_per_step=10,
        images_per_second=10,
        peak_bytes=2**21)
    assert report['contenders']['step/on']['memory_formats'] == dict(a='x')
    assert report['ratios'] == {
        'a : b': dict(values=[2., 4., 1.], median=2, min=1, max=4)
    }


def cells(text):
    return [[cell.strip() for cell in line.strip('│').split('│')]
            for line in text.splitlines() if line.startswith('│')]


def test_tables(report):
    text = tables(report)
    assert text.splitlines()[0] == (
        'c.py: batch size 10, float32, channels_last, contiguous_format; on '
        'some CPU, 2 threads, torch 9.9.')
    assert cells(text) == [
        ['bare/a', '1000.00', '50.0', '10', '2'],
        ['step/on', '2000000.00', '0.0', '0', '-'],
        ['a : b', '2.000', '1.000', '4.000'],
    ]


def test_tables_of_growth(report):
    scores = {'growth/4': SCORES['bare/a']}
    report.update(results(scores, {}), growth_branch='a', threads=1)
    text = tables(report)
    assert '1 thread, torch' in text
    assert 'ms per branch' in text and 'MiB per branch' in text
    assert cells(text) == [[
        'growth/4', '1000.00', '50.0', '10', '2', '250.00', '0'
    ]]
    assert 'ratio' not in text


def test_file_is_whole_or_not_there(report, tmp_path):
    path = tmp_path / 'report.json'
    write(report, str(path))
    assert json.loads(path.read_text()) == report
    path.write_text('the old one')
    with pytest.raises(TypeError):
        write(dict(report, bad={1, 2}), str(path))
    assert path.read_text() == 'the old one'
    assert list(tmp_path.iterdir()) == [path]
