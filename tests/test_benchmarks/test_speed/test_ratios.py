import pytest

from speed.ratios import growth_ratios, ratios
from speed.score import Score


def score(*seconds, images=10, peak=None):
    return Score(
        images=images,
        peak_bytes=peak,
        turns=[(2 * value, 2) for value in seconds])


SCORES = {
    'bare/a': score(1, 2, peak=30),
    'bare/b': score(2, 2, peak=50),
    'step/on': score(3.3, 4.2, peak=60),
    'step/off': score(3, 4),
    'runner/on': score(3.6, 4.4),
    'solo/a': score(2, 3),
    'solo/b': score(4, 3),
    'data/cohort': score(.1, .2),
    'data/toolbox-0': score(.4, .5),
    'data/toolbox-2': score(.5, .3),
    # a step is a batch, whose size may differ
    'val/cohort': score(1, 2, images=100),
    'val/a': score(.5, 1, images=50),
    'val/b': score(2, 1, images=100),
}


def test_paired_by_round():
    found = ratios(SCORES, ['a', 'b'], iterations=10, val_images=200)
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
    scores = {
        name: value
        for name, value in SCORES.items() if not name.startswith('val')
    }
    name = 'epoch of cohort : epochs of solos'
    found = ratios(scores, ['a', 'b'], iterations=10, val_images=0)
    assert found[name] == pytest.approx([.6, 44 / 60])
    # There is one, but it was not timed.
    assert name not in ratios(scores, ['a', 'b'], 10, 200)


def test_what_was_not_timed_is_left_out():
    scores = {name: SCORES[name] for name in ('bare/a', 'step/on', 'step/off')}
    assert list(ratios(scores, ['a', 'b'], 10, 200)) == ['step/on : step/off']
    assert ratios({}, ['a', 'b'], 10, 200) == {}


def test_variants():
    scores = dict(SCORES, **{'runner/x=1': score(1.8, 8.8)})
    found = ratios(scores, ['a', 'b'], 10, 200, variants=['x=1', 'y=1'])
    assert found['runner/x=1 : runner/on'] == pytest.approx([.5, 2])
    assert 'runner/y=1 : runner/on' not in found


def test_growth():
    found = growth_ratios({
        'growth/1': score(1, 2, peak=10),
        'growth/2': score(1.8, 4.4, peak=15),
        'growth/8': score(8, 8, peak=40)
    })
    assert found == {
        'time of 2 : 2 x time of 1': pytest.approx([.9, 1.1]),
        'time of 8 : 8 x time of 1': pytest.approx([1, .5]),
        'memory of 2 : 2 x memory of 1': pytest.approx([.75]),
        'memory of 8 : 8 x memory of 1': pytest.approx([.5]),
    }


def test_growth_without_the_single_branch_or_memory():
    assert growth_ratios({'growth/2': score(1), 'growth/4': score(2)}) == {}
    found = growth_ratios({'growth/1': score(1), 'growth/2': score(2)})
    assert list(found) == ['time of 2 : 2 x time of 1']
