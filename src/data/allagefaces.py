"""All-Age-Faces: mostly East Asian faces from 2 to 80 years, whose file names give a serial number and the age.

Cheng, Li, Wang, Yu, Wang, "Exploiting effective facial patches for robust gender recognition", Tsinghua Science and
Technology 24 (3), 2019; https://github.com/JingchunCheng/All-Age-Faces-Dataset
"""

from pathlib import Path

import numpy as np
import pandas as pd

from src.data.label_files import parse_file_names
from src.data.table import TableAndLedger, split_rejects

EXPECTED = "images named NNNNNAYY.jpg (serial number, A, age), or a folder original images/ or AllAgeFaces/ of them"
NAME = r"^([0-9]{5})A([0-9]{2})\.[A-Za-z]+$"
LAST_FEMALE = 7380  # the authors' rule: serial numbers up to this one are female, those above are male
FOLDERS = ("original images", "All-Age-Faces Dataset/original images", "All-Age-Faces Dataset", "AllAgeFaces")


def load(folder: str | Path) -> TableAndLedger:
    """Loads the faces of All-Age-Faces, in the order of their paths.

    Ages are exact. The data set has no identities, so `subject` is NA. According to the authors, each image shows another
    person, but images with neighbouring serial numbers often seem to show the same person, whom a random split may separate.

    Args:
        folder: Folder of the images, the authors' folder "All-Age-Faces Dataset", or the parent of this folder or of
            AllAgeFaces/. If there is a folder "original images", only this one is read, because the authors' aligned copies
            show the same faces.

    Returns:
        The table of faces and the ledger, with these reasons in this order: malformed name, image missing (a broken link),
        repeated image (the same file name in another folder).

    Raises:
        FileNotFoundError: The folder contains no images.
    """
    path, numbers, reasons = parse_file_names(folder, FOLDERS, NAME, EXPECTED)
    serial, age = numbers[0], numbers[1]
    # Rows with a malformed name get "male" here and are dropped below.
    gender = np.where(serial.le(LAST_FEMALE).fillna(False), "female", "male")
    rows = pd.DataFrame({"path": path, "gender": gender, "age_low": age, "age_high": age})
    return split_rejects(rows, reasons, "allagefaces")
