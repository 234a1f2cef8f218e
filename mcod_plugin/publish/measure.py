"""What the networks of a cohort are worth, and what they cost."""
import logging
import statistics
from typing import Dict, Iterable, Sequence

import numpy as np
import torch
import torch.nn as nn

from mcod_plugin.evaluation.branch_metrics import topk_hits
from mcod_plugin.evaluation.calibration import expected_calibration_error

__all__ = [
    'BINS', 'RUNS', 'THREADS', 'accuracy', 'calibration_error',
    'median_latency'
]

# How latencies are measured.
RUNS = 30
THREADS = 1
# Of the calibration error, as by Guo et al.
BINS = 15


def accuracy(logits: np.ndarray, labels: np.ndarray,
             topk: Iterable[int]) -> Dict[str, float]:
    """``top<k>`` for some numbers k: the top-k accuracy in percent of logits
    ``(N, num_classes)`` by the true classes ``(N, )``, as
    :class:`BranchMetrics` has it. A k that is not below the number of classes
    is left out."""
    topk = [k for k in topk if k < logits.shape[1]]
    scores = torch.from_numpy(logits).softmax(-1)[:, None]
    _, hits = topk_hits(scores, torch.from_numpy(labels), topk)
    means = 100 * hits[:, 0].double().mean(0)
    return {f'top{k}': float(mean) for k, mean in zip(topk, means)}


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """The expected calibration error in percent, by ``BINS`` bins, of logits
    ``(N, num_classes)`` by the true classes ``(N, )``, as
    :class:`BranchMetrics` has it."""
    confidence, predicted = torch.from_numpy(logits).softmax(-1).max(-1)
    return 100 * expected_calibration_error(confidence.numpy(),
                                            predicted.numpy() == labels, BINS)


@torch.no_grad()
def median_latency(network: nn.Module, shape: Sequence[int]) -> float:
    """How long a network, in eval mode on the CPU, takes for a batch of a
    shape ``(N, C, H, W)``: the median in seconds of ``RUNS`` runs on
    ``THREADS`` threads."""
    # It looks for CUDA on import, and warns where there is no GPU.
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer
    timer = Timer(
        'network(inputs)',
        globals=dict(network=network, inputs=torch.randn(*shape)),
        num_threads=THREADS)
    # Each is warmed up by two more runs.
    return statistics.median(timer.timeit(1).median for _ in range(RUNS))
