"""Branches that only teach."""
import torch.nn as nn

__all__ = ['freeze', 'is_frozen']


def freeze(branch: nn.Module) -> None:
    """Take a branch out of training.

    An optimizer leaves parameters alone that have no gradient, weight decay
    included, and ``DistributedDataParallel`` does not wait for them.

    Args:
        branch (nn.Module): The classifier, which is changed.
    """
    branch.requires_grad_(False)
    branch.eval()


def is_frozen(branch: nn.Module) -> bool:
    """Whether none of a branch's parameters is trained.

    Args:
        branch (nn.Module): The classifier.

    Returns:
        bool: Whether it is so.
    """
    return not any(value.requires_grad for value in branch.parameters())
