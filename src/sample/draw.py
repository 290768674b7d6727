"""Draws the embedded sample: images of people who do not exist, in the layouts of the real data sets.

The sample has three folders: `adience/` (Adience's layout, with some of its irregular labels), `imdb_wiki/` (IMDB-WIKI's
layout, with every defect of its records) and `photos/` (photos of several people, for the pipelines). Every machine draws
the same sample, once.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from src.config import GENDERS, SAMPLE, SEED
from src.files import atomic_folder, exclusive_lock
from src.sample import face_model, imdb_wiki_files, scene
from src.sample.face_model import GROUPS, FaceModel
from src.sample.person import Person, new_person

SETTINGS_FILE = "drawn.json"  # in each finished folder
VERSION = 3  # version of the drawing; a new number redraws existing samples
FACES = 1000  # images in `adience/`
MIN_FACES = 160  # with fewer, a fold may lack an age group or a gender

FOLDS, USERS = 5, 40  # a user_id of Adience is a user's album of several people
BLOCK = len(GROUPS.years) * len(GENDERS)  # consecutive people, one of each age group and gender
IMAGES_PER_PERSON = 2.5
IMAGE_SIDE = 192  # pixels

Job: TypeAlias = tuple  # a delayed call of joblib


# Adience's irregular labels, about as frequent as in the real data set: the age group and the gender of the rows that get the
# label (None: any gender), the new age and the new gender (None: as before), and the number of rows per 1000.
IRREGULAR_LABELS = [
    (0, None, None, "u", 25), (3, None, "None", "", 12), (4, None, "None", "f", 2), (5, None, None, "", 3),
    (4, None, "35", None, 10), (2, None, "13", None, 6), (3, None, "22", None, 6), (4, None, "34", None, 4),
    (4, "f", "(25, 23)", "f", 4), (5, None, "45", None, 4), (6, None, "55", None, 4), (7, None, "57", None, 2),
    (0, None, "3", None, 1), (5, None, "(38, 42)", None, 2),
]  # fmt: skip
REPEATED_ROWS = 10  # per 1000


def draw_sample(folder: str | Path = SAMPLE, faces: int = FACES) -> Path:
    """Draws the sample, unless the folder already contains it with the same settings.

    Folders appear only when they are complete. If two processes draw at the same time, the second one waits.

    Args:
        folder: Folder of the sample.
        faces: Number of images in `adience/`, at least 160; `imdb_wiki/` gets 0.3 records per image.

    Returns:
        The folder.

    Raises:
        ValueError: There are too few faces, or a folder contains files that this program did not draw.
        FileNotFoundError: The face model is missing.
    """
    if faces < MIN_FACES:
        raise ValueError(f"faces must be at least {MIN_FACES}, got {faces}")
    folder = Path(folder)
    model = FaceModel.load()
    digest = hashlib.sha256(face_model.FILE.read_bytes()).hexdigest()
    settings = {"version": VERSION, "faces": faces, "seed": SEED, "face_model": digest}
    if all(_is_drawn(folder / name, settings) for name in SAMPLE_FOLDERS):
        return folder
    for target in (folder / name for name in SAMPLE_FOLDERS):
        if target.exists() and not (target / SETTINGS_FILE).exists() and any(target.iterdir()):
            problem = f"{target} contains files that this program did not draw (no {SETTINGS_FILE})"
            raise ValueError(f"{problem}: move it away or choose another folder")
    with exclusive_lock(folder / ".lock"), contextlib.ExitStack() as stack:
        jobs = []
        for name, plan in SAMPLE_FOLDERS.items():
            if not _is_drawn(folder / name, settings):
                new = stack.enter_context(atomic_folder(folder / name))
                jobs += plan(new, model, faces)
                (new / SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
        # Threads suffice: nearly all the work is in numpy and OpenCV, which release the GIL. Each thread draws another image,
        # so the libraries must not start threads of their own.
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(1)
        with threadpool_limits(1):
            work = Parallel(n_jobs=-1, prefer="threads", return_as="generator_unordered")(jobs)
            for _ in tqdm(work, total=len(jobs), desc="drawing the sample", unit=" images"):
                pass
    return folder


def sample_photos() -> list[Path]:
    """Returns the paths of the sample's composed photos, which are drawn first if necessary."""
    return sorted((draw_sample() / "photos").glob("*.jpg"))


def _is_drawn(folder: Path, settings: dict) -> bool:
    try:
        return json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")) == settings
    except (OSError, ValueError):
        return False


