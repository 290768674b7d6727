"""Scores against numbers worked out by hand, and intervals against what an interval must do."""

import numpy as np
import pandas as pd
import pytest

from src.evaluation import metrics

# Four faces, three classes with mean ages 10, 30 and 60. The likeliest classes are 0, 1, 2 and 0 (answered).
TRUTH = np.array([0, 2, 0, 0])
PROBABILITY = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.2, 0.8], [0.5, 0.5, 0.0]])
CENTRES = [10, 30, 60]


def certain(answers, classes):
    """Probabilities that are sure of these answers."""
    return np.eye(classes)[answers]


def test_scores_worked_out_by_hand():
    assert metrics.exact_match(TRUTH, PROBABILITY).tolist() == [1, 0, 0, 1]
    assert metrics.one_off(TRUTH, PROBABILITY).tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(metrics.expected_years(PROBABILITY, CENTRES), [19, 37, 54, 20])
    np.testing.assert_allclose(metrics.prediction_confidence(PROBABILITY), [0.7, 0.6, 0.8, 0.5])
    np.testing.assert_allclose(metrics.prediction_confidence([[0.4, 0.25, 0.35]], ordered=True), [0.25])


def test_headline_of_age_has_three_measures_and_of_gender_one():
    age = metrics.headline_metrics("age", TRUTH, PROBABILITY, [9, np.nan, 55, 20], CENTRES)
    assert list(age.columns) == ["value", "low", "high", "n", "unit"]
    assert age["value"].to_dict() == pytest.approx({"accuracy": 0.5, "one-off accuracy": 0.75, "mean absolute error": 11 / 3})
    assert age["n"].tolist() == [4, 4, 3]
    assert age["unit"].tolist() == ["share", "share", "years"]
    assert (age["low"] <= age["value"]).all() and (age["value"] <= age["high"]).all()

    gender = metrics.headline_metrics("gender", [0, 1, 1], certain([0, 1, 0], 2))
    assert gender["value"].to_dict() == pytest.approx({"accuracy": 2 / 3})


def test_headline_resamples_subjects_for_every_measure():
    random = np.random.default_rng(0)
    subjects = np.repeat(np.arange(20), 25)
    truth = np.repeat(random.integers(0, 3, 20), 25)  # every face of a subject gets the same score
    probability = certain(np.repeat(random.integers(0, 3, 20), 25), 3)
    years = truth * 20.0
    faces = metrics.headline_metrics("age", truth, probability, years, CENTRES)
    people = metrics.headline_metrics("age", truth, probability, years, CENTRES, subjects)
    assert people["value"].tolist() == faces["value"].tolist()
    assert (people["high"] - people["low"] > 2 * (faces["high"] - faces["low"])).all()


def test_interval_narrows_with_more_faces_and_is_the_same_every_time():
    scores = np.tile([1, 1, 1, 0], 25)
    few, many = metrics.bootstrap_mean(scores), metrics.bootstrap_mean(np.tile(scores, 16))
    assert few.low < few.value == 0.75 < few.high
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 4, rel=0.15)
    assert metrics.bootstrap_mean(scores) == few


def test_interval_over_subjects_covers_the_truth_where_one_over_faces_does_not():
    random = np.random.default_rng(7)
    who = np.repeat(np.arange(40), 10)
    draws = [np.repeat(random.random(40) < 0.6, 10) for _ in range(40)]
    people = [metrics.bootstrap_mean(scores, who) for scores in draws]
    faces = [metrics.bootstrap_mean(scores) for scores in draws]
    assert sum(m.low <= 0.6 <= m.high for m in people) >= 34
    assert sum(m.low <= 0.6 <= m.high for m in faces) <= 26


def test_unnamed_subjects_stand_for_themselves():
    scores = np.tile([1, 0, 1, 1], 50)
    unnamed = pd.Series([pd.NA] * 200, dtype="string")
    assert metrics.bootstrap_mean(scores, unnamed) == metrics.bootstrap_mean(scores)


@pytest.mark.filterwarnings("error")
def test_degenerate_samples():
    nothing = metrics.bootstrap_mean([])
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all() and nothing.n == 0
    # All right: 0.025 ** (1 / 10) by Clopper and Pearson, and certainty is not claimed.
    assert metrics.bootstrap_mean(np.ones(10))[:3] == pytest.approx((1, 0.025**0.1, 1))
    assert metrics.bootstrap_mean([0])[:3] == pytest.approx((0, 0, 0.975))
    # Ten faces of two subjects say as much as two faces.
    assert metrics.bootstrap_mean(np.ones(10), ["a", "b"] * 5).low == pytest.approx(0.025**0.5)
    alone = metrics.bootstrap_mean([4.0], unit="years")
    assert alone.value == 4 and np.isnan(alone.low) and np.isnan(alone.high)
    assert metrics.bootstrap_mean([4.0, 4.0], unit="years")[:3] == (4, 4, 4)


