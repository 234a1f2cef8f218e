"""Each rule against its formula, one number at a time."""
import math

import pytest
import torch

from mcod_plugin.models.heads.fusion import (confident_logits, mean_logits,
                                             mean_probabilities, min_logits)


def make_logits(num=3, dtype=torch.double, scale=3.):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, 4, 5, generator=generator, dtype=dtype)
    return list(scale * logits)


def make_labels(soft):
    """One label for each image, or mixed ones."""
    labels = torch.eye(5, dtype=torch.double)[[3, 0, 4, 1]]
    return .6 * labels + .4 * labels.roll(1, 0) if soft else labels


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def by_image(rule, *tables):
    """Apply a rule to the rows that belong to an image."""
    rows = zip(*(table.tolist() for table in tables))
    return torch.tensor([rule(*row) for row in rows], dtype=torch.double)


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


WEIGHTS = [None, [1, 1, 1], [1, 2, 3.5], [0, 1, 2], [0, 0, 5]]


@pytest.mark.parametrize('num', [1, 2, 3])
def test_mean(num):
    logits = make_logits(num)
    assert_equal(
        mean_logits(logits),
        by_image(lambda *rows: [sum(z) / num for z in zip(*rows)], *logits))


@pytest.mark.parametrize('num', [1, 2, 3])
def test_prob_mean(num):
    logits = make_logits(num)

    def rule(*rows):
        return [sum(p) / num for p in zip(*map(softmax, rows))]

    fused = mean_probabilities(logits)
    assert_equal(fused.exp(), by_image(rule, *logits))
    assert_equal(fused.softmax(1), by_image(rule, *logits))


@pytest.mark.parametrize('weights', WEIGHTS[1:])
def test_weighted(weights):
    logits = make_logits()

    def mean(*rows):
        return [
            sum(w * z for w, z in zip(weights, column)) / sum(weights)
            for column in zip(*rows)
        ]

    assert_equal(mean_logits(logits, weights), by_image(mean, *logits))
    assert_equal(
        mean_probabilities(logits, weights).exp(),
        by_image(lambda *rows: mean(*map(softmax, rows)), *logits))


@pytest.mark.parametrize('rule', [mean_logits, mean_probabilities])
def test_only_ratios_of_weights_count(rule):
    logits = make_logits()
    assert_equal(rule(logits, [2, 4, 6]), rule(logits, [1, 2, 3]))
    assert_equal(rule(logits, [7, 7, 7]), rule(logits))
    assert_equal(
        rule(logits, [1, 1, 0]).softmax(1), rule(logits[:2]).softmax(1))


def test_prob_mean_of_extreme_logits():
    logits = [torch.tensor([[1e4, 0.]]), torch.tensor([[0., 1e4]])]
    assert mean_probabilities(logits).softmax(1).tolist() == [[.5, .5]]
    assert mean_probabilities(logits, [1, 3]).exp().tolist() == [[.25, .75]]


def test_rules_differ():
    logits, labels = make_logits(), make_labels(False)
    fused = [
        mean_logits(logits), mean_probabilities(logits),
        min_logits(logits, labels), confident_logits(logits, labels)
    ]
    for i, one in enumerate(fused):
        for other in fused[:i]:
            assert not torch.allclose(one.softmax(1), other.softmax(1))


@pytest.mark.parametrize('num', [1, 2, 3])
@pytest.mark.parametrize('soft', [False, True])
def test_min_logit(num, soft):
    logits, labels = make_logits(num), make_labels(soft)

    def rule(shares, *rows):
        return [
            min(row[c] - sum(y * z for y, z in zip(shares, row))
                for row in rows) for c in range(5)
        ]

    fused = min_logits(logits, labels)
    assert_equal(fused, by_image(rule, labels, *logits))
    if not soft:
        # The true class is 0 to every branch.
        assert not fused[labels == 1].any()
        # It is the least sure of it that any branch is.
        sure = torch.stack(logits).softmax(-1)[:, labels == 1]
        assert (fused.softmax(1)[labels == 1] >= sure.amin(0) - 1e-12).all()


@pytest.mark.parametrize('num', [1, 2, 3, 4])
@pytest.mark.parametrize('soft', [False, True])
def test_confidence(num, soft):
    logits, labels = make_logits(num, scale=1.), make_labels(soft)

    def rule(shares, *rows):
        exps = [
            math.exp(-sum(y * math.log(p)
                          for y, p in zip(shares, softmax(row))))
            for row in rows
        ]
        weights = [(1 - exp / sum(exps)) / (num - 1) if num > 1 else 1
                   for exp in exps]
        assert sum(weights) == pytest.approx(1)
        return [
            sum(w * z for w, z in zip(weights, column))
            for column in zip(*rows)
        ]

    assert_equal(
        confident_logits(logits, labels), by_image(rule, labels, *logits))


