"""Alignment: where eyes lie in the detectors' boxes, how to align turned faces, and which template serves best.

    python benchmarks/alignment.py DATA [--only PART …] [--n 600] [--runs FOLDER]

DATA holds UTKFace/ and FairFace/, of which the test part is not used.

| part | what it measures |
|---|---|
| boxes | the place of the eyes in each detector's boxes: `align.HOG_EYES`, `CNN_EYES`, `YUNET_EYE_DISTANCE` |
| mapping | from YuNet's box to HOG's (`align.YUNET_TO_HOG_SHIFT`), and how far apart the landmarks of the two boxes lie |
| turned | the released models on faces with eyes close together, aligned by landmarks or box (`align.TURNED_EYE_DISTANCE`) |
| templates | the two-level CNN, trained on UTKFace for a few epochs on each template; the faces stay below --runs |
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from src import data
from src.config import AGE_GROUPS, CACHE, GENDERS, SEED
from src.data import table as tables
from src.evaluation import metrics
from src.faces import align, prepare
from src.faces.align import Alignment
from src.faces.detect import DETECTORS, Detection, Photo, detect, intersection_over_union
from src.faces.image_io import read_photo
from src.models import train, two_level_cnn
from src.predict.decode import Models, load_models

TEMPLATES = {
    "none (the picture as it is)": None,
    "wide": Alignment(eye_distance=0.32, eye_height=0.40),
    "middle": Alignment(eye_distance=0.39, eye_height=0.34),
    "tight": Alignment(eye_distance=0.46, eye_height=0.36),
}
CLASSES = {"age": len(AGE_GROUPS["adience"].names), "gender": len(GENDERS)}


SETS = {"utkface": "UTKFace", "fairface": "FairFace"}
PARTS = ("boxes", "mapping", "turned", "templates")
LIMITS = (0.30, 0.34, 0.38)  # of the distance of the eyes, as a share of the box's side
TURNED_SHARE = 15  # times as many pictures are searched for turned faces, which are few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--n", type=int, default=600, help="pictures of a data set for the boxes (default: %(default)s)")
    parser.add_argument("--faces", type=int, default=6000, help="training faces of a template (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--tasks", nargs="+", default=["age"], choices=list(CLASSES))
    parser.add_argument("--runs", type=Path, default=CACHE, help="where the pictures are kept (default: %(default)s)")
    options = parser.parse_args()
    loaded = {name: data.load(name, options.data / folder).table for name, folder in SETS.items()}
    few = {name: _sample(table, tables.split(table) != "test", options.n) for name, table in loaded.items()}
    if "boxes" in options.only:
        for detector in ("hog", "cnn", "yunet"):
            if detector in DETECTORS:
                print(eyes_in_boxes(_photos(few["utkface"], options.data / SETS["utkface"]), detector), flush=True)
    if "mapping" in options.only and "yunet" in DETECTORS:
        for name, table in few.items():
            print(f"{name}: {box_mapping(_photos(table, options.data / SETS[name]))}", flush=True)
    if "turned" in options.only and "yunet" in DETECTORS:
        models = load_models()
        for name, table in loaded.items():
            some = _sample(table, tables.split(table) == "validation", TURNED_SHARE * options.n)
            print(turned(name, some, options.data / SETS[name], models).to_string(index=False), flush=True)
    if "templates" in options.only:
        compare_templates(loaded["utkface"], options)


def compare_templates(table: pd.DataFrame, options: argparse.Namespace) -> None:
    part, folder = _part(table, options.faces), options.data / SETS["utkface"]
    rows = []
    for name, template in TEMPLATES.items():
        pictures = _pictures(table, folder, template, options.runs)
        for task in options.tasks:
            rows.append({"template": name, "task": task, **_judge(table, pictures, part, task, options.epochs)})
            print(pd.DataFrame(rows).to_string(index=False), flush=True)


def _sample(table: pd.DataFrame, of: npt.NDArray[np.bool_], count: int) -> pd.DataFrame:
    rows = table[of]
    return rows.sample(min(count, len(rows)), random_state=SEED)


def _photos(table: pd.DataFrame, folder: Path) -> Iterator[Photo]:
    return (read_photo(folder / path) for path in table["path"])


def eyes_in_boxes(photos: Iterable[Photo], detector: str) -> str:
    """Median distance and height of the eyes, as shares of the detector's box width."""
    shares = []
    for photo in photos:
        for face in align.find_faces(photo, detector)[:1]:
            left, top, right, _ = face.box
            one, other = align.eye_centres(face.landmarks)
            shares.append(np.array([np.hypot(*(other - one)), (one[1] + other[1]) / 2 - top]) / (right - left))
    distance, height = np.median(shares, axis=0)
    return f"eyes in the box of {detector}: distance {distance:.3f}, height {height:.3f} of its width (n = {len(shares)})"