def _plan_adience(folder: Path, model: FaceModel, faces: int) -> Iterator[Job]:
    """Writes the fold files and yields the images to draw."""
    rng = np.random.default_rng([SEED, 0])
    count = max(FOLDS * BLOCK, round(faces / IMAGES_PER_PERSON))
    # The person in each image. Each block of 16 people has every age group and gender and is in one fold.
    person = np.repeat(np.arange(count), 2 + rng.multinomial(faces - 2 * count, np.full(count, 1 / count)))
    fold, age_group, male = person // BLOCK % FOLDS, person % BLOCK // 2, person % 2
    # Each fold has eight users.
    user = fold * USERS // FOLDS + rng.integers(USERS // FOLDS, size=count)[person] + 1
    low, high = np.array(GROUPS.years)[age_group].T
    corner, size = rng.integers(100, 1500, (2, faces)), rng.integers(300, 900, faces)
    columns = {
        "user_id": [f"{number:08d}@N00" for number in user],
        "original_image": [f"{rng.integers(8 * 10**9, 12 * 10**9)}_{rng.integers(16**10):010x}_o.jpg" for _ in person],
        "face_id": person + 1,
        "age": [f"({first}, {last})" for first, last in zip(low, high, strict=True)],
        "gender": np.array(["f", "m"])[male],
        "x": corner[0], "y": corner[1], "dx": size, "dy": size,
        "tilt_ang": rng.integers(-3, 4, faces) * 5,
        "fiducial_yaw_angle": rng.choice([0, 0, 0, 15, -15, 30, -30], faces),
        "fiducial_score": rng.integers(10, 110, faces),
    }  # fmt: skip
    table = _make_irregular(pd.DataFrame(columns), faces, rng)
    for number in range(FOLDS):
        text = table[fold[table.index] == number].to_csv(sep="\t", index=False, lineterminator="\n")
        (folder / f"fold_{number}_data.txt").write_bytes(text.encode())
    people = [new_person(model, i % BLOCK // 2, GENDERS[i % 2], np.random.default_rng([SEED, 1, i])) for i in range(count)]
    for i, row in enumerate(table[~table.index.duplicated()].sort_index().itertuples()):
        name = f"{row.face_id}.{row.original_image}"
        rng = np.random.default_rng([SEED, 2, i])
        yield delayed(_draw_face)(folder, row.user_id, name, model, people[person[i]], rng)


def _make_irregular(table: pd.DataFrame, faces: int, rng: np.random.Generator) -> pd.DataFrame:
    """Returns the table with irregular labels in some rows, and with some rows twice under the same index."""
    table = table.copy()
    free = rng.permutation(faces)  # rows not yet changed
    for age_group, gender, new_age, new_gender, share in IRREGULAR_LABELS:
        rows = table.loc[free]
        fits = rows["age"] == "({}, {})".format(*GROUPS.years[age_group])
        if gender:
            fits &= rows["gender"] == gender
        chosen = rows.index[fits][: max(1, share * faces // 1000)]
        for column, value in {"age": new_age, "gender": new_gender}.items():
            if value is not None:
                table.loc[chosen, column] = value
        free = free[~np.isin(free, chosen)]
    repeated = rng.choice(faces, max(1, REPEATED_ROWS * faces // 1000), replace=False)
    return pd.concat([table, table.loc[repeated]]).sort_index()


def _draw_face(folder: Path, user: str, name: str, model: FaceModel, person: Person, rng: np.random.Generator) -> None:
    """Draws one image of Adience's layout."""
    size = (IMAGE_SIDE, IMAGE_SIDE)
    image, _ = scene.snapshot(model, [person], size, int(rng.integers(116, 138)), rng)
    tilt = cv2.getRotationMatrix2D((IMAGE_SIDE / 2, IMAGE_SIDE / 2), rng.uniform(-6, 6), 1.0)
    image = cv2.warpAffine(image, tilt, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    scene.write_jpeg(folder / "faces" / user / f"coarse_tilt_aligned_face.{name}", image)


def _plan_imdb_wiki(folder: Path, model: FaceModel, faces: int) -> Iterator[Job]:
    """Yields the two .mat files to write with their images."""
    for i, (subset, count) in enumerate({"imdb": faces * 2 // 10, "wiki": faces // 10}.items()):
        yield delayed(imdb_wiki_files.write_imdb_wiki)(folder, subset, count, model, np.random.default_rng([SEED, 3, i]))


def _plan_photos(folder: Path, model: FaceModel, faces: int) -> Iterator[Job]:
    """Yields the photos to draw; they do not depend on `faces`."""
    for i, name in enumerate([*scene.ROWS, scene.LANDSCAPE]):
        yield delayed(scene.draw_photo)(folder / f"{name}.jpg", model, name, np.random.default_rng([SEED, 4, i]))


# What each folder of the sample contains. The longest jobs come first.
SAMPLE_FOLDERS: dict[str, Callable[[Path, FaceModel, int], Iterator[Job]]] = {
    "imdb_wiki": _plan_imdb_wiki,
    "photos": _plan_photos,
    "adience": _plan_adience,
}
