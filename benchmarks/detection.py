"""Face detection: which faces each detector finds, what it wrongly takes for a face, and what the search costs.

    python benchmarks/detection.py [DATA] [--groups FOLDER] [--n 600] [--only PART …] [--csv FILE]

DATA is a folder with UTKFace/, FairFace/ and AllAgeFaces/; drawn faces take the place of what is not there. FOLDER holds
photos of several people and counts.csv (photo, clear, partial, note): the numbers of clear and of partly visible faces.

| part | what it measures |
|---|---|
| faces | the share of single-face pictures in which each detector finds a face |
| groups | boxes in the group photos: clear faces found, and boxes that cannot be on any face |
| nobody | false faces in pictures without people: scikit-image's, random crops of them, and drawn backdrops |
| sizes | recall by the size of the face in the searched picture, in group photos that are made smaller |
| cost | milliseconds by the size of the photo |
| choices | what the constants of YuNet's search contribute: each is changed alone |

The group photos have no marked faces, only counts: `clear found` is the most clear faces that the boxes can hold. The
reference of `sizes` is YuNet's own search at 1280 pixels, so that the recall is relative to it. Times are processor times
of one thread, which other programs on the machine affect little. dlib's network, which is slow, searches a sixth of the
pictures.
"""

import argparse
import contextlib
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import skimage.data

from src.config import GENDERS, SEED
from src.faces import detect as detection
from src.faces.detect import DETECTORS, Box, Photo, detect, intersection_over_union
from src.faces.image_io import UnreadablePhoto, list_photos, read_photo
from src.sample import scene
from src.sample.face_model import FaceSpace
from src.sample.person import new_person

SETS = ("UTKFace", "FairFace", "AllAgeFaces")
WITH_PEOPLE = ("astronaut", "camera")  # of scikit-image's pictures
SMALLEST_CROP = 100  # pixels
REFERENCE = 1280  # pixels: the longest side at which the faces of the group photos are found for reference
SLOW = 6  # the share of the pictures that dlib's network searches: one in so many
SHRUNK = (1280, 960, 800, 640, 480, 400, 320, 240, 200)
SIDES = (10, 14, 20, 28, 40, 56, 80, 160)  # pixels: edges of the groups of face sizes
FIRST_SIDES = (480, 800)  # beside the chosen constants of `detect`
CLEARS = (0.5, 0.7)


