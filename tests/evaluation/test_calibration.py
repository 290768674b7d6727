"""Calibration against distributions whose right answer is known, and intervals against what they promise."""

import numpy as np
import pytest
from scipy.special import softmax

from src.config import AGE_GROUPS, YEAR_COUNT
from src.evaluation import calibration
from src.evaluation.calibration import INTERVAL_BANDS, Calibration

ALL = np.arange(YEAR_COUNT)
EVEN = np.full((1, YEAR_COUNT), 1 / YEAR_COUNT)  # its median is 50
SPREAD = ((YEAR_COUNT**2 - 1) / 12) ** 0.5 + 2  # of it: the standard deviation of an even distribution, and two years
FOUR = AGE_GROUPS["four"]


def drawn(probability, rng):
    """A truth for each row, drawn from the row: to it the probabilities are perfectly calibrated."""
    return (probability.cumsum(axis=1) < rng.random((len(probability), 1))).sum(axis=1)


def interval(year_probability, quantiles, bands):
    return calibration.prediction_interval(year_probability, Calibration(0, bands, quantiles))


@pytest.fixture(scope="module")
def honest():
    """Logits of 12,000 faces in five classes, and truths drawn from their probabilities."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (12_000, 5))
    return logits, drawn(softmax(logits, axis=1), rng)


# --- temperature and calibration error --------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.4, 1, 3])
def test_the_temperature_undoes_a_factor(honest, factor):
    logits, truth = honest
    assert calibration.fit_temperature(logits * factor, truth) == pytest.approx(factor, rel=0.03)
    shifted = logits * factor + np.arange(len(logits))[:, None]  # logits or log-probabilities: the same
    assert calibration.fit_temperature(shifted, truth) == pytest.approx(
        calibration.fit_temperature(logits * factor, truth), rel=1e-3
    )


def test_the_temperature_of_groups_is_that_of_their_sums(honest):
    logits, truth = honest
    groups = np.array([0, 0, 1, 1, 2])
    assert calibration.fit_temperature(logits * 2.5, groups[truth], groups) == pytest.approx(2.5, rel=0.04)
    one_each = calibration.fit_temperature(logits * 2.5, truth, np.arange(5))
    assert one_each == calibration.fit_temperature(logits * 2.5, truth)


def test_temperatures_that_cannot_be_found():
    with pytest.raises(ValueError, match="must be finite; raise probabilities of 0 to 1e-12"), np.errstate(divide="ignore"):
        calibration.fit_temperature(np.log([[1.0, 0.0]]), [0])
    with pytest.raises(ValueError, match=r"truth must be among \[0 1\], got \[2\]"):
        calibration.fit_temperature([[0.0, 1.0]], [2])
    with pytest.raises(ValueError, match=r"among \[0 7\], got \[1\]"):
        calibration.fit_temperature([[0.0, 1.0]], [1], groups=[0, 7])


def test_reliability_worked_out_by_hand():
    probability = [[0.9, 0.1], [0.15, 0.85], [0.6, 0.4], [0.5, 0.5]]
    table = calibration.reliability(probability, [0, 0, 0, 1], bins=5)
    assert list(table.columns) == ["confidence", "accuracy", "n"]
    np.testing.assert_allclose(table, [[0.55, 0.5, 2], [0.875, 0.5, 2]])  # 0.6 belongs to the range below it
    gaps = (0.1, 0.85, 0.4, 0.5)  # of 15 ranges, each face has its own
    assert calibration.expected_calibration_error(probability, [0, 0, 0, 1]) == pytest.approx(np.mean(gaps))
    assert calibration.reliability([[1.0, 0.0]], [0])["n"].tolist() == [1]


def test_the_answer_of_ordered_classes_is_the_median_one():
    probability = [[0.4, 0.25, 0.35]] * 2
    table = calibration.reliability(probability, [1, 0], ordered=True)
    np.testing.assert_allclose(table, [[0.25, 0.5, 2]])
    assert calibration.expected_calibration_error(probability, [1, 0], ordered=True) == pytest.approx(0.25)
    assert calibration.expected_calibration_error(probability, [1, 0]) == pytest.approx(0.1)


def test_years_add_up_to_groups():
    probability = np.random.default_rng(2).dirichlet(np.ones(YEAR_COUNT), 4)
    sums = calibration.sum_to_groups(probability, FOUR)
    assert sums[:, 0] == pytest.approx(probability[:, :14].sum(axis=1))
    assert sums[:, 3] == pytest.approx(probability[:, 57:].sum(axis=1))
    assert sums.shape == (4, 4) and sums.sum(axis=1) == pytest.approx(1)


# --- age intervals ----------------------------------------------------------------------------------------------------


def sure_of(years):
    """The probabilities of one year for each face: their standard deviation is 0, so residuals are half the distance."""
    return np.eye(YEAR_COUNT)[years]


def test_quantiles_worked_out_by_hand():
    """Of 1,000 faces the ceil(1001 * 0.9) = 901st nearest, which is 45 years from its label."""
    predicted, labels = np.arange(31, 81).repeat(20), np.full(1000, 80.0)
    assert calibration.fit_conformal_quantiles(sure_of(predicted), labels)[-1] == 45 / 2
    predicted, labels = np.append(predicted, [0, 0]), np.append(labels, [np.nan, np.nan])
    assert calibration.fit_conformal_quantiles(sure_of(predicted), labels)[-1] == 45 / 2
    assert interval(EVEN, (23.5 / SPREAD,), (0,)).tolist() == [[27, 73]]


def test_a_quantile_from_few_faces_falls_far_short_of_its_promise_once_in_a_hundred_times():
    """Distances spread evenly over 0-50 years: a quantile of d years covers the share (d + 1) / 51 of new faces."""
    rng, short = np.random.default_rng(6), []
    for _ in range(1000):
        quantile = calibration.fit_conformal_quantiles(sure_of(rng.integers(30, 81, 80)), np.full(80, 80.0))[-1]
        short.append((2 * quantile + 1) / 51 < 0.85)
    assert 0 < np.mean(short) < 0.02


def test_each_band_has_its_own_quantile_where_it_has_twenty_faces():
    years = np.repeat([50, 45, 60, 110], [300, 10, 19, 20])  # 110 counts as 100, 50 years from the median
    quantiles = calibration.fit_conformal_quantiles(EVEN.repeat(len(years), axis=0), years)
    assert dict(zip(INTERVAL_BANDS, quantiles))[50] == 0 and quantiles[-1] == pytest.approx(50 / SPREAD)
    few = [quantile for band, quantile in zip(INTERVAL_BANDS, quantiles) if band not in (50, 80)]
    assert few == pytest.approx([10 / SPREAD] * 8), "of all 349, the 315th nearest is 10 years away"
    assert calibration.fit_conformal_quantiles(EVEN[:0], []) == (50.5,) * 10, "nothing is known, nothing is ruled out"


def test_intervals_worked_out_by_hand():
    sure = np.eye(YEAR_COUNT)[[0, 34, 100]]
    assert interval(sure, (0.4,), (0,)).tolist() == [[0, 0], [34, 34], [100, 100]]
    assert interval(sure, (1.5,), (0,)).tolist() == [[0, 3], [31, 37], [97, 100]]  # its spread is 2
    assert interval(EVEN, (2,), (0,)).tolist() == [[0, 100]]
    assert interval(EVEN, (5.5 / SPREAD, 20.5 / SPREAD), (0, 52)).tolist() == [[45, 70]]
    assert interval(EVEN, (0, 20.5 / SPREAD), (0, 80)).tolist() == [[50, 50]]
    between = np.zeros((1, YEAR_COUNT))
    between[0, [20, 40]] = 0.5, 0.5  # the standard deviation is 10
    assert interval(between, (1,), (0,)).tolist() == [[8, 32]], "about the median"


def seen(n, seed, sharper=1.0, flattering=0.0):
    """Ages of n faces and what a simulated model says of them.

    It sees an age with an error that grows with it, and answers by Bayes' rule; then its probabilities are made `sharper`
    than they should be, and people over 50 look younger by the share `flattering` of what they are over it.
    """
    rng = np.random.default_rng(seed)
    prior = 0.3 + np.exp(-(((ALL - 30) / 20) ** 2)) + (ALL < 7)
    ages = rng.choice(YEAR_COUNT, n, p=prior / prior.sum())
    spread = 1 + ALL / 12
    looks = ages - flattering * np.maximum(ages - 50, 0) + rng.normal(0, spread[ages])
    log = np.log(prior / spread) - 0.5 * ((looks[:, None] - ALL) / spread) ** 2
    return ages, softmax(log * sharper, axis=1)


def covered(ages, intervals):
    """The share of faces whose age lies in their interval: over all, and in each band."""
    inside = (intervals[:, 0] <= ages) & (ages <= intervals[:, 1])
    band = np.searchsorted(INTERVAL_BANDS, ages, side="right")
    return inside.mean(), np.array([inside[band == i + 1].mean() for i in range(len(INTERVAL_BANDS))])


@pytest.mark.parametrize("model", [{}, {"sharper": 4}, {"sharper": 0.5}, {"sharper": 2, "flattering": 0.3}])
def test_nine_new_faces_in_ten_lie_in_their_interval_at_every_age(model):
    ages, probability = seen(20_000, 3, **model)
    quantiles = calibration.fit_conformal_quantiles(probability, ages)
    new_ages, new = seen(20_000, 4, **model)
    overall, bands = covered(new_ages, calibration.prediction_interval(new, Calibration(0, INTERVAL_BANDS, quantiles)))
    assert 0.88 < overall < 0.92 and bands.min() > 0.85, (overall, bands)


def test_ages_that_do_not_fit():
    with pytest.raises(ValueError, match=r"shape \(n, 101\), one column per year, got \(2, 8\)"):
        calibration.fit_conformal_quantiles(np.full((2, 8), 1 / 8), [1, 2])
    with pytest.raises(ValueError, match="labelled_years must be 1 ages of 0 or more"):
        calibration.fit_conformal_quantiles(EVEN, [20, 30])
    with pytest.raises(ValueError, match=r"ages of 0 or more, got \[-1.\]"):
        calibration.fit_conformal_quantiles(EVEN, [-1])


# --- answering only where sure ----------------------------------------------------------------------------------------


def test_coverage_curve_worked_out_by_hand():
    curve = calibration.coverage_curve([0.6, 0.9, 0.7, 0.8], [0, 1, 0, 1])
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1] and curve["score"].tolist() == [1, 1, 2 / 3, 0.5]
    confidence = np.random.default_rng(5).random(12_345)
    curve = calibration.coverage_curve(confidence, confidence)
    assert len(curve) == 100 and curve["coverage"].iloc[-1] == 1
    np.testing.assert_allclose(curve["score"], 1 - curve["coverage"] / 2, atol=0.01)
