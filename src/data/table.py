"""The table of faces: its columns, its checks, the ledger of what was left out, and the splits.

Every loader in `datasets` returns `Loaded(table, ledger)`. One row of the table is one face in one picture.

Before it: `config`. After it: `datasets`, `train`, `evaluate`.
"""

import hashlib
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import GENDERS, AgeGroups

TABLE_COLUMNS = {
    "path": "string",  # relative to the data set's folder, with forward slashes
    "subject": "string",  # who it is; NA where the set has no identities
    "gender": "string",  # female, male, NA
    "age_low": "Int64",  # years, inclusive; equal to age_high where the age is exact
    "age_high": "Int64",
    "left": "Float64",  # the face's box in pixels from 0, right and bottom exclusive; NA: search for the face
    "top": "Float64",
    "right": "Float64",
    "bottom": "Float64",
    "fold": "Int64",  # the data set's own fold, NA where it has none
    "dataset": "string",
}
BOX_COLUMNS = ["left", "top", "right", "bottom"]
SPLITS = ("train", "validation", "test")


class Loaded(NamedTuple):
    """What a loader returns: the table of faces, and the ledger (`path`, `reason`) of the rows that were left out."""

    table: pd.DataFrame
    ledger: pd.DataFrame


def split_rejects(rows: pd.DataFrame, reasons: dict[str, np.ndarray], dataset: str) -> Loaded:
    """Splits the rows of a data set into the faces that are kept and the ledger: kept + dropped = read, always.

    Args:
        rows: every row read, with `path` and any other of `COLUMNS`; columns that are absent become NA.
        reasons: for each reason a boolean mask, shape (n,), of the rows to leave out for it. A row that several reasons fit
            is listed under the first.
        dataset: the value of the column `dataset`.

    Returns:
        The table, with all of `COLUMNS` in their dtypes even where no row is kept, and the ledger.

    Raises:
        ValueError: genders or ages are not valid; see `checked`.
    """
    masks = [np.asarray(mask, bool) for mask in reasons.values()]
    first = np.select(masks, range(len(masks)), -1) if masks else np.full(len(rows), -1)
    kept = first < 0
    table = rows[kept].reindex(columns=list(TABLE_COLUMNS)).assign(dataset=dataset)
    ledger = pd.DataFrame({"path": rows["path"][~kept], "reason": np.array(list(reasons), object)[first[~kept]]})
    return Loaded(check_table(table), ledger.astype("string").reset_index(drop=True))


def check_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order and in their dtypes; ValueError names the first thing that is wrong."""
    missing = [name for name in TABLE_COLUMNS if name not in table]
    if missing:
        raise ValueError(f"a table of faces has the columns {', '.join(TABLE_COLUMNS)}; missing: {', '.join(missing)}")
    table = table[list(TABLE_COLUMNS)].astype(TABLE_COLUMNS).reset_index(drop=True)
    strange = set(table["gender"].dropna().unique()) - set(GENDERS)
    if strange:
        raise ValueError(f"gender must be female, male or NA, got {sorted(strange)[0]!r}")
    low, high = table["age_low"], table["age_high"]
    if (low.isna() != high.isna()).any() or (low > high).any() or (low < 0).any():
        raise ValueError("ages must satisfy 0 <= age_low <= age_high, or both be NA")
    return table


def task_labels(table: pd.DataFrame, task: str, groups: AgeGroups | None = None) -> Loaded:
    """Selects the faces that have a label for one task and adds that label.

    Args:
        table: a table of faces.
        task: "gender" or "age".
        groups: the age classes, required for "age". An age range that touches several classes is no label.

    Returns:
        The faces with a label, with an additional column `label` (int64 class index; for gender 0 is female and 1 is male),
        and the ledger of the others.

    Raises:
        ValueError: the task is unknown, or `groups` is missing for "age".
    """
    if task not in ("gender", "age"):
        raise ValueError(f"task must be gender or age, got {task!r}")
    if task == "gender":
        label = encode_gender(table["gender"])
        reasons = {"gender unknown": label < 0}
    else:
        if groups is None:
            raise ValueError("the task age needs its groups, one of config.AGE_GROUPS")
        low, high = age_bounds(table)
        label = groups.index(low, high)
        reasons = {"age unknown": np.isnan(low), "age touches several groups": label < 0}
    reason = np.select(list(reasons.values()), list(reasons), default="")
    kept = reason == ""
    ledger = pd.DataFrame({"path": table["path"][~kept], "reason": reason[~kept]}).astype("string")
    return Loaded(table[kept].assign(label=label[kept]), ledger.reset_index(drop=True))


def encode_gender(gender: pd.Series) -> npt.NDArray[np.int64]:
    """The class of each gender, int64 (n,): 0 for female, 1 for male, -1 where unknown."""
    return pd.Categorical(gender, categories=GENDERS).codes.astype(np.int64)


def age_bounds(table: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The lowest and the highest year of each face's age label, float64 (n,), NaN where unknown."""
    low, high = (table[name].to_numpy(float, na_value=np.nan) for name in ("age_low", "age_high"))
    return low, high


def exact_years(table: pd.DataFrame) -> np.ndarray:
    """Ages in years where they are exact: float64 (n,), NaN where only a range or nothing is known."""
    low, high = age_bounds(table)
    return np.where(low == high, low, np.nan)


def split(table: pd.DataFrame, test_fold: int | None = None, validation: float = 0.1, test: float = 0.1) -> np.ndarray:
    """Assigns each face to the training, validation or test part.

    The parts are drawn by a hash of the subject or, for people without a known identity, of the file name up to its first
    dot. The same face therefore always falls into the same part, whatever else the table holds, and no subject is in two.

    Args:
        table: a table of faces.
        test_fold: the data set's own fold to test on; None draws the test part too.
        validation: share of the subjects in the validation part, 0 to 1.
        test: share of the subjects in the test part where it is drawn, 0 to 1.

    Returns:
        "train", "validation" or "test" for each face, an object array of shape (n,).

    Raises:
        ValueError: the table is empty, has no such fold, or has too few faces or subjects for three parts.
    """
    if table.empty:
        raise ValueError(
            "a split needs faces, and the table of faces is empty: the loader's ledger says why rows were left out"
        )
    position = pd.Series(split_key(table)).map(_position).to_numpy(float)
    part = np.full(len(table), "train", object)
    if test_fold is None:
        part[position < validation + test] = "validation"
        part[position < test] = "test"
    else:
        folds = sorted(table["fold"].dropna().unique())
        if not folds:
            raise ValueError(f"this data set has no folds of its own, got test fold {test_fold}: pass None to draw the parts")
        if test_fold not in folds:
            raise ValueError(f"test fold must be one of {[int(f) for f in folds]}, got {test_fold}")
        part[position < validation] = "validation"
        part[(table["fold"] == test_fold).to_numpy(bool, na_value=False)] = "test"
    empty = [name for name in SPLITS if name not in part]
    if empty:
        raise ValueError(f"the {empty[0]} part of these {len(table)} faces is empty; more faces or subjects are needed")
    return part


def split_key(table: pd.DataFrame) -> np.ndarray:
    """The key that assigns a face to a part: its subject, or its file name up to the first dot; str, shape (n,)."""
    names = table["path"].map(lambda path: PurePosixPath(path).name.split(".")[0])
    return table["subject"].fillna(names).to_numpy(str)


def _position(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
