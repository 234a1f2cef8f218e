import math

import torch
import torch.nn.functional as F

from mcod_plugin.models.utils.logit_gradients import (gradient_ratio,
                                                      logit_gradients)


def test_gradients_by_hand():
    """Of a cross entropy, of a square, and of what sees no logits; whatever
    lies before the logits is neither reached nor used up."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 5).double()
    logits = [layer(torch.randn(4, 3).double()) for _ in range(3)]
    labels = torch.tensor([0, 4, 2, 2])
    constant = torch.ones((), requires_grad=True)
    losses = [
        F.cross_entropy(logits[0], labels), 3 * logits[1].square().sum(),
        2 * constant
    ]
    found = logit_gradients(losses, logits)
    expected = [(logits[0].softmax(1) - F.one_hot(labels, 5)) / 4,
                6 * logits[1],
                torch.zeros(4, 5).double()]
    torch.testing.assert_close(found, torch.stack(expected).detach())
    assert not found.requires_grad
    assert layer.weight.grad is None and constant.grad is None
    sum(losses).backward()
    assert layer.weight.grad.any() and constant.grad == 2


def test_ratio_by_hand():
    own = torch.zeros(4, 1, 2).double()
    own[0] = own[1] = torch.tensor([3., 4.]).double()
    kd = torch.zeros(4, 1, 2).double()
    kd[0] = kd[2] = torch.tensor([0., .5]).double()
    # one that pulls, one that does not, one alone, and nothing
    assert gradient_ratio(kd, own).tolist() == [.1, 0., math.inf, 0.]


def test_gradients_of_what_has_none():
    logits = torch.ones(4, 5, requires_grad=True) * 1
    fixed = torch.ones(4, 5)
    nothing = torch.zeros(2, 4, 5)
    constant = torch.tensor(3.)
    assert torch.equal(
        logit_gradients([constant] * 2, [logits, fixed]), nothing)
    assert torch.equal(logit_gradients([constant], [fixed]), nothing[:1])
    found = logit_gradients([logits.sum(), constant], [logits, fixed])
    assert torch.equal(found, torch.stack([torch.ones(4, 5), nothing[0]]))
