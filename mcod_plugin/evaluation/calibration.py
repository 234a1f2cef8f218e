import numpy as np


def expected_calibration_error(confidence: np.ndarray,
                               correct: np.ndarray,
                               bins: int = 15) -> float:
    r"""By how much confidence and accuracy differ.

    From `On Calibration of Modern Neural Networks`_ (Guo, Pleiss, Sun,
    Weinberger; ICML 2017): the samples are sorted into :math:`M` bins
    :math:`B_m = (\frac{m-1}{M}, \frac{m}{M}]` of their confidence, of which
    the first holds 0 as well, and

    .. math::
        ECE = \sum_{m=1}^{M} \frac{|B_m|}{N}
            \left| acc(B_m) - conf(B_m) \right|

    where :math:`acc` is the share of samples that are correct and
    :math:`conf` their mean confidence. It depends on the number of bins, so
    only values by the same number can be compared.

    .. _On Calibration of Modern Neural Networks:
        https://arxiv.org/abs/1706.04599

    Args:
        confidence (np.ndarray): The probability of the predicted class, in
            shape ``(N, )``.
        correct (np.ndarray): Whether that class is the true one, in shape
            ``(N, )``.
        bins (int): The number of bins, :math:`M`. Defaults to 15.

    Returns:
        float: The error, from 0 to 1; NaN if a confidence is NaN.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    gaps = np.asarray(correct, dtype=np.float64) - confidence
    edges = np.arange(1, bins) / bins
    # Each bin holds its upper edge.
    chosen = np.searchsorted(edges, confidence, side='left')
    # Times the number of samples in a bin, a difference of means is one of
    # sums.
    sums = np.bincount(chosen, weights=gaps, minlength=bins)
    return float(np.abs(sums).sum() / len(gaps))
