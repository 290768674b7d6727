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
IMAGE_SIZE = 250, 300  # width and height of an image
IMAGES_PER_CELEBRITY = {"imdb": 3, "wiki": 1}
DEFECTS = (
    "no face", "second face", "low score", "gender unknown", "impossible birth", "vague birth", "before birth", "too old",
    "image missing", "unreadable image", "second record", "copied image", "grey image", "tiny image",
)  # fmt: skip
DEFECT_INTERVAL = 40  # each defect occurs in one record of 40, and at least once
MAT_HEADER_BYTES = 116  # length of the free text at the start of a Matlab file


def write_imdb_wiki(folder: Path, subset: str, count: int, model: FaceModel, rng: np.random.Generator) -> None:
    """Writes FOLDER/SUBSET/SUBSET.mat and its images.

    Args:
        folder: Parent of the new folder.
        subset: "imdb" or "wiki".
        count: Number of records.
        model: The face model.
        rng: Source of randomness.
    """
    defects = rng.permutation(np.array([*np.repeat(DEFECTS, max(1, count // DEFECT_INTERVAL)), *[""] * count])[:count])
    records, last_intact = [], None
    for i, defect in enumerate(defects):
        celebrity = i // IMAGES_PER_CELEBRITY[subset]
        if i % IMAGES_PER_CELEBRITY[subset] == 0:
            age_group, gender = celebrity % len(GROUPS.years), GENDERS[celebrity // len(GROUPS.years) % 2]
            person = new_person(model, age_group, gender, rng)
        record = _record(subset, i, celebrity, person, defect, rng)
        image, record["face_location"] = _image(model, person, defect, rng)
        if last_intact and defect == "second record":
            record["full_path"], image = last_intact
        if last_intact and defect == "copied image":
            image = np.uint8(last_intact[1] * 0.95 + 6)
        if defect == "":
            last_intact = record["full_path"], image
        records.append(record)
        path = folder / subset / record["full_path"]
        if defect != "image missing":
            scene.write_jpeg(path, image)
        if defect == "unreadable image":
            path.write_bytes(b"not an image")
    _save(folder / subset / f"{subset}.mat", subset, records)


def _record(subset: str, i: int, celebrity: int, person: Person, defect: str, rng: np.random.Generator) -> dict:
    """Returns the values of one record, without its box."""
    low, high = GROUPS.years[person.age_group]
    year, age = int(rng.integers(1965, 2015)), int(rng.integers(low, min(high, 85) + 1))
    age = {"before birth": -2, "too old": 112}.get(defect, age)
    # The authors assume that each photo was taken on 1 July of its year.
    birth = dt.date(year, 7, 1) - dt.timedelta(days=round(age * 365.25 + rng.uniform(5, 360)))
    written, number = (birth.year, birth.month, birth.day), birth.toordinal() + MATLAB_OFFSET
    if defect == "vague birth":  # a day of 00, which Matlab reads as the last day of the month before
        written, number = (birth.year, birth.month, 0), birth.replace(day=1).toordinal() - 1 + MATLAB_OFFSET
    if defect == "impossible birth":
        written, number = (0, 2, 16), 47
    if subset == "imdb":
        birthday = "{}-{}-{}".format(*written)
        path = f"{celebrity % 2:02d}/nm{celebrity:07d}_rm{9 * 10**8 + i}_{birthday}_{year}.jpg"
    else:
        birthday = "{}-{:02d}-{:02d}".format(*written)
        path = f"{i % 2:02d}/{10**7 + 100 * i + i % 2}_{birthday}_{year}.jpg"
    return {
        "dob": number,
        "photo_taken": year,
        "full_path": path,
        "gender": np.nan if defect == "gender unknown" else float(GENDERS.index(person.gender)),
        "name": f"Drawn Person {celebrity + (0 if subset == 'imdb' else 500):03d}",
        "face_score": {"no face": -np.inf, "low score": rng.uniform(0.1, 0.9)}.get(defect, rng.uniform(1.5, 6)),
        "second_face_score": rng.uniform(1, 4) if defect == "second face" else np.nan,
        "celeb_id": celebrity + 1,
    }


def _image(model: FaceModel, person: Person, defect: str, rng: np.random.Generator) -> tuple[scene.Image, np.ndarray]:
    """Returns the image, uint8 (h, w, 3) RGB, and its box in Matlab's convention: from 1, the last pixel included."""
    if defect == "no face":
        return scene.backdrop(*IMAGE_SIZE, rng), np.array([[1, 1, *IMAGE_SIZE]], np.uint16)
    size, people, width = int(rng.integers(132, 160)), [person], IMAGE_SIZE[0]
    if defect == "second face":
        people, width = [person, new_person(model, person.age_group, person.gender, rng)], 2 * IMAGE_SIZE[0]
    image, box = scene.snapshot(model, people, (width, IMAGE_SIZE[1]), size, rng)
    if defect == "grey image":
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    if defect == "tiny image":
        image, box = np.ascontiguousarray(image[120:132, 120:134]), (0, 0, 14, 12)
    return image, np.array([[box[0] + 1, box[1] + 1, box[2], box[3]]], np.float64)


def _save(path: Path, subset: str, records: list[dict]) -> None:
    """Writes records with the keys of `_record` and `face_location` as a Matlab struct."""
    column = {name: [record[name] for record in records] for name in records[0]}
    dtypes = {"dob": "int32", "photo_taken": "uint16", "gender": "float64", "face_score": "float64"}
    dtypes |= {"second_face_score": "float64", "celeb_id": "uint16"}
    struct = {
        name: np.array(values, dtypes[name]) if name in dtypes else matlab_cells(values) for name, values in column.items()
    }
    if subset == "imdb":
        struct["celeb_names"] = matlab_cells(list(dict.fromkeys(column["name"])))
    else:
        del struct["celeb_id"]
    # The order of fields in the real files
    order = ["dob", "photo_taken", "full_path", "gender", "name", "face_location", "face_score", "second_face_score"]
    struct = {name: struct[name] for name in [*order, "celeb_names", "celeb_id"] if name in struct}
    file = io.BytesIO()
    savemat(file, {subset: struct}, do_compression=True, oned_as="row")
    # scipy writes the time into the header. A fixed header makes the file reproducible.
    path.write_bytes(b"MATLAB 5.0 MAT-file, drawn sample".ljust(MAT_HEADER_BYTES) + file.getvalue()[MAT_HEADER_BYTES:])


def matlab_cells(values: list) -> np.ndarray:
    """Returns a Matlab cell array, object (1, n), of arrays or strings."""
    cells = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        cells[0, i] = np.array([value]) if isinstance(value, str) else value
    return cells
