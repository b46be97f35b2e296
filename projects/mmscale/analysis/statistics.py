"""Spread of repeated timings, and how sure their ratio is."""
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

__all__ = ['Ratio', 'Spread', 'paired_ratio', 'quantile', 'spread']


@dataclass(frozen=True)
class Spread:
    """Robust summary of a sample.

    Attributes:
        median (float): Half of the values lie above.
        iqr (float): Inter-quartile range: the middle half of the values lies in it.
        mad (float): Median absolute deviation from the median.
        min (float): Smallest value, for a latency the least disturbed one.
        max (float): Largest value.
    """

    median: float
    iqr: float
    mad: float
    min: float
    max: float


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios with a confidence interval that assumes no distribution.

    Attributes:
        median (float): Half of the pairs have a larger ratio.
        low (float): Lower end of the interval for the median.
        high (float): Upper end.
        confidence (float): Probability that such an interval holds the true median: at least the asked one where there
            are enough pairs (6 for 95 %), else what smallest to largest value gives.
    """

    median: float
    low: float
    high: float
    confidence: float


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear interpolation between order statistics, as numpy's default.

    Example:
        >>> quantile([1, 2, 3, 4], 0.25)
        1.75
    """
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def spread(values: Sequence[float]) -> Spread:
    """Summarises a sample.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 100.0])
        Spread(median=3.0, iqr=2.0, mad=1.0, min=1.0, max=100.0)
    """
    middle = median(values)
    return Spread(median=middle, iqr=quantile(values, 0.75) - quantile(values, 0.25),
                  mad=median(abs(value - middle) for value in values), min=min(values), max=max(values))


def paired_ratio(values: Sequence[float], reference: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Ratio of two samples that were taken in turn, so that a slow drift of the machine divides out.

    The interval runs between two order statistics of the ratios: the number of ratios below the true median is
    binomial(n, 1/2), whatever their distribution. It is deterministic, unlike a bootstrap, and honest for ten pairs.

    Args:
        values (Sequence[float]): Measured values.
        reference (Sequence[float]): What was measured beside each of them.
        confidence (float): Wanted confidence. Defaults to 0.95.

    Raises:
        ValueError: If the samples differ in length or are empty.

    Example:
        >>> paired_ratio([2.0, 2.2, 2.1, 2.0, 1.9, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        Ratio(median=2.0, low=1.9, high=2.2, confidence=0.96875)
    """
    if not values or len(values) != len(reference):
        raise ValueError(f'values and reference must be pairs, but there are {len(values)} and {len(reference)}')
    ratios = sorted(value / base for value, base in zip(values, reference, strict=True))
    count, rank, outside = len(ratios), 0, 2 * 0.5 ** len(ratios)
    while rank + 1 < count / 2:
        wider = outside + 2 * comb(count, rank + 1) * 0.5 ** count
        if wider > 1 - confidence:
            break
        rank, outside = rank + 1, wider
    return Ratio(median=median(ratios), low=ratios[rank], high=ratios[count - 1 - rank],
                 confidence=max(0.0, 1 - outside))
