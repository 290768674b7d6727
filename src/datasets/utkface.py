"""UTKFace: faces whose age and gender stand in the file's name.

Zhang, Song, Qi, "Age progression/regression by conditional adversarial autoencoder", CVPR 2017;
https://susanqq.github.io/UTKFace/

After it: `datasets.load`, by which the notebooks call it.
"""

import os
from pathlib import Path

import pandas as pd

from src.config import IMAGE_SUFFIXES
from src.datasets import disk
from src.tables import Loaded, divide

EXPECTED = "pictures named AGE_GENDER_RACE_DATE.jpg (or .jpg.chip.jpg, .webp, .png), or a folder UTKFace/ of them"
NAME = r"^([0-9]+)_([0-9]+)_[0-9]+_[0-9]+\s*(?:\.jpg\.chip)?\.[A-Za-z]+$"  # one original has a blank before its suffix
GENDERS = {0: "male", 1: "female"}  # the other way round than in IMDB-WIKI
OLDEST = 120


def load(folder: str | Path) -> Loaded:
    """The faces of UTKFace, found at any depth and in the order of their paths; ages are exact, nobody is named.

    folder: the folder of the pictures, or one that holds them in UTKFace/.
    Names that lack a part, ages above 120, genders other than 0 and 1, and links that lead nowhere or out of the folder go
    to the ledger.

    Raises FileNotFoundError where there are no pictures.
    """
    folder = disk.opened(folder, EXPECTED)
    place = folder / "UTKFace" if (folder / "UTKFace").is_dir() else folder
    found = sorted(_pictures(place))
    if not found:
        raise disk.absent(place, "holds no pictures", EXPECTED)
    path = pd.Series(found, dtype="str")
    parts = path.str.rpartition("/")[2].str.extract(NAME).astype("Float64")
    age, gender = parts[0], parts[1]
    rows = pd.DataFrame(
        {"path": disk.prefix(folder, place) + path, "gender": gender.map(GENDERS), "age_low": age, "age_high": age}
    )
    reasons = {
        "malformed name": age.isna(),
        "age out of range": age.gt(OLDEST).fillna(False),
        "gender not 0 or 1": rows["gender"].isna(),
        "image missing": disk.missing(folder, rows["path"], disk.listing(folder, rows["path"])),
    }
    return divide(rows, reasons, "utkface")


def _pictures(place: Path):
    """Paths relative to `place`, with forward slashes, without hidden files and what macOS leaves in archives."""
    for parent, folders, names in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        inside = disk.prefix(place, Path(parent))
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield inside + name