class Sources(NamedTuple):
    """Where real pictures are (None: nowhere), and how many pictures of each kind to take."""

    data: Path | None
    groups: Path | None
    n: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--groups", type=Path, metavar="FOLDER", help="photos of several people, with counts.csv")
    parser.add_argument("--n", type=int, default=600, help="pictures of each kind (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    for detector in DETECTORS:
        detect(np.zeros((64, 64, 3), np.uint8), detector)  # loads it, which is not measured
    sources, rows = Sources(options.data, options.groups, options.n), []
    for part in options.only:
        for row in PARTS[part](sources):
            rows.append({"part": part} | row)
            print(
                {name: round(value, 4) if isinstance(value, float) else value for name, value in rows[-1].items()}, flush=True
            )
    if options.csv:
        pd.DataFrame(rows).to_csv(options.csv, index=False, float_format="%.4f", lineterminator="\n")


# --- pictures ---------------------------------------------------------------------------------------------------------


@functools.cache
def single_faces(data: Path | None, n: int) -> dict[str, list[Photo]]:
    """By data set: up to n pictures of one face, chosen at random; drawn ones where there is no data set."""
    rng, sets = np.random.default_rng(SEED), {}
    for name in SETS:
        if data and (data / name).is_dir():
            files = list_photos([data / name])
            sets[name] = [read_photo(files[i]) for i in rng.choice(len(files), min(n, len(files)), replace=False)]
    return sets or {"drawn": [drawn((224, 224), 130, i) for i in range(n)]}


@functools.cache
def group_photos(groups: Path | None) -> list[tuple[str, int, int, Photo]]:
    """Name, clear faces, partly visible faces and pixels of each group photo; a drawn one if there are none."""
    if groups is None:
        return [("drawn", 20, 0, scene.group_photo(FaceSpace.load(), "twenty_faces", np.random.default_rng(SEED)))]
    counts = pd.read_csv(groups / "counts.csv")
    return [(row.photo, row.clear, row.partial, read_photo(groups / row.photo)) for row in counts.itertuples()]


@functools.cache
def without_people(n: int) -> dict[str, list[Photo]]:
    """By kind: pictures that show nobody. Of each whole picture there are n / 15 crops."""
    rng, whole = np.random.default_rng(SEED), []
    for file in list_photos([Path(skimage.data.__file__).parent]):
        if file.stem not in WITH_PEOPLE:
            with contextlib.suppress(UnreadablePhoto):
                whole.append(read_photo(file))
    crops = [crop(picture, rng) for picture in whole for _ in range(max(1, n // 15))]
    sky = [scene.backdrop(1280, 960, rng) for _ in range(max(1, n // 30))] + [scene.landscape(rng)]
    return {"whole pictures": whole, "crops": crops, "drawn backdrops": sky}


def crop(picture: Photo, rng: np.random.Generator) -> Photo:
    """A square of at least `SMALLEST_CROP` pixels or, of a smaller picture, its shorter side."""
    height, width = picture.shape[:2]
    most = min(height, width)
    side = int(rng.integers(min(SMALLEST_CROP, most), most + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return picture[top : top + side, left : left + side]


def drawn(shape: tuple[int, int], size: int, seed: int) -> Photo:
    """A photo of one drawn person: width and height in pixels, and the size of the face."""
    space, rng = FaceSpace.load(), np.random.default_rng([SEED, seed])
    person = new_person(space, int(rng.integers(1, 8)), GENDERS[seed % 2], rng)
    return scene.snapshot(space, [person], shape, size, rng)[0]


# --- parts ------------------------------------------------------------------------------------------------------------


def faces(sources: Sources) -> Iterator[dict]:
    for name, photos in single_faces(sources.data, sources.n).items():
        for detector in DETECTORS:
            counts, milliseconds = searched(some := share_of(photos, detector), detector)
            yield {
                "photos": name,
                "way": detector,
                "n": len(some),
                "found": float(np.mean(counts > 0)),
                "cpu ms": milliseconds,
            }


def groups(sources: Sources) -> Iterator[dict]:
    for detector in DETECTORS:
        yield {"photos": "group photos", "way": detector} | in_groups(sources.groups, detector)


def nobody(sources: Sources) -> Iterator[dict]:
    for name, photos in without_people(sources.n).items():
        for detector in DETECTORS:
            counts, milliseconds = searched(some := share_of(photos, detector), detector)
            yield {"photos": name, "way": detector, "n": len(some), "false faces": int(counts.sum()), "cpu ms": milliseconds}


def sizes(sources: Sources) -> Iterator[dict]:
    """Two ways for YuNet: one search of the picture as it is, and `detect`, which may search it again at a finer scale."""
    ways = {
        "yunet, one search": lambda photo: [one for one in detection._search(photo, 1) if one.score >= detection.FACE_SCORE],
        "yunet": lambda photo: detect(photo, "yunet"),
        "hog": lambda photo: detect(photo, "hog"),
    }
    found: dict[tuple[str, int], list[bool]] = {}
    for _, _, _, photo in group_photos(sources.groups):
        longest = max(photo.shape)
        reference = [
            one for one in detection._search(photo, min(1, REFERENCE / longest)) if one.score >= detection.FACE_SCORE
        ]
        for side in SHRUNK:
            scale = side / longest
            if scale > 1:
                continue
            small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            for way, search in ways.items():
                boxes = [one.box for one in search(small)] if way == "hog" or "yunet" in DETECTORS else []
                for one in reference:
                    group = int(np.searchsorted(SIDES, one.side * scale, side="right"))
                    box = tuple(edge * scale for edge in one.box)
                    found.setdefault((way, group), []).append(has_face(box, boxes))
    for (way, group), hits in sorted(found.items()):
        if 0 < group < len(SIDES):
            faces_of = f"faces of {SIDES[group - 1]} to {SIDES[group]} pixels"
            yield {"photos": faces_of, "way": way, "n": len(hits), "found": float(np.mean(hits))}


def cost(sources: Sources) -> Iterator[dict]:
    """The median over several photos."""
    count = max(1, sources.n // 60)
    rng = np.random.default_rng(SEED)
    photos = {
        "224x224, a face": [drawn((224, 224), 130, i) for i in range(count)],
        "640x480, a face": [drawn((640, 480), 200, i) for i in range(count)],
        "1280x960, a face": [drawn((1280, 960), 360, i) for i in range(count)],
        "1280x960, nobody": [scene.backdrop(1280, 960, rng) for _ in range(count)],
        "1280x960, twenty faces": [scene.group_photo(FaceSpace.load(), "twenty_faces", rng) for _ in range(min(3, count))],
        "4000x3000, nobody": [scene.backdrop(4000, 3000, rng)],
    } | {name: [photo] for name, _, _, photo in group_photos(sources.groups)}
    for name, some in photos.items():
        for detector in DETECTORS:
            times = [searched([photo], detector)[1] for photo in share_of(some, detector)]
            height, width = some[0].shape[:2]
            yield {
                "photos": name,
                "way": detector,
                "n": len(times),
                "size": f"{width}x{height}",
                "cpu ms": float(np.median(times)),
            }


def choices(sources: Sources) -> Iterator[dict]:
    if "yunet" not in DETECTORS:
        return

    def is_candidate(_: Photo, one: detection.Detection, scale: float) -> bool:
        return one.score >= detection.CANDIDATE_SCORE and one.side * scale >= detection.RELIABLE_FACE

    ways: dict[str, dict] = {"as chosen": {}}
    ways |= {f"FIRST_SIDE {side}": {"FIRST_SIDE": side} for side in FIRST_SIDES}
    ways |= {f"FACE_SCORE {score}": {"FACE_SCORE": score} for score in CLEARS}
    ways["no confirmation: weak candidates are left out"] = {"_is_confirmed": lambda *_: False}
    ways["no confirmation: weak candidates are taken"] = {"_is_confirmed": is_candidate}
    ways["no finer searches"] = {"_may_miss_faces": lambda *_: False}
    for way, changes in ways.items():
        with changed(changes):
            row: dict = {"way": way}
            for name, photos in single_faces(sources.data, sources.n).items():
                counts, milliseconds = searched(photos, "yunet")
                row |= {name: float(np.mean(counts > 0)), f"{name}, cpu ms": milliseconds}
            group = in_groups(sources.groups, "yunet")
            row |= {"clear found": group["clear found"], "extra": group["extra"], "group photo, cpu ms": group["cpu ms"]}
            for name, photos in without_people(sources.n).items():
                row |= {f"false faces, {name}": int(searched(photos, "yunet")[0].sum())}
            yield row


PARTS = {"faces": faces, "groups": groups, "nobody": nobody, "sizes": sizes, "cost": cost, "choices": choices}


# --- measuring --------------------------------------------------------------------------------------------------------


def searched(photos: list[Photo], detector: str) -> tuple[npt.NDArray[np.int64], float]:
    """The number of faces found in each photo, and the mean processor milliseconds a photo."""
    start = time.process_time()
    counts = np.array([len(detect(photo, detector)) for photo in photos])
    return counts, (time.process_time() - start) * 1000 / len(photos)


def share_of(photos: list[Photo], detector: str) -> list[Photo]:
    return photos[::SLOW] if "cnn" in detector else photos


def in_groups(folder: Path | None, detector: str) -> dict:
    """Sums over the group photos. extra: boxes beyond the number of faces in a photo, so false ones or repeats."""
    row = dict.fromkeys(("n", "clear", "clear found", "boxes", "extra"), 0) | {"cpu ms": 0.0}
    photos = group_photos(folder)
    for _, clear, partial, photo in photos:
        counts, milliseconds = searched([photo], detector)
        boxes = int(counts[0])
        row["n"] += 1
        row["clear"] += clear
        row["clear found"] += min(boxes, clear)
        row["boxes"] += boxes
        row["extra"] += max(0, boxes - clear - partial)
        row["cpu ms"] += milliseconds / len(photos)
    return row


def has_face(reference: Box, boxes: list[Box]) -> bool:
    """Whether a box shows the same face: HOG draws other boxes than YuNet, so that a small overlap is enough."""
    return any(intersection_over_union(reference, box) >= 0.3 for box in boxes)


@contextlib.contextmanager
def changed(values: dict) -> Iterator[None]:
    """Other constants or functions in `src.faces.detect` for a while."""
    before = {name: getattr(detection, name) for name in values}
    try:
        for name, value in values.items():
            setattr(detection, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(detection, name, value)


if __name__ == "__main__":
    main()
