"""Which process gets which branches."""
from typing import Collection, List, Mapping

__all__ = ['deal', 'speed_bound']


def deal(costs: Mapping[str, float], number: int,
         frozen: Collection[str] = ()) -> List[List[str]]:
    """Deal branches to processes: the dearest first, each to whoever has the
    least so far.

    Args:
        costs (Mapping[str, float]): What a step costs by branch, in any unit.
        number (int): The number of processes, at most that of branches that
            are not frozen.
        frozen (Collection[str]): Names of those that are dealt last, so that
            each process has another one. Defaults to none.

    Returns:
        list[list[str]]: The names of each process, in the order of ``costs``.
    """
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
    """How many times as fast as one process several can be at most.

    Args:
        costs (Mapping[str, float]): See :func:`deal`.
        shares (list[list[str]]): What it gives.

    Returns:
        float: All costs, divided by those of the process that has most.
    """
    most = max(sum(costs[name] for name in share) for share in shares)
    return sum(costs.values()) / most if most else 1.
