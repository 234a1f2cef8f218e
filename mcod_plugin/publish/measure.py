"""What the networks of a cohort are worth, and what they cost."""
import statistics
import timeit
from typing import Dict, Iterable, List, Sequence

import numpy as np
import torch
import torch.nn as nn

from mcod_plugin.alone.images import batches
from mcod_plugin.evaluation.branch_metrics import topk_hits

__all__ = ['accuracy', 'cohort_logits', 'median_latency', 'worst_classes']


@torch.no_grad()
def cohort_logits(cohort: nn.Module,
                  pixels: np.ndarray) -> Dict[str, np.ndarray]:
    """Logits of the branches and of their ensemble.

    Args:
        cohort (MultiBackboneClassifier): The cohort, in eval mode.
        pixels (np.ndarray): Images ``(N, C, H, W)`` of the data set.

    Returns:
        dict[str, np.ndarray]: Logits ``(N, num_classes)`` by branch, and
        last those of the ``ensemble``.
    """
    found: Dict[str, List[np.ndarray]] = {}
    for begin, end in batches(len(pixels)):
        inputs = torch.from_numpy(pixels[begin:end])
        inputs = cohort.data_preprocessor(dict(inputs=inputs))['inputs']
        logits = cohort.branch_logits(inputs)
        logits = dict(logits, ensemble=cohort.teacher.ensemble(logits))
        for name, value in logits.items():
            found.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def accuracy(logits: np.ndarray, labels: np.ndarray,
             topk: Iterable[int]) -> Dict[str, float]:
    """Top-k accuracy in percent, as :class:`BranchMetrics` has it.

    Args:
        logits (np.ndarray): Logits ``(N, num_classes)``.
        labels (np.ndarray): The true classes ``(N, )``.
        topk (Iterable[int]): The numbers k. Those not below the number of
            classes are left out.

    Returns:
        dict[str, float]: ``top<k>`` for each k.
    """
    topk = [k for k in topk if k < logits.shape[1]]
    scores = torch.from_numpy(logits).softmax(-1)[:, None]
    _, hits = topk_hits(scores, torch.from_numpy(labels), topk)
    means = 100 * hits[:, 0].double().mean(0)
    return {f'top{k}': float(mean) for k, mean in zip(topk, means)}


def worst_classes(matrix: np.ndarray, number: int) -> np.ndarray:
    """The classes that are recognised least often.

    Args:
        matrix (np.ndarray): A confusion matrix ``(C, C)``.
        number (int): The most classes to name.

    Returns:
        np.ndarray: The classes, the worst first; of equals the lower class
        first. Classes without images are left out.
    """
    images = matrix.sum(1)
    share = np.diag(matrix) / np.maximum(images, 1)
    order = np.argsort(share, kind='stable')
    return order[images[order] > 0][:number]


@torch.no_grad()
def median_latency(network: nn.Module,
                   shape: Sequence[int],
                   runs: int = 30,
                   threads: int = 1) -> float:
    """How long a network takes for a batch on a CPU.

    Args:
        network (nn.Module): The network, in eval mode on the CPU.
        shape (Sequence[int]): Shape ``(N, C, H, W)`` of the batch.
        runs (int): How often to measure. Defaults to 30.
        threads (int): Threads of PyTorch. Defaults to 1.

    Returns:
        float: The median in seconds. A sixth as many runs before them are
        not counted.
    """
    inputs = torch.randn(*shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # PyTorch's own timer warns on import where CUDA is but no GPU.
        times = timeit.repeat(
            lambda: network(inputs), number=1, repeat=runs + runs // 6)
    finally:
        torch.set_num_threads(before)
    return statistics.median(times[-runs:])
