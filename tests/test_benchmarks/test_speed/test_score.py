import pytest

from speed.score import Score


def test_numbers_by_hand():
    score = Score(images=10, turns=[(2., 4), (1.2, 4), (4., 4), (1.6, 4)])
    assert score.seconds == pytest.approx([.5, .3, 1., .4])
    assert score.median == pytest.approx(.45)
    # sorted .3 .4 .5 1.; quartiles .375 and .625
    assert score.spread == pytest.approx(.25 / .45)
    assert score.images_per_second == pytest.approx(10 / .45)


def test_single_round():
    score = Score(images=10, turns=[(2., 4)])
    assert (score.median, score.spread) == (.5, 0)
