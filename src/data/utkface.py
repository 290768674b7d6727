"""UTKFace: face images whose names give age and gender.

Zhang, Song, Qi, "Age progression/regression by conditional adversarial autoencoder", CVPR 2017;
https://susanqq.github.io/UTKFace/
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.data.label_files import parse_file_names
from src.data.table import TableAndLedger, split_rejects

EXPECTED = "images named AGE_GENDER_RACE_DATE.jpg (or .jpg.chip.jpg, .webp, .png), or a folder UTKFace/ of them"
# In some original names, a dot or a letter of ".jpg.chip.jpg" is missing, or a space precedes it.
NAME = r"(?i)^([0-9]+)_([0-9]+)_([0-9]+)_[0-9]+\s*(?:\.?j?pe?g)?(?:\.?chip)?\.[a-z]+$"
GENDER_CODES = {0: "male", 1: "female"}  # the opposite of IMDB-WIKI
RACES = {"0": "White", "1": "Black", "2": "Asian", "3": "Indian", "4": "Other"}  # by the number in the file name
MAX_AGE = 120  # years


def load(folder: str | Path) -> TableAndLedger:
    """Loads the faces of UTKFace, from folders at any depth (part1/, part2/ …), in the order of their paths.

    Ages are exact. The data set has no identities, so `subject` is NA.

    Args:
        folder: Folder of the images. If this folder is named UTKFace/, its parent works too.

    Returns:
        The table of faces and the ledger, with these reasons in this order: malformed name (a part is missing), age out of
        range (above 120), gender not 0 or 1, image missing (a broken link), repeated image (the same file name in another
        folder).

    Raises:
        FileNotFoundError: The folder contains no images.
    """
    path, numbers, masks = parse_file_names(folder, ("UTKFace", "utkface"), NAME, EXPECTED)
    age, gender = numbers[0], numbers[1].map(GENDER_CODES)
    rows = pd.DataFrame({"path": path, "gender": gender, "age_low": age, "age_high": age})
    reasons = {  # in the order of priority
        "malformed name": masks.pop("malformed name"),
        "age out of range": age.gt(MAX_AGE).fillna(False),
        "gender not 0 or 1": gender.isna(),
        **masks,
    }
    return split_rejects(rows, reasons, "utkface")


def races(paths: pd.Series) -> npt.NDArray[np.object_]:
    """Returns the race in each file name, shape (n,); None where it is unknown. `paths` are as in the table."""
    number = paths.str.rpartition("/")[2].str.extract(NAME)[2]
    return np.array([RACES.get(one) for one in number], object)
