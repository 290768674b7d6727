"""The table of faces: its columns and checks, the ledger of dropped rows, the labels of a task, and the splits.

Every loader returns `TableAndLedger(table, ledger)`. One row of the table is one face in one image.
"""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import GENDERS, AgeGroups

TABLE_COLUMNS = {
    "path": "string",  # relative to the data set's folder, with forward slashes
    "subject": "string",  # the person; NA where the data set has no identities
    "gender": "string",  # female, male, NA
    "age_low": "Int64",  # years, inclusive; equal to age_high where the age is exact
    "age_high": "Int64",
    "left": "Float64",  # face box in pixels from 0, right and bottom exclusive; NA where the face has to be detected
    "top": "Float64",
    "right": "Float64",
    "bottom": "Float64",
    "fold": "Int64",  # the data set's own fold; NA where it has none
    "dataset": "string",
}
BOX_COLUMNS = ["left", "top", "right", "bottom"]
SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = TEST_SHARE = 0.1  # shares of the subjects, not of the faces


class TableAndLedger(NamedTuple):
    """A table of faces, and the ledger: the dropped rows with the columns `path` and `reason`."""

    table: pd.DataFrame
    ledger: pd.DataFrame


def split_rejects(rows: pd.DataFrame, reasons: Mapping[str, npt.ArrayLike], dataset: str) -> TableAndLedger:
    """Splits rows into the table of faces and the ledger. Every row is in exactly one of them.

    Args:
        rows: All rows, with the column `path` and any other of `TABLE_COLUMNS`; absent columns become NA.
        reasons: For each reason, the mask (n,) of the rows to drop, in order of priority: the ledger has the first one.
        dataset: Name of the data set, for the column `dataset`.

    Returns:
        The table, with all of `TABLE_COLUMNS` even where no row is kept, and the ledger.

    Raises:
        ValueError: A gender or an age is invalid; see `check_table`.
    """
    table, ledger = _drop_rows(rows, reasons)
    return TableAndLedger(check_table(table.reindex(columns=list(TABLE_COLUMNS)).assign(dataset=dataset)), ledger)


def _drop_rows(rows: pd.DataFrame, reasons: Mapping[str, npt.ArrayLike]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the rows that no reason fits, and the ledger of the others."""
    reason = np.full(len(rows), "", object)
    for name in reversed(list(reasons)):  # earlier reasons overwrite later ones
        reason[np.asarray(reasons[name], bool)] = name
    kept = reason == ""
    ledger = pd.DataFrame({"path": rows["path"].to_numpy()[~kept], "reason": reason[~kept]}, dtype="string")
    return rows[kept], ledger


def check_table(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with its columns in order and in their dtypes.

    Raises:
        ValueError: A column is missing, or a gender or an age is invalid.
    """
    missing = [name for name in TABLE_COLUMNS if name not in table]
    if missing:
        raise ValueError(f"a table of faces has the columns {', '.join(TABLE_COLUMNS)}; missing: {', '.join(missing)}")
    table = table[list(TABLE_COLUMNS)].astype(TABLE_COLUMNS).reset_index(drop=True)
    unknown = set(table["gender"].dropna().unique()) - set(GENDERS)
    if unknown:
        raise ValueError(f"gender must be female, male or NA, got {sorted(unknown)[0]!r}: correct the loader")
    low, high = table["age_low"], table["age_high"]
    invalid = (low.isna() != high.isna()) | (low > high).fillna(False) | (low < 0).fillna(False)
    if invalid.any():
        row = table[invalid].iloc[0]
        raise ValueError(
            f"ages must satisfy 0 <= age_low <= age_high, or both be NA, got {row['age_low']} and {row['age_high']} for "
            f"{row['path']}: correct the loader, or drop such rows with a reason"
        )
    return table


def task_labels(table: pd.DataFrame, task: str, groups: AgeGroups | None = None) -> TableAndLedger:
    """Selects the faces that have a label for a task and adds this label.

    Args:
        table: Table of faces.
        task: "gender" or "age".
        groups: Age classes, required for "age". An age range that touches several classes has no label.

    Returns:
        The labelled faces, with their original index and the additional column `label` (int64 class index; for gender, 0 is
        female and 1 is male), and the ledger of the other faces.

    Raises:
        ValueError: The task is unknown, or `groups` is missing for "age".
    """
    if task == "gender":
        label = encode_gender(table["gender"])
        reasons = {"gender unknown": label < 0}
    elif task != "age":
        raise ValueError(f"task must be gender or age, got {task!r}")
    elif groups is None:
        raise ValueError("the task age requires age groups: pass one of config.AGE_GROUPS")
    else:
        low, high = age_bounds(table)
        label = groups.index(low, high)
        reasons = {"age unknown": np.isnan(low), "age touches several groups": label < 0}
    return TableAndLedger(*_drop_rows(table.assign(label=label), reasons))


def encode_gender(gender: pd.Series) -> npt.NDArray[np.int64]:
    """Returns the class of each gender, shape (n,): 0 for female, 1 for male, -1 where unknown."""
    return pd.Categorical(gender, categories=GENDERS).codes.astype(np.int64)


def age_bounds(table: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns the lowest and the highest year of each face's age label, shape (n,), NaN where unknown."""
    low, high = (table[name].to_numpy(float, na_value=np.nan) for name in ("age_low", "age_high"))
    return low, high


def exact_years(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Returns the exact ages in years, shape (n,), NaN where the age is a range or unknown."""
    low, high = age_bounds(table)
    return np.where(low == high, low, np.nan)


def split(table: pd.DataFrame, test_fold: int | None = None) -> npt.NDArray[np.object_]:
    """Assigns each face to the training, validation or test split.

    A hash of the split key (see `split_key`) decides. A face's split therefore does not depend on other rows, and no subject
    is in two splits. With `test_fold`, this also requires that no subject is in two of the data set's folds.

    Args:
        table: Table of faces.
        test_fold: The data set's own fold to test on. None selects the test split by hash too.

    Returns:
        "train", "validation" or "test" for each face, shape (n,).

    Raises:
        ValueError: The table is empty, has no such fold, or has too few faces or subjects for three splits.
    """
    if table.empty:
        raise ValueError("a split requires faces, but the table of faces is empty: see the loader's ledger for the reasons")
    hash_value = pd.Series(split_key(table)).map(_hash_to_unit_interval).to_numpy(float)
    splits = np.full(len(table), "train", object)
    if test_fold is None:
        splits[hash_value < VALIDATION_SHARE + TEST_SHARE] = "validation"
        splits[hash_value < TEST_SHARE] = "test"
    else:
        folds = sorted(int(fold) for fold in table["fold"].dropna().unique())
        if test_fold not in folds:
            raise ValueError(f"test fold must be one of {folds}, got {test_fold}; None selects the test split by hash")
        splits[hash_value < VALIDATION_SHARE] = "validation"
        splits[(table["fold"] == test_fold).to_numpy(bool, na_value=False)] = "test"
    empty = [name for name in SPLITS if name not in splits]
    if empty:
        raise ValueError(f"the {empty[0]} split of these {len(table)} faces is empty: more faces or subjects are required")
    return splits


def split_key(table: pd.DataFrame) -> npt.NDArray[np.str_]:
    """Returns the key that decides a face's split, shape (n,): its subject, or its file name up to the first dot."""
    names = table["path"].map(lambda path: PurePosixPath(path).name.split(".")[0])
    return table["subject"].fillna(names).to_numpy(str)


def _hash_to_unit_interval(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
