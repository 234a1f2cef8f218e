import time

import numpy as np
import pytest
import torch
import torch.nn as nn

from mcod_plugin.publish.measure import (BINS, RUNS, THREADS, accuracy,
                                         calibration_error, median_latency)


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


def test_calibration_error_against_its_definition():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(500, 6))
    labels = rng.integers(0, 6, 500)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, hits = scores.max(1), scores.argmax(1) == labels
    wanted = 0
    for index in range(BINS):
        inside = (confidence > index / BINS) & (
            confidence <= (index + 1) / BINS)
        if inside.any():
            gap = hits[inside].mean() - confidence[inside].mean()
            wanted += inside.mean() * abs(gap)
    assert calibration_error(logits, labels) == pytest.approx(100 * wanted)


def test_calibration_error_of_the_certain():
    """Confidences of 1, of which a quarter are right."""
    logits = np.array([[1000., 0.]] * 4)
    assert calibration_error(logits, np.array([0, 1, 1, 1])) == 75


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
