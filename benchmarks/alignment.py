"""Alignment: where the eyes are in the detectors' boxes, and how YuNet's box compares with HOG's.

    python -m benchmarks.alignment DATA [--only PART …] [--n 600] [--csv FILE]

DATA contains UTKFace/ and FairFace/. Their test splits are not used.

| part | what it measures |
|---|---|
| boxes | where the eyes are in each detector's boxes: `Detector.eye_distance` and `eye_height` |
| mapping | YuNet's box against HOG's (`Detector.hog_shift`), and how far apart the landmarks of the two boxes are |
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import Photo, parser, print_row, report
from src import data
from src.config import SEED
from src.data import table as tables
from src.faces import align
from src.faces.detect import DETECTORS, detect, intersection_over_union
from src.faces.image_io import read_photo

SETS = {"utkface": "UTKFace", "fairface": "FairFace"}
PARTS = ("boxes", "mapping")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments.add_argument("--n", type=int, default=600, help="images of each data set (default: %(default)s)")
    options = arguments.parse_args()
    rows = []
    for name, folder in SETS.items():
        folder = options.data / folder
        table = data.load(name, folder).table
        table = table[tables.split(table) != "test"]
        some = table.sample(min(options.n, len(table)), random_state=SEED)
        if "boxes" in options.only and name == "utkface":
            rows += [eyes_in_boxes(_photos(some, folder), one) for one in DETECTORS if one != "hog+cnn"]
        if "mapping" in options.only and "yunet" in DETECTORS:
            rows.append({"part": "mapping", "data set": name} | box_mapping(_photos(some, folder)))
    report([print_row(row) for row in rows], options.csv)


def _photos(table: pd.DataFrame, folder: Path) -> Iterator[Photo]:
    return (read_photo(folder / path) for path in table["path"])


def eyes_in_boxes(photos: Iterable[Photo], detector: str) -> dict:
    """Returns the median distance of the eyes, a share of the box's mean side, and their height, a share of its width."""
    shares = []
    for photo in photos:
        for face in align.find_faces(photo, detector)[:1]:
            left, top, right, bottom = face.box
            one, other = align.eye_centres(face.landmarks)
            side = (right - left + bottom - top) / 2
            shares.append((np.hypot(*(other - one)) / side, ((one[1] + other[1]) / 2 - top) / (right - left)))
    distance, height = np.median(shares, axis=0)
    return {"part": "boxes", "detector": detector, "n": len(shares), "eye distance": distance, "eye height": height}


def box_mapping(photos: Iterable[Photo]) -> dict:
    """Compares HOG's box and YuNet's for the faces that both find, and the landmarks in both boxes.

    Returns medians: the side of HOG's box as a share of YuNet's, how much lower it is as a share of the height, and the
    distance of the eye centres as a share of the eye distance, with its 95th percentile.
    """
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
    quantiles = np.quantile(apart, [0.5, 0.95]) if apart else [np.nan, np.nan]
    row = {"n": len(ratios), "side": np.median(ratios), "lower": np.median(shifts)}
    return row | {"landmarks apart": quantiles[0], "95th percentile": quantiles[1]}


if __name__ == "__main__":
    main()
