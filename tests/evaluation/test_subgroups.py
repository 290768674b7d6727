"""The table of results: figures known by construction, by age band, gender and race, and the worst group."""

import numpy as np
import pandas as pd
import pytest

from src.config import YEAR_COUNT
from src.data.table import split_rejects
from src.evaluation.calibration import Calibration
from src.evaluation.subgroups import AGE_BANDS, RESULT_COLUMNS, evaluate_subgroups, load_races, worst_group

SURE = Calibration(unsure_below=0.4, bands=(0,), quantiles=(0.0,))  # of the answer alone
EVERYTHING = Calibration(unsure_below=0.4, bands=(0,), quantiles=(50.5,))


def table_of(rows, dataset="utkface"):
    """rows: (gender, lowest year, highest year)."""
    table = pd.DataFrame(rows, columns=["gender", "age_low", "age_high"])
    return split_rejects(table.assign(path=[f"{i}.jpg" for i in range(len(table))]), {}, dataset).table


def surely(classes, count):
    return np.eye(count)[np.asarray(classes)]


def value(results, metric, by="all", group="all", column="value"):
    rows = results[(results["metric"] == metric) & (results["by"] == by) & (results["group"] == group)]
    assert len(rows) == 1, f"{len(rows)} rows of {metric} {by} {group}"
    return rows[column].iloc[0]


@pytest.fixture(scope="module")
def known():
    """100 faces of 5 and 100 of 30: all men, of whom three in four are told; the old are told 4 years too old."""
    table = table_of([("male", 5, 5)] * 100 + [("male", 30, 30)] * 100)
    gender = surely(np.tile([1, 1, 1, 0], 50), 2)
    age = surely([5] * 100 + [34] * 100, YEAR_COUNT)
    race = np.array(["White", "Black", "White", None] * 50, object)
    return evaluate_subgroups(table, gender, age, SURE, race), (table, gender, age, race)


def test_rows_have_the_columns_and_hold_together(known):
    results = known[0]
    assert list(results.columns) == list(RESULT_COLUMNS) and (results["dataset"] == "utkface").all()
    assert not results.duplicated(["metric", "by", "group"]).any()
    bounded = results.dropna(subset=["low", "high"])
    assert (bounded["low"] <= bounded["value"] + 1e-9).all() and (bounded["value"] <= bounded["high"] + 1e-9).all()
    assert set(results["unit"]) == {"share", "years"}


def test_figures_over_all(known):
    results = known[0]
    assert value(results, "gender accuracy") == 0.75 and value(results, "gender accuracy", column="n") == 200
    assert value(results, "absolute error") == pytest.approx(2)
    assert value(results, "within five years") == 1
    assert value(results, "eight groups exact") == 1  # 34 and 30 are of one group
    assert value(results, "90% interval covers") == 0.5 and value(results, "90% interval width") == 1
    assert value(results, "gender calibration error") == pytest.approx(0.25)
    assert value(results, "age group calibration error") == pytest.approx(0)
    assert value(results, "absolute error", column="unit") == "years"


def test_figures_by_band_and_race(known):
    results = known[0]
    assert value(results, "absolute error", "age", "0-6") == 0
    assert value(results, "absolute error", "age", "30-39") == pytest.approx(4)
    assert value(results, "90% interval covers", "age", "30-39") == 0
    assert value(results, "gender accuracy", "race", "White") == 1
    assert value(results, "gender accuracy", "race", "Black", "n") == 50
    assert set(results["group"]) == {"all", "0-6", "30-39", "male", "White", "Black"}, "who is unknown is in no group"
    assert value(results, "gender accuracy", "gender", "male") == 0.75


def test_the_interval_is_the_calibrations(known):
    wide = evaluate_subgroups(*known[1][:3], EVERYTHING, known[1][3])
    assert value(wide, "90% interval covers") == 1 and value(wide, "90% interval width") == YEAR_COUNT


def test_bands_and_their_order():
    ages = [0, 6, 7, 12, 13, 19, 20, 59, 60, 69, 70, 99, 116]
    table = table_of([("female", age, age) for age in ages] * 2)
    age = surely(np.minimum([*ages, *ages], YEAR_COUNT - 1), YEAR_COUNT)
    results = evaluate_subgroups(table, surely([0] * len(table), 2), age, SURE, np.full(len(table), None))
    counts = results[(results["metric"] == "gender accuracy") & (results["by"] == "age")].set_index("group")["n"]
    expected = {"0-6": 4, "7-12": 4, "13-19": 4, "20-29": 2, "50-59": 2, "60-69": 4, "70-100": 6}
    assert counts.to_dict() == expected and list(counts.index) == list(expected)
    assert [name for name in AGE_BANDS.names if name in expected] == list(expected)
    assert value(results, "90% interval covers") == 1, "whoever is older than 100 counts as 100"
    assert value(results, "absolute error") == pytest.approx(16 / 13)
    assert not (results["by"] == "race").any()