def test_measures_print_with_their_units():
    assert str(metrics.Estimate(0.9134, 0.901, 0.9239, 2071)) == "91.3% (90.1–92.4, n = 2,071)"
    assert str(metrics.Estimate(5.123, 5, 5.25, 2071, "years")) == "5.12 years (5.00–5.25, n = 2,071)"
    assert str(metrics.Estimate(5.123, np.nan, np.nan, 1, "years")) == "5.12 years (n = 1)"
    table = pd.DataFrame([metrics.Estimate(0.5, 0.25, 0.75, 8)], index=["accuracy"])
    assert metrics.as_text(table).loc["accuracy"].tolist() == ["50.0% (25.0–75.0, n = 8)"]
    assert str(metrics.bootstrap_mean([])) == "– (n = 0)"


def test_confusion_and_per_class_worked_out_by_hand():
    matrix = metrics.confusion_matrix(TRUTH, PROBABILITY)
    assert matrix.tolist() == [[2, 0, 1], [0, 0, 0], [0, 1, 0]]
    table = metrics.per_class(TRUTH, PROBABILITY, ["a", "b", "c"])
    assert table["n"].to_dict() == {"a": 3, "b": 0, "c": 1}
    np.testing.assert_allclose(table["precision"], [1, 0, 0])
    np.testing.assert_allclose(table["recall"], [2 / 3, np.nan, 0])
    np.testing.assert_allclose(table["f1"], [0.8, 0, 0])


def test_by_gives_each_group_its_accuracy():
    values = pd.Series(["male", "female", pd.NA, "male", "male"], dtype="string")
    table = metrics.metric_by_group(values, [1, 0, 1, 0, 1], order=["female", "male", "other"])
    assert list(table.index) == ["female", "male", "other", "unknown"]
    assert table["n"].tolist() == [1, 3, 0, 1]
    np.testing.assert_allclose(table["value"], [0, 2 / 3, np.nan, 1])
    assert list(metrics.metric_by_group(["b", "a"], [1, 1]).index) == ["a", "b"]
    with pytest.raises(ValueError, match="female.*got \\['male'\\]"):
        metrics.metric_by_group(values, np.ones(5), order=["female"])


def test_over_folds_against_hand_calculation():
    columns = ["value", "low", "high", "n", "unit"]
    first = pd.DataFrame([[0.5, 0, 1, 9, "share"], [4.0, 3, 5, 9, "years"]], ["accuracy", "error"], columns)
    second = pd.DataFrame([[0.6, 0, 1, 9, "share"], [5.0, 3, 5, 9, "years"]], ["accuracy", "error"], columns)
    third = pd.DataFrame([[0.7, 0, 1, 9, "share"]], ["accuracy"], columns)
    table = metrics.mean_over_folds({"a": first, "b": second, "c": third})
    assert table["mean"].tolist() == pytest.approx([0.6, 4.5])
    assert table["sd"].tolist() == pytest.approx([0.1, np.sqrt(0.5)])
    assert table["folds"].tolist() == [3, 2]
    assert table["text"].tolist() == ["60.0 ± 10.0%", "4.50 ± 0.71 years"]
    assert metrics.mean_over_folds({0: first})["text"].tolist() == ["50.0%", "4.00 years"]


@pytest.mark.parametrize(
    "truth, probability, message",
    [
        ([0, 1], np.full((3, 2), 0.5), r"truth must be 3 integers"),
        ([0, 1], [0.5, 0.5], "shape \\(n, classes\\)"),
        ([0, 1], [[0.9], [0.8]], "two classes or more"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.7]], "sum to 1.*row 1"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "sum to 1.*row 0"),
        ([0, 1], [[1.5, -0.5], [0.5, 0.5]], "0 or more.*row 0"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "integers from 0 to 1"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "integers from 0 to 1"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "integers from 0 to 1"),
    ],
)
def test_input_that_does_not_fit_is_refused(truth, probability, message):
    for score in (metrics.exact_match, metrics.one_off, metrics.confusion_matrix):
        with pytest.raises(ValueError, match=message):
            score(truth, probability)


def test_other_input_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="centre_years must be 3"):
        metrics.expected_years(PROBABILITY, [1, 2])
    with pytest.raises(ValueError, match="subjects must have 2"):
        metrics.bootstrap_mean([1, 0], ["a"])
    with pytest.raises(ValueError, match="NaN"):
        metrics.bootstrap_mean([1, np.nan])


def test_an_ordered_answer_lies_where_half_of_the_probability_is():
    torn = [[0.4, 0.15, 0.1, 0.35]]  # young or old
    assert metrics.decode(torn).tolist() == [0]
    assert metrics.decode(torn, ordered=True).tolist() == [1]
    assert metrics.exact_match([0], torn).tolist() == [1] and metrics.exact_match([0], torn, ordered=True).tolist() == [0]
    assert metrics.one_off([2], torn).tolist() == [1]
    assert metrics.decode(np.eye(4), ordered=True).tolist() == [0, 1, 2, 3]
    # No answer is fewer classes off on average than the median.
    rng = np.random.default_rng(0)
    for row in rng.dirichlet(np.ones(6), 50):
        costs = [(row * abs(np.arange(6) - k)).sum() for k in range(6)]
        assert costs[metrics.decode(row[None], ordered=True)[0]] == pytest.approx(min(costs))
