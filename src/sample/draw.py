"""The embedded sample: pictures of people who do not exist, in the layouts of the real data sets.

Everything is drawn once from the face space, the same for the same seed: `adience/` (Adience's layout, with a few of its
oddities), `imdb_wiki/` (IMDB-WIKI's, with every kind of bad record) and `photos/` (composed photos for the pipelines).

Before it: `scenes` and `sample_imdb_wiki`. After it: whatever runs on the sample, the notebooks first of all.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from src.config import GENDERS, SAMPLE, SEED
from src.sample import face_model, imdb_wiki_files, scene
from src.sample.face_model import GROUPS, FaceSpace
from src.sample.person import new_person

PARTS = ("imdb_wiki", "photos", "adience")  # the longest single tasks first
MARKER = "drawn.json"
VERSION = 2  # of the drawing; another one draws anew
FEWEST = 160

FOLDS, ALBUMS, CELLS = 5, 40, 16  # a cell is an age group and a gender
COLUMNS = [
    "user_id", "original_image", "face_id", "age", "gender", "x", "y", "dx", "dy",
    "tilt_ang", "fiducial_yaw_angle", "fiducial_score",
]  # fmt: skip
SIDE = 192  # pixels of a face's picture
# The real set's oddities: the age group they stand in, age and gender as written (None: as they were), rows in a
# thousand. Counts follow the real set loosely: none may be missing, and few enough that what can be learnt stays.
ODDITIES = [
    (0, None, "u", 25), (3, "None", "", 12), (4, "None", "f", 2), (5, None, "", 3), (4, "35", None, 10),
    (2, "13", None, 6), (3, "22", None, 6), (4, "34", None, 4), (4, "(25, 23)", "f", 4), (5, "45", None, 4),
    (6, "55", None, 4), (7, "57", None, 2), (0, "3", None, 1), (5, "(38, 42)", None, 2),
]  # fmt: skip
REPEATS = 10  # in a thousand


def draw_sample(folder: str | Path = SAMPLE, faces: int = 1000, seed: int = SEED) -> Path:
    """Draws the sample into `folder`, or returns at once where the same drawing stands there already.

    faces: pictures in `adience/`, 160 at least, so that every fold has every age group and gender; `imdb_wiki/` gets 3
    records for every 10 of them. Each part is drawn under a temporary name and renamed with its marker inside: a
    killed drawing is never taken for a complete one, and of two drawings at once the first to be done stays.

    Gives the folder. Raises ValueError for too few faces and where a folder of these names was not drawn here, which then
    stays as it is, and FileNotFoundError where the face space is missing.
    """
    if faces < FEWEST:
        raise ValueError(f"faces must be at least {FEWEST}, got {faces}")
    folder = Path(folder)
    space = FaceSpace.load()
    digest = hashlib.sha256(face_model.FILE.read_bytes()).hexdigest()
    settings = {"version": VERSION, "faces": faces, "seed": seed, "face_space": digest}
    missing = [part for part in PARTS if not _is_drawn(folder / part, settings)]
    if not missing:
        return folder
    for part in missing:
        if _of_others(folder / part):
            raise ValueError(
                f"{folder / part} was not drawn here (it has no {MARKER}): move it away, or draw into another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(folder)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=".drawing-"))
    try:
        pictures = []
        for part in missing:
            (new / part).mkdir()
            pictures += _PAINTERS[part](new / part, space, faces, seed)
        # Threads: nearly all the work is in numpy and OpenCV, which let each other run.
        work = Parallel(n_jobs=-1, prefer="threads", return_as="generator_unordered")(pictures)
        for _ in tqdm(work, total=len(pictures), desc="drawing the sample", unit=" pictures"):
            pass
        for part in missing:
            (new / part / MARKER).write_text(json.dumps(settings), encoding="utf-8")
            _install(new / part, folder / part, settings)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def sample_photos() -> list[Path]:
    """The sample's composed photos."""
    return sorted((draw_sample() / "photos").glob("*.jpg"))


def _is_drawn(part: Path, settings: dict) -> bool:
    try:
        return json.loads((part / MARKER).read_text(encoding="utf-8")) == settings
    except (OSError, ValueError):
        return False


def _of_others(part: Path) -> bool:
    return part.exists() and not (part.is_dir() and ((part / MARKER).exists() or not any(part.iterdir())))


def _install(new: Path, target: Path, settings: dict) -> None:
    """Puts a finished part in place, unless another process has put the same there meanwhile."""
    if target.exists() and not _is_drawn(target, settings):
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            os.replace(target, new.with_name(f"{new.name}-old"))  # goes when the temporary folder goes
    try:
        if not target.exists():
            os.replace(new, target)
    except OSError:
        if not _is_drawn(target, settings):
            raise


def _clear_abandoned(folder: Path) -> None:
    """Removes what killed drawings left behind; younger ones may still be under way."""
    for old in folder.glob(".drawing-*"):
        if time.time() - old.stat().st_mtime > 3600:
            shutil.rmtree(old, ignore_errors=True)


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Saves uint8 (h, w, 3) RGB as a JPEG; OpenCV's own writing would fail on some paths under Windows."""
    coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(coded.tobytes())


