"""Calibration of probabilities: temperature, calibration error, and conformal prediction intervals of the age.

These arguments mean the same everywhere:

- probability: The predicted probability of each class, floats (n, classes). Each row sums to 1.
- year_probability: The predicted probability of each year from 0 to 100, floats (n, 101).
- truth: The correct class of each face, integers (n,), from 0.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betainc, logsumexp

from src.config import YEAR_COUNT, AgeGroups
from src.evaluation.metrics import decode, exact_match, prediction_confidence

INTERVAL_BANDS = (0, 7, 13, 20, 30, 40, 50, 60, 70, 80)  # the first year of each age band
INTERVAL_COVERAGE = 0.9  # share of the faces whose age is in their interval
SCALE_OFFSET_YEARS = 2.0  # added to the standard deviation, so that very certain predictions still get an interval
_MIN_FACES_PER_BAND = 20  # a smaller band uses the quantile of all faces
_MAX_SHORTFALL = 0.05  # tolerated shortfall of the true coverage
_SHORTFALL_RISK = 0.01  # maximum probability of a larger shortfall
_MAX_RESIDUAL = YEAR_COUNT / SCALE_OFFSET_YEARS  # no scaled residual is larger
_MAX_TEMPERATURE = 50.0
_CURVE_POINTS = 100


@dataclass(frozen=True)
class Calibration:
    """The calibration stored in a model's card.

    Attributes:
        unsure_below: Predictions with a lower probability (0-1) are marked as unsure.
        bands: The first year of each age band of the intervals, rising from 0; empty if there are none.
        quantiles: The quantile of each band, from `fit_conformal_quantiles`.

    Raises:
        ValueError: `unsure_below` is out of range, or a band has no quantile.
    """

    unsure_below: float
    bands: tuple[int, ...] = ()
    quantiles: tuple[float, ...] = ()

    def __post_init__(self):
        if not 0 <= self.unsure_below <= 1 or len(self.bands) != len(self.quantiles):
            raise ValueError(f"unsure_below must be from 0 to 1, and each band must have one quantile, got {self}")


def fit_temperature(log_probability: npt.ArrayLike, truth: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> float:
    """Returns the temperature T that minimises the mean negative log-likelihood of softmax(log_probability / T).

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
    """Returns the accuracy by confidence, which is the probability of the predicted class (see `metrics.decode`).

    Args:
        probability: Floats (n, classes).
        truth: The correct classes, integers (n,).
        bins: Number of equal ranges of confidence.
        ordered: Whether the classes have an order.

    Returns:
        One row per range with a face: the means confidence and accuracy (0-1) and the number of faces n.
    """
    confidence = prediction_confidence(probability, ordered)
    index = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)  # an edge belongs to the range below it
    faces = pd.DataFrame({"confidence": confidence, "accuracy": exact_match(truth, probability, ordered)})
    ranges = faces.groupby(index)
    return ranges.mean().assign(n=ranges.size()).reset_index(drop=True)


def expected_calibration_error(probability, truth, ordered: bool = False) -> float:
    """Returns the mean gap between confidence and accuracy (0-1) over the ranges of `reliability`, weighted by faces.

    The arguments are those of `reliability`. Without a face, the result is NaN. Source: Guo et al. 2017, after Naeini et al.,
    AAAI 2015.
    """
    table = reliability(probability, truth, ordered=ordered)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float((gap * table["n"]).sum() / table["n"].sum()) if len(table) else math.nan


def sum_to_groups(year_probability: npt.ArrayLike, groups: AgeGroups) -> npt.NDArray[np.float64]:
    """Returns the probability of each age group, the sum over its years; float64 (n, groups)."""
    return np.add.reduceat(_check_years(year_probability), groups.starts, axis=1)


