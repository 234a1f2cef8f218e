import math

import numpy as np
import pytest

from mcod_plugin.evaluation import expected_calibration_error


def by_loops(confidence, correct, bins):
    """The definition, bin by bin."""
    error = 0.
    for m in range(1, bins + 1):
        chosen = [(c, hit) for c, hit in zip(confidence, correct)
                  if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)]
        if chosen:
            accuracy = sum(hit for _, hit in chosen) / len(chosen)
            mean = math.fsum(c for c, _ in chosen) / len(chosen)
            error += len(chosen) / len(confidence) * abs(accuracy - mean)
    return error


def draw(number=300, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.beta(5, 2, number)
    # Some of them are on the edges of bins.
    confidence[:40] = rng.integers(0, 21, 40) / 20
    # too sure, as networks are
    return confidence, rng.random(number) < confidence**2


@pytest.mark.parametrize('bins', [1, 2, 10, 15, 20, 1000])
@pytest.mark.parametrize('seed', range(3))
def test_agrees_with_loops(bins, seed):
    confidence, correct = draw(seed=seed)
    found = expected_calibration_error(confidence, correct, bins)
    assert type(found) is float
    assert found == pytest.approx(
        by_loops(confidence.tolist(), correct.tolist(), bins), rel=1e-12)


def test_by_hand():
    # accuracy 1/2 at 0.6, 1 at 0.9: 2/3 of 0.1, and 1/3 of 0.1
    found = expected_calibration_error([.6, .9, .6], [True, True, False], 10)
    assert found == pytest.approx(0.1)
    # In one bin both are compensated for in part: 2/3 at 0.7.
    assert expected_calibration_error([.6, .9, .6], [1, 1, 0],
                                      1) == pytest.approx(0.7 - 2 / 3)


def test_perfectly_calibrated():
    confidence = np.repeat([.25, .5, .75, 1.], 4)
    correct = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1,
                                                                   1]])
    for bins in (1, 4, 15):
        assert expected_calibration_error(confidence, correct.ravel(),
                                          bins) == 0


def test_always_sure():
    assert expected_calibration_error(np.ones(8), np.arange(8) < 2) == 0.75
    assert expected_calibration_error(np.zeros(8), np.arange(8) < 2) == 0.25


def test_one_bin_is_the_difference_of_means():
    confidence, correct = draw()
    assert expected_calibration_error(confidence, correct, 1) == pytest.approx(
        abs(correct.mean() - confidence.mean()), rel=1e-12)


def test_order_does_not_matter():
    confidence, correct = draw()
    order = np.random.default_rng(1).permutation(len(correct))
    assert expected_calibration_error(confidence[order],
                                      correct[order]) == pytest.approx(
                                          expected_calibration_error(
                                              confidence, correct),
                                          rel=1e-12)


def test_finer_bins_compensate_for_less():
    confidence, correct = draw()
    errors = [
        expected_calibration_error(confidence, correct, 2**n) for n in range(8)
    ]
    assert (np.diff(errors) > -1e-12).all()
    assert errors[0] + 0.01 < errors[-1] < 1


def test_beyond_the_numbers():
    # A sum of probabilities may be rounded to more than 1.
    assert expected_calibration_error([1 + 1e-7], [True]) < 1e-6
    assert math.isnan(expected_calibration_error([.5, math.nan], [True, True]))
