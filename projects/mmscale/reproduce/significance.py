"""Is a difference more than the seeds? Paired by seed, with its interval, never a bare mean.

Runs of two rows with the same seed saw the same data in the same order, so that their difference is freer of chance
than the difference of two means. Student's t gives its interval: the mean of n differences d is uncertain by
t * s / sqrt(n), s their standard deviation, t the quantile with n - 1 degrees of freedom. That takes the differences
for normally distributed, which a handful of seeds can neither show nor refute; with two or three of them the interval
is wide because t is (12.7, 4.3), and rightly so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ['Difference', 'Summary', 'holm', 'paired', 'summarise', 'verdict']


@dataclass(frozen=True)
class Summary:
    """A row's figure over its seeds.

    Attributes:
        n (int): Number of seeds.
        mean (float | None): Their mean; None without a seed.
        std (float | None): Their standard deviation (n - 1 below the root); None with fewer than two.
    """

    n: int
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Difference:
    """A row's figure minus its baseline's, over the seeds that both have.

    Attributes:
        seeds (tuple[int, ...]): The common seeds.
        values (tuple[float, ...]): The difference at each of them.
        mean (float): Their mean.
        std (float | None): Their standard deviation; None with fewer than two.
        low (float | None): Lower end of the interval for the true difference; None where there is none to be had: with
            one seed, or when all differences are the same.
        high (float | None): Its upper end.
        p (float | None): Probability of a mean as far from 0 if the true difference were 0; None as ``low``.
        confidence (float): Share of such intervals that hold the true difference.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    std: float | None
    low: float | None
    high: float | None
    p: float | None
    confidence: float

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.seeds)


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of a sample.

    Example:
        >>> summarise([1.0, 2.0, 3.0])
        Summary(n=3, mean=2.0, std=1.0)
        >>> summarise([1.0])
        Summary(n=1, mean=1.0, std=None)
    """
    count = len(values)
    if not count:
        return Summary(0, None, None)
    mean = math.fsum(values) / count
    if count < 2:
        return Summary(count, mean, None)
    return Summary(count, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)))


def paired(values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95) -> Difference | None:
    """The difference of two rows, seed by seed.

    Args:
        values (Mapping[int, float]): A figure by seed.
        baseline (Mapping[int, float]): The baseline's by seed. Seeds that only one side has are left out.
        confidence (float): Of the interval, between 0 and 1. Defaults to 0.95.

    Returns:
        Difference | None: None without a common seed.

    Raises:
        ValueError: If ``confidence`` is not between 0 and 1.

    Example:
        >>> difference = paired({0: 3.0, 1: 5.0, 2: 7.0, 3: 9.0}, {0: 2.0, 1: 3.0, 2: 4.0})
        >>> difference.seeds, difference.mean
        ((0, 1, 2), 2.0)
        >>> round(difference.low, 3), round(difference.high, 3)  # 2 -+ 4.303 * 1 / sqrt(3)
        (-0.484, 4.484)
    """
    if not 0 < confidence < 1:
        raise ValueError(f'confidence={confidence} should lie between 0 and 1, for instance 0.95')
    seeds = tuple(sorted(values.keys() & baseline.keys()))
    if not seeds:
        return None
    differences = tuple(values[seed] - baseline[seed] for seed in seeds)
    summary = summarise(differences)
    low = high = p = None
    # differences of equal figures may differ in the last digits of a float
    noise = 1e-12 * max(abs(side[seed]) for side in (values, baseline) for seed in seeds)
    if summary.std is not None and summary.std > noise:
        from scipy import stats  # half a second, and only here

        error = summary.std / math.sqrt(summary.n)
        half = float(stats.t.ppf((1 + confidence) / 2, summary.n - 1)) * error
        low, high = summary.mean - half, summary.mean + half
        p = float(2 * stats.t.sf(abs(summary.mean) / error, summary.n - 1))
    return Difference(seeds, differences, summary.mean, summary.std, low, high, p, confidence)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for having looked several times (Holm 1979, step-down Bonferroni).

    Of m values the smallest is multiplied by m, the next by m - 1 and so on; none falls below the one before it, nor
    exceeds 1. The chance of one false find among all of them then stays below the level that they are compared with,
    however the comparisons depend on each other.

    Args:
        ps (Sequence[float | None]): The p-values; None is none, and not counted.

    Returns:
        list[float | None]: In the order given.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    order = sorted((index for index, p in enumerate(ps) if p is not None), key=lambda index: ps[index])
    adjusted: list[float | None] = [None] * len(ps)
    before = 0.0
    for rank, index in enumerate(order):
        before = max(before, min(1.0, (len(order) - rank) * ps[index]))
        adjusted[index] = before
    return adjusted


def verdict(difference: Difference, adjusted: float | None, comparisons: int, lower_is_better: bool = False) -> str:
    """What a difference shows, in words.

    Args:
        difference (Difference): Of a row to its baseline.
        adjusted (float | None): Its p-value after :func:`holm`.
        comparisons (int): How many values were adjusted together.
        lower_is_better (bool): Whether a negative difference is the better one. Defaults to False.

    Example:
        >>> difference = paired({0: 3.0, 1: 5.0, 2: 7.0}, {0: 2.0, 1: 3.0, 2: 4.0})
        >>> verdict(difference, difference.p, 1)
        'the interval contains 0: not shown by 3 seeds'
    """
    seeds = f'{difference.n} seed' + ('s' if difference.n > 1 else '')
    if difference.n < 2:
        return 'one pair of seeds has no spread and so no interval: nothing is shown'
    if difference.low is None:
        return f'the same difference at all {seeds}: no spread, and so no interval'
    if difference.low <= 0 <= difference.high:
        return f'the interval contains 0: not shown by {seeds}'
    side = 'above' if difference.low > 0 else 'below'
    better = 'better' if (difference.low > 0) != lower_is_better else 'worse'
    found = f'the interval lies {side} 0: {better}, by {seeds}'
    if comparisons > 1 and adjusted is not None and adjusted > 1 - difference.confidence:
        return f'{found}, but not after {comparisons} comparisons (Holm p = {adjusted:.3g})'
    return found
