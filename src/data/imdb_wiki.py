"""IMDB-WIKI: half a million pictures of celebrities, with what imdb.mat and wiki.mat say of them.

Rothe, Timofte, Van Gool, "Deep expectation of real and apparent age from a single image without facial landmarks",
IJCV 2018; https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/

The labels were crawled, not given by anybody: wrong years and film stills are among them, as the owners say themselves.

Before it: `mat_file` and `disk`. After it: `pictures`, `prepare` and notebook 5.
"""

import contextlib
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.data import label_files, matlab
from src.data.table import BOX_COLUMNS, Loaded, split_rejects

PARTS = ("imdb", "wiki")
TEXTS, BOXES = ("full_path", "name"), ("face_location",)
NUMBERS = ("dob", "photo_taken", "gender", "face_score", "second_face_score", "celeb_id")
EXPECTED = "imdb.mat or wiki.mat, in the folder itself or in one of its folders, such as imdb_crop/, wiki_crop/ or imdb_meta/"

PROBES = 1000  # pictures of a part that are looked for to find the folder they are in

EPOCH = np.datetime64("1970-01-01", "D")
EPOCH_NUMBER = 719529  # Matlab's date number of that day
FIRST_NUMBER, LAST_NUMBER = 367, 3652425  # 1 January of year 1, 31 December of year 9999
BIRTH_TEXT = r"_([0-9]{1,4})-([0-9]{1,2})-([0-9]{1,3})"  # a few days have a digit too many, as in 1929-10-012
PHOTO_DAY = 701  # 1 July as month * 100 + day: when the owners say to take each picture as made


def load(
    folder: str | Path,
    min_score: float = 1.0,
    max_age: int = 100,
    min_age: int = 0,
    check_images: bool = True,
    parts: tuple[str, ...] = PARTS,
    known_gender: bool = False,
) -> Loaded:
    """Loads the faces of IMDB-WIKI whose labels can be trusted, in the order of the records, IMDB first.

    Ages are those on 1 July of the year of the photo; where the day or month of birth is unknown they may span two years.
    Boxes are NA for cropped pictures, which are those in a folder with "crop" in its name. The subject is the celebrity's
    name: all names under one celeb_id are one subject, and so is a celebrity who is in both parts (and so are namesakes);
    where the name is empty, it is the number in the picture's name. `pictures.clean` checks the pictures themselves.

    Args:
        folder: the folder of imdb.mat and wiki.mat, or the folder of the crops; see `locate`.
        min_score: drops faces that the owners' detector scored lower. Every picture with a second face is dropped too,
            because nobody can say whose age it is.
        max_age: in years, inclusive.
        min_age: in years, inclusive.
        check_images: False reads the labels alone.
        parts: "imdb", "wiki" or both.
        known_gender: True drops records without a gender; otherwise they stay, with gender NA.

    Returns:
        The table of faces and the ledger. Reasons in the ledger, in this order: path outside the folder, no face, second
        face, low score, gender unknown (where asked for), impossible date, age out of range, image missing, duplicate image
        (a second record for the same file).

    Raises:
        ValueError: an option is unknown, or a .mat file has another form or no records.
        FileNotFoundError: the .mat files or all pictures are missing.
    """
    rows = records(folder, parts)
    reasons = _reasons(rows, min_score, max_age, min_age, known_gender)
    if check_images:
        root = Path(folder).expanduser()
        where = f" (searched in {', '.join(f'{part}_crop/, {part}/' for part in parts)} and beside the .mat files)"
        present = label_files.list_files(root, rows["path"])
        reasons["image missing"] = label_files.find_missing(
            root, rows["path"], present, rows["outside"].to_numpy(bool), where
        )
    reasons["duplicate image"] = _repeated(rows["path"], reasons)
    return split_rejects(rows, reasons, "imdb_wiki")


