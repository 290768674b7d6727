"""Evaluates a gender and an age model on test faces: over all faces and by age band, gender and race."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import AGE_GROUPS, YEAR_COUNT, named_by_years
from src.data import AGE_GROUPS_OF, fairface, utkface
from src.data.table import age_bounds, exact_years, task_labels
from src.evaluation.calibration import Calibration, expected_calibration_error, prediction_interval, sum_to_groups
from src.evaluation.metrics import Estimate, Unit, bootstrap_mean, decode, exact_match, one_off

AGE_BANDS = named_by_years(((0, 6), (7, 12), (13, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 100)))
MIN_GROUP_SIZE = 30  # faces; `worst_group` ignores smaller groups
RESULT_COLUMNS = ("dataset", "metric", "by", "group", *Estimate._fields)


class Metric(StrEnum):
    """The values of the column `metric` in result files."""

    GENDER_ACCURACY = "gender accuracy"
    EIGHT_GROUPS_EXACT = "eight groups exact"
    EIGHT_GROUPS_ONE_OFF = "eight groups one-off"
    NINE_RANGES_EXACT = "nine ranges exact"
    NINE_RANGES_ONE_OFF = "nine ranges one-off"
    ABSOLUTE_ERROR = "absolute error"
    WITHIN_FIVE_YEARS = "within five years"
    INTERVAL_COVERAGE = "90% interval covers"
    INTERVAL_WIDTH = "90% interval width"
    GENDER_CALIBRATION = "gender calibration error"
    AGE_CALIBRATION = "age group calibration error"

    @property
    def task(self) -> str:
        """The task that the metric evaluates, "gender" or "age"."""
        return "gender" if self in (Metric.GENDER_ACCURACY, Metric.GENDER_CALIBRATION) else "age"


class Grouping(StrEnum):
    """The values of the column `by` in result files. The only group of ALL has the name "all" too."""

    ALL = "all"
    AGE = "age"
    GENDER = "gender"
    RACE = "race"


LOWER_IS_BETTER = {Metric.ABSOLUTE_ERROR, Metric.INTERVAL_WIDTH, Metric.GENDER_CALIBRATION, Metric.AGE_CALIBRATION}
CALIBRATION_ERRORS = {"gender": Metric.GENDER_CALIBRATION, "age": Metric.AGE_CALIBRATION}  # by task
GROUP_METRICS = {  # by the name of the age groups: exactly right, at most one group off
    "adience": (Metric.EIGHT_GROUPS_EXACT, Metric.EIGHT_GROUPS_ONE_OFF),
    "fairface": (Metric.NINE_RANGES_EXACT, Metric.NINE_RANGES_ONE_OFF),
}


class LabelledPredictions(NamedTuple):
    """The predictions for the m faces that have a label for a task."""

    rows: npt.NDArray[np.int64]  # (m,), row positions in the table that was passed in
    truth: npt.NDArray[np.int64]  # (m,), the correct classes
    probability: npt.NDArray[np.float64]  # (m, classes)
    ordered: bool  # whether the classes have an order; see `metrics.decode`


def labelled_predictions(table: pd.DataFrame, task: str, probability: npt.NDArray) -> LabelledPredictions:
    """Selects the faces with a label for a task, and sums the years to the age groups of their data set.

    Args:
        table: A table of faces (n rows) of one data set.
        task: "gender" or "age".
        probability: Floats (n, 2) of female and male, or (n, 101) of the years 0-100.

    Returns:
        The faces with a label.
    """
    groups = AGE_GROUPS[AGE_GROUPS_OF[table["dataset"].iloc[0]]]
    labelled = task_labels(table.reset_index(drop=True), task, groups).table
    probability = sum_to_groups(probability, groups) if task == "age" else np.asarray(probability, float)
    rows = labelled.index.to_numpy()
    return LabelledPredictions(rows, labelled["label"].to_numpy(), probability[rows], ordered=task == "age")


def evaluate_subgroups(
    table: pd.DataFrame,
    gender_probability: npt.NDArray,
    year_probability: npt.NDArray,
    calibration: Calibration,
    race: npt.NDArray,
) -> pd.DataFrame:
    """Computes each `Metric` that a data set has labels for, over all faces and for each group.

    Args:
        table: A table of faces (n rows) of one data set.
        gender_probability: Probabilities of female and male, floats (n, 2).
        year_probability: Probabilities of the years 0-100, floats (n, 101).
        calibration: The calibration of the age model.
        race: The race label of each face, shape (n,), None where there is none; see `load_races`.

    Returns:
        One row per metric and group, with the columns RESULT_COLUMNS. Calibration errors are over all faces only and have no
        interval.
    """
    dataset = table["dataset"].iloc[0]
    bands = AGE_GROUPS["fairface"] if dataset == "fairface" else AGE_BANDS  # FairFace's labels are ranges
    middle = np.mean(age_bounds(table), axis=0)
    groups = {
        Grouping.ALL: np.full(len(table), Grouping.ALL, object),
        Grouping.AGE: np.array([*bands.names, None], object)[bands.index(middle, middle)],  # index -1 selects None
        Grouping.GENDER: table["gender"].fillna("").to_numpy(object),
        Grouping.RACE: np.asarray(race, object),
    }
    names = {by: sorted(set(filter(None, values))) for by, values in groups.items()} | {Grouping.AGE: bands.names}
    subjects = table["subject"].to_numpy(object)
    results = []
    for metric, rows, scores, unit in face_scores(table, gender_probability, year_probability, calibration):
        for by, values in groups.items():
            for name in names[by]:
                in_group = values[rows] == name
                if in_group.any():
                    estimate = bootstrap_mean(scores[in_group], subjects[rows[in_group]], unit)
                    results.append((dataset, metric, by, name, *estimate))
    for task, probability in {"gender": gender_probability, "age": year_probability}.items():
        labelled = labelled_predictions(table, task, probability)
        if n := len(labelled.rows):
            error = expected_calibration_error(labelled.probability, labelled.truth, ordered=labelled.ordered)
            estimate = Estimate(error, np.nan, np.nan, n)
            results.append((dataset, CALIBRATION_ERRORS[task], Grouping.ALL, Grouping.ALL, *estimate))
    return pd.DataFrame(results, columns=list(RESULT_COLUMNS)).astype({"metric": str, "by": str, "group": str, "unit": str})


def face_scores(
    table: pd.DataFrame,
    gender_probability: npt.NDArray,
    year_probability: npt.NDArray,
    calibration: Calibration | None = None,
) -> Iterator[tuple[Metric, npt.NDArray[np.int64], npt.NDArray, Unit]]:
    """Scores single faces by each metric; the arguments are those of `evaluate_subgroups`.

    Yields:
        The metric, the row positions (m,) of the faces that have a label for it, their scores (m,) and the unit. Without a
        calibration, the metrics of the interval are left out.
    """
    rows, truth, probability, _ = labelled_predictions(table, "gender", gender_probability)
    yield Metric.GENDER_ACCURACY, rows, exact_match(truth, probability), Unit.SHARE
    rows, truth, probability, ordered = labelled_predictions(table, "age", year_probability)
    exact, at_most_one_off = GROUP_METRICS[AGE_GROUPS_OF[table["dataset"].iloc[0]]]
    yield exact, rows, exact_match(truth, probability, ordered), Unit.SHARE
    yield at_most_one_off, rows, one_off(truth, probability), Unit.SHARE
    years = exact_years(table)
    rows = np.flatnonzero(~np.isnan(years))
    years, probability = years[rows], np.asarray(year_probability, float)[rows]
    error = np.abs(decode(probability, ordered=True) - years)
    yield Metric.ABSOLUTE_ERROR, rows, error, Unit.YEARS
    yield Metric.WITHIN_FIVE_YEARS, rows, error <= 5, Unit.SHARE
    if calibration is None:
        return
    low, high = prediction_interval(probability, calibration).T
    covered = (low <= years) & (np.minimum(years, YEAR_COUNT - 1) <= high)
    yield Metric.INTERVAL_COVERAGE, rows, covered, Unit.SHARE
    yield Metric.INTERVAL_WIDTH, rows, high - low + 1, Unit.YEARS


def load_races(table: pd.DataFrame, folder: Path) -> npt.NDArray[np.object_]:
    """Returns the race label of each face as UTKFace or FairFace names it, None where there is none; shape (n,).

    Args:
        table: A table of faces (n rows).
        folder: The data set's folder, from which FairFace's label files are read.
    """
    race = np.full(len(table), None, object)
    for dataset, rows in table.reset_index(drop=True).groupby("dataset"):
        if dataset == "utkface":
            race[rows.index] = utkface.races(rows["path"])
        elif dataset == "fairface":
            race[rows.index] = fairface.races(folder, rows["path"])
    return race


def worst_group(results: pd.DataFrame, metric: str, by: str) -> pd.Series:
    """Returns the row of the group with the worst value among those of at least MIN_GROUP_SIZE faces.

    Raises:
        ValueError: No group has enough faces.
    """
    rows = results[(results["metric"] == metric) & (results["by"] == by) & (results["n"] >= MIN_GROUP_SIZE)]
    if rows.empty:
        raise ValueError(f"expected a group by {by} of at least {MIN_GROUP_SIZE} faces for {metric}, got none")
    return rows.loc[rows["value"].idxmax() if metric in LOWER_IS_BETTER else rows["value"].idxmin()]
