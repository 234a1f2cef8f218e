import statistics
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple


@dataclass
class Score:
    """What was measured of a contender.

    Args:
        images (float): Images in a step.
        peak_bytes (int, optional): By how much the peak of its process's
            memory grew; None if that is not known.
        facts (dict[str, Any]): What else the contender told of itself.
        turns (list[tuple[float, int]]): Seconds and steps of each turn.
    """

    images: float
    peak_bytes: Optional[int] = None
    facts: Dict[str, Any] = field(default_factory=dict)
    turns: List[Tuple[float, int]] = field(default_factory=list)

    @property
    def seconds(self) -> List[float]:
        """list[float]: Seconds of a step, by round."""
        return [seconds / steps for seconds, steps in self.turns]

    @property
    def median(self) -> float:
        """float: The median of :attr:`seconds`."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """float: The interquartile range of :attr:`seconds`, as a share of
        the median; 0 for a single round."""
        if len(self.turns) < 2:
            return 0.
        first, _, third = statistics.quantiles(
            self.seconds, n=4, method='inclusive')
        return (third - first) / self.median

    @property
    def images_per_second(self) -> float:
        """float: Images in a second, at the median."""
        return self.images / self.median
