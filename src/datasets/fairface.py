"""FairFace: faces balanced over seven groups of origin, with label files beside them.

Kärkkäinen, Joo, "FairFace: face attribute dataset for balanced race, gender, and age", WACV 2021;
https://github.com/joojs/fairface

After it: `datasets.load`, by which the notebooks call it.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from src.config import AGE_GROUPS, IMAGE_SUFFIXES
from src.datasets import disk
from src.tables import Loaded, divide

LABEL_FILES = ("fairface_label_train.csv", "fairface_label_val.csv")
EXPECTED = "fairface_label_train.csv beside the folder train/ (and fairface_label_val.csv beside val/, if wanted)"
GENDERS = {"Female": "female", "Male": "male"}
AGES = {f"{low}-{high}": (low, high) for low, high in AGE_GROUPS["fairface"].years[:-1]}
AGES["more than 70"] = AGE_GROUPS["fairface"].years[-1]


def load(folder: str | Path) -> Loaded:
    """The faces of FairFace; age_low and age_high are the years of their range ("more than 70" is 70 to 100).

    folder: the folder of the label files, or one that holds it as FairFace/. A picture may have another suffix on disk
    than in the label file (train/1.jpg there, train/1.webp here). Nobody is named.

    Raises ValueError for a label file without its columns, FileNotFoundError where files are missing.
    """
    folder, place, source = _labels(folder, ("file", "age", "gender"))
    named = source["file"].str.strip()
    on_disk = disk.listing(place, named)
    path = disk.prefix(folder, place) + _as_on_disk(named, on_disk)
    years = source["age"].str.strip().map(AGES)
    rows = pd.DataFrame(
        {
            "path": path,
            "gender": source["gender"].str.strip().map(GENDERS),
            "age_low": years.str[0].astype("Float64"),
            "age_high": years.str[1].astype("Float64"),
        }
    )
    reasons = {
        "path outside the folder": disk.outside(named),
        "unknown age": rows["age_low"].isna(),
        "image missing": disk.missing(folder, path, {disk.prefix(folder, place) + name for name in on_disk}),
    }
    return divide(rows, reasons, "fairface")


def races(folder: str | Path, paths: pd.Series) -> np.ndarray:
    """The race that the label files name for each path of the table; object (n,), None where they name none."""
    folder, place, source = _labels(folder, ("file", "race"))
    by_stem = dict(zip(_stem(source["file"].str.strip()), source["race"].str.strip(), strict=True))
    stems = _stem(paths.str.removeprefix(disk.prefix(folder, place)))
    return np.array([by_stem.get(stem) or None for stem in stems], object)


def _labels(folder: str | Path, fields: tuple[str, ...]) -> tuple[Path, Path, pd.DataFrame]:
    """The folder, the folder of the label files in it, and what these say: one row a face."""
    folder = disk.opened(folder, EXPECTED)
    place = disk.place_of("fairface_label_*.csv", folder, ("FairFace", "fairface"))
    files = [place / name for name in LABEL_FILES if place is not None and (place / name).is_file()]
    if place is None or not files:
        raise disk.absent(folder, "holds no label file", EXPECTED)
    return folder, place, pd.concat([disk.label_table(file, ",", fields) for file in files], ignore_index=True)


def _stem(path: pd.Series) -> pd.Series:
    return path.str.replace(r"\.[^./]*$", "", regex=True)


def _as_on_disk(named: pd.Series, present: set[str]) -> pd.Series:
    """The names with the suffix that they have on disk; those without a picture stay as they are."""
    pictures = sorted(name for name in present if name.lower().endswith(IMAGE_SUFFIXES))
    by_stem = {os.path.splitext(name)[0]: name for name in pictures}
    other = _stem(named).map(by_stem)
    return named.where(named.isin(present) | other.isna(), other)
