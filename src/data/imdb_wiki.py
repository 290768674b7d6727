"""IMDB-WIKI: half a million images of celebrities, with their crawled metadata in imdb.mat and wiki.mat.

Rothe, Timofte, Van Gool, "Deep expectation of real and apparent age from a single image without facial landmarks",
IJCV 2018; https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/. The authors warn of wrong years and film stills.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.io import loadmat

from src.config import RUNS
from src.data import label_files
from src.data.table import BOX_COLUMNS, TABLE_COLUMNS, TableAndLedger, check_table, split_rejects
from src.files import atomic_write, write_text

SUBSETS = ("imdb", "wiki")
EXPECTED = "imdb.mat or wiki.mat, in the folder itself or in one of its folders, such as imdb_crop/, wiki_crop/ or imdb_meta/"
NUMERIC_FIELDS = ("dob", "photo_taken", "gender", "face_score", "second_face_score")
TEXT_FIELDS = ("full_path", "name")
CLEANED = RUNS / "imdb_wiki"  # where notebook 5 writes what notebooks 1 and 2 read
CLEANED_TABLE, CLEANED_LEDGER, CLEANED_FOLDER = "imdb_wiki_clean.csv", "imdb_wiki_ledger.csv", "imdb_wiki_folder.txt"
GENDER_CODES = {0.0: "female", 1.0: "male"}  # NaN is unknown
UNIX_EPOCH = 719529  # Matlab's date number of 1 January 1970
FIRST_DATE, LAST_DATE = 367, 3652425  # Matlab's date numbers of the first day of year 1 and the last day of year 9999
BIRTH_DATE = r"_([0-9]{1,4})-([0-9]{1,2})-([0-9]{1,3})"  # a few days have three digits, as in 1929-10-012
PHOTO_DAY = 701  # 1 July as month * 100 + day, which the authors assume for every photo


def load(
    folder: str | Path,
    min_score: float = 1.0,
    max_age: int = 100,
    min_age: int = 0,
    check_images: bool = True,
    known_gender: bool = False,
) -> TableAndLedger:
    """Loads the faces of IMDB-WIKI that pass the checks listed under Returns, in the order of the records, IMDB first.

    Ages are those on 1 July of the year of the photo; an age spans two years if the day or month of birth is unknown. Boxes
    are NA for images in a folder with "crop" in its name.

    The subject is the celebrity's name, which both files share. Records with the same celeb_id have the same subject, even
    if their names differ. Without a name, the subject is the number in the file name.

    Args:
        folder: Folder of imdb.mat and wiki.mat or of the crops; data/README.md lists the layouts.
        min_score: Lowest score of the authors' face detector. Images with a second face are always dropped.
        max_age: Highest age in years, inclusive.
        min_age: Lowest age in years, inclusive.
        check_images: False reads the metadata without looking for the images.
        known_gender: True drops records without a gender; otherwise their gender is NA.

    Returns:
        The table of faces and the ledger, with these reasons in this order: path outside the folder, no face, second face,
        low score, gender unknown (with `known_gender`), impossible date, age out of range, image missing, duplicate image
        (the file of an earlier record that is kept).

    Raises:
        ValueError: An option is invalid, or a .mat file is damaged or lacks a field.
        FileNotFoundError: The .mat files or all images are missing.
    """
    rows = records(folder)
    reasons = _drop_reasons(rows, min_score, max_age, min_age, known_gender)
    if check_images:
        reasons["image missing"] = label_files.is_missing(Path(folder).expanduser(), rows["path"])
    reasons["duplicate image"] = label_files.is_duplicate(rows["path"], reasons)
    return split_rejects(rows, reasons, "imdb_wiki")


def count_dropped(
    folder: str | Path, min_score: float = 1.0, max_age: int = 100, min_age: int = 0, known_gender: bool = False
) -> pd.DataFrame:
    """Counts the records that each of `load`'s reasons fits, without looking for the images; arguments as for `load`.

    The age has two reasons here, above the highest and below the lowest.

    Returns:
        One row for all records and one per reason, with the columns `reason`, `records` (all records that the reason fits),
        `dropped` (those that no earlier reason fits) and `left` (those that remain).
    """
    rows = records(folder)
    reasons = _drop_reasons(rows, min_score, max_age, min_age, known_gender)
    del reasons["age out of range"]
    reasons |= {
        f"age out of range: above {max_age}": rows["age_high"] > max_age,
        f"age out of range: below {min_age}": rows["age_low"] < min_age,
    }
    reasons["duplicate image"] = label_files.is_duplicate(rows["path"], reasons)
    masks = np.array(list(reasons.values()), bool)
    is_first = masks & (masks.cumsum(axis=0) == 1)
    steps = pd.DataFrame({"reason": ["all records", *reasons], "records": [len(rows), *masks.sum(axis=1)]})
    steps["dropped"] = [0, *is_first.sum(axis=1)]
    steps["left"] = len(rows) - steps["dropped"].cumsum()
    return steps


def records(folder: str | Path) -> pd.DataFrame:
    """Reads all records.

    Returns:
        One row per record, with columns of the table of faces and these: face_score, minus infinity without a face;
        second_face_score, NaN without a second face; and `outside`, see `label_files.is_outside`.

    Raises:
        ValueError: A .mat file is damaged or lacks a field.
        FileNotFoundError: There is no .mat file.
    """
    folder = label_files.require_folder(folder, EXPECTED)
    files = {subset: [*folder.glob(f"{subset}.mat"), *sorted(folder.glob(f"*/{subset}.mat"))] for subset in SUBSETS}
    found = [_read_subset(folder, files[subset][0], subset) for subset in SUBSETS if files[subset]]
    if not found:
        raise label_files.missing_data_error(folder, "contains no imdb.mat or wiki.mat", EXPECTED)
    return pd.concat(found, ignore_index=True)


def _drop_reasons(
    rows: pd.DataFrame, min_score: float, max_age: int, min_age: int, known_gender: bool
) -> dict[str, npt.ArrayLike]:
    if not 0 <= min_age <= max_age:
        raise ValueError(f"ages must satisfy 0 <= min_age <= max_age, got min_age {min_age} and max_age {max_age}")
    has_face = rows["face_score"] > -np.inf  # without a face, the score is minus infinity and the box is the whole image
    return {
        "path outside the folder": rows["outside"],
        "no face": ~has_face,
        "second face": rows["second_face_score"].notna(),
        "low score": has_face & (rows["face_score"] < min_score),
        **({"gender unknown": rows["gender"].isna()} if known_gender else {}),
        "impossible date": rows["age_low"].isna(),
        "age out of range": (rows["age_low"] < min_age) | (rows["age_high"] > max_age),
    }


def _read_subset(folder: Path, file: Path, subset: str) -> pd.DataFrame:
    record = _read_mat(file, subset)
    path = record["full_path"].str.replace("\\", "/")
    outside = label_files.is_outside(path)
    # The images are in the first of these subfolders that contains the top folder of any path.
    top_folders = path[~outside].str.split("/").str[0].unique()
    names = [file.parent.relative_to(folder).as_posix(), f"{subset}_crop", subset, "."]
    subfolder = next((name for name in names if any(os.path.exists(folder / name / top) for top in top_folders)), names[0])
    is_crop = "crop" in f"{(folder / subfolder).absolute().name} {(folder / subfolder).resolve().name}".lower()
    age_low, age_high = _age_range(record["dob"], record["photo_taken"], path)
    rows = record[["right", "bottom", "face_score", "second_face_score"]].assign(
        **{
            "path": f"{subfolder}/".removeprefix("./") + path,
            "outside": outside,
            "subject": _subjects(record["name"], record.get("celeb_id"), path, subset),
            "gender": record["gender"].map(GENDER_CODES),
            "age_low": age_low,
            "age_high": age_high,
            "left": (record["left"] - 1).clip(0),  # Matlab counts pixels from 1 and includes the last one
            "top": (record["top"] - 1).clip(0),
        }
    )
    has_box = (rows["right"] > rows["left"]) & (rows["bottom"] > rows["top"]) & (not is_crop)
    rows[BOX_COLUMNS] = rows[BOX_COLUMNS].where(has_box)
    return rows


def _read_mat(file: Path, subset: str) -> pd.DataFrame:
    """Reads one row per record. An empty text cell becomes "", and a box cell without four numbers becomes NaN."""
    numbers = NUMERIC_FIELDS if subset == "wiki" else (*NUMERIC_FIELDS, "celeb_id")
    try:
        struct = loadmat(file)[subset].flat[0]
        fields = {name: struct[name].ravel().astype(float) for name in numbers}
        for name in TEXT_FIELDS:
            fields[name] = pd.Series([cell.item(0) if cell.size else "" for cell in struct[name].ravel()], dtype="str")
        boxes = [cell.ravel() if cell.size == 4 else np.full(4, np.nan) for cell in struct["face_location"].ravel()]
        fields |= dict(zip(BOX_COLUMNS, np.array(boxes, float).reshape(-1, 4).T))
        return pd.DataFrame(fields)
    except Exception as error:  # a damaged file makes loadmat raise many kinds of errors
        expected = ", ".join((*numbers, *TEXT_FIELDS, "face_location"))
        raise ValueError(
            f"{file}: expected a Matlab struct {subset} with the fields {expected}, but reading it failed ({error!r}): "
            "download the original again"
        ) from error


def _age_range(dob: pd.Series, photo_taken: pd.Series, path: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Returns the lowest and the highest age in years on 1 July of the photo's year, NaN where a date is impossible.

    `dob`, a Matlab date number, is the date of birth that the path also contains. In some paths the month or day is 00. The
    authors converted such dates with Matlab, which returns the previous month, so `dob` is wrong and the path's date is used:
    1980-07-00 is any day in July 1980, and the age on 1 July 2010 is 29 or 30. Matlab also turned months above 12 into months
    of the next year; these dates are impossible.
    """
    text = path.str.extract(BIRTH_DATE).astype(float).set_axis(["year", "month", "day"], axis=1)
    is_vague = (text["month"] == 0) | (text["day"] == 0)
    is_date = dob.between(FIRST_DATE, LAST_DATE + 1, inclusive="left")
    days = np.floor(dob.where(is_date, UNIX_EPOCH)).to_numpy("int64") - UNIX_EPOCH
    birth_date = pd.Series(days.astype("datetime64[D]").astype("datetime64[s]")).dt  # pandas has no unit of days
    # The first and the last possible birthday, as month * 100 + day.
    birthday = birth_date.month * 100 + birth_date.day
    first = birthday.where(~is_vague, text["month"].clip(1) * 100 + text["day"].clip(1))
    last = birthday.where(~is_vague, text["month"].replace(0, 12) * 100 + text["day"].replace(0, 31))
    last = last.mask(text["month"] == 0, 1231)
    years = np.floor(photo_taken) - birth_date.year.where(~is_vague, text["year"])
    possible = is_date.where(~is_vague, text["year"] >= 1) & photo_taken.between(1, 9999)
    possible &= ~(text["month"] > 12) & ~(text["day"] > 31)
    # Who was born after 1 July is a year younger on that day.
    return (years - (last > PHOTO_DAY)).where(possible), (years - (first > PHOTO_DAY)).where(possible)


