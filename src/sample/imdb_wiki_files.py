"""The sample's imdb.mat and wiki.mat, with the struct and dtypes of the real files, and images of drawn people.

Source of the layout: Rothe, Timofte, Van Gool, https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/
"""

import datetime as dt
import io
from pathlib import Path

import numpy as np
from scipy.io import savemat

from src.config import GENDERS
from src.sample import scene
from src.sample.face_model import GROUPS, FaceModel
from src.sample.person import Person, new_person

MATLAB_OFFSET = 366  # a Matlab date number minus Python's ordinal of the same day
SHAPE = 250, 300  # width and height of an image
IMAGES_PER_CELEBRITY = {"imdb": 3, "wiki": 1}
BAD_RECORDS = (
    "no face", "second face", "low score", "gender unknown", "impossible birth", "vague birth", "before birth", "too old",
    "image missing", "unreadable image", "second record", "copied image", "grey image", "tiny image",
)  # fmt: skip
RECORDS_PER_BAD = 40  # one record in so many is bad in each of these ways; at least one
HEADER = 116  # bytes of free text at the start of a Matlab file


def write(folder: Path, part: str, count: int, model: FaceModel, rng: np.random.Generator) -> None:
    """Writes FOLDER/PART/PART.mat and its images.

    Args:
        folder: Parent of the new folder.
        part: "imdb" or "wiki".
        count: Number of records.
        model: The face model.
        rng: Source of randomness.
    """
    kinds = rng.permutation(np.array([*np.repeat(BAD_RECORDS, max(1, count // RECORDS_PER_BAD)), *[""] * count])[:count])
    records, good = [], None
    for i, kind in enumerate(kinds):
        celebrity = i // IMAGES_PER_CELEBRITY[part]
        if i % IMAGES_PER_CELEBRITY[part] == 0:
            age_group, gender = celebrity % len(GROUPS.years), GENDERS[celebrity // len(GROUPS.years) % 2]
            person = new_person(model, age_group, gender, rng)
        record = _record(part, i, celebrity, person, kind, rng)
        image, record["face_location"] = _image(model, person, kind, rng)
        if good and kind == "second record":
            record["full_path"], image = good
        if good and kind == "copied image":
            image = np.uint8(good[1] * 0.95 + 6)
        if kind == "":
            good = record["full_path"], image
        records.append(record)
        path = folder / part / record["full_path"]
        if kind != "image missing":
            scene.write_jpeg(path, image)
        if kind == "unreadable image":
            path.write_bytes(b"not an image")
    _save(folder / part / f"{part}.mat", part, records)


def _record(part: str, i: int, celebrity: int, person: Person, kind: str, rng: np.random.Generator) -> dict:
    """Returns the values of one record, without its box."""
    low, high = GROUPS.years[person.age_group]
    year, age = int(rng.integers(1965, 2015)), int(rng.integers(low, min(high, 85) + 1))
    age = {"before birth": -2, "too old": 112}.get(kind, age)
    # The owners date each photo to 1 July of its year.
    birth = dt.date(year, 7, 1) - dt.timedelta(days=round(age * 365.25 + rng.uniform(5, 360)))
    written, number = (birth.year, birth.month, birth.day), birth.toordinal() + MATLAB_OFFSET
    if kind == "vague birth":  # a day of 00, which Matlab reads as the last day of the month before
        written, number = (birth.year, birth.month, 0), birth.replace(day=1).toordinal() - 1 + MATLAB_OFFSET
    if kind == "impossible birth":
        written, number = (0, 2, 16), 47
    if part == "imdb":
        path = f"{celebrity % 2:02d}/nm{celebrity:07d}_rm{9 * 10**8 + i}_{'{}-{}-{}'.format(*written)}_{year}.jpg"
    else:
        path = f"{i % 2:02d}/{10**7 + 100 * i + i % 2}_{'{}-{:02d}-{:02d}'.format(*written)}_{year}.jpg"
    return {
        "dob": number,
        "photo_taken": year,
        "full_path": path,
        "gender": np.nan if kind == "gender unknown" else float(GENDERS.index(person.gender)),
        "name": f"Drawn Person {celebrity + (0 if part == 'imdb' else 500):03d}",
        "face_score": {"no face": -np.inf, "low score": rng.uniform(0.1, 0.9)}.get(kind, rng.uniform(1.5, 6)),
        "second_face_score": rng.uniform(1, 4) if kind == "second face" else np.nan,
        "celeb_id": celebrity + 1,
    }


def _image(model: FaceModel, person: Person, kind: str, rng: np.random.Generator) -> tuple[scene.Image, np.ndarray]:
    """Returns the image, uint8 (h, w, 3) RGB, and its box in Matlab's convention: from 1, the last pixel included."""
    if kind == "no face":
        return scene.backdrop(*SHAPE, rng), np.array([[1, 1, *SHAPE]], np.uint16)
    size, people, width = int(rng.integers(132, 160)), [person], SHAPE[0]
    if kind == "second face":
        people, width = [person, new_person(model, person.age_group, person.gender, rng)], 2 * SHAPE[0]
    image, box = scene.snapshot(model, people, (width, SHAPE[1]), size, rng)
    if kind == "grey image":
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    if kind == "tiny image":
        image, box = np.ascontiguousarray(image[120:132, 120:134]), (0, 0, 14, 12)
    return image, np.array([[box[0] + 1, box[1] + 1, box[2], box[3]]], np.float64)


def _save(path: Path, part: str, records: list[dict]) -> None:
    column = {name: [record[name] for record in records] for name in records[0]}
    dtypes = {"dob": "int32", "photo_taken": "uint16", "gender": "float64", "face_score": "float64"}
    dtypes |= {"second_face_score": "float64", "celeb_id": "uint16"}
    struct = {name: np.array(values, dtypes[name]) if name in dtypes else _cells(values) for name, values in column.items()}
    if part == "imdb":
        struct["celeb_names"] = _cells(list(dict.fromkeys(column["name"])))
    else:
        del struct["celeb_id"]
    # The real files' order of fields, which readers show.
    order = ["dob", "photo_taken", "full_path", "gender", "name", "face_location", "face_score", "second_face_score"]
    struct = {name: struct[name] for name in [*order, "celeb_names", "celeb_id"] if name in struct}
    file = io.BytesIO()
    savemat(file, {part: struct}, do_compression=True, oned_as="row")
    # scipy writes the time into the header; without it the file is the same whenever it is drawn.
    path.write_bytes(b"MATLAB 5.0 MAT-file, drawn sample".ljust(HEADER) + file.getvalue()[HEADER:])


def _cells(values: list) -> np.ndarray:
    """Returns a Matlab cell array, object (1, n), of arrays or strings."""
    cells = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        cells[0, i] = np.array([value]) if isinstance(value, str) else value
    return cells
