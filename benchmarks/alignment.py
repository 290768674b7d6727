"""Which alignment template serves best? Trains the two-level CNN for a few epochs on each, judged on validation faces.

    python benchmarks/alignment.py /path/to/UTKFace [--runs FOLDER]

The test part is not touched. The pictures stay below --runs.
Prints a table, and the place of the eyes in the detector's boxes (`faces.HOG_EYES`, `faces.CNN_EYES`).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from src import datasets, evaluate, faces, network, prepare, tables, train
from src.config import AGE_GROUPS, CACHE, GENDERS, SEED
from src.faces import Alignment
from src.photos import read_photo

TEMPLATES = {
    "none (the picture as it is)": None,
    "wide": Alignment(eye_distance=0.32, eye_height=0.40),
    "middle": Alignment(eye_distance=0.39, eye_height=0.34),
    "tight": Alignment(eye_distance=0.46, eye_height=0.36),
}
CLASSES = {"age": len(AGE_GROUPS["adience"].names), "gender": len(GENDERS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faces", type=int, default=6000, help="training faces (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--tasks", nargs="+", default=["age"], choices=list(CLASSES))
    parser.add_argument("--runs", type=Path, default=CACHE, help="where the pictures are kept (default: %(default)s)")
    options = parser.parse_args()
    table = datasets.load("utkface", options.folder).table
    part = _part(table, options.faces)
    for detector in ("hog", "cnn"):
        print(eyes_in_boxes(table, options.folder, detector), flush=True)
    rows = []
    for name, template in TEMPLATES.items():
        pictures = _pictures(table, options.folder, template, options.runs)
        for task in options.tasks:
            rows.append({"template": name, "task": task, **_judge(table, pictures, part, task, options.epochs)})
            print(pd.DataFrame(rows).to_string(index=False), flush=True)


def eyes_in_boxes(table: pd.DataFrame, folder: Path, detector: str, count: int = 250) -> str:
    """Median distance and height of the eyes, as shares of the detector's box width."""
    shares = []
    for path in table["path"].sample(min(count, len(table)), random_state=SEED):
        for face in faces.find_faces(read_photo(folder / path), detector)[:1]:
            left, top, right, _ = face.box
            one, other = (face.landmarks[eye].mean(axis=0) for eye in faces.EYES)
            shares.append(np.array([np.hypot(*(other - one)), (one[1] + other[1]) / 2 - top]) / (right - left))
    distance, height = np.median(shares, axis=0)
    return f"eyes in the box of {detector}: distance {distance:.3f}, height {height:.3f} of its width (n = {len(shares)})"


def _part(table: pd.DataFrame, count: int) -> np.ndarray:
    part = tables.split(table)
    training = np.flatnonzero(part == "train")
    part[np.random.default_rng(SEED).permutation(training)[count:]] = "left out"
    part[part == "test"] = "left out"
    return part


def _pictures(table: pd.DataFrame, folder: Path, template: Alignment | None, runs: Path) -> np.ndarray:
    if template is not None:
        return prepare.prepare(table, folder, template, runs).faces
    pictures = (faces.whole_photo(read_photo(folder / path)) for path in table["path"])
    plain = Alignment()
    runs.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(runs / "whole.npy", "w+", np.uint8, (len(table), plain.size, plain.size, 3))
    for i, picture in enumerate(pictures):
        array[i] = picture
    return array


def _judge(table: pd.DataFrame, pictures: np.ndarray, part: np.ndarray, task: str, epochs: int) -> dict:
    labels = tables.for_task(table, task, AGE_GROUPS["adience"]).table["label"].to_numpy()
    model = network.two_level_cnn(CLASSES[task], dtype=train.fast_dtype())
    with tempfile.TemporaryDirectory() as states:
        settings = train.Settings(epochs=epochs)
        model, history = train.fit(model, pictures, np.arange(len(table)), labels, part, settings, states=Path(states))
    rows = np.flatnonzero(part == "validation")
    probability = train.predict(model, pictures, rows)
    exact = evaluate.with_interval(evaluate.exact(labels[rows], probability))
    return {"exact": str(exact), "lowest val_loss": round(history["val_loss"].min(), 3)}


if __name__ == "__main__":
    main()
