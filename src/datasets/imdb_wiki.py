"""IMDB-WIKI: half a million pictures of celebrities, with what imdb.mat and wiki.mat say of them.

Rothe, Timofte, Van Gool, "Deep expectation of real and apparent age from a single image without facial landmarks",
IJCV 2018; https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/

The labels were crawled, not given by anybody: wrong years and film stills are among them, as the owners say themselves.
"""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat

from src.datasets import disk
from src.tables import BOX, Loaded, divide

PARTS = ("imdb", "wiki")
FIELDS = ("dob", "photo_taken", "full_path", "gender", "name", "face_location", "face_score", "second_face_score")
EXPECTED = "imdb.mat or wiki.mat, in the folder itself or in imdb/, wiki/, imdb_crop/ or wiki_crop/"

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
) -> Loaded:
    """The faces of IMDB-WIKI whose labels can be trusted, in the order of the records, IMDB first.

    min_score: faces that the owners' detector scored lower are left out, and so is every picture with a second face:
    nobody can say whose age it is. min_age, max_age: years, inclusive. check_images=False reads the labels alone.
    A record whose gender is unknown stays, with gender NA. Ages are those on 1 July of the year of the photo; where the
    day or month of birth is unknown they may span two years. Boxes are NA in imdb_crop/ and wiki_crop/, whose pictures
    are cut out already. The subject is the celebrity's name, so that one who is in both parts is one subject (and so
    are namesakes); where the name is empty, it is the number in the picture's name.

    Reasons in the ledger, in this order: path outside the folder, no face, second face, low score, impossible date, age
    out of range, image missing. Raises ValueError for an unknown option or a .mat file of another form,
    FileNotFoundError where files are missing.
    """
    rows = records(folder, parts)
    reasons = _reasons(rows, min_score, max_age, min_age)
    if check_images:
        root = Path(folder).expanduser()
        reasons["image missing"] = disk.missing(root, rows["path"], disk.listing(root, rows["path"]))
    return divide(rows, reasons, "imdb_wiki")


def funnel(
    folder: str | Path, min_score: float = 1.0, max_age: int = 100, min_age: int = 0, parts: tuple[str, ...] = PARTS
) -> pd.DataFrame:
    """How many records each step of `load` meets and leaves, pictures unchecked: one row a step.

    Columns: `step`; `records`, int: how many of all the records it fits; `dropped`: those that no earlier step fitted;
    `left`: what remains after it. For wiki.mat, `records` gives the known numbers, all counted over all 62,328 records:
    18,016 no face, 4,096 second face, 1,319 low score, 493 older than 100, 1,288 younger than 0. Most of these fit
    several steps: only 44 of the 493 and 5 of the 1,288 have one face of score 1 or more.
    """
    rows = records(folder, parts)
    reasons = _reasons(rows, min_score, max_age, min_age)
    del reasons["age out of range"]  # told apart here
    reasons[f"older than {max_age}"] = rows["age_high"] > max_age
    reasons[f"younger than {min_age}"] = rows["age_low"] < min_age
    table = [{"step": "all records", "records": len(rows), "dropped": 0, "left": len(rows)}]
    left = np.full(len(rows), True)
    for step, mask in reasons.items():
        dropped = int((left & mask).sum())
        left &= ~mask
        table.append({"step": step, "records": int(mask.sum()), "dropped": dropped, "left": int(left.sum())})
    return pd.DataFrame(table)


def _reasons(rows: pd.DataFrame, min_score: float, max_age: int, min_age: int) -> dict[str, np.ndarray]:
    if not 0 <= min_age <= max_age:
        raise ValueError(f"ages must satisfy 0 <= min_age <= max_age, got min_age {min_age} and max_age {max_age}")
    no_face = ~(rows["face_score"] > -np.inf)  # minus infinity: none was found, the box is the whole picture
    return {
        "path outside the folder": rows["outside"].to_numpy(),
        "no face": no_face.to_numpy(),
        "second face": rows["second_face_score"].notna().to_numpy(),
        "low score": (~no_face & (rows["face_score"] < min_score)).to_numpy(),
        "impossible date": rows["age_low"].isna().to_numpy(),
        "age out of range": ((rows["age_low"] < min_age) | (rows["age_high"] > max_age)).to_numpy(),
    }


def records(folder: str | Path, parts: tuple[str, ...] = PARTS) -> pd.DataFrame:
    """Every record of the parts that are there: columns of the table of faces, the scores, and `outside`."""
    if isinstance(parts, str) or not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"parts must be a tuple of one or more of {', '.join(PARTS)}, got {parts!r}")
    folder = disk.opened(folder, EXPECTED)
    places = {part: disk.place_of(f"{part}.mat", folder, (f"{part}_crop", part)) for part in parts}
    found = [_part(folder, place, part) for part, place in places.items() if place is not None]
    if not found:
        raise disk.absent(folder, f"holds no {' or '.join(f'{part}.mat' for part in parts)}", EXPECTED)
    return pd.concat(found, ignore_index=True)


