"""FairFace: faces balanced over seven groups of origin, with label files beside them.

Kärkkäinen, Joo, "FairFace: face attribute dataset for balanced race, gender, and age", WACV 2021;
https://github.com/joojs/fairface

After it: `datasets.load`, which the notebooks call.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from src.config import AGE_GROUPS, GENDERS, IMAGE_SUFFIXES
from src.data import label_files
from src.data.table import Loaded, split_rejects

LABEL_FILES = ("fairface_label_train.csv", "fairface_label_val.csv")
EXPECTED = "fairface_label_train.csv beside the folder train/ (and fairface_label_val.csv beside val/, if wanted)"
AGES = {f"{low}-{high}": (low, high) for low, high in AGE_GROUPS["fairface"].years[:-1]}
AGES["more than 70"] = AGE_GROUPS["fairface"].years[-1]


def load(folder: str | Path) -> Loaded:
    """Loads the faces of FairFace; age_low and age_high are the years of their range ("more than 70" is 70 to 100).

    A picture may have another suffix on disk than in the label file (train/1.jpg there, train/1.webp here). Paths may have
    back-slashes, and labels may be in lower or upper case. A gender other than female and male becomes NA. People have no
    identity, so `subject` is NA.

    Args:
        folder: the folder of the label files, or one that holds it as FairFace/.

    Returns:
        The table of faces and the ledger. Reasons in the ledger, in this order: path outside the folder (absolute, or with
        ".."), unknown age, image missing.

    Raises:
        ValueError: a label file lacks its columns, or the label files have no rows.
        FileNotFoundError: there is no label file, or none of its pictures.
    """
    folder, place, source = _labels(folder, ("file", "age", "gender"))
    named = _paths(source)
    on_disk = label_files.list_files(place, named)
    path = label_files.prefix(folder, place) + _as_on_disk(named, on_disk)
    rows = pd.DataFrame(
        {
            "path": path,
            "gender": source["gender"].str.strip().str.lower().map({name: name for name in GENDERS}),
            **label_files.parse_ages(source["age"].str.strip().str.lower(), AGES),
        }
    )
    outside = label_files.outside_folder(named)
    present = {label_files.prefix(folder, place) + name for name in on_disk}
    reasons = {
        "path outside the folder": outside,
        "unknown age": rows["age_low"].isna(),
        "image missing": label_files.find_missing(folder, path, present, outside),
    }
    return split_rejects(rows, reasons, "fairface")


def races(folder: str | Path, paths: pd.Series) -> np.ndarray:
    """The race in the label files for each path of the table: object, shape (n,), None where the files have none."""
    folder, place, source = _labels(folder, ("file", "race"))
    by_stem = dict(zip(_stem(_paths(source)), source["race"].str.strip(), strict=True))
    stems = _stem(paths.str.removeprefix(label_files.prefix(folder, place)))
    return np.array([by_stem.get(stem) or None for stem in stems], object)


def _labels(folder: str | Path, fields: tuple[str, ...]) -> tuple[Path, Path, pd.DataFrame]:
    """The folder, the folder of the label files in it, and their rows, one a face."""
    folder = label_files.open_folder(folder, EXPECTED)
    place = label_files.find_subfolder("fairface_label_*.csv", folder, ("FairFace", "fairface"))
    files = [place / name for name in LABEL_FILES if place is not None and (place / name).is_file()]
    if place is None or not files:
        raise label_files.missing_data_error(folder, "holds no label file", EXPECTED)
    rows = pd.concat([label_files.label_table(file, ",", fields) for file in files], ignore_index=True)
    return folder, place, label_files.require_rows(rows, " and ".join(map(str, files)))


def _paths(source: pd.DataFrame) -> pd.Series:
    return label_files.forward_slashes(source["file"].str.strip())


def _stem(path: pd.Series) -> pd.Series:
    return path.str.replace(r"\.[^./]*$", "", regex=True)


def _as_on_disk(named: pd.Series, present: set[str]) -> pd.Series:
    """The names with the suffix that they have on disk; names without a picture stay as they are."""
    pictures = sorted(name for name in present if name.lower().endswith(IMAGE_SUFFIXES))
    by_stem = {os.path.splitext(name)[0]: name for name in pictures}
    other = _stem(named).map(by_stem)
    return named.where(named.isin(present) | other.isna(), other)
