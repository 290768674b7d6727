"""Scores of single faces, means with 95% intervals, and tables by class, by group and by fold.

All functions take plain arrays. These arguments mean the same everywhere:

- truth: The correct class of each face, integers (n,), from 0.
- probability: The predicted probability of each class, floats (n, classes). Each row sums to 1.
- ordered: Whether the classes have an order, as age groups have; see `decode`.
- subjects: The person in each image, shape (n,), NA where unknown.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import SEED

RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95  # of the intervals of means
_BATCH_NUMBERS = 4_000_000  # numbers that the bootstrap keeps in memory at once: 32 MB


class Unit(StrEnum):
    """The unit of a value: a share of faces (0-1, shown in per cent), years, or a difference of two scores."""

    SHARE = "share"
    YEARS = "years"
    DIFFERENCE = "difference"


def format_number(value: float, unit: str, sign: str = "") -> str:
    """Returns a value as text without its unit, such as "95.1" (of 0.9512) or "4.60" (years); `sign` "+" shows plus signs."""
    return f"{value * 100:{sign}.1f}" if unit == Unit.SHARE else f"{value:{sign}.2f}"


def format_value(value: float, unit: str, sd: float = np.nan) -> str:
    """Returns a value as text with its unit, such as "95.1%" or "4.60 years", and with ± its standard deviation if given."""
    spread = "" if np.isnan(sd) else f" ± {format_number(sd, unit)}"
    return f"{format_number(value, unit)}{spread}{'%' if unit == Unit.SHARE else ' years' if unit == Unit.YEARS else ''}"


class Estimate(NamedTuple):
    """A mean over `n` faces with its 95% interval from `low` to `high`, which are NaN where there is no interval."""

    value: float
    low: float
    high: float
    n: int
    unit: str = Unit.SHARE

    def __str__(self) -> str:
        if self.n == 0:
            return "– (n = 0)"
        low, high = (format_number(number, self.unit) for number in (self.low, self.high))
        interval = "" if np.isnan(self.low) else f"{low}–{high}, "
        return f"{format_value(self.value, self.unit)} ({interval}n = {self.n:,})"


def decode(probability: npt.ArrayLike, ordered: bool = False) -> npt.NDArray[np.int64]:
    """Returns the predicted class of each face, int64 (n,).

    This is the most probable class. For ordered classes it is the median class: the first one at which the cumulative
    probability reaches one half. The median has the smallest expected distance to the truth.
    """
    probability = _check_probability(probability)
    return (probability.cumsum(axis=1) < 0.5).sum(axis=1) if ordered else probability.argmax(axis=1)


def prediction_confidence(probability: npt.ArrayLike, ordered: bool = False) -> npt.NDArray[np.float64]:
    """Returns the probability of each face's predicted class (see `decode`), float64 (n,)."""
    probability = _check_probability(probability)
    return np.take_along_axis(probability, decode(probability, ordered)[:, None], axis=1)[:, 0]


def exact_match(truth: npt.ArrayLike, probability: npt.ArrayLike, ordered: bool = False) -> npt.NDArray[np.float64]:
    """Returns 1.0 for each face whose predicted class is correct, else 0.0; float64 (n,)."""
    truth, probability = _check(truth, probability)
    return (decode(probability, ordered) == truth).astype(float)


