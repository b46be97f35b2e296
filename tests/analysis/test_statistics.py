"""Spread and ratio against hand arithmetic."""
from math import comb

import pytest

from mmscale.analysis.statistics import paired_ratio, quantile, spread


def test_spread():
    result = spread([4.0, 1.0, 3.0, 2.0, 10.0])
    assert (result.median, result.min, result.max) == (3.0, 1.0, 10.0)
    assert result.iqr == 4.0 - 2.0
    assert result.mad == 1.0  # deviations 1, 2, 0, 1, 7


def test_quantile_ends():
    assert [quantile([5.0, 1.0, 3.0], fraction) for fraction in (0, 0.5, 1)] == [1.0, 3.0, 5.0]


def test_ratio_of_ten_pairs_drops_one_at_each_end():
    """P(fewer than two of ten ratios below the median) = 11 / 1024 on each side."""
    reference = [1.0, 2.0] * 5  # the machine's speed changes from pair to pair
    factors = [1.00, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 9.0]
    result = paired_ratio([base * factor for base, factor in zip(reference, factors, strict=True)], reference)
    assert result.median == pytest.approx(1.045)
    assert (result.low, result.high) == (pytest.approx(1.01), pytest.approx(1.08))
    assert result.confidence == pytest.approx(1 - 2 * 11 / 1024)


@pytest.mark.parametrize('count', [6, 7, 12, 20, 51])
def test_interval_is_the_narrowest_that_holds_95_per_cent(count):
    result = paired_ratio([float(i) for i in range(count)], [1.0] * count)
    rank = int(result.low)
    assert result.high == count - 1 - rank
    below = sum(comb(count, i) for i in range(rank + 1)) / 2 ** count
    narrower = sum(comb(count, i) for i in range(rank + 2)) / 2 ** count
    assert result.confidence == pytest.approx(1 - 2 * below)
    assert 2 * below <= 0.05 < 2 * narrower


def test_few_pairs_say_how_little_they_know():
    assert paired_ratio([2.0, 3.0], [1.0, 1.0]).confidence == 0.5
    assert paired_ratio([2.0], [1.0]).confidence == 0.0


def test_samples_must_pair():
    with pytest.raises(ValueError, match='pairs'):
        paired_ratio([1.0], [1.0, 2.0])