def box_mapping(photos: Iterable[Photo]) -> str:
    """HOG's box against YuNet's for the faces that both find, and the landmarks found in HOG's box and in the mapped one."""
    ratios, shifts, apart = [], [], []
    for photo in photos:
        by_hog = detect(photo, "hog")
        for found in detect(photo, "yunet"):
            same = max(by_hog, key=lambda one: intersection_over_union(one.box, found.box), default=None)
            if same is None or intersection_over_union(same.box, found.box) < 0.4:
                continue
            middles = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (same.box, found.box)]
            ratios.append(same.side / found.side)
            shifts.append((middles[0][1] - middles[1][1]) / (found.box[3] - found.box[1]))
            eyes, mapped = (align.eye_centres(align.find_landmarks(photo, align._hog_box(one))) for one in (same, found))
            apart.append(np.hypot(*(mapped - eyes).T).mean() / np.hypot(*(eyes[1] - eyes[0])))
    if not ratios:
        return "no face that both detectors find"
    return (
        f"HOG's box has {np.median(ratios):.3f} of the side of YuNet's and lies {np.median(shifts):.3f} of its height lower "
        f"(medians); eye centres are {np.median(apart):.2%} of the eye distance apart in the median, "
        f"{np.quantile(apart, 0.95):.2%} at the 95th percentile (n = {len(ratios)})"
    )


def turned(name: str, table: pd.DataFrame, folder: Path, models: Models) -> pd.DataFrame:
    """Faces whose eyes are closer together than a limit, each aligned in both ways.

    Gives the mean log loss of gender and the mean years between the predicted age and the label's range. The rows of the
    limits overlap: each counts all faces below it.
    """
    shares, aligned, rows = [], {"landmarks": [], "box and tilt": []}, []
    for row in table.itertuples():
        photo = read_photo(folder / row.path)
        found = detect(photo, "yunet")[:1]
        if not found:
            continue
        landmarks = align.find_landmarks(photo, align._hog_box(found[0]))
        eyes = align.eye_centres(landmarks)
        share = np.hypot(*(eyes[1] - eyes[0])) / found[0].side
        if share >= max(LIMITS):
            continue
        shares.append(share)
        rows.append(row)
        for way, place in {"landmarks": eyes, "box and tilt": _turned_eyes(found[0], landmarks)}.items():
            face = align.Face(found[0].box, found[0].score, landmarks, place)
            aligned[way].append({task: align.align_face(photo, face, one) for task, one in models.alignments.items()})
    said = {way: models.columns(models.probabilities(some)) for way, some in aligned.items() if some}
    table = []
    for limit in LIMITS:
        for way, answers in said.items():
            chosen = [(row, answer) for row, answer, share in zip(rows, answers, shares) if share < limit]
            table.append({"data set": name, "eyes below": limit, "aligned by": way, "n": len(chosen), **_judged(chosen)})
    return pd.DataFrame(table)


def _turned_eyes(found: Detection, landmarks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The eyes by middle, tilt and the box's size, as `faces` gives them for a face that may be turned."""
    one, other = align.eye_centres(landmarks) @ (1, 1j)
    tilt = (other - one) / abs(other - one) if one != other else 1
    return align._eyes_around((one + other) / 2, align.YUNET_EYE_DISTANCE * found.side, tilt)


def _judged(chosen: list[tuple]) -> dict:
    losses = [
        -np.log(np.clip(answer["p_male"] if row.gender == "male" else 1 - answer["p_male"], 1e-4, 1))
        for row, answer in chosen
        if not pd.isna(row.gender)
    ]
    off = [
        max(0.0, row.age_low - answer["age_years"], answer["age_years"] - row.age_high)
        for row, answer in chosen
        if not pd.isna(row.age_low)
    ]
    return {"gender log loss": np.mean(losses) if losses else np.nan, "years outside label": np.mean(off) if off else np.nan}


def _part(table: pd.DataFrame, count: int) -> np.ndarray:
    part = tables.split(table)
    training = np.flatnonzero(part == "train")
    part[np.random.default_rng(SEED).permutation(training)[count:]] = "left out"
    part[part == "test"] = "left out"
    return part


def _pictures(table: pd.DataFrame, folder: Path, template: Alignment | None, runs: Path) -> np.ndarray:
    if template is not None:
        return prepare.prepare(table, folder, template, runs).faces
    pictures = (align.whole_photo(read_photo(folder / path)) for path in table["path"])
    plain = Alignment()
    runs.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(runs / "whole.npy", "w+", np.uint8, (len(table), plain.size, plain.size, 3))
    for i, picture in enumerate(pictures):
        array[i] = picture
    return array


def _judge(table: pd.DataFrame, pictures: np.ndarray, part: np.ndarray, task: str, epochs: int) -> dict:
    labels = tables.task_labels(table, task, AGE_GROUPS["adience"]).table["label"].to_numpy()
    model = two_level_cnn.two_level_cnn(CLASSES[task], dtype=train.fast_dtype())
    with tempfile.TemporaryDirectory() as states:
        settings = train.TrainingSettings(epochs=epochs)
        model, history = train.fit(model, pictures, np.arange(len(table)), labels, part, settings, states=Path(states))
    rows = np.flatnonzero(part == "validation")
    probability = train.predict_probabilities(model, pictures, rows)
    exact = metrics.bootstrap_mean(metrics.exact_match(labels[rows], probability))
    return {"exact": str(exact), "lowest val_loss": round(history["val_loss"].min(), 3)}


if __name__ == "__main__":
    main()
