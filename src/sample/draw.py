"""The embedded sample: images of people who do not exist, in the layouts of the real data sets.

The sample is drawn once and is the same for the same seed: `adience/` (Adience's layout with a few of its irregular labels),
`imdb_wiki/` (IMDB-WIKI's, with every kind of bad record) and `photos/` (composed photos for the pipelines).
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

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
from src.sample.scene import write_jpeg

MARKER = "drawn.json"  # in each finished folder: what it was drawn with
VERSION = 3  # of the drawing; another version is drawn again
FACES = 1000  # images in `adience/`
MIN_FACES = 160  # with these, each fold has every age group and gender

FOLDS, ALBUMS = 5, 40
CELLS = len(GROUPS.years) * len(GENDERS)  # an age group and a gender
IMAGES_PER_PERSON = 2.5
SIDE = 192  # pixels of a face's image
# Adience's irregular labels: the age group of the rows, the age and gender written instead (None: unchanged), and the rows
# in a thousand. The shares follow the real set loosely.
IRREGULAR_LABELS = [
    (0, None, "u", 25), (3, "None", "", 12), (4, "None", "f", 2), (5, None, "", 3), (4, "35", None, 10),
    (2, "13", None, 6), (3, "22", None, 6), (4, "34", None, 4), (4, "(25, 23)", "f", 4), (5, "45", None, 4),
    (6, "55", None, 4), (7, "57", None, 2), (0, "3", None, 1), (5, "(38, 42)", None, 2),
]  # fmt: skip
REPEATS = 10  # repeated rows in a thousand


def draw_sample(folder: str | Path = SAMPLE, faces: int = FACES, seed: int = SEED) -> Path:
    """Draws the sample, or returns at once if the same drawing is already there.

    Each part appears under its name only when it is complete. Of two processes that draw at once, the second waits.

    Args:
        folder: Where to draw it.
        faces: Images in `adience/`, at least 160; `imdb_wiki/` gets 3 records for every 10 of them.
        seed: Of all randomness.

    Returns:
        The folder.

    Raises:
        ValueError: There are too few faces, or the folder of a part holds something that was not drawn here.
        FileNotFoundError: The face model is missing.
    """
    if faces < MIN_FACES:
        raise ValueError(f"faces must be at least {MIN_FACES}, got {faces}")
    folder = Path(folder)
    model = FaceModel.load()
    digest = hashlib.sha256(face_model.FILE.read_bytes()).hexdigest()
    settings = {"version": VERSION, "faces": faces, "seed": seed, "face_model": digest}
    if all(_is_drawn(folder / name, settings) for name in PARTS):
        return folder
    for part in (folder / name for name in PARTS):
        if part.exists() and not (part / MARKER).exists() and any(part.iterdir()):
            raise ValueError(
                f"{part} holds files that were not drawn here (it has no {MARKER}): move it away or choose another folder"
            )
    with exclusive_lock(folder / ".lock"), contextlib.ExitStack() as parts:
        tasks = []
        for name, plan in PARTS.items():
            if not _is_drawn(folder / name, settings):
                new = parts.enter_context(atomic_folder(folder / name))
                tasks += [delayed(function)(*arguments) for function, *arguments in plan(new, model, faces, seed)]
                (new / MARKER).write_text(json.dumps(settings), encoding="utf-8")
        # Threads suffice: nearly all the work is in numpy and OpenCV, which release the interpreter's lock. Each thread draws
        # another image, so the libraries start none of their own.
        parts.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(1)
        with threadpool_limits(1):
            work = Parallel(n_jobs=-1, prefer="threads", return_as="generator_unordered")(tasks)
            for _ in tqdm(work, total=len(tasks), desc="drawing the sample", unit=" images"):
                pass
    return folder


def sample_photos() -> list[Path]:
    """Returns the paths of the sample's composed photos, which are drawn first if necessary."""
    return sorted((draw_sample() / "photos").glob("*.jpg"))


def _is_drawn(part: Path, settings: dict) -> bool:
    try:
        return json.loads((part / MARKER).read_text(encoding="utf-8")) == settings
    except (OSError, ValueError):
        return False


