"""Paired differences against hand arithmetic and against scipy's own paired test."""

import math

import numpy as np
import pytest
from scipy import stats

from mmscale.reproduce.significance import holm, paired, summarise, verdict

FIVE = ({0: 5.0, 1: 7.0, 2: 6.0, 3: 9.0, 4: 8.0}, {0: 4.0, 1: 5.0, 2: 3.0, 3: 5.0, 4: 3.0})  # differences 1, 2, 3, 4, 5


def test_mean_and_deviation_by_hand():
    summary = summarise([2.0, 4.0, 9.0])  # deviations -3, -1, 4: 26 / 2 = 13
    assert (summary.n, summary.mean, summary.std) == (3, 5.0, math.sqrt(13))
    assert summarise([]) == summarise(()) and summarise([]).mean is None
    assert summarise([0.1] * 3).std == pytest.approx(0, abs=1e-15)


def test_interval_by_hand():
    """Mean 3, s = sqrt(10 / 4), t(0.975, 4) = 2.776 in printed tables: 3 -+ 2.776 * 1.5811 / sqrt(5) = 3 -+ 1.963."""
    difference = paired(*FIVE)
    assert difference.values == (1.0, 2.0, 3.0, 4.0, 5.0) and difference.mean == 3.0
    assert difference.low == pytest.approx(3 - 1.963, abs=1e-3)
    assert difference.high == pytest.approx(3 + 1.963, abs=1e-3)
    # t = 3 / 0.70711 = 4.243, between the table's 3.747 (p = 0.02) and 4.604 (p = 0.01)
    assert 0.01 < difference.p < 0.02


@pytest.mark.parametrize('confidence', [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize('count', [2, 3, 10])
def test_agrees_with_scipy(count, confidence):
    rng = np.random.default_rng(count)
    ours, theirs = rng.normal(30, 1, count), rng.normal(28, 1, count)
    difference = paired(dict(enumerate(ours)), dict(enumerate(theirs)), confidence)
    oracle = stats.ttest_rel(ours, theirs)
    interval = oracle.confidence_interval(confidence)
    assert difference.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (difference.low, difference.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_interval_and_p_agree_at_the_edge():
    """An interval of confidence 1 - p just touches 0."""
    difference = paired(*FIVE)
    edge = paired(*FIVE, confidence=1 - difference.p)
    assert edge.low == pytest.approx(0, abs=1e-9)


def test_only_common_seeds_are_paired():
    difference = paired({0: 1.0, 2: 5.0, 3: 7.0, 7: 100.0}, {3: 1.0, 2: 1.0, 9: -100.0})
    assert (difference.seeds, difference.values, difference.mean) == ((2, 3), (4.0, 6.0), 5.0)
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({}, {1: 1.0}) is None


def test_one_seed_has_no_interval():
    difference = paired({5: 3.0}, {5: 2.0})
    assert (difference.n, difference.mean, difference.std) == (1, 1.0, None)
    assert difference.low is difference.high is difference.p is None
    assert 'nothing is shown' in verdict(difference, None, 1)


@pytest.mark.parametrize('shift', [0.0, 0.3])
def test_identical_differences_have_no_interval(shift):
    """Nor have those that differ in a float's last digits only, of which a t of 1e16 could be made."""
    baseline = {0: 0.1, 1: 0.7, 2: 5.3}
    difference = paired({seed: value + shift for seed, value in baseline.items()}, baseline)
    assert difference.mean == pytest.approx(shift)
    assert difference.low is None and difference.p is None
    assert verdict(difference, None, 1) == 'the same difference at all 3 seeds: no spread, and so no interval'


@pytest.mark.parametrize('confidence', [0, 1, 95])
def test_a_confidence_that_is_none(confidence):
    with pytest.raises(ValueError, match=f'confidence={confidence} should lie between 0 and 1'):
        paired({0: 1.0}, {0: 1.0}, confidence)


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.6: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.6."""
    assert holm([0.03, 0.6, 0.01, 0.02]) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    # times 3, 2, 1 is 0.03, 0.022, 0.5: the second may not fall below the first
    assert holm([0.01, 0.011, 0.5]) == pytest.approx([0.03, 0.03, 0.5])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_leaves_out_what_has_no_p():
    assert holm([None, 0.01, None, 0.03]) == [None, 0.02, None, 0.03]


@pytest.mark.parametrize(
    ('lower_is_better', 'sign', 'words'),
    [
        (False, 1, 'above 0: better'),
        (False, -1, 'below 0: worse'),
        (True, 1, 'above 0: worse'),
        (True, -1, 'below 0: better'),
    ],
)
def test_verdict_knows_the_direction(lower_is_better, sign, words):
    ours, baseline = ({seed: sign * value for seed, value in side.items()} for side in FIVE)
    said = verdict(paired(ours, baseline), 0.01, 1, lower_is_better)
    assert said == f'the interval lies {words}, by 5 seeds'


def test_verdict_after_several_comparisons():
    difference = paired(*FIVE)  # p = 0.013
    assert verdict(difference, 5 * difference.p, 5).endswith('but not after 5 comparisons (Holm p = 0.0662)')
    assert verdict(difference, 2 * difference.p, 2) == 'the interval lies above 0: better, by 5 seeds'
    wide = paired(*FIVE, confidence=0.999)
    assert verdict(wide, wide.p, 1) == 'the interval contains 0: not shown by 5 seeds'
