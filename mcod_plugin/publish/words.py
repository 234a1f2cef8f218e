"""Wording that the parts of a card share."""
from typing import Any, List

__all__ = ['known', 'listed']


def listed(names: List[str]) -> str:
    """Names as in a sentence: ``a, b and c``."""
    return ' and '.join([*filter(None, [', '.join(names[:-1])]), names[-1]])


def known(value: Any) -> str:
    """A value, or that there is none."""
    return 'not recorded' if value is None else str(value)