def _plan_adience(folder: Path, model: FaceModel, faces: int, seed: int) -> Iterator[tuple]:
    """Writes the fold files; yields the images to draw as (function, *arguments)."""
    rng = np.random.default_rng([seed, 0])
    count = max(FOLDS * CELLS, round(faces / IMAGES_PER_PERSON))
    # Sixteen people in a row are one of each age group and gender. They go to one fold, into its eight albums.
    person = np.repeat(np.arange(count), 2 + rng.multinomial(faces - 2 * count, np.full(count, 1 / count)))
    fold, age_group, male = person // CELLS % FOLDS, person % CELLS // 2, person % 2
    album = fold * ALBUMS // FOLDS + rng.integers(ALBUMS // FOLDS, size=count)[person] + 1
    low, high = np.array(GROUPS.years)[age_group].T
    corner, size = rng.integers(100, 1500, (2, faces)), rng.integers(300, 900, faces)
    columns = {
        "user_id": [f"{number:08d}@N00" for number in album],
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
    people = [new_person(model, i % CELLS // 2, GENDERS[i % 2], np.random.default_rng([seed, 1, i])) for i in range(count)]
    for i, row in enumerate(table[~table.index.duplicated()].sort_index().itertuples()):
        name = f"{row.user_id}/{{}}.{row.face_id}.{row.original_image}"
        yield _draw_face, folder, name, model, people[person[i]], np.random.default_rng([seed, 2, i])


def _make_irregular(table: pd.DataFrame, faces: int, rng: np.random.Generator) -> pd.DataFrame:
    """Returns the table with some rows' labels changed and some rows repeated."""
    table = table.copy()
    free = rng.permutation(faces)  # rows not yet changed
    for age_group, age, gender, share in IRREGULAR_LABELS:
        rows = table.loc[free]
        fits = (rows["age"] == "({}, {})".format(*GROUPS.years[age_group])) & ((age != "(25, 23)") | (rows["gender"] == "f"))
        chosen = rows.index[fits][: max(1, share * faces // 1000)]
        for column, value in {"age": age, "gender": gender}.items():
            if value is not None:
                table.loc[chosen, column] = value
        free = free[~np.isin(free, chosen)]
    repeated = rng.choice(faces, max(1, REPEATS * faces // 1000), replace=False)
    return pd.concat([table, table.loc[repeated]]).sort_index()


def _draw_face(folder: Path, name: str, model: FaceModel, person: Person, rng: np.random.Generator) -> None:
    """Draws one image of Adience's layout, under both names that the real set has."""
    image, _ = scene.snapshot(model, [person], (SIDE, SIDE), int(rng.integers(116, 138)), rng)
    tilt = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.uniform(-6, 6), 1.0)
    image = cv2.warpAffine(image, tilt, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    coarse = folder / "faces" / name.format("coarse_tilt_aligned_face")
    aligned = folder / "aligned" / name.format("landmark_aligned_face")
    write_jpeg(coarse, image)
    aligned.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(coarse, aligned)


def _plan_imdb_wiki(folder: Path, model: FaceModel, faces: int, seed: int) -> Iterator[tuple]:
    for i, (part, count) in enumerate({"imdb": faces * 2 // 10, "wiki": faces // 10}.items()):
        yield imdb_wiki_files.write, folder, part, count, model, np.random.default_rng([seed, 3, i])


def _plan_photos(folder: Path, model: FaceModel, faces: int, seed: int) -> Iterator[tuple]:
    """Yields the photos to draw; they do not depend on `faces`."""
    for i, name in enumerate([*scene.ROWS, scene.LANDSCAPE]):
        yield scene.draw_photo, folder / f"{name}.jpg", model, name, np.random.default_rng([seed, 4, i])


PARTS: dict[str, Callable[[Path, FaceModel, int, int], Iterator[tuple]]] = {
    "imdb_wiki": _plan_imdb_wiki,
    "photos": _plan_photos,
    "adience": _plan_adience,
}
