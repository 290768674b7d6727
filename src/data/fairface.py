"""FairFace: faces balanced over seven races, with label files beside them.

Kärkkäinen, Joo, "FairFace: face attribute dataset for balanced race, gender, and age", WACV 2021;
https://github.com/joojs/fairface
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import AGE_GROUPS, GENDERS
from src.data import label_files
from src.data.table import TableAndLedger, split_rejects

LABEL_FILES = ("fairface_label_train.csv", "fairface_label_val.csv")
EXPECTED = "fairface_label_train.csv beside the folder train/ (and optionally fairface_label_val.csv beside val/)"
AGES = {f"{low}-{high}": (low, high) for low, high in AGE_GROUPS["fairface"].years[:-1]}
AGES["more than 70"] = AGE_GROUPS["fairface"].years[-1]


def load(folder: str | Path) -> TableAndLedger:
    """Loads the faces of FairFace; age_low and age_high are the years of their range ("more than 70" is 70 to 100).

    An image may have another suffix than in the label file (train/1.webp for train/1.jpg). Paths may contain backslashes,
    and labels may be in lower or upper case. A gender other than female and male becomes NA. The data set has no identities,
    so `subject` is NA.

    Args:
        folder: Folder of the label files. If this folder is named FairFace/, its parent works too.

    Returns:
        The table of faces and the ledger, with these reasons in this order: path outside the folder, unknown age, image
        missing.

    Raises:
        ValueError: A label file is not a table with the expected columns.
        FileNotFoundError: There is no label file, or none of its images.
    """
    folder, subfolder, source = _read_labels(folder, ("file", "age", "gender"))
    images = label_files.list_images(folder / subfolder, EXPECTED)
    label_path = source["file"]
    path_on_disk = _stem(label_path).map(dict(zip(_stem(images), images)))  # the image of the same name, with any suffix
    gender = source["gender"].str.strip().str.lower()
    rows = pd.DataFrame(
        {
            "path": subfolder + label_path.where(label_path.isin(images) | path_on_disk.isna(), path_on_disk),
            "gender": gender.where(gender.isin(GENDERS)),
            **label_files.parse_ages(source["age"].str.strip().str.lower(), AGES),
        }
    )
    reasons = {
        "path outside the folder": label_files.is_outside(label_path),
        "unknown age": rows["age_low"].isna(),
        "image missing": label_files.is_missing(folder, rows["path"]),
    }
    return split_rejects(rows, reasons, "fairface")


def races(folder: str | Path, paths: pd.Series) -> npt.NDArray[np.object_]:
    """Returns the race of each face.

    Args:
        folder: The data set's folder.
        paths: Column `path` of the table of faces.

    Returns:
        The race as the label files write it, such as "East Asian", shape (n,); None where it is unknown.
    """
    folder, subfolder, source = _read_labels(folder, ("file", "race"))
    by_stem = dict(zip(_stem(source["file"]), source["race"].str.strip()))
    stems = _stem(paths.str.removeprefix(subfolder))
    return np.array([by_stem.get(stem) or None for stem in stems], object)


def _read_labels(folder: str | Path, columns: tuple[str, ...]) -> tuple[Path, str, pd.DataFrame]:
    """Returns the folder, the subfolder of the label files, and their rows, with forward slashes in the column `file`."""
    folder = label_files.require_folder(folder, EXPECTED)
    subfolder = label_files.find_subfolder(folder, ("FairFace", "fairface"), "fairface_label_*.csv")
    files = [folder / subfolder / name for name in LABEL_FILES if (folder / subfolder / name).is_file()]
    if not files:
        raise label_files.missing_data_error(folder, "contains no label file", EXPECTED)
    rows = pd.concat([label_files.read_labels(file, ",", columns) for file in files], ignore_index=True)
    return folder, subfolder, rows.assign(file=rows["file"].str.strip().str.replace("\\", "/"))


def _stem(paths: pd.Series) -> pd.Series:
    return paths.str.replace(r"\.[^./]*$", "", regex=True)
