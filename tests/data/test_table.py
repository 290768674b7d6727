"""The table of faces: its checks, labels and splits."""

import numpy as np
import pandas as pd
import pytest

from src import config
from src.data.table import SPLITS, TABLE_COLUMNS, check_table, split, split_key, split_rejects, task_labels


def reasons(loaded):
    return dict(zip(loaded.ledger["path"], loaded.ledger["reason"], strict=True))


def make_table(subjects, pictures=4):
    rows = [(f"p/{s}_{i}.jpg", f"s{s}", s % 5) for s in range(subjects) for i in range(pictures)]
    table = pd.DataFrame(rows, columns=["path", "subject", "fold"])
    table = table.assign(gender=np.where(np.arange(len(table)) % 3, "male", "female"), age_low=25, age_high=32)
    return split_rejects(table, {}, "made").table


@pytest.mark.parametrize("test_fold", [None, 2])
def test_split_never_shares_a_subject(test_fold):
    table = make_table(300)
    part = split(table, test_fold)
    assert set(part) == set(SPLITS)
    assert table.assign(part=part).groupby("subject")["part"].nunique().max() == 1
    if test_fold is not None:
        assert ((part == "test") == (table["fold"] == test_fold)).all()
    share = (part == "validation").mean()
    assert 0.04 < share < 0.18


@pytest.mark.parametrize("test_fold", [None, 2])
def test_split_depends_on_the_subject_alone(test_fold):
    table = make_table(300)
    before = dict(zip(table["path"], split(table, test_fold), strict=True))
    mixed = table.sample(frac=0.7, random_state=1)
    assert all(before[path] == part for path, part in zip(mixed["path"], split(mixed, test_fold), strict=True))


def test_split_without_subjects_goes_by_the_name_of_the_file():
    table = make_table(300).assign(subject=pd.Series(dtype="string"), fold=pd.NA)
    here, there = split(table), split(table.assign(path="elsewhere/" + table["path"].str.replace(".jpg", ".webp")))
    assert (here == there).all()


def test_a_faces_key_is_its_subject_or_else_its_files_name():
    table = make_table(3, pictures=1).assign(path=["a/1.chip.jpg", "b/1.png", "c/2.jpg"])
    table["subject"] = pd.array([None, "she", None], dtype="string")
    assert split_key(table).tolist() == ["1", "she", "2"]


def test_split_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"one of \[0, 1, 2, 3, 4\], got 7"):
        split(make_table(300), test_fold=7)
    with pytest.raises(ValueError, match=r"one of \[\], got 0"):
        split(make_table(300).assign(fold=pd.array([pd.NA] * 1200, "Int64")), test_fold=0)
    with pytest.raises(ValueError, match="split of these 4 faces is empty"):
        split(make_table(1))


def test_age_group_index_closes_the_gaps():
    groups = config.AGE_GROUPS["adience"]
    single = [0, 3, 4, 7, 8, 13, 14, 22, 23, 35, 36, 45, 46, 56, 57, 120]
    assert groups.index(single, single).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    low, high = zip(*groups.years, strict=True)
    assert groups.index(low, high).tolist() == list(range(8))
    assert groups.index([13, np.nan, 22, 23], [14, np.nan, 23, 35]).tolist() == [-1, -1, -1, 4]
    four = config.AGE_GROUPS["four"]
    assert four.index(low, high).tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_task_labels():
    table = make_table(2, 2).assign(
        gender=["female", "male", pd.NA, "male"], age_low=[1, pd.NA, 20, 30], age_high=[1, pd.NA, 30, 30]
    )
    gender = task_labels(table, "gender")
    assert gender.table["label"].tolist() == [0, 1, 1] and gender.table["label"].dtype == "int64"
    assert reasons(gender) == {"p/1_0.jpg": "gender unknown"}
    age = task_labels(table, "age", config.AGE_GROUPS["adience"])
    assert age.table["label"].tolist() == [0, 4]
    assert reasons(age) == {"p/0_1.jpg": "age unknown", "p/1_0.jpg": "age touches several groups"}
    with pytest.raises(ValueError, match="task must be gender or age, got 'race'"):
        task_labels(table, "race")
    with pytest.raises(ValueError, match="age requires age groups"):
        task_labels(table, "age")


def test_split_rejects_counts_every_row_once():
    rows = pd.DataFrame({"path": list("abcd"), "gender": ["male", None, "female", "male"]}, index=[7, 7, 3, 1])
    loaded = split_rejects(rows, {"first": [True, False, False, False], "second": [True, False, True, False]}, "made")
    assert list(loaded.table.columns) == list(TABLE_COLUMNS)
    assert {name: str(dtype) for name, dtype in loaded.table.dtypes.items()} == TABLE_COLUMNS
    assert loaded.table["path"].tolist() == ["b", "d"] and loaded.table["dataset"].tolist() == ["made"] * 2
    assert reasons(loaded) == {"a": "first", "c": "second"}
    nothing = split_rejects(rows, {"all": [True] * 4}, "made")
    assert len(nothing.table) == 0 and len(nothing.ledger) == 4


@pytest.mark.parametrize(
    "change, said",
    [
        ({"gender": "boy"}, "gender must be female, male or NA, got 'boy'"),
        ({"age_low": 40}, "age_low <= age_high"),
        ({"age_low": pd.NA}, "or both be NA"),
        ({"age_low": -1}, "0 <= age_low"),
    ],
)
def test_check_table_names_what_is_wrong(change, said):
    with pytest.raises(ValueError, match=said):
        check_table(make_table(2).assign(**change))
    with pytest.raises(ValueError, match="missing: fold"):
        check_table(make_table(2).drop(columns="fold"))
