"""Adience: five fold files and the face images that they name.

Eidinger, Enbar, Hassner, "Age and gender estimation of unfiltered faces", IEEE TIFS 2014;
https://talhassner.github.io/home/projects/Adience/Adience-data.html
"""

from pathlib import Path

import pandas as pd

from src.config import AGE_GROUPS
from src.data import label_files
from src.data.table import TableAndLedger, split_rejects

FOLD_FILES = tuple(f"fold_{fold}_data.txt" for fold in range(5))
FIELDS = ("user_id", "original_image", "face_id", "age", "gender")
EXPECTED = "fold_0_data.txt to fold_4_data.txt beside the folder faces/ or aligned/"
IMAGE_KINDS = {"faces": "coarse_tilt_aligned_face", "aligned": "landmark_aligned_face"}  # folder, start of the file names
GENDER_CODES = {"f": "female", "m": "male"}

# The eight labels as the fold files write them.
STRICT = {f"({low}, {high})": (low, high) for low, high in AGE_GROUPS["adience"].years}
# Other age texts, and the label that `load` assigns them to with "mapped".
_OTHER_TEXTS = {
    "(0, 2)": ("2", "3"),
    "(8, 12)": ("13", "(8, 23)"),
    "(15, 20)": ("22",),
    "(25, 32)": ("23", "29", "32", "34", "35", "(27, 32)", "(25, 23)"),
    "(38, 43)": ("36", "42", "45", "(38, 42)", "(38, 48)"),
    "(48, 53)": ("46", "55", "56"),
    "(60, 100)": ("57", "58"),
}
MAPPED = STRICT | {text: STRICT[label] for label, texts in _OTHER_TEXTS.items() for text in texts}
LABEL_SETS = {"strict": STRICT, "mapped": MAPPED}


def load(folder: str | Path, images: str = "faces", labels: str = "strict", check_images: bool = True) -> TableAndLedger:
    """Loads the faces of Adience.

    Rows with a known age or a known gender are kept; the unknown value is NA. Ages are the years of the label: age_low 4 and
    age_high 6 for "(4, 6)". The subject is `face_id`, and the fold is the published one (0 to 4).

    Args:
        folder: Folder of the fold files. If this folder is named adience/ or Adience/, its parent works too.
        images: "faces" (upright crops of 816 x 816 pixels) or "aligned" (aligned by the data set's authors).
        labels: "strict" uses an age only if its text equals one of the eight labels, as the published protocol does
            (Levi and Hassner 2015). "mapped" also assigns the other texts, except None, to a label.
        check_images: False reads the labels without looking for the images.

    Returns:
        The table of faces and the ledger, with these reasons in this order: path outside the folder, repeated row, no
        usable label, image missing.

    Raises:
        ValueError: An option is unknown, or a fold file is not a table with the expected columns.
        FileNotFoundError: A fold file is missing, or all images are.
    """
    for option, value, allowed in (("images", images, IMAGE_KINDS), ("labels", labels, LABEL_SETS)):
        if value not in allowed:
            raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")
    folder = label_files.require_folder(folder, EXPECTED)
    subfolder = label_files.find_subfolder(folder, ("adience", "Adience"), "fold_*_data.txt")
    files = [folder / subfolder / name for name in FOLD_FILES]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise label_files.missing_data_error(folder / subfolder, f"lacks {', '.join(missing)}", EXPECTED)
    folds = [label_files.read_labels(file, "\t", FIELDS).assign(fold=i) for i, file in enumerate(files)]
    source = pd.concat(folds, ignore_index=True)

    path = f"{images}/" + source["user_id"] + f"/{IMAGE_KINDS[images]}." + source["face_id"] + "." + source["original_image"]
    rows = pd.DataFrame(
        {
            "path": subfolder + path,
            "subject": source["face_id"].replace("", None),
            "gender": source["gender"].str.strip().str.lower().map(GENDER_CODES),
            **label_files.parse_ages(source["age"].str.strip(), LABEL_SETS[labels]),
            "fold": source["fold"],
        }
    )
    reasons = {
        "path outside the folder": label_files.is_outside(path),
        "repeated row": path.duplicated(),
        "no usable label": rows["age_low"].isna() & rows["gender"].isna(),
    }
    if check_images:
        reasons["image missing"] = label_files.is_missing(folder, rows["path"])
    return split_rejects(rows, reasons, "adience")