def _subjects(name: pd.Series, celeb_id: pd.Series | None, path: pd.Series, subset: str) -> pd.Series:
    """Returns the celebrity's name in one spelling or, where it is empty, the number in the file name."""
    subject = name.str.normalize("NFKC").str.casefold().str.split().str.join(" ").replace("", None)
    if celeb_id is not None:
        subject = subject.groupby(celeb_id).transform("first").fillna(subject)
    return subject.fillna(f"{subset}:" + path.str.extract(r"([^/_]+)[^/]*$", expand=False))


def save_cleaned(loaded: TableAndLedger, folder: str | Path, target: Path | None = None) -> list[Path]:
    """Writes a cleaned table of faces and its ledger as CSV files, and the data set's folder beside them.

    Args:
        loaded: The table, which may have further columns, and the ledger.
        folder: Folder of the data set.
        target: Where to write; None for `CLEANED`, from which `data.load_for_training` reads.

    Returns:
        The two CSV files.
    """
    target = target or CLEANED
    target.mkdir(parents=True, exist_ok=True)
    files = [target / CLEANED_TABLE, target / CLEANED_LEDGER]
    for file, rows in zip(files, loaded, strict=True):
        with atomic_write(file) as path:
            rows.to_csv(path, index=False)
    write_text(target / CLEANED_FOLDER, f"{Path(folder).expanduser().resolve()}\n")
    return files


def read_cleaned(folder: str | Path) -> TableAndLedger | None:
    """Reads from `CLEANED` what `save_cleaned` wrote for the same folder of the data set; None if it wrote nothing for it."""
    source = CLEANED / CLEANED_FOLDER
    if not source.exists() or source.read_text(encoding="utf-8").strip() != str(Path(folder).expanduser().resolve()):
        return None
    # Only an empty cell is NA: somebody may be called "Nan".
    kept, dropped = (
        pd.read_csv(CLEANED / name, dtype=TABLE_COLUMNS | {"reason": "string"}, keep_default_na=False, na_values=[""])
        for name in (CLEANED_TABLE, CLEANED_LEDGER)
    )
    return TableAndLedger(check_table(kept), dropped)
