"""All-Age-Faces: mostly East Asian faces from 2 to 80 years, whose age and serial number stand in the file's name.

Cheng, Li, Wang, Yu, Wang, "Exploiting effective facial patches for robust gender recognition", Tsinghua Science and
Technology 24 (3), 2019; https://github.com/JingchunCheng/All-Age-Faces-Dataset

After it: `datasets.load`, which the notebooks call.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from src.data import label_files
from src.data.table import Loaded, split_rejects

EXPECTED = "pictures named NNNNNAYY.jpg (serial number, A, age), or a folder original images/ or AllAgeFaces/ of them"
NAME = r"^([0-9]{5})A([0-9]{2})\.[A-Za-z]+$"
LAST_FEMALE = 7380  # the owners' rule: serial numbers up to this one are female, those above are male
ROOTS = ("", "All-Age-Faces Dataset", "AllAgeFaces")
ORIGINALS = ("original images", "original_images")


def load(folder: str | Path) -> Loaded:
    """Loads the faces of All-Age-Faces, in the order of their paths.

    Ages are exact. The owners name nobody, so `subject` is NA. They say that each picture shows another person, but pictures
    with neighbouring serial numbers often look like the same one: a random split puts some of these on both sides.

    Args:
        folder: the folder of the pictures, the owners' "All-Age-Faces Dataset", or a folder that holds it or AllAgeFaces/.
            Where there is a folder "original images", only that is read: the owners' aligned copies show the same faces.

    Returns:
        The table of faces and the ledger. Reasons in the ledger, in this order: malformed name, image missing (a link that
        leads nowhere), repeated picture (the same file name in another folder).

    Raises:
        FileNotFoundError: the folder holds no pictures.
    """
    folder = label_files.open_folder(folder, EXPECTED)
    roots = [folder / name for name in ROOTS]
    places = [root / name for root in roots for name in ORIGINALS] + roots[1:]
    place = next((place for place in places if place.is_dir()), folder)
    path = label_files.list_images(place, EXPECTED)
    parts = path.str.rpartition("/")[2].str.extract(NAME).astype("Float64")
    serial, age = parts[0], parts[1]
    rows = pd.DataFrame(
        {
            "path": label_files.prefix(folder, place) + path,
            "gender": np.where(serial.fillna(0) <= LAST_FEMALE, "female", "male"),
            "age_low": age,
            "age_high": age,
        }
    )
    reasons = {
        "malformed name": age.isna(),
        "image missing": label_files.find_missing(folder, rows["path"], label_files.list_files(folder, rows["path"])),
        "repeated picture": label_files.repeated_names(path),
    }
    return split_rejects(rows, reasons, "allagefaces")
