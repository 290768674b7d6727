"""Adience: five fold files and the faces they name.

Eidinger, Enbar, Hassner, "Age and gender estimation of unfiltered faces", IEEE TIFS 2014;
https://talhassner.github.io/home/projects/Adience/Adience-data.html

After it: `datasets.load`, which the notebooks call.
"""

from pathlib import Path

import pandas as pd

from src.config import AGE_GROUPS
from src.data import label_files
from src.data.table import Loaded, split_rejects

FOLDS = range(5)
FIELDS = ("user_id", "original_image", "face_id", "age", "gender")
EXPECTED = "fold_0_data.txt to fold_4_data.txt beside the folder faces/ or aligned/"
PICTURES = {
    "faces": "faces/{user}/coarse_tilt_aligned_face.{face}.{image}",
    "aligned": "aligned/{user}/landmark_aligned_face.{face}.{image}",
}
GENDERS = {"f": "female", "m": "male"}

# The eight labels as the fold files write them.
STRICT = {f"({low}, {high})": (low, high) for low, high in AGE_GROUPS["adience"].years}
# Other texts, and the label that later work assigns them to.
_OTHERS = {
    "(0, 2)": ("2", "3"),
    "(8, 12)": ("13", "(8, 23)"),
    "(15, 20)": ("22",),
    "(25, 32)": ("23", "29", "32", "34", "35", "(27, 32)", "(25, 23)"),
    "(38, 43)": ("36", "42", "45", "(38, 42)", "(38, 48)"),
    "(48, 53)": ("46", "55", "56"),
    "(60, 100)": ("57", "58"),
}
MAPPED = STRICT | {text: STRICT[label] for label, texts in _OTHERS.items() for text in texts}
LABELS = {"strict": STRICT, "mapped": MAPPED}


def load(folder: str | Path, images: str = "faces", labels: str = "strict", check_images: bool = True) -> Loaded:
    """Loads the faces of Adience, with the years of their label as age_low and age_high, and the published fold (0 to 4).

    A row is kept if its age or its gender is known; the other one is then NA. The subject is `face_id`.

    Args:
        folder: the folder of the fold files, or one that holds it as adience/ or Adience/.
        images: "faces" (816 x 816 crops, turned upright) or "aligned" (aligned in plane by the data set's owners).
        labels: "strict" keeps an age only where the text equals one of the eight labels, as the published protocol does
            (Levi and Hassner 2015); "mapped" also assigns the 22 other texts to a label, except None.
        check_images: False reads the labels alone.

    Returns:
        The table of faces and the ledger. Reasons in the ledger, in this order: path outside the folder, repeated row, no
        usable label, image missing.

    Raises:
        ValueError: an option is unknown, a fold file lacks its columns, or the fold files have no rows.
        FileNotFoundError: fold files are missing, or all pictures are.
    """
    for value, allowed, option in ((images, PICTURES, "images"), (labels, LABELS, "labels")):
        if value not in allowed:
            raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")
    folder = label_files.open_folder(folder, EXPECTED)
    place = label_files.find_subfolder("fold_*_data.txt", folder, ("adience", "Adience"))
    if place is None:
        raise label_files.missing_data_error(folder, "holds no fold files", EXPECTED)
    source = _folds(place)

    picture = PICTURES[images]
    names = zip(source["user_id"], source["face_id"], source["original_image"], strict=True)
    path = pd.Series([picture.format(user=user, face=face, image=image) for user, face, image in names], dtype="str")
    rows = pd.DataFrame(
        {
            "path": label_files.prefix(folder, place) + path,
            "subject": source["face_id"].replace("", None),
            "gender": source["gender"].str.strip().str.lower().map(GENDERS),
            **label_files.parse_ages(source["age"].str.strip(), LABELS[labels]),
            "fold": source["fold"],
        }
    )
    outside = label_files.outside_folder(path)
    reasons = {
        "path outside the folder": outside,
        "repeated row": path.duplicated().to_numpy(),
        "no usable label": (rows["age_low"].isna() & rows["gender"].isna()).to_numpy(),
    }
    if check_images:
        reasons["image missing"] = label_files.find_missing(
            folder, rows["path"], label_files.list_files(folder, rows["path"]), outside
        )
    return split_rejects(rows, reasons, "adience")


def _folds(place: Path) -> pd.DataFrame:
    names = {fold: place / f"fold_{fold}_data.txt" for fold in FOLDS}
    gone = [file.name for file in names.values() if not file.is_file()]
    if gone:
        raise label_files.missing_data_error(place, f"lacks {', '.join(gone)}", EXPECTED)
    folds = [label_files.label_table(file, "\t", FIELDS).assign(fold=fold) for fold, file in names.items()]
    return label_files.require_rows(pd.concat(folds, ignore_index=True), place / "fold_*_data.txt")
