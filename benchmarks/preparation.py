"""How fast and how completely faces are prepared, and against the way of the original system.

    python benchmarks/preparation.py utkface /path/to/UTKFace
    python benchmarks/preparation.py adience /path/to/adience --original 20

Prints faces per second on all cores, the share of faces found, and with --original N the ratio to the original's way
(denoise the full picture, detect on it at upsample 1, align; one picture after another) on the same N pictures.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import dlib
import numpy as np
import pandas as pd

from src import data
from src.config import SEED
from src.faces import align, prepare
from src.faces.align import Alignment
from src.faces.image_io import read_photo
from src.faces.landmark_file import install_landmark_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=data.NAMES)
    parser.add_argument("folder", type=Path, nargs="?", default="")
    parser.add_argument("--faces", type=int, default=3000, help="pictures drawn at random (default: %(default)s)")
    parser.add_argument("--original", type=int, default=0, metavar="N", help="pictures for the comparison")
    options = parser.parse_args()
    folder = data.resolve_folder(options.dataset, options.folder)
    table = data.load(options.dataset, folder).table
    table = table.sample(min(options.faces, len(table)), random_state=SEED).reset_index(drop=True)
    prepare_all(table.head(200), folder)  # starts the workers, which a long run does once
    rate, how = prepare_all(table, folder)
    print(f"prepared {len(table):,} faces at {rate:.0f} a second on all cores")
    print((how.value_counts() / len(how)).map("{:.2%}".format).to_string())
    if options.original:
        print(compare(table.head(options.original), folder))


def prepare_all(table: pd.DataFrame, folder: Path) -> tuple[float, pd.Series]:
    """Faces per second, and how each was aligned or why not, in a cache that is thrown away."""
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        prepared = prepare.prepare(table, folder, cache=Path(cache))
        seconds = time.perf_counter() - start
        return len(table) / seconds, pd.Series(
            np.where(prepared.alignment_source == "", prepared.reason, prepared.alignment_source)
        )


def compare(table: pd.DataFrame, folder: Path) -> str:
    """The ratio to the original's way, both in this run on the same pictures; ours repeated to fill the workers."""
    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(install_landmark_file()))
    start = time.perf_counter()
    for path in table["path"]:
        original(folder / path, detector, predictor)
    theirs = len(table) / (time.perf_counter() - start)
    start = time.perf_counter()
    for path in table["path"]:
        prepare.align_row(folder / path, None, Alignment())
    serial = len(table) / (time.perf_counter() - start)
    ours, _ = prepare_all(pd.concat([table] * -(-150 // len(table)), ignore_index=True), folder)
    return (
        f"the original's way: {theirs:.2f} pictures a second; ours on one core: {serial:.1f} ({serial / theirs:.0f} times), "
        f"on all cores: {ours:.1f} ({ours / theirs:.0f} times), n = {len(table)}"
    )


def original(path: Path, detector, predictor) -> np.ndarray | None:
    """The original's steps on one picture: denoise 5/6/7/21, detect at upsample 1 on the full picture, align."""
    bgr = cv2.cvtColor(read_photo(path), cv2.COLOR_RGB2BGR)
    rgb = cv2.cvtColor(cv2.fastNlMeansDenoisingColored(bgr, None, 5, 6, 7, 21), cv2.COLOR_BGR2RGB)
    found = detector(rgb, 1)
    if not found:
        return None
    points = predictor(rgb, found[0]).parts()
    return align.align(rgb, np.array([(p.x, p.y) for p in points]), Alignment())


if __name__ == "__main__":
    main()
