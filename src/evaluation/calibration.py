"""Calibration of probabilities: temperature, calibration error, and conformal prediction intervals of the age.

These arguments mean the same everywhere:

- probability: The predicted probability of each class, floats (n, classes). Each row sums to 1.
- age: The predicted probability of each year from 0 to 100, floats (n, 101).
- truth: The correct class of each face, integers (n,), from 0.
- bands: The first year of each age band, rising from 0.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betainc, logsumexp

from src.config import YEARS, AgeGroups
from src.evaluation.metrics import decode, exact_match, prediction_confidence

INTERVAL_BANDS = (0, 7, 13, 20, 30, 40, 50, 60, 70, 80)
SPREAD = 2.0  # years added to the standard deviation of each face, since even a certain prediction can be this wrong
_MIN_FACES_PER_BAND = 20  # a smaller band uses the quantile of all faces
_SHORTFALL, _SHORTFALL_RISK = 0.05, 0.01  # the coverage is too low by more than 0.05 with a probability of at most 0.01
_MAX_DISTANCE = YEARS / SPREAD  # in spreads: no year is farther from the median
_MAX_TEMPERATURE = 50.0
_CURVE_POINTS = 100


@dataclass(frozen=True)
class Calibration:
    """The calibration stored in a model's card.

    Attributes:
        unsure_below: Predictions with a lower probability (0-1) are marked as unsure.
        bands: The age bands of the intervals; empty if there are none.
        quantiles: The quantile of each band, from `fit_conformal_quantiles`.

    Raises:
        ValueError: A value is out of range.
    """

    unsure_below: float
    bands: tuple[int, ...] = ()
    quantiles: tuple[float, ...] = ()

    def __post_init__(self):
        if not _in_range(self.unsure_below, 1):
            raise ValueError(f"unsure_below must be a number from 0 to 1, got {self.unsure_below!r}")
        lists = isinstance(self.bands, (tuple, list)) and isinstance(self.quantiles, (tuple, list))
        same_length = lists and len(self.bands) == len(self.quantiles)
        if not same_length or not all(_in_range(quantile, _MAX_DISTANCE) for quantile in self.quantiles):
            raise ValueError(
                f"quantiles must be numbers from 0 to {_MAX_DISTANCE:g}, one for each of the bands, got quantiles "
                f"{self.quantiles!r} and bands {self.bands!r}"
            )
        if self.bands:
            _check_bands(self.bands)


def fit_temperature(log_probability: npt.ArrayLike, truth: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> float:
    """Finds the temperature T that minimises the mean negative log-likelihood of softmax(log_probability / T).

    Source: temperature scaling, Guo et al., "On calibration of modern neural networks", ICML 2017.

    Args:
        log_probability: Finite logits or log-probabilities, floats (n, classes).
        truth: The correct class or, with `groups`, the correct group of each face.
        groups: The group of each class, integers (classes,). The likelihood is then the sum over the classes of a group.

    Returns:
        The temperature, between 1/50 and 50.

    Raises:
        ValueError: A log-probability is not finite, or a truth has no class.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and not needed for predictions

    log_probability, truth = np.asarray(log_probability, float), np.asarray(truth)
    if not np.isfinite(log_probability).all():
        raise ValueError("log_probability must be finite; raise probabilities of 0 to 1e-12 before taking the logarithm")
    groups = np.arange(log_probability.shape[1]) if groups is None else np.asarray(groups)
    correct = groups == truth[:, None]
    if not correct.any(axis=1).all():
        raise ValueError(f"truth must be among {np.unique(groups)}, got {np.setdiff1d(truth, groups)}")

    def loss(log_temperature: float) -> float:
        logits = log_probability / np.exp(log_temperature)
        return float(np.mean(logsumexp(logits, axis=1) - logsumexp(logits, axis=1, b=correct)))

    bound = math.log(_MAX_TEMPERATURE)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def reliability(probability, truth, bins: int = 15, ordered: bool = False) -> pd.DataFrame:
    """Accuracy by confidence, the probability of the predicted class (see `metrics.decode`).

    Returns:
        One row for each of `bins` equal ranges of confidence that holds a face, with the means confidence and accuracy
        (0-1) and the number of faces n.
    """
    confidence = prediction_confidence(probability, ordered)
    index = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)  # an edge belongs to the range below it
    faces = pd.DataFrame({"confidence": confidence, "accuracy": exact_match(truth, probability, ordered)})
    ranges = faces.groupby(index)
    return ranges.mean().assign(n=ranges.size()).reset_index(drop=True)


def expected_calibration_error(probability, truth, bins: int = 15, ordered: bool = False) -> float:
    """The mean gap between confidence and accuracy over the ranges of `reliability`, weighted by faces; 0-1, NaN for no face.

    Source: Guo et al. 2017, after Naeini et al., AAAI 2015.
    """
    table = reliability(probability, truth, bins, ordered)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float((gap * table["n"]).sum() / table["n"].sum()) if len(table) else math.nan


def sum_to_groups(age: npt.ArrayLike, groups: AgeGroups) -> npt.NDArray[np.float64]:
    """The probability of each age group, the sum over its years; float64 (n, groups)."""
    return np.add.reduceat(_check_age(age), groups.starts, axis=1)


