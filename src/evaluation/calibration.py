"""How far probabilities can be trusted: temperature, calibration error, age intervals that keep their promise.

Every function takes plain arrays: probability, floats (n, classes), each row summing to 1; truth, integers (n,), the right
class of each face, from 0. Those on ages take probability over the years 0 to 100, floats (n, 101).

Before it: `evaluate`. After it: `released`, which fits it, and `assess` and `answers`, which use it.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import betainc, logsumexp

from src.config import YEARS, AgeGroups
from src.evaluation.metrics import decode, exact_match

INTERVAL_BANDS = (0, 7, 13, 20, 30, 40, 50, 60, 70, 80)  # the first year of each age band
FEWEST_PER_BAND = 20  # faces from which a band gets a quantile of its own
SPREAD = 2.0  # years added to each face's standard deviation: even the surest answer may be as far off
SHORT, RISK = 0.05, 0.01  # by how much an interval may miss its coverage, and how probably by more
FURTHEST = YEARS / SPREAD  # spreads: more than any year can be away
HOTTEST = 50.0  # temperatures are looked for between its inverse and it
POINTS = 100  # of a coverage curve


@dataclass(frozen=True)
class Calibration:
    """What a model's card says about trusting its answers.

    unsure_below: the probability of the answer given (0-1) below which the answer is called unsure. bands, quantiles: of
    `quantiles`, from which `interval` tells an age interval; both empty where there is none. Raises ValueError for other
    values.
    """

    unsure_below: float
    bands: tuple[int, ...] = ()
    quantiles: tuple[float, ...] = ()

    def __post_init__(self):
        if not _numbers([self.unsure_below], 1):
            raise ValueError(f"unsure_below must be a number from 0 to 1, got {self.unsure_below!r}")
        matching = isinstance(self.bands, (tuple, list)) and _numbers(self.quantiles, FURTHEST, len(self.bands))
        if not matching or not _numbers(self.bands, YEARS - 1):
            raise ValueError(
                f"quantiles must be numbers from 0 to {FURTHEST:g}, one for each of the bands, years from 0 to {YEARS - 1}, "
                f"got {self.quantiles!r} and {self.bands!r}"
            )
        if self.bands:
            _check_bands(self.bands)


def fit_temperature(log_probability, truth, groups=None) -> float:
    """The T > 0 that minimises the mean negative log-likelihood of softmax(log_probability / T) at the truth.

    log_probability: finite floats (n, classes), logits will do. groups: integers (classes,), the group that each class
    belongs to; then truth is each face's right group, and its likelihood the sum over the group's classes. T is looked for
    between 1/50 and 50. Raises ValueError for log_probability that is not finite and for a truth that no class belongs to.

    Source: temperature scaling, Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    from scipy.optimize import minimize_scalar  # here: whoever only predicts should not wait for it

    log_probability, truth = np.asarray(log_probability, float), np.asarray(truth)
    if log_probability.ndim != 2 or truth.shape != log_probability.shape[:1] or not len(truth):
        raise ValueError(
            f"log_probability must have shape (n, classes) and truth (n,), n at least 1, got {log_probability.shape} "
            f"and {truth.shape}"
        )
    if not np.isfinite(log_probability).all():
        raise ValueError("log_probability must be finite; raise probabilities of 0 to 1e-12 before taking the logarithm")
    groups = np.arange(log_probability.shape[1]) if groups is None else np.asarray(groups)
    right = groups == truth[:, None]
    if not right.any(axis=1).all():
        raise ValueError(f"truth must be among {np.unique(groups)}, got {np.setdiff1d(truth, groups)}")

    def loss(log_temperature: float) -> float:
        logits = log_probability / np.exp(log_temperature)
        return float(np.mean(logsumexp(logits, axis=1) - logsumexp(logits, axis=1, b=right)))

    edge = math.log(HOTTEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-edge, edge), method="bounded").x))


def reliability(probability, truth, bins: int = 15, ordered: bool = False) -> pd.DataFrame:
    """How often answers of like confidence are right.

    A face's confidence is the probability of its `evaluate.answer`. One row for each of `bins` equal ranges of confidence
    that holds a face: confidence and accuracy, their means (0-1), and n.
    """
    best = decode(probability, ordered)
    confidence = np.asarray(probability, float)[np.arange(len(best)), best]
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)  # an edge belongs to the range below it
    faces = pd.DataFrame({"confidence": confidence, "accuracy": exact_match(truth, probability, ordered)})
    groups = faces.groupby(place)
    return groups.mean().assign(n=groups.size()).reset_index(drop=True)


def expected_calibration_error(probability, truth, bins: int = 15, ordered: bool = False) -> float:
    """The mean distance between confidence and accuracy over the ranges of `reliability`, weighted by faces; 0-1.

    NaN where there is no face. Source: Guo et al. 2017, after Naeini et al., AAAI 2015.
    """
    table = reliability(probability, truth, bins, ordered)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float((gap * table["n"]).sum() / table["n"].sum()) if len(table) else math.nan


def sum_to_groups(probability, class_years, groups: AgeGroups) -> np.ndarray:
    """Probabilities of age classes summed into age groups: float64 (n, groups).

    class_years: each class's (first, last) year, (classes, 2). Raises ValueError where a class touches two groups.
    """
    class_years = np.asarray(class_years)
    index = groups.index(class_years[:, 0], class_years[:, 1])
    if (index < 0).any():
        several = [f"{low}-{high}" for low, high in class_years[index < 0]]
        raise ValueError(f"each class must lie in one of the groups from {groups.starts} years on, got {several}")
    return np.asarray(probability, float) @ (index[:, None] == np.arange(len(groups.names)))


