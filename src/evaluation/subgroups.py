"""The honest judgement of a gender and an age model on faces that neither was trained or chosen on.

Every figure is a row with its 95% interval and n, overall and by age band, gender and race. Before it: `evaluate`,
`calibrate`. Used by: `released`, notebook 6.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from src.config import AGE_GROUPS, GENDERS, YEARS, AgeGroups
from src.data import AGE_GROUPS_OF, fairface
from src.data.table import exact_years
from src.evaluation.calibration import Calibration, expected_calibration_error, prediction_interval, sum_to_groups
from src.evaluation.metrics import Measure, bootstrap_mean, decode, exact_match, one_off

AGE_BANDS = ((0, 6), (7, 12), (13, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 100))
UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "Other")
YEARS_OF_CLASSES = [(year, year) for year in range(YEARS)]
FEWEST_PER_GROUP = 30  # faces of a group that `worst` looks at
RESULT_COLUMNS = ("dataset", "measure", "by", "group", *Measure._fields)


def evaluate_subgroups(
    table: pd.DataFrame, gender: np.ndarray, age: np.ndarray, calibration: Calibration, race: np.ndarray
) -> pd.DataFrame:
    """All figures of one data set's faces, as rows of `COLUMNS`; `by` and `group` are "all" for the whole.

    table: a table of faces, of one data set. gender: floats (n, 2), probabilities of female and male. age: floats (n, 101),
    of the years 0-100. calibration: of the age model. race: (n,), as the data set names it, NA where it does not.
    """
    dataset = table["dataset"].iloc[0]
    scores = _scores(table, gender, age, calibration, AGE_GROUPS[AGE_GROUPS_OF[dataset]])
    subjects = table["subject"].to_numpy(object)
    bands = (
        AGE_GROUPS["fairface"].years if dataset == "fairface" else AGE_BANDS
    )  # its labels are ranges, and can't be cut anew
    parts = {
        "all": np.full(len(table), "all"),
        "age": _bands(table, bands),
        "gender": table["gender"].to_numpy(object),
        "race": race,
    }
    rows = []
    for measure, (values, unit) in scores.items():
        for by, groups in parts.items():
            groups = pd.Series(groups, dtype=object)
            for group in _names(bands) if by == "age" else sorted(set(groups.dropna())):
                mask = (groups == group).to_numpy(bool) & np.isfinite(values)
                if mask.any():
                    rows.append((dataset, measure, by, group, *bootstrap_mean(values[mask], subjects[mask], unit)))
    return pd.DataFrame(rows + _calibration_rows(dataset, table, gender, age), columns=list(RESULT_COLUMNS))


def _scores(table, gender, age, calibration, groups) -> dict[str, tuple[np.ndarray, str]]:
    """Each measure's score of each face, NaN where the face has no label for it, and its unit."""
    truth, group = _truths(table, groups)
    scores = {
        "gender accuracy": (_where_known(truth, lambda known: exact_match(truth[known].astype(int), gender[known])), "share")
    }
    summed = sum_to_groups(age, YEARS_OF_CLASSES, groups)
    name = {8: "eight groups", 9: "nine ranges"}[len(groups.names)]
    scores[f"{name} exact"] = (
        _where_known(group, lambda known: exact_match(group[known].astype(int), summed[known], ordered=True)),
        "share",
    )
    scores[f"{name} 1-off"] = (_where_known(group, lambda known: one_off(group[known].astype(int), summed[known])), "share")
    years = exact_years(table)
    if np.isfinite(years).any():
        error = np.abs(decode(age, ordered=True) - years)
        low, high = prediction_interval(age, calibration.quantiles, calibration.bands).T
        inside = (low <= years) & (np.minimum(years, YEARS - 1) <= high)
        scores["absolute error"] = (error, "years")
        scores["within five years"] = (np.where(np.isfinite(years), error <= 5, np.nan), "share")
        scores["90% interval covers"] = (np.where(np.isfinite(years), inside, np.nan), "share")
        scores["90% interval width"] = (np.where(np.isfinite(years), high - low + 1.0, np.nan), "years")
    return scores


def _truths(table: pd.DataFrame, groups: AgeGroups) -> tuple[np.ndarray, np.ndarray]:
    """Each face's gender and age group as class indices, float (n,), NaN where not known."""
    gender = table["gender"].map({name: i for i, name in enumerate(GENDERS)}).astype(float).to_numpy()
    group = groups.index(*(table[name].to_numpy(float, na_value=np.nan) for name in ("age_low", "age_high"))).astype(float)
    group[group < 0] = np.nan
    return gender, group


def _calibration_rows(dataset, table, gender, age) -> list[tuple]:
    groups = AGE_GROUPS[AGE_GROUPS_OF[dataset]]
    truth, group = _truths(table, groups)
    rows = []
    summed = sum_to_groups(age, YEARS_OF_CLASSES, groups)
    for name, known, probability, right, ordered in (
        ("gender calibration error", np.isfinite(truth), gender, truth, False),
        ("age group calibration error", np.isfinite(group), summed, group, True),
    ):
        if known.any():
            error = expected_calibration_error(probability[known], right[known].astype(int), ordered=ordered)
            rows.append((dataset, name, "all", "all", error, np.nan, np.nan, int(known.sum()), "share"))
    return rows


def _where_known(truth: np.ndarray, score) -> np.ndarray:
    known = np.isfinite(truth)
    values = np.full(len(truth), np.nan)
    if known.any():
        values[known] = score(known)
    return values


def _bands(table: pd.DataFrame, bands) -> np.ndarray:
    """Each face's age band, "0-6"; of a range its middle's, None where the age is unknown."""
    middle = ((table["age_low"] + table["age_high"]) / 2).to_numpy(float, na_value=np.nan)
    names = np.array(_names(bands), object)
    place = np.searchsorted([low for low, _ in bands], np.nan_to_num(middle), side="right") - 1
    return np.where(np.isfinite(middle), names[place], None)


def _names(bands) -> list[str]:
    return [f"{low}-{high}" for low, high in bands]


def load_races(table: pd.DataFrame, folder: Path) -> np.ndarray:
    """Each face's race as its data set names it, None where it does not; object (n,)."""
    race = np.full(len(table), None, object)
    digits = table["path"].str.extract(r"(?:^|/)\d+_[01]_([0-4])_\d+[^/]*$")[0].astype(float)
    ours = ((table["dataset"] == "utkface") & digits.notna()).to_numpy(bool)
    race[ours] = np.array(UTKFACE_RACES, object)[digits[ours].astype(int)]
    theirs = (table["dataset"] == "fairface").to_numpy(bool)
    if theirs.any():
        race[theirs] = fairface.races(folder, table["path"][theirs])
    return race


def worst_group(results: pd.DataFrame, measure: str, by: str) -> pd.Series:
    """The row of the group that a measure is worst for; of at least `FEWEST` faces, since fewer say little.

    Errors and widths are worst where they are largest. Raises ValueError where no group is large enough.
    """
    rows = results[(results["measure"] == measure) & (results["by"] == by) & (results["n"] >= FEWEST_PER_GROUP)]
    if rows.empty:
        raise ValueError(f"{measure} has no group by {by} of at least {FEWEST_PER_GROUP} faces")
    return rows.loc[rows["value"].idxmax() if measure.endswith(("error", "width")) else rows["value"].idxmin()]