def fit_conformal_quantiles(
    age: npt.ArrayLike, years: npt.ArrayLike, bands: tuple[int, ...] = INTERVAL_BANDS, coverage: float = 0.9
) -> tuple[float, ...]:
    """Fits prediction intervals that contain the share `coverage` of the faces in each band of labelled age.

    The distance of a label from the predicted median is measured in spreads. The spread of a face is the standard deviation
    of its distribution plus two years. The result is a quantile of these distances for each band (label-conditional split
    conformal prediction), slightly larger for few faces.

    Sources: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005; Vovk, "Conditional validity of
    inductive conformal predictors", 2012; for the scaling, Lei et al., "Distribution-free predictive inference for
    regression", 2018.

    Args:
        years: The labelled age of faces that the model was not trained on, floats (n,), NaN where unknown. Ages above 100
            count as 100.

    Returns:
        One quantile a band. A band with fewer than 20 faces has the quantile of all faces.
    """
    years = np.asarray(years, float)
    distance = _distance_from_median(age)
    if years.shape != distance.shape[:1] or (years < 0).any():
        raise ValueError(f"years must be {len(distance)} ages of 0 or more, got {years[:12]} of shape {years.shape}")
    known = ~np.isnan(years)
    whole_years = np.minimum(years[known], YEARS - 1).astype(int)
    distance, band = distance[known, whole_years], _band_index(whole_years, bands)
    large = np.bincount(band, minlength=len(bands)) >= _MIN_FACES_PER_BAND
    return tuple(_conformal_quantile(distance[band == i] if large[i] else distance, coverage) for i in range(len(bands)))


def prediction_interval(
    age: npt.ArrayLike, quantiles: tuple[float, ...], bands: tuple[int, ...] = INTERVAL_BANDS
) -> npt.NDArray[np.int64]:
    """The lowest and the highest year of each face's interval, int64 (n, 2), inclusive.

    A year is in the interval if its distance from the median, in spreads, is at most the quantile of the year's band.
    """
    allowed = _distance_from_median(age) <= np.asarray(quantiles)[_band_index(np.arange(YEARS), bands)]
    return np.column_stack([allowed.argmax(axis=1), YEARS - 1 - allowed[:, ::-1].argmax(axis=1)])


def coverage_curve(confidence: npt.ArrayLike, score: npt.ArrayLike) -> pd.DataFrame:
    """The mean score of the most confident predictions, for about 100 shares of the faces.

    Args:
        confidence: The confidence of each prediction, floats (n,), n at least 1.
        score: The score of each prediction, floats (n,).

    Returns:
        coverage, the share of faces with a prediction (0-1), and score, their mean score.
    """
    score = np.asarray(score, float)
    mean = score[np.argsort(-np.asarray(confidence), kind="stable")].cumsum() / np.arange(1, len(score) + 1)
    count = np.unique(np.ceil(np.linspace(1 / _CURVE_POINTS, 1, _CURVE_POINTS) * len(score)).astype(int))
    return pd.DataFrame({"coverage": count / len(score), "score": mean[count - 1]})


def _conformal_quantile(distance: npt.NDArray[np.float64], coverage: float) -> float:
    """The distance of conformal rank ceil((n + 1) * coverage), or of a higher rank for few faces.

    The share of new faces within the r-th smallest of n distances has the distribution Beta(r, n + 1 - r). The rank rises
    until the risk that this share is too small is low enough, at most to the largest distance.
    """
    rank = math.ceil((len(distance) + 1) * coverage)
    while rank < len(distance) and betainc(rank, len(distance) + 1 - rank, coverage - _SHORTFALL) > _SHORTFALL_RISK:
        rank += 1
    return float(np.sort(np.append(distance, _MAX_DISTANCE))[rank - 1])


def _distance_from_median(age) -> npt.NDArray[np.float64]:
    """The distance of each year from the face's median, in spreads of the face; float64 (n, 101)."""
    age, years = _check_age(age), np.arange(YEARS)
    mean = age @ years
    deviation = np.sqrt((age * np.square(years - mean[:, None])).sum(axis=1))
    return np.abs(years - decode(age, ordered=True)[:, None]) / (deviation[:, None] + SPREAD)


def _band_index(years: npt.NDArray[np.int64], bands: tuple[int, ...]) -> npt.NDArray[np.int64]:
    _check_bands(bands)
    return np.searchsorted(bands, years, side="right") - 1


def _check_age(age) -> npt.NDArray[np.float64]:
    age = np.asarray(age, float)
    if age.ndim != 2 or age.shape[1] != YEARS:
        raise ValueError(f"probability must have shape (n, {YEARS}), one column a year, got {age.shape}")
    return age


def _check_bands(bands) -> None:
    valid = all(_in_range(band, YEARS - 1) and band == int(band) for band in bands)
    if not valid or not bands or bands[0] != 0 or sorted(set(bands)) != list(bands):
        raise ValueError(f"bands must be rising whole years from 0 to {YEARS - 1}, the first 0, got {bands}")


def _in_range(value, highest: float) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= highest