def fit_conformal_quantiles(year_probability: npt.ArrayLike, labelled_years: npt.ArrayLike) -> tuple[float, ...]:
    """Fits prediction intervals that cover 90% of the faces in each band of labelled age (INTERVAL_BANDS).

    The scaled residual of a face is |label - median| / (sd + 2), where the median and the standard deviation sd of its
    predicted distribution are in years. The result is a quantile of these residuals for each band (label-conditional split
    conformal prediction), slightly larger for few faces.

    Sources: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005; Vovk, "Conditional validity of
    inductive conformal predictors", 2012; for the scaling, Lei et al., "Distribution-free predictive inference for
    regression", 2018.

    Args:
        year_probability: Predictions for faces that the model was not trained on, floats (n, 101).
        labelled_years: The labelled age of each face, floats (n,), NaN where unknown. Ages above 100 count as 100.

    Returns:
        One quantile per band. A band with fewer than 20 faces has the quantile of all faces.

    Raises:
        ValueError: A shape is wrong, or an age is negative.
    """
    labelled_years = np.asarray(labelled_years, float)
    residual = _scaled_residuals(year_probability)
    if labelled_years.shape != residual.shape[:1] or (labelled_years < 0).any():
        raise ValueError(
            f"labelled_years must be {len(residual)} ages of 0 or more, got {labelled_years[:12]} "
            f"of shape {labelled_years.shape}"
        )
    known = ~np.isnan(labelled_years)
    year = np.minimum(labelled_years[known], YEAR_COUNT - 1).astype(int)
    residual, band = residual[known, year], _band_index(year, INTERVAL_BANDS)
    in_bands = [residual[band == i] for i in range(len(INTERVAL_BANDS))]
    return tuple(_conformal_quantile(own if len(own) >= _MIN_FACES_PER_BAND else residual) for own in in_bands)


def prediction_interval(year_probability: npt.ArrayLike, calibration: Calibration) -> npt.NDArray[np.int64]:
    """Returns the lowest and the highest year of each face's interval, int64 (n, 2), inclusive.

    The interval is the shortest one that contains each year whose scaled residual is at most the quantile of its band.

    Args:
        year_probability: Floats (n, 101).
        calibration: Contains the bands and their quantiles.
    """
    quantiles = np.asarray(calibration.quantiles)[_band_index(np.arange(YEAR_COUNT), calibration.bands)]
    allowed = _scaled_residuals(year_probability) <= quantiles
    return np.column_stack([allowed.argmax(axis=1), YEAR_COUNT - 1 - allowed[:, ::-1].argmax(axis=1)])


def coverage_curve(confidence: npt.ArrayLike, score: npt.ArrayLike) -> pd.DataFrame:
    """Returns the mean score of the most confident predictions, for about 100 shares of the faces.

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


def _conformal_quantile(residual: npt.NDArray[np.float64]) -> float:
    """Returns the residual of conformal rank ceil((n + 1) * INTERVAL_COVERAGE), or of a higher rank for few faces.

    The share of new faces within the r-th smallest of n residuals has the distribution Beta(r, n + 1 - r). The rank rises
    until the probability that this share is more than `_MAX_SHORTFALL` too small is at most `_SHORTFALL_RISK`, or to n.
    """
    n, lowest_coverage = len(residual), INTERVAL_COVERAGE - _MAX_SHORTFALL
    rank = math.ceil((n + 1) * INTERVAL_COVERAGE)
    while rank < n and betainc(rank, n + 1 - rank, lowest_coverage) > _SHORTFALL_RISK:
        rank += 1
    return float(np.sort(np.append(residual, _MAX_RESIDUAL))[rank - 1])


def _scaled_residuals(year_probability) -> npt.NDArray[np.float64]:
    """Returns |year - median| / (sd + 2) of each year, float64 (n, 101); see `fit_conformal_quantiles`."""
    probability, years = _check_years(year_probability), np.arange(YEAR_COUNT)
    mean = probability @ years
    deviation = np.sqrt((probability * np.square(years - mean[:, None])).sum(axis=1))
    return np.abs(years - decode(probability, ordered=True)[:, None]) / (deviation[:, None] + SCALE_OFFSET_YEARS)


def _band_index(years: npt.NDArray[np.int64], bands: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.searchsorted(bands, years, side="right") - 1


def _check_years(year_probability) -> npt.NDArray[np.float64]:
    year_probability = np.asarray(year_probability, float)
    if year_probability.ndim != 2 or year_probability.shape[1] != YEAR_COUNT:
        raise ValueError(
            f"year_probability must have shape (n, {YEAR_COUNT}), one column per year, got {year_probability.shape}"
        )
    return year_probability
