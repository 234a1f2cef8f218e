import time

import numpy as np
import pytest
import torch
import torch.nn as nn

from mcod_plugin.publish.measure import RUNS, THREADS, accuracy, median_latency


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


class Clock(nn.Module):
    """A network that notes how it is run."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append(
            (tuple(x.shape), torch.get_num_threads(), x.requires_grad))
        # One slow run does not change the median.
        time.sleep(.05 if len(self.calls) % 9 == 0 else .002)
        return x


def test_latency_is_of_one_thread():
    network, before = Clock(), torch.get_num_threads()
    seconds = median_latency(network, (1, 3, 4, 4))
    assert .002 <= seconds < .04
    assert len(network.calls) >= RUNS
    assert set(network.calls) == {((1, 3, 4, 4), THREADS, False)}
    assert torch.get_num_threads() == before