def test_confidence_of_extreme_logits():
    """exp(CE) would be infinite; the wrong branch does not count."""
    right, wrong = torch.tensor([[1e4, 0.]]), torch.tensor([[0., 1e4]])
    labels = torch.tensor([[1., 0.]])
    assert torch.equal(confident_logits([right, wrong], labels), right)


@pytest.mark.parametrize('rule', [mean_logits, mean_probabilities])
@pytest.mark.parametrize('weights', WEIGHTS)
@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_dtype_and_order(rule, weights, dtype):
    logits = make_logits(dtype=dtype)
    fused = rule(logits, weights)
    assert fused.dtype == dtype
    torch.testing.assert_close(
        rule(logits[::-1], weights and weights[::-1]), fused)


@pytest.mark.parametrize('rule', [min_logits, confident_logits])
def test_dtype_and_order_by_labels(rule):
    logits = make_logits(dtype=torch.float)
    labels = make_labels(True).float()
    fused = rule(logits, labels)
    assert fused.dtype == torch.float
    torch.testing.assert_close(rule(logits[::-1], labels), fused)


# Classes that are ruled out, and branches that are left out

RULES = [(mean_logits, False), (mean_probabilities, False), (min_logits, True),
         (confident_logits, True)]


@pytest.mark.parametrize('rule, labelled', RULES)
@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('scale', [3., 1000.])
def test_class_that_all_rule_out(rule, labelled, soft, scale):
    """The others are as if it did not exist, in values and gradients."""
    logits = torch.stack(make_logits(scale=scale))
    logits[..., 2] = -math.inf
    logits.requires_grad_()
    labels = make_labels(soft)
    kept = [0, 1, 3, 4]
    found = rule(list(logits), *[labels] * labelled)
    expected = rule(
        list(logits[..., kept]), *[labels[:, kept]] * labelled)
    assert_equal(found[:, kept], expected)
    assert found[:, 2].isneginf().all()
    factors = torch.arange(4, dtype=torch.double)
    gradients = [
        torch.autograd.grad((factors * value).sum(), logits)[0]
        for value in (found[:, kept], expected)
    ]
    assert_equal(*gradients)
    assert not gradients[0][..., 2].any()


@pytest.mark.parametrize('rule', [min_logits, confident_logits])
def test_label_that_is_ruled_out(rule):
    logits = make_logits()
    for value in logits:
        value[:, 3] = -math.inf
    assert not rule(logits, make_labels(True)).isnan().any()
    assert not rule(logits, make_labels(False)).isnan().any()


@pytest.mark.parametrize('rule, labelled', RULES)
@pytest.mark.parametrize('alive', [[True] * 3, [True, False, True],
                                   [False, False, True]])
@pytest.mark.parametrize('weights', WEIGHTS)
def test_branches_that_are_left_out(rule, labelled, alive, weights):
    """The rule is that of the others; any finite logits may be in their
    place."""
    logits = make_logits()
    labels = [make_labels(True)] * labelled
    if labelled and weights:
        return
    kept = [value for value, flag in zip(logits, alive) if flag]
    logits = [
        value if flag else 1e30 * value for value, flag in zip(logits, alive)
    ]
    given, rest = [], []
    if weights:
        given = [weights]
        rest = [[weight for weight, flag in zip(weights, alive) if flag]]
    flags = list(torch.tensor(alive))
    found = rule(logits, *labels, *given, alive=flags)
    torch.testing.assert_close(found, rule(kept, *labels, *rest), rtol=1e-12,
                               atol=1e-12)


@pytest.mark.parametrize('rule', [mean_logits, mean_probabilities])
def test_all_with_a_weight_are_left_out(rule):
    """The others are what is left to predict by."""
    logits = make_logits()
    logits[0][:, 2] = logits[1][:, 2] = -math.inf
    flags = list(torch.tensor([True, True, False]))
    found = rule(logits, [0, 0, 1], alive=flags)
    torch.testing.assert_close(found, rule(logits[:2]))
    # One that counts nothing rules no class out.
    found = rule(logits, [0, 1, 2], alive=[flags[2], *flags[:2]])
    torch.testing.assert_close(found, rule(logits[1:], [1, 2]))
