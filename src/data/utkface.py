"""UTKFace: faces whose age and gender stand in the file's name.

Zhang, Song, Qi, "Age progression/regression by conditional adversarial autoencoder", CVPR 2017;
https://susanqq.github.io/UTKFace/

After it: `datasets.load`, which the notebooks call.
"""

from pathlib import Path

import pandas as pd

from src.data import label_files
from src.data.table import Loaded, split_rejects

EXPECTED = "pictures named AGE_GENDER_RACE_DATE.jpg (or .jpg.chip.jpg, .webp, .png), or a folder UTKFace/ of them"
# Some originals lack a dot or a letter of ".jpg.chip.jpg", or have a blank in front of it.
NAME = r"(?i)^([0-9]+)_([0-9]+)_[0-9]+_[0-9]+\s*(?:\.?j?pe?g)?(?:\.?chip)?\.[a-z]+$"
GENDERS = {0: "male", 1: "female"}  # the other way round than in IMDB-WIKI
OLDEST = 120  # years


def load(folder: str | Path) -> Loaded:
    """Loads the faces of UTKFace, found at any depth (part1/, part2/ …), in the order of their paths.

    Ages are exact. People have no identity, so `subject` is NA.

    Args:
        folder: the folder of the pictures, or one that holds them in UTKFace/.

    Returns:
        The table of faces and the ledger. Reasons in the ledger, in this order: malformed name (a part is missing), age out
        of range (above 120), gender not 0 or 1, image missing (a link that leads nowhere), repeated picture (the same file
        name in another folder).

    Raises:
        FileNotFoundError: the folder holds no pictures.
    """
    folder = label_files.open_folder(folder, EXPECTED)
    place = next((folder / name for name in ("UTKFace", "utkface") if (folder / name).is_dir()), folder)
    path = label_files.list_images(place, EXPECTED)
    parts = path.str.rpartition("/")[2].str.extract(NAME).astype("Float64")
    age, gender = parts[0], parts[1]
    rows = pd.DataFrame(
        {"path": label_files.prefix(folder, place) + path, "gender": gender.map(GENDERS), "age_low": age, "age_high": age}
    )
    reasons = {
        "malformed name": age.isna(),
        "age out of range": age.gt(OLDEST).fillna(False),
        "gender not 0 or 1": rows["gender"].isna(),
        "image missing": label_files.find_missing(folder, rows["path"], label_files.list_files(folder, rows["path"])),
        "repeated picture": label_files.repeated_names(path),
    }
    return split_rejects(rows, reasons, "utkface")