def fit_conformal_quantiles(
    probability, years, bands: tuple[int, ...] = INTERVAL_BANDS, coverage: float = 0.9
) -> tuple[float, ...]:
    """How many spreads from the median the ages lie of the share `coverage` of each band's faces.

    years: the exact labelled ages of faces that the model has not seen, floats (n,), NaN where not known; above 100 counts as
    100. bands: the first year of each band of labelled age. One quantile a band; a face's spread is the standard deviation of
    its probabilities plus two years. A band with fewer than 20 faces takes the quantile over all faces.

    Split-conformal prediction, label-conditional: of n faces the ceil((n + 1) * coverage)-th smallest distance, or a larger
    one where n is small (see `_held`), so that the promise holds for new faces of each band, not only on average. Source:
    Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005; Vovk, "Conditional validity of inductive
    conformal predictors", 2012, for both. That distances are counted in a face's own spread: Lei et al., "Distribution-free
    predictive inference for regression", 2018.
    """
    years = np.asarray(years, float)
    away = _from_median(probability)
    if years.shape != away.shape[:1] or (years < 0).any() or not 0 < coverage < 1:
        raise ValueError(
            f"years must be {len(away)} ages of 0 or more and coverage between 0 and 1, got years of shape {years.shape}, "
            f"the least {np.nanmin(years, initial=np.inf)}, and coverage {coverage}"
        )
    known = ~np.isnan(years)
    whole = np.minimum(years[known], YEARS - 1).astype(int)
    away = away[known, whole]
    band = _band(whole, bands)
    overall = _conformal_rank(away, coverage)
    return tuple(
        _conformal_rank(away[band == i], coverage) if (band == i).sum() >= FEWEST_PER_BAND else overall
        for i in range(len(bands))
    )


def prediction_interval(probability, quantiles, bands: tuple[int, ...] = INTERVAL_BANDS) -> np.ndarray:
    """The lowest and the highest year that may be a face's age by `quantiles`; int64 (n, 2), inclusive.

    A year may be the age where its distance from the median, in spreads, is at most the quantile of the year's band.
    Raises ValueError where there is not one quantile for each band.
    """
    if len(quantiles) != len(bands):
        raise ValueError(f"quantiles must be {len(bands)}, one for each band, got {len(quantiles)}")
    allowed = _from_median(probability) <= np.asarray(quantiles, float)[_band(np.arange(YEARS), bands)]
    return np.column_stack([allowed.argmax(axis=1), YEARS - 1 - allowed[:, ::-1].argmax(axis=1)])


def coverage_curve(confidence, score) -> pd.DataFrame:
    """What answering only the surest faces would give: about 100 rows of coverage and score.

    confidence, score: floats (n,), n at least 1; faces of equal confidence stay in the order given. coverage: the share of
    faces answered, the most confident ones (0-1); score: their mean score. Raises ValueError for other shapes and for NaN.
    """
    confidence, score = np.asarray(confidence, float), np.asarray(score, float)
    if confidence.shape != score.shape or score.ndim != 1 or not len(score):
        raise ValueError(
            f"confidence and score must have the same shape (n,), n at least 1, got {confidence.shape} and {score.shape}"
        )
    if np.isnan([confidence, score]).any():
        raise ValueError("confidence and score must not be NaN; leave those faces out")
    mean = score[np.argsort(-confidence, kind="stable")].cumsum() / np.arange(1, len(score) + 1)
    count = np.unique(np.ceil(np.linspace(1 / POINTS, 1, POINTS) * len(score)).astype(int))
    return pd.DataFrame({"coverage": count / len(score), "score": mean[count - 1]})


def _conformal_rank(away: np.ndarray, coverage: float) -> float:
    """The conformal quantile. A new face may lie further off than any seen: the furthest stands for it.

    Few faces may by chance be nearer than most: the share of new faces within their r-th smallest distance has the
    distribution Beta(r, n + 1 - r), and r rises until it falls short by more than `SHORT` in one case of a hundred only, or
    to the furthest seen, which of fewer than 29 faces is a little less sure.
    """
    rank = math.ceil((len(away) + 1) * coverage)
    while rank < len(away) and betainc(rank, len(away) + 1 - rank, coverage - SHORT) > RISK:
        rank += 1
    return float(np.sort(np.append(away, FURTHEST))[rank - 1])


def _from_median(probability) -> np.ndarray:
    """How far each year is from the median, in spreads of the face; float64 (n, 101)."""
    probability = np.asarray(probability, float)
    if probability.ndim != 2 or probability.shape[1] != YEARS:
        raise ValueError(f"probability must have shape (n, {YEARS}), one column a year, got {probability.shape}")
    years = np.arange(YEARS)
    mean = probability @ years
    deviation = np.sqrt((probability * np.square(years - mean[:, None])).sum(axis=1))
    median = decode(probability, ordered=True)
    return np.abs(years - median[:, None]) / (deviation[:, None] + SPREAD)


def _band(years: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    _check_bands(bands)
    return np.searchsorted(bands, years, side="right") - 1


def _check_bands(bands) -> None:
    if len(bands) == 0 or bands[0] != 0 or sorted(set(bands)) != list(bands) or sum(bands) != sum(map(int, bands)):
        raise ValueError(f"bands must be rising whole years, the first 0, got {bands}")


def _numbers(values, highest: float, count: int | None = None) -> bool:
    """Whether the values are a list of numbers from 0 to the highest, `count` of them."""
    return (
        isinstance(values, (tuple, list))
        and count in (None, len(values))
        and all(isinstance(value, (int, float)) and 0 <= value <= highest for value in values)
    )
