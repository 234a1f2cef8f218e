import time

import numpy as np
import pytest
import torch
import torch.nn as nn

from mcod_plugin.publish.measure import accuracy, median_latency, worst_classes


def test_accuracy_against_sorting():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 8)).astype(np.float32)
    labels = rng.integers(0, 8, 200)
    order = np.argsort(-logits, axis=1)
    found = accuracy(logits, labels, (1, 3, 8))
    assert found == pytest.approx({
        f'top{k}':
        100 * np.mean([label in row[:k] for label, row in zip(labels, order)])
        for k in (1, 3)
    })


def test_worst_classes_by_hand():
    # Class 2 has no images.
    matrix = np.array([[1, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]])
    assert worst_classes(matrix, 10).tolist() == [0, 1, 3]
    assert worst_classes(matrix, 2).tolist() == [0, 1]


def test_equals_keep_their_order():
    matrix = np.diag([2, 2, 2]) + np.ones((3, 3), dtype=int)
    assert worst_classes(matrix, 3).tolist() == [0, 1, 2]


class Clock(nn.Module):
    """A network that notes how it is run."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append(
            (tuple(x.shape), torch.get_num_threads(), x.requires_grad))
        # One slow run does not change the median.
        time.sleep(.5 if len(self.calls) == 9 else .002)
        return x


def test_latency_is_of_one_thread():
    network, before = Clock(), torch.get_num_threads()
    seconds = median_latency(network, (1, 3, 4, 4), runs=12, threads=2)
    assert .002 <= seconds < .04
    assert network.calls == [((1, 3, 4, 4), 2, False)] * 14
    assert torch.get_num_threads() == before