def one_off(truth: npt.ArrayLike, probability: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns 1.0 for each face whose predicted class (ordered) is at most one class off, else 0.0; float64 (n,)."""
    truth, probability = _check(truth, probability)
    return (np.abs(decode(probability, ordered=True) - truth) <= 1).astype(float)


def expected_years(probability: npt.ArrayLike, centre_years: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns the expected age of each face in years, float64 (n,).

    Source: DEX (Rothe et al. 2018), here over age groups instead of single years.

    Args:
        probability: Floats (n, classes).
        centre_years: The mean age of each class, floats (classes,).
    """
    probability, centre_years = _check_probability(probability), np.asarray(centre_years, float)
    if centre_years.shape != probability.shape[1:] or not np.isfinite(centre_years).all():
        raise ValueError(f"centre_years must be {probability.shape[1]} finite numbers, one per class, got {centre_years}")
    return probability @ centre_years


def bootstrap_mean(scores: npt.ArrayLike, subjects=None, unit: str = Unit.SHARE) -> Estimate:
    """Returns the mean score of the faces with its percentile bootstrap interval from 2,000 resamples.

    The images of one subject are not independent, so whole subjects are resampled (cluster bootstrap). A face without
    a known subject counts as a subject of its own. If all scores are 0 or all are 1, a bootstrap interval has no width. The
    interval of a share is then the exact binomial one (Clopper and Pearson), counted over subjects.

    Args:
        scores: One number per face, shape (n,), without NaN.
        subjects: The person in each image (n,); None if all faces are of different people.
        unit: The unit of the scores; only shares have exact intervals.
    """
    from scipy.stats import binomtest, bootstrap  # slow to import, and not needed for predictions

    scores = np.asarray(scores, float)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f"scores must be numbers of shape (n,) without NaN, got shape {scores.shape}")
    if len(scores) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0, unit)
    index = _subject_index(subjects, len(scores))
    sums, counts = np.bincount(index, scores), np.bincount(index)
    value = float(scores.mean())
    if unit == Unit.SHARE and value in (0, 1):
        low, high = binomtest(int(value) * len(sums), len(sums)).proportion_ci(CONFIDENCE_LEVEL)
    elif len(sums) == 1:
        low = high = np.nan
    else:
        low, high = bootstrap(
            (sums, counts),
            lambda sums, counts, axis=-1: sums.sum(axis=axis) / counts.sum(axis=axis),
            n_resamples=RESAMPLES,
            batch=max(1, _BATCH_NUMBERS // len(sums)),
            vectorized=True,
            paired=True,
            confidence_level=CONFIDENCE_LEVEL,
            method="percentile",
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    return Estimate(value, float(low), float(high), len(scores), unit)


def headline_metrics(task: str, truth, probability, years=None, centre_years=None, subjects=None) -> pd.DataFrame:
    """Returns the main metrics of a task with their 95% intervals.

    Args:
        task: "gender" or "age".
        truth: The correct classes, integers (n,).
        probability: Floats (n, classes).
        years: The exact age of each face, floats (n,), NaN where unknown; None leaves out the mean absolute error, which is
            that of `expected_years`.
        centre_years: The mean age of each class, floats (classes,); required with `years`.
        subjects: The person in each image (n,).

    Returns:
        The fields of `Estimate` as columns. Rows: "accuracy"; for age also "one-off accuracy" and, if there are exact ages,
        "mean absolute error".
    """
    ordered = task == "age"
    estimates = {"accuracy": bootstrap_mean(exact_match(truth, probability, ordered), subjects)}
    if ordered:
        estimates["one-off accuracy"] = bootstrap_mean(one_off(truth, probability), subjects)
    if ordered and years is not None:
        error = np.abs(expected_years(probability, centre_years) - np.asarray(years, float))
        known = ~np.isnan(error)
        if known.any():
            index = _subject_index(subjects, len(error))
            estimates["mean absolute error"] = bootstrap_mean(error[known], index[known], Unit.YEARS)
    return _to_frame(estimates)


def as_text(results: pd.DataFrame) -> pd.DataFrame:
    """Returns estimates as text, such as "91.3% (85.1–96.6, n = 183)"; `results` has the fields of `Estimate` as columns."""
    texts = [str(Estimate(*row)) for row in results[list(Estimate._fields)].itertuples(index=False)]
    return pd.DataFrame({"value (95% interval)": texts}, index=results.index)


def confusion_matrix(truth: npt.ArrayLike, probability: npt.ArrayLike, ordered: bool = False) -> npt.NDArray[np.int64]:
    """Returns counts of faces, int64 (classes, classes): rows are the true classes, columns the predicted ones."""
    from sklearn import metrics

    truth, probability = _check(truth, probability)
    return metrics.confusion_matrix(truth, decode(probability, ordered), labels=range(probability.shape[1]))


def per_class(truth, probability, names: Sequence[str], ordered: bool = False) -> pd.DataFrame:
    """Returns precision, recall, F1 (0-1, NaN if undefined) and the number of faces `n` of each class, ordered as `names`."""
    from sklearn.metrics import precision_recall_fscore_support

    truth, probability = _check(truth, probability)
    predicted = decode(probability, ordered)
    scores = precision_recall_fscore_support(truth, predicted, labels=range(len(names)), zero_division=np.nan)
    columns = dict(zip(("precision", "recall", "f1", "n"), scores))
    return pd.DataFrame(columns, index=pd.Index(list(names), name="class"))


def metric_by_group(groups, scores, order: Sequence[str] | None = None, subjects=None) -> pd.DataFrame:
    """Returns the mean score of each group of faces with its 95% interval.

    Args:
        groups: The group of each face, shape (n,), for example its gender. NA counts as the group "unknown".
        scores: One share (0-1) per face, floats (n,).
        order: All groups, in the order of the rows; by default those present, sorted. A group may have no face.
        subjects: The person in each image (n,).

    Returns:
        One row per group, with the fields of `Estimate` as columns.
    """
    scores, groups = np.asarray(scores, float), pd.Series(np.asarray(groups, object))
    index = _subject_index(subjects, len(scores))
    present = sorted(groups.dropna().unique())
    order = present if order is None else list(order)
    if set(present) - set(order):
        raise ValueError(f"groups must be among {order}, got {sorted(set(present) - set(order))}")
    names = [*order, "unknown"] if groups.isna().any() else order
    groups = groups.fillna("unknown").to_numpy(object)
    return _to_frame({name: bootstrap_mean(scores[groups == name], index[groups == name]) for name in names})


def mean_over_folds(headlines: Mapping) -> pd.DataFrame:
    """Returns the mean and the sample standard deviation of each metric over folds.

    Args:
        headlines: The result of `headline_metrics` of each fold.

    Returns:
        One row per metric: mean, sd (NaN for one fold), folds (how many have this metric), unit, text ("50.7 ± 5.1%").
    """
    rows = pd.concat(headlines.values()).groupby(level=0, sort=False)
    table = rows["value"].agg(mean="mean", sd="std", folds="count").join(rows["unit"].first())
    return table.assign(text=[format_value(row.mean, row.unit, row.sd) for row in table.itertuples()])


def _to_frame(estimates: dict[str, Estimate]) -> pd.DataFrame:
    return pd.DataFrame(list(estimates.values()), index=list(estimates), columns=Estimate._fields)


def _subject_index(subjects, n: int) -> npt.NDArray[np.int64]:
    """Returns a number for each subject, int64 (n,). Each face without a known subject gets a number of its own."""
    if subjects is None:
        return np.arange(n)
    if len(subjects) != n:
        raise ValueError(f"subjects must have {n} entries, one per face, got {len(subjects)}")
    index, names = pd.factorize(np.asarray(subjects, object))
    return np.where(index < 0, len(names) + np.cumsum(index < 0) - 1, index)


def _check(truth, probability) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    truth, probability = np.asarray(truth), _check_probability(probability)
    n, classes = probability.shape
    valid = truth.shape == (n,) and (n == 0 or np.issubdtype(truth.dtype, np.integer))
    if not valid or ((truth < 0) | (truth >= classes)).any():
        raise ValueError(f"truth must be {n} integers from 0 to {classes - 1}, got {truth.dtype} {truth.shape}: {truth[:12]}")
    return truth.astype(int), probability


def _check_probability(probability) -> npt.NDArray[np.float64]:
    probability = np.asarray(probability, float)
    # A single column would be a sigmoid, whose argmax is always class 0.
    if probability.ndim != 2 or probability.shape[1] < 2:
        raise ValueError(f"probability must have shape (n, classes), two classes or more, got {probability.shape}")
    # NaN fails this comparison too. Sums of half-precision networks differ from 1 by up to about 0.001.
    valid = (np.abs(probability.sum(axis=1) - 1) < 0.01) & (probability >= 0).all(axis=1)
    if not valid.all():
        row = valid.argmin()
        raise ValueError(f"each row of probability must be 0 or more and sum to 1, got {probability[row]} in row {row}")
    return probability