def test_one_group_off_is_forgiven():
    table = table_of([("female", 30, 30)] * 4)
    answers = surely([30, 40, 20, 50], YEAR_COUNT)  # of the group, of both beside it, of one further
    results = evaluate_subgroups(table, surely([0] * 4, 2), answers, SURE, np.full(4, None))
    assert value(results, "eight groups exact") == 0.25 and value(results, "eight groups one-off") == 0.75


def test_ranges_have_groups_but_no_years():
    table = table_of([("female", 0, 2), ("male", 3, 9), ("male", 20, 29), ("female", 70, 100)] * 10, "fairface")
    age = surely([1, 9, 30, 85] * 10, YEAR_COUNT)
    results = evaluate_subgroups(
        table, surely([0, 1, 0, 0] * 10, 2), age, SURE, np.array(["East Asian", "Indian"] * 20, object)
    )
    assert value(results, "nine ranges exact") == 0.75 and value(results, "nine ranges one-off") == 1
    assert value(results, "nine ranges exact", "age", "20-29") == 0
    assert value(results, "nine ranges exact", "age", "3-9", "n") == 10
    assert value(results, "gender accuracy", "gender", "male") == 0.5
    assert value(results, "gender accuracy", "race", "Indian") == 1
    assert not results["metric"].isin(["absolute error", "within five years", "90% interval covers"]).any()


def test_only_faces_with_a_label_are_counted():
    table = table_of([("female", 30, 30), (None, 30, 30), ("male", None, None), (None, 12, 16)], "adience")
    results = evaluate_subgroups(table, surely([0, 0, 0, 0], 2), surely([30] * 4, YEAR_COUNT), SURE, np.full(4, None))
    assert value(results, "gender accuracy", column="n") == 2 and value(results, "gender accuracy") == 0.5
    assert value(results, "eight groups exact", column="n") == 2  # 12-16 touches two groups
    assert value(results, "absolute error", column="n") == 2
    assert set(results["group"][results["by"] == "gender"]) == {"female", "male"}


# --- races ------------------------------------------------------------------------------------------------------------


def test_races_of_both_data_sets(tmp_path):
    (tmp_path / "FairFace" / "train").mkdir(parents=True)
    (tmp_path / "FairFace" / "fairface_label_train.csv").write_text(
        "file,age,gender,race,service_test\ntrain/1.jpg,20-29,Male,East Asian,True\ntrain/2.jpg,20-29,Male,,True\n"
    )
    paths = ["UTKFace/26_0_2_20170116184028385.jpg.chip.jpg", "UTKFace/part1/100_1_4_2017.png", "UTKFace/1_1_0_2017 .jpg"]
    paths += ["UTKFace/26_0_7_2017.jpg", "FairFace/train/1.png", "FairFace/train/2.jpg", "FairFace/train/3.jpg"]
    table = table_of([("male", 26, 26)] * len(paths)).assign(path=paths)
    table["dataset"] = pd.array(["utkface"] * 4 + ["fairface"] * 3, dtype="string")
    assert load_races(table, tmp_path).tolist() == ["Asian", "Other", "White", None, "East Asian", None, None]
    assert load_races(table[:4], tmp_path / "elsewhere").tolist() == ["Asian", "Other", "White", None], "the names say it"
    adience = table[:2].assign(dataset="adience")
    assert load_races(adience, tmp_path).tolist() == [None, None]


# --- the worst group --------------------------------------------------------------------------------------------------


def test_the_worst_group_of_thirty_faces_or_more():
    rows = []
    for group, n, accuracy, error, covers in (
        ("Asian", 29, 0.1, 20.0, 0.1),
        ("Black", 30, 0.7, 9.0, 0.7),
        ("Indian", 400, 0.6, 5.0, 0.95),
        ("White", 900, 0.9, 4.0, 0.9),
    ):
        figures = {"gender accuracy": accuracy, "absolute error": error, "90% interval covers": covers}
        figures["90% interval width"] = error * 2
        rows += [("utkface", name, "race", group, figure, 0, 0, n, "share") for name, figure in figures.items()]
    rows.append(("utkface", "gender accuracy", "age", "0-6", 0.2, 0, 0, 500, "share"))
    results = pd.DataFrame(rows, columns=list(RESULT_COLUMNS))
    assert worst_group(results, "gender accuracy", "race")["group"] == "Indian"
    assert worst_group(results, "absolute error", "race")["group"] == "Black", "the larger an error, the worse"
    assert worst_group(results, "90% interval covers", "race")["group"] == "Black"
    assert worst_group(results, "90% interval width", "race")["group"] == "Black", "the wider an interval, the worse"
    assert worst_group(results, "gender accuracy", "age")[["group", "value"]].tolist() == ["0-6", 0.2]
    with pytest.raises(ValueError, match="expected a group by age of at least 30 faces for absolute error"):
        worst_group(results, "absolute error", "age")