def funnel(
    folder: str | Path,
    min_score: float = 1.0,
    max_age: int = 100,
    min_age: int = 0,
    parts: tuple[str, ...] = PARTS,
    known_gender: bool = False,
) -> pd.DataFrame:
    """How many records each step of `load` meets and leaves, pictures unchecked: one row a step.

    Columns: `step`; `records`, int: how many of all the records it fits; `dropped`: those that no earlier step fitted;
    `left`: what remains after it. For wiki.mat, `records` gives the known numbers, all counted over all 62,328 records:
    18,016 no face, 4,096 second face, 1,319 low score, 493 older than 100, 1,288 younger than 0. Most of these fit
    several steps: only 44 of the 493 and 5 of the 1,288 have one face of score 1 or more.
    """
    rows = records(folder, parts)
    reasons = _reasons(rows, min_score, max_age, min_age, known_gender)
    del reasons["age out of range"]  # told apart here
    reasons[f"older than {max_age}"] = rows["age_high"] > max_age
    reasons[f"younger than {min_age}"] = rows["age_low"] < min_age
    reasons["duplicate image"] = _repeated(rows["path"], reasons)
    table = [{"step": "all records", "records": len(rows), "dropped": 0, "left": len(rows)}]
    left = np.full(len(rows), True)
    for step, mask in reasons.items():
        dropped = int((left & mask).sum())
        left &= ~mask
        table.append({"step": step, "records": int(mask.sum()), "dropped": dropped, "left": int(left.sum())})
    return pd.DataFrame(table)


def _reasons(rows: pd.DataFrame, min_score: float, max_age: int, min_age: int, known_gender: bool) -> dict[str, np.ndarray]:
    if not 0 <= min_age <= max_age:
        raise ValueError(f"ages must satisfy 0 <= min_age <= max_age, got min_age {min_age} and max_age {max_age}")
    no_face = ~(rows["face_score"] > -np.inf)  # minus infinity: none was found, the box is the whole picture
    reasons = {
        "path outside the folder": rows["outside"].to_numpy(),
        "no face": no_face.to_numpy(),
        "second face": rows["second_face_score"].notna().to_numpy(),
        "low score": (~no_face & (rows["face_score"] < min_score)).to_numpy(),
        "gender unknown": rows["gender"].isna().to_numpy(),
        "impossible date": rows["age_low"].isna().to_numpy(),
        "age out of range": ((rows["age_low"] < min_age) | (rows["age_high"] > max_age)).to_numpy(),
    }
    if not known_gender:
        del reasons["gender unknown"]
    return reasons


def _repeated(path: pd.Series, reasons: dict[str, np.ndarray]) -> np.ndarray:
    """Boolean (n,): records that no reason fits and whose file an earlier such record names."""
    good = np.flatnonzero(~np.logical_or.reduce(list(reasons.values())))
    repeated = np.zeros(len(path), bool)
    repeated[good] = path.iloc[good].duplicated()
    return repeated


def records(folder: str | Path, parts: tuple[str, ...] = PARTS) -> pd.DataFrame:
    """Every record of the parts that are there: columns of the table of faces, the scores, and `outside`.

    Raises:
        ValueError: `parts` is unknown, or a .mat file has another form or no records.
        FileNotFoundError: there is no .mat file.
    """
    if isinstance(parts, str) or not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"parts must be a tuple of one or more of {', '.join(PARTS)}, got {parts!r}")
    folder = label_files.open_folder(folder, EXPECTED)
    files = {part: locate(folder, part) for part in parts}
    found = [_part(folder, file, part) for part, file in files.items() if file is not None]
    if not found:
        raise label_files.missing_data_error(folder, f"holds no {' or '.join(f'{part}.mat' for part in parts)}", EXPECTED)
    rows = pd.concat(found, ignore_index=True)
    rows["subject"] = _subjects(rows["path"], rows.pop("part"), rows.pop("name"), rows.pop("celeb_id"))
    return rows