def _part(folder: Path, place: Path, part: str) -> pd.DataFrame:
    record = _struct(place / f"{part}.mat", part)
    path = pd.Series(record["full_path"], dtype="str")
    low, high = _ages(record["dob"], record["photo_taken"], path)
    rows = pd.DataFrame(
        {
            "path": disk.prefix(folder, place) + path,
            "outside": disk.outside(path),
            "subject": _subjects(pd.Series(record["name"], dtype="str"), path, part),
            # NaN is unknown; comparing, not casting, keeps it from becoming a 0
            "gender": pd.Series(record["gender"]).map({0.0: "female", 1.0: "male"}).astype("string"),
            "age_low": low,
            "age_high": high,
            "face_score": record["face_score"],
            "second_face_score": record["second_face_score"],
        }
    )
    cut_out = place.resolve().name.endswith("_crop")
    rows[BOX] = np.nan if cut_out else _pixels(record["face_location"])
    return rows


def _struct(file: Path, part: str) -> dict:
    """The fields of the file's struct, each of length n: text as str, numbers as float, boxes as float (n, 4)."""
    try:
        content = loadmat(file)
    except Exception as error:  # a damaged file makes scipy raise nearly anything, from zlib.error to TypeError
        raise ValueError(f"{file}: expected a Matlab file of version 5 to 7, but reading it failed: {error}") from error
    struct = content.get(part)
    names = getattr(getattr(struct, "dtype", None), "names", None)
    if not names or struct.size != 1:
        found = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise ValueError(f"{file}: expected one Matlab struct named {part}, got a file that holds {found}")
    missing = [name for name in FIELDS if name not in names]
    if missing:
        raise ValueError(f"{file}: the struct {part} lacks {', '.join(missing)}; it has {', '.join(names)}")
    fields = {name: struct.flat[0][name].ravel() for name in FIELDS}
    sizes = {name: field.size for name, field in fields.items()}
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{file}: the fields of {part} must be equally long, got {told}")
    return {name: _field(file, name, field) for name, field in fields.items()}


def _field(file: Path, name: str, cells: np.ndarray) -> list[str] | np.ndarray:
    if name in ("full_path", "name"):
        return [_text(cell) for cell in cells]
    try:
        return _boxes(cells) if name == "face_location" else cells.astype(float)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: expected numbers in the field {name}, got {cells.dtype} data: {error}") from error


def _text(cell) -> str:
    """A cell's text: "" where it is empty, and never a character that UTF-8 can't write."""
    flat = np.asarray(cell).ravel()
    if not flat.size:
        return ""
    text = flat[0].decode("utf-8", "replace") if isinstance(flat[0], bytes) else str(flat[0])
    return text.encode("utf-8", "replace").decode("utf-8")


def _boxes(cells: np.ndarray) -> np.ndarray:
    """The cells' boxes as float (n, 4), NaN where a cell is no box."""
    no_box = np.full(4, np.nan)
    boxes = [np.ravel(cell) for cell in cells]
    return np.array([box if box.size == 4 else no_box for box in boxes], float).reshape(-1, 4)


def _pixels(boxes: np.ndarray) -> np.ndarray:
    """Matlab boxes (from 1, the last pixel inside) as left, top, right, bottom from 0, right and bottom exclusive."""
    pixels = np.column_stack([np.maximum(boxes[:, :2] - 1, 0), boxes[:, 2:]])
    sound = np.isfinite(pixels).all(axis=1) & (pixels[:, 2:] > pixels[:, :2]).all(axis=1)
    return np.where(sound[:, None], pixels, np.nan)


def _ages(dob: np.ndarray, photo_taken: np.ndarray, path: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest age in years on 1 July of the photo's year, float (n,), NaN where a date is impossible.

    dob: Matlab date numbers; photo_taken: years; path: names that carry the date of birth as text too. The number
    counts, except where the text has a month or day of 00: Matlab made the month before out of it. A month of 13 or
    more became a month of the next year: nobody knows what was meant, so the date is impossible.
    """
    text_year, text_month, text_day = path.str.extract(BIRTH_TEXT).astype(float).to_numpy().T
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


def _subjects(name: pd.Series, path: pd.Series, part: str) -> pd.Series:
    normal = {text: " ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in name.unique()}
    number = path.str.extract(r"([^/_]+)[^/]*$", expand=False)
    return name.map(normal).replace("", None).fillna(part + ":" + number)