def _adience(folder: Path, space: FaceSpace, faces: int, seed: int) -> list:
    """Writes the fold files; gives the pictures still to be drawn, as every painter of a part does."""
    rng = np.random.default_rng([seed, 0])
    count = max(FOLDS * CELLS, round(faces / 3.7))
    photos = 2 + rng.multinomial(faces - 2 * count, rng.dirichlet(np.full(count, 1.5)))
    # Sixteen subjects in a row are one of each cell and go to one fold, into eight of the albums.
    subjects = sorted(range(count), key=lambda subject: subject // CELLS % FOLDS)
    rows, pictures = [[] for _ in range(FOLDS)], []
    for face_id, subject in enumerate(subjects, start=1):
        fold, age_group, gender = subject // CELLS % FOLDS, subject % CELLS // 2, GENDERS[subject % 2]
        user = f"{fold * ALBUMS // FOLDS + int(rng.integers(ALBUMS // FOLDS)) + 1:08d}@N00"
        person = new_person(space, age_group, gender, np.random.default_rng([seed, 1, subject]))
        for photo in range(photos[subject]):
            row = _row(user, face_id, age_group, gender, rng)
            rows[fold].append(row)
            own = np.random.default_rng([seed, 2, subject, photo])
            pictures.append(delayed(_draw_face)(folder, space, person, row, own))
    _make_odd(rows, faces, rng)
    for fold, lines in enumerate(rows):
        text = "".join("\t".join(map(str, line)) + "\n" for line in [COLUMNS, *(row.values() for row in lines)])
        (folder / f"fold_{fold}_data.txt").write_bytes(text.encode())
    return pictures


def _row(user: str, face_id: int, age_group: int, gender: str, rng: np.random.Generator) -> dict:
    image = f"{rng.integers(8 * 10**9, 12 * 10**9)}_{rng.integers(16**10):010x}_o.jpg"
    low, high = GROUPS.years[age_group]
    x, y, size = (int(number) for number in rng.integers((100, 100, 300), (2000, 1500, 900)))
    tilt, yaw = int(rng.integers(-3, 4)) * 5, int(rng.choice([0, 0, 0, 15, -15, 30, -30]))
    values = user, image, face_id, f"({low}, {high})", gender[0], x, y, size, size, tilt, yaw, int(rng.integers(10, 110))
    return dict(zip(COLUMNS, values, strict=True))


def _make_odd(rows: list[list[dict]], faces: int, rng: np.random.Generator) -> None:
    """Changes some rows' labels in place, and repeats others within their fold."""
    pool = [row for fold in rows for row in fold]
    pool = [pool[i] for i in rng.permutation(len(pool))]
    for age_group, age, gender, share in ODDITIES:
        label = "({}, {})".format(*GROUPS.years[age_group])
        fitting = [row for row in pool if row["age"] == label and (age != "(25, 23)" or row["gender"] == "f")]
        for row in fitting[: max(1, share * faces // 1000)]:
            row.update({"age": age or row["age"], "gender": row["gender"] if gender is None else gender})
            pool.remove(row)
    for i in range(max(1, REPEATS * faces // 1000)):
        fold = rows[i % FOLDS]
        place = int(rng.integers(len(fold)))
        fold.insert(place, fold[place])


def _draw_face(folder: Path, space: FaceSpace, person, row: dict, rng: np.random.Generator) -> None:
    size = int(rng.integers(110, 131))
    picture, _ = scene.snapshot(space, [person], (SIDE, SIDE), size, rng)
    tilt = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.uniform(-6, 6), 1.0)
    picture = cv2.warpAffine(picture, tilt, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    name = f"{row['face_id']}.{row['original_image']}"
    coarse = folder / "faces" / row["user_id"] / f"coarse_tilt_aligned_face.{name}"
    aligned = folder / "aligned" / row["user_id"] / f"landmark_aligned_face.{name}"
    write_jpeg(coarse, picture)
    aligned.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(coarse, aligned)
    except OSError:  # a disk without hard links
        shutil.copyfile(coarse, aligned)


def _imdb_wiki(folder: Path, space: FaceSpace, faces: int, seed: int) -> list:
    records = {"imdb": faces * 2 // 10, "wiki": faces // 10}
    return [
        delayed(imdb_wiki_files.write)(folder, part, count, space, np.random.default_rng([seed, 3, place]), write_jpeg)
        for place, (part, count) in enumerate(records.items())
    ]


def _photos(folder: Path, space: FaceSpace, faces: int, seed: int) -> list:
    """Gives the photos to be drawn; they do not depend on `faces`."""

    def paint(name: str, rng: np.random.Generator) -> None:
        picture = scene.landscape(rng) if name == "nobody" else scene.group_photo(space, name, rng)
        write_jpeg(folder / f"{name}.jpg", picture)

    names = [*scene.ROWS, "nobody"]
    return [delayed(paint)(name, np.random.default_rng([seed, 4, place])) for place, name in enumerate(names)]


_PAINTERS = {"adience": _adience, "imdb_wiki": _imdb_wiki, "photos": _photos}