def locate(folder: Path, part: str) -> Path | None:
    """The part's .mat file: in `folder`, in PART_crop/, PART/ or another folder in it, or None.

    Where `folder` is itself the folder of the part's pictures, by its name PART_crop or PART, the file may also lie beside it
    or in a folder beside it whose name begins with PART, such as imdb_meta/.
    """
    places = [folder, folder / f"{part}_crop", folder / part, *_folders(folder)]
    here = Path(os.path.abspath(folder))  # not resolved: beside a link is where the link lies
    if here.name.lower() in (f"{part}_crop", part):
        places += [here.parent, *(place for place in _folders(here.parent) if place.name.lower().startswith(part))]
    files = [place / f"{part}.mat" for place in places]
    return next((file for file in files if file.is_file()), None)


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.is_dir())
    except OSError:  # the folder above may be closed to this user
        return []


def _root(folder: Path, file: Path, part: str, path: pd.Series) -> Path:
    """The folder that the part's paths are relative to: the first with pictures of the .mat file's own, PART_crop/, PART/ and
    `folder` itself; without pictures, the first of them."""
    places = [file.parent, folder / f"{part}_crop", folder / part, folder]
    places = [place for place in places if place == folder or folder in place.parents]
    names = path[~label_files.outside_folder(path)].to_list()
    some = names[:: len(names) // PROBES + 1]
    inner = {name.rpartition("/")[0] for name in names} - {""}
    for exists, wanted in ((os.path.isfile, some), (os.path.isdir, inner)):  # folders tell where most pictures are absent
        for place in places:
            if any(exists(place / name) for name in wanted):
                return place
    return places[0]


def _part(folder: Path, file: Path, part: str) -> pd.DataFrame:
    record = matlab.read_struct(file, part, TEXTS, BOXES, NUMBERS, optional=("celeb_id",))
    if not record["full_path"]:
        raise ValueError(f"{file}: expected at least one record, found none; replace it with the complete original")
    path = label_files.forward_slashes(pd.Series(record["full_path"], dtype="str"))
    low, high = _ages(record["dob"], record["photo_taken"], record["full_path"])
    place = _root(folder, file, part, path)
    before = label_files.prefix(folder, place)
    rows = pd.DataFrame(
        {
            "path": before + path if before else path,
            "outside": label_files.outside_folder(path),
            "part": part,
            "name": record["name"],
            "celeb_id": record.get("celeb_id", np.nan),
            # NaN is unknown; comparing, not casting, keeps it from becoming a 0
            "gender": pd.Series(record["gender"]).map({0.0: "female", 1.0: "male"}).astype("string"),
            "age_low": low,
            "age_high": high,
            "face_score": record["face_score"],
            "second_face_score": record["second_face_score"],
        }
    )
    # The name as given counts too: a link may lead to a store whose folders have names of their own.
    names = {Path(os.path.abspath(place)).name.lower(), place.resolve().name.lower()}
    rows[BOX_COLUMNS] = np.nan if any("crop" in name for name in names) else _pixels(record["face_location"])
    return rows


def _pixels(boxes: np.ndarray) -> np.ndarray:
    """Matlab boxes (from 1, the last pixel inside) as left, top, right, bottom from 0, right and bottom exclusive."""
    pixels = np.column_stack([np.maximum(boxes[:, :2] - 1, 0), boxes[:, 2:]])
    sound = np.isfinite(pixels).all(axis=1) & (pixels[:, 2:] > pixels[:, :2]).all(axis=1)
    return np.where(sound[:, None], pixels, np.nan)


def _ages(dob: np.ndarray, photo_taken: np.ndarray, path: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest age in years on 1 July of the photo's year, float (n,), NaN where a date is impossible.

    dob: Matlab date numbers; photo_taken: years; path: names that carry the date of birth as text too. The number
    counts, except where the text has a month or day of 00: Matlab made the month before out of it. A month of 13 or
    more became a month of the next year: nobody knows what was meant, so the date is impossible.
    """
    text_year, text_month, text_day = _odd_births(path)
    vague = (text_month == 0) | (text_day == 0)
    number = np.floor(dob)
    real = (number >= FIRST_NUMBER) & (number <= LAST_NUMBER)
    date = EPOCH + (np.where(real, number, EPOCH_NUMBER) - EPOCH_NUMBER).astype("int64").astype("timedelta64[D]")
    month = date.astype("datetime64[M]")
    year = date.astype("datetime64[Y]").astype("int64") + 1970
    day_of_year = (month.astype("int64") % 12 + 1) * 100 + (date - month).astype("int64") + 1  # as month * 100 + day

    first = np.maximum(text_month, 1) * 100 + np.maximum(text_day, 1)
    last = np.where(text_month == 0, 1231, text_month * 100 + np.where(text_day == 0, 31, text_day))
    year, first, last = np.where(vague, [text_year, first, last], [year, day_of_year, day_of_year])
    possible = (
        np.where(vague, text_year >= 1, real)
        & ~((text_month > 12) | (text_day > 31))
        & (photo_taken >= 1)
        & (photo_taken <= 9999)
    )
    ages = [np.floor(photo_taken) - year - (birthday > PHOTO_DAY) for birthday in (last, first)]
    low, high = np.where(possible, ages, np.nan)
    return low, high


def _odd_births(path: list[str]) -> np.ndarray:
    """Year, month and day of birth as the names give them: float (3, n), NaN where there is nothing odd about them.

    Odd is a number after a dash that is 0, above 31, of three digits, or above 12 where another dash follows: a month. All
    names are looked through at once for these few, which are then read closely.
    """
    ends = np.cumsum(np.fromiter(map(len, path), int, len(path)) + 1)
    letters = np.frombuffer("\n".join([*path, "", "", ""]).encode("latin-1", "replace"), np.uint8)
    dash = np.flatnonzero(letters == ord("-"))
    first, second, third = (letters[dash + k] - ord("0") for k in (1, 2, 3))  # what is no digit becomes more than 9
    two = second <= 9
    value = np.where(two, 10 * first + second, first)
    month = letters[dash + 2 + two] == ord("-")
    odd = (value == 0) | two & ((value > 31) | (third <= 9)) | month & (value > 12)
    odd = np.unique(np.searchsorted(ends, dash[odd & (first <= 9)], side="right"))
    births = np.full((3, len(path)), np.nan)
    if len(odd):
        texts = pd.Series([path[place] for place in odd], dtype="str")
        births[:, odd] = texts.str.extract(BIRTH_TEXT).astype(float).to_numpy().T
    return births


def _subjects(path: pd.Series, part: pd.Series, name: pd.Series, celeb_id: pd.Series) -> np.ndarray:
    """Who each record is about: object (n,); names that share a celeb_id are one, as are spellings of one name."""
    spelling, spellings = pd.factorize(name)
    known, names = pd.factorize(np.array(list(map(_normal, spellings.to_numpy(object))), object))
    code = known[spelling]
    has = celeb_id.notna().to_numpy() & (names != "")[code]
    ids, celebrities = pd.factorize(celeb_id[has])
    pairs = np.unique(code[has] * np.int64(len(celebrities) + 1) + ids)
    one, other = np.divmod(pairs, len(celebrities) + 1)
    size = len(names) + len(celebrities)
    links = coo_array((np.ones(len(pairs), bool), (one, len(names) + other)), shape=(size, size))
    group = connected_components(links, directed=False)[1][: len(names)]
    first = pd.Series(names).groupby(group).transform("first").to_numpy(object)  # of a person's names
    subject = first[code]
    nameless = subject == ""
    number = path[nameless].str.extract(r"([^/_]+)[^/]*$", expand=False)
    subject[nameless] = part[nameless] + ":" + number
    return subject


def _normal(name: str) -> str:
    """A name however it was typed: one case, one kind of space and accent, and UTF-8 that was taken for Latin-1 mended."""
    if not name.isascii():
        with contextlib.suppress(UnicodeError):
            name = name.encode("latin-1").decode("utf-8")
        name = unicodedata.normalize("NFKC", name)
    return " ".join(name.casefold().split())
