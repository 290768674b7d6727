"""The sample's imdb.mat and wiki.mat, with the struct and dtypes of the real ones, and pictures of nobody real.

Source of the layout: Rothe, Timofte, Van Gool, https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/

Before it: `portraits`. After it: `sample`.
"""

import datetime as dt
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from src.config import GENDERS
from src.sample import scene
from src.sample.face_model import GROUPS, FaceSpace
from src.sample.person import new_person

MATLAB = 366  # a Matlab date number less Python's ordinal of the same day
SHAPE = 250, 300  # width and height of a picture
BAD = (
    "no face",
    "second face",
    "low score",
    "gender unknown",
    "impossible birth",
    "vague birth",
    "before birth",
    "too old",
    "image missing",
    "unreadable image",
    "second record",
    "copied image",
    "grey image",
    "tiny image",
)
EACH_BAD = 40  # one record in so many, and at least one, for each kind of bad record
HEADER = 116  # bytes of free text at the start of a Matlab file


def write(folder: Path, part: str, count: int, space: FaceSpace, rng: np.random.Generator, write_jpeg: Callable) -> None:
    """Draws folder/PART/PART.mat and its pictures.

    part: "imdb" or "wiki"; count: records. `write_jpeg(path, picture)` saves uint8 (h, w, 3) RGB.
    """
    kinds = np.array([*np.repeat(BAD, max(1, count // EACH_BAD)), *[""] * count])[:count]
    kinds = rng.permutation(kinds)
    records, person, good = [], None, None
    for i, kind in enumerate(kinds):
        # Each celebrity of IMDB has three pictures here; in WIKI everybody has one.
        celebrity = i // 3 if part == "imdb" else i
        if part == "wiki" or i % 3 == 0:
            age_group, gender = celebrity % len(GROUPS.years), celebrity // len(GROUPS.years) % 2
            person = new_person(space, age_group, GENDERS[gender], rng)
        record = _record(part, i, celebrity, person, str(kind), rng)
        picture, record["face_location"] = _picture(space, person, str(kind), rng)
        if good and kind == "second record":
            record["full_path"], picture = good
        if good and kind == "copied image":
            picture = np.uint8(good[1] * 0.95 + 6)
        if kind == "":
            good = record["full_path"], picture
        records.append(record)
        path = folder / part / record["full_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "unreadable image":
            path.write_bytes(b"not a picture")
        elif kind != "image missing":
            write_jpeg(path, picture)
    _save(folder / part / f"{part}.mat", part, records)


def _record(part: str, i: int, celebrity: int, person, kind: str, rng: np.random.Generator) -> dict:
    """One record, without its box."""
    low, high = GROUPS.years[person.age_group]
    year, age = int(rng.integers(1965, 2015)), int(rng.integers(low, min(high, 85) + 1))
    age = {"before birth": -2, "too old": 112}.get(kind, age)
    # The owners take 1 July of its year as the day of each photo.
    birth = dt.date(year, 7, 1) - dt.timedelta(days=round(age * 365.25 + rng.uniform(5, 360)))
    parts, number = (birth.year, birth.month, birth.day), birth.toordinal() + MATLAB
    if kind == "vague birth":  # a day of 00, from which Matlab made the last day of the month before
        parts, number = (birth.year, birth.month, 0), birth.replace(day=1).toordinal() - 1 + MATLAB
    if kind == "impossible birth":
        parts, number = (0, 2, 16), 47
    if part == "imdb":
        text = f"{celebrity % 2:02d}/nm{celebrity:07d}_rm{9 * 10**8 + i}_{'{}-{}-{}'.format(*parts)}_{year}.jpg"
    else:
        text = f"{i % 2:02d}/{10**7 + 100 * i + i % 2}_{'{}-{:02d}-{:02d}'.format(*parts)}_{year}.jpg"
    score = {"no face": -np.inf, "low score": rng.uniform(0.1, 0.9)}.get(kind, rng.uniform(1.5, 6))
    return {
        "dob": number,
        "photo_taken": year,
        "full_path": text,
        "gender": np.nan if kind == "gender unknown" else float(GENDERS.index(person.gender)),
        "name": f"Drawn Person {celebrity + (0 if part == 'imdb' else 500):03d}",
        "face_score": score,
        "second_face_score": rng.uniform(1, 4) if kind == "second face" else np.nan,
        "celeb_id": celebrity + 1,
    }


def _picture(space: FaceSpace, person, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 (h, w, 3) RGB, and its box as Matlab has it: from 1, the last pixel inside."""
    if kind == "no face":
        return scene.backdrop(*SHAPE, rng), np.array([[1, 1, *SHAPE]], np.uint16)
    if kind == "second face":
        other = new_person(space, person.age_group, person.gender, rng)
        wide = 2 * SHAPE[0], SHAPE[1]
        picture, box = scene.snapshot(space, [person, other], wide, int(rng.integers(125, 140)), rng)
    else:
        picture, box = scene.snapshot(space, [person], SHAPE, int(rng.integers(125, 160)), rng)
    if kind == "grey image":
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    if kind == "tiny image":
        picture, box = np.ascontiguousarray(picture[120:132, 120:134]), np.array([0, 0, 14, 12])
    return picture, np.array([[box[0] + 1, box[1] + 1, box[2], box[3]]], np.float64)


def _save(path: Path, part: str, records: list[dict]) -> None:
    column = {name: [record[name] for record in records] for name in records[0]}
    names = list(dict.fromkeys(column["name"]))
    struct = {
        "dob": np.array(column["dob"], np.int32),
        "photo_taken": np.array(column["photo_taken"], np.uint16),
        "full_path": _cells([np.array([text]) for text in column["full_path"]]),
        "gender": np.array(column["gender"], np.float64),
        "name": _cells([np.array([text]) for text in column["name"]]),
        "face_location": _cells(column["face_location"]),
        "face_score": np.array(column["face_score"], np.float64),
        "second_face_score": np.array(column["second_face_score"], np.float64),
    }
    if part == "imdb":
        struct["celeb_names"] = _cells([np.array([text]) for text in names])
        struct["celeb_id"] = np.array(column["celeb_id"], np.uint16)
    file = io.BytesIO()
    savemat(file, {part: struct}, do_compression=True, oned_as="row")
    # scipy writes the time into the header; without it the file is the same whenever it is drawn.
    path.write_bytes(b"MATLAB 5.0 MAT-file, drawn sample".ljust(HEADER) + file.getvalue()[HEADER:])


def _cells(values: list) -> np.ndarray:
    """A Matlab cell array, object (1, n)."""
    cells = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        cells[0, place] = value
    return cells
