import pytest

from speed.report import (Measurement, growth_ratios, results, speed_ratios,
                          tables)

FOUND = {
    'bare/a':
    Measurement(10, 2**21, samples=[(1., 2), (3., 2), (2., 2)]),
    'step/on':
    Measurement(
        10, facts=dict(memory_formats=dict(a='x')), samples=[(4000., 2)] * 3),
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
    return dict(SETTINGS, **results(FOUND, {'a : b': [2., 4., 1.]}))


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
    found = {'growth/4': FOUND['bare/a']}
    report.update(results(found, {}), growth_branch='a', threads=1)
    text = tables(report)
    assert '1 thread, torch' in text
    assert 'ms per branch' in text and 'MiB per branch' in text
    assert cells(text) == [[
        'growth/4', '1000.00', '50.0', '10', '2', '250.00', '0'
    ]]
    assert 'ratio' not in text


def test_numbers_by_hand():
    case = Measurement(10, samples=[(2., 4), (1.2, 4), (4., 4), (1.6, 4)])
    assert case.seconds == pytest.approx([.5, .3, 1., .4])
    row = results({'a': case}, {})['contenders']['a']
    assert row['milliseconds'] == pytest.approx(450)
    # sorted .3 .4 .5 1.; quartiles .375 and .625
    assert row['spread'] == pytest.approx(.25 / .45)
    assert row['images_per_second'] == pytest.approx(10 / .45)


def test_single_round():
    case = Measurement(10, samples=[(2., 4)])
    row = results({'a': case}, {})['contenders']['a']
    assert (row['milliseconds'], row['spread']) == (500, 0)


def measured(*seconds, images=10, peak=None):
    return Measurement(
        images=images,
        peak_bytes=peak,
        samples=[(2 * value, 2) for value in seconds])


CASES = {
    'bare/a': measured(1, 2, peak=30),
    'bare/b': measured(2, 2, peak=50),
    'step/on': measured(3.3, 4.2, peak=60),
    'step/off': measured(3, 4),
    'runner/on': measured(3.6, 4.4),
    'solo/a': measured(2, 3),
    'solo/b': measured(4, 3),
    'data/cohort': measured(.1, .2),
    'data/toolbox-0': measured(.4, .5),
    'data/toolbox-2': measured(.5, .3),
    # a step is a batch, whose size may differ
    'val/cohort': measured(1, 2, images=100),
    'val/a': measured(.5, 1, images=50),
    'val/b': measured(2, 1, images=100),
}


def test_paired_by_round():
    found = speed_ratios(CASES, ['a', 'b'], iterations=10, val_images=200)
    expected = {
        'runner/on : sum of bare': [1.2, 1.1],
        'step/on : sum of bare': [1.1, 1.05],
        'step/on : step/off': [1.1, 1.05],
        # 10 steps, and 200 images at .01 and .02, .01 + .02 and .02 + .01
        'epoch of cohort : epochs of solos': [(36 + 2) / (60 + 6),
                                              (44 + 4) / (60 + 6)],
        # the faster of the two in each round
        'images/s of data/cohort : best of data/toolbox': [4, 1.5],
        'memory of step/on : sum of bare': [.75],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name


def test_epoch_without_validation():
    cases = {
        name: value
        for name, value in CASES.items() if not name.startswith('val')
    }
    name = 'epoch of cohort : epochs of solos'
    found = speed_ratios(cases, ['a', 'b'], iterations=10, val_images=0)
    assert found[name] == pytest.approx([.6, 44 / 60])
    # There is one, but it was not timed.
    assert name not in speed_ratios(cases, ['a', 'b'], 10, 200)


def test_what_was_not_timed_is_left_out():
    cases = {name: CASES[name] for name in ('bare/a', 'step/on', 'step/off')}
    assert list(speed_ratios(cases, ['a', 'b'], 10,
                             200)) == ['step/on : step/off']
    assert speed_ratios({}, ['a', 'b'], 10, 200) == {}


def test_variants():
    cases = dict(CASES, **{'runner/x=1': measured(1.8, 8.8)})
    found = speed_ratios(cases, ['a', 'b'], 10, 200, variants=['x=1', 'y=1'])
    assert found['runner/x=1 : runner/on'] == pytest.approx([.5, 2])
    assert 'runner/y=1 : runner/on' not in found


def test_growth():
    found = growth_ratios({
        'growth/1': measured(1, 2, peak=10),
        'growth/2': measured(1.8, 4.4, peak=15),
        'growth/8': measured(8, 8, peak=40)
    })
    assert found == {
        'time of 2 : 2 x time of 1': pytest.approx([.9, 1.1]),
        'time of 8 : 8 x time of 1': pytest.approx([1, .5]),
        'memory of 2 : 2 x memory of 1': pytest.approx([.75]),
        'memory of 8 : 8 x memory of 1': pytest.approx([.5]),
    }


def test_growth_without_the_single_branch_or_memory():
    assert growth_ratios({
        'growth/2': measured(1),
        'growth/4': measured(2)
    }) == {}
    found = growth_ratios({'growth/1': measured(1), 'growth/2': measured(2)})
    assert list(found) == ['time of 2 : 2 x time of 1']
