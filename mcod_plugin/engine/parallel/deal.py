"""Which process gets which branches."""
from typing import Collection, List, Mapping

__all__ = ['deal', 'speed_bound']


def deal(costs: Mapping[str, float], number: int,
         frozen: Collection[str] = ()) -> List[List[str]]:
    """Deal branches to a number of processes, at most that of branches that
    are not frozen: the dearest first, each to whoever has the least so far.
    The ``frozen`` are dealt last, so that each process has another one. The
    costs of a step are in any unit; the names of each process are in their
    order."""
    shares: List[List[str]] = [[] for _ in range(number)]
    # Sorting keeps the order of those that cost the same.
    for name in sorted(costs, key=lambda name: (name in frozen, -costs[name])):
        # One that costs nothing is a branch as well.
        least = min(
            shares,
            key=lambda share: (bool(share), sum(costs[own] for own in share)))
        least.append(name)
    return [[name for name in costs if name in share] for share in shares]


def speed_bound(costs: Mapping[str, float], shares: List[List[str]]) -> float:
    """How many times as fast as one process several can be at most: all costs,
    divided by those of the process that has most. See :func:`deal`."""
    most = max(sum(costs[name] for name in share) for share in shares)
    return sum(costs.values()) / most if most else 1.
