"""Face detection: which faces each detector finds, its false detections, and its time.

    python -m benchmarks.detection [DATA] [--groups FOLDER] [--n 600] [--only PART …] [--csv FILE]

DATA is a folder with UTKFace/, FairFace/ and AllAgeFaces/; without them, synthetic faces are used. FOLDER contains photos of
several people and counts.csv (photo, clear, partial, note): the numbers of clear and of partly visible faces.

| part | what it measures |
|---|---|
| faces | the share of single-face images in which each detector finds a face |
| groups | group photos: clear faces found, and boxes that cannot be on any face |
| nobody | false faces in images without people: scikit-image's, random crops of them, and synthetic backdrops |
| cost | milliseconds by the size of the photo |

The group photos have counts but no marked faces: `clear found` is the largest number of clear faces that the boxes can
contain. Times are processor times of one thread. dlib's network, which is slow, searches a sixth of the images.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import skimage.data

from benchmarks.common import Clock, Photo, parser, print_row, random_files, report, synthetic_photos
from src.config import SEED
from src.faces.detect import DETECTORS, detect
from src.faces.image_io import UnreadablePhoto, list_photos, read_photo
from src.sample import scene
from src.sample.face_model import FaceModel

SETS = ("UTKFace", "FairFace", "AllAgeFaces")
WITH_PEOPLE = ("astronaut", "camera")  # the images of scikit-image that show people
SMALLEST_CROP = 100  # pixels: side of the smallest crop
SLOW = 6  # dlib's network searches one image in so many


class Sources(NamedTuple):
    """The folders of real images, if any, and the number of images of each kind."""

    data: Path | None
    groups: Path | None
    n: int


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path, nargs="?")
    arguments.add_argument("--groups", type=Path, metavar="FOLDER", help="photos of several people, with counts.csv")
    arguments.add_argument("--n", type=int, default=600, help="images of each kind (default: %(default)s)")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = arguments.parse_args()
    cv2.setNumThreads(1)
    for detector in DETECTORS:
        detect(np.zeros((64, 64, 3), np.uint8), detector)  # loads the detector, which is not measured
    sources = Sources(options.data, options.groups, options.n)
    rows = [print_row({"part": part} | row) for part in options.only for row in PARTS[part](sources)]
    report(rows, options.csv, 4)


@functools.cache
def single_faces(data: Path | None, n: int) -> dict[str, list[Photo]]:
    """Returns up to n random images of one face from each data set, or synthetic ones without a data set."""
    sets = {name: [read_photo(file) for file in files] for name, files in random_files(data, SETS, n).items()}
    return sets or {"synthetic": synthetic_photos(n, (224, 224), 130)}


@functools.cache
def group_photos(groups: Path | None) -> list[tuple[str, int, int, Photo]]:
    """Returns name, clear faces, partly visible faces and pixels of each group photo; a synthetic one without a folder."""
    if groups is None:
        return [("synthetic", 20, 0, scene.group_photo(FaceModel.load(), "twenty_faces", np.random.default_rng(SEED)))]
    counts = pd.read_csv(groups / "counts.csv")
    return [(row.photo, row.clear, row.partial, read_photo(groups / row.photo)) for row in counts.itertuples()]


@functools.cache
def without_people(n: int) -> dict[str, list[Photo]]:
    """Returns images without people, by kind. There are n / 15 crops of each whole image."""
    rng, whole = np.random.default_rng(SEED), []
    for file in list_photos([Path(skimage.data.__file__).parent]):
        if file.stem not in WITH_PEOPLE:
            with contextlib.suppress(UnreadablePhoto):
                whole.append(read_photo(file))
    crops = [crop(image, rng) for image in whole for _ in range(max(1, n // 15))]
    sky = [scene.backdrop(1280, 960, rng) for _ in range(max(1, n // 30))] + [scene.landscape(rng)]
    return {"whole images": whole, "crops": crops, "synthetic backdrops": sky}


def crop(image: Photo, rng: np.random.Generator) -> Photo:
    """Returns a square of at least `SMALLEST_CROP` pixels or, of a smaller image, its shorter side."""
    height, width = image.shape[:2]
    most = min(height, width)
    side = int(rng.integers(min(SMALLEST_CROP, most), most + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return image[top : top + side, left : left + side]


def faces(sources: Sources) -> Iterator[dict]:
    for name, photos in single_faces(sources.data, sources.n).items():
        for detector in DETECTORS:
            counts, milliseconds = search_all(some := share_of(photos, detector), detector)
            found = float(np.mean(counts > 0))
            yield {"photos": name, "detector": detector, "n": len(some), "found": found, "cpu ms": milliseconds}


def groups(sources: Sources) -> Iterator[dict]:
    """Sums over the group photos. `extra` counts the boxes beyond the number of faces in a photo: false or repeated ones."""
    photos = group_photos(sources.groups)
    clear, partial = (np.array([photo[i] for photo in photos]) for i in (1, 2))
    for detector in DETECTORS:
        boxes, milliseconds = search_all([photo[3] for photo in photos], detector)
        found, extra = np.minimum(boxes, clear).sum(), np.maximum(0, boxes - clear - partial).sum()
        row = {"photos": "group photos", "detector": detector, "n": len(photos), "clear": int(clear.sum())}
        yield row | {"clear found": int(found), "boxes": int(boxes.sum()), "extra": int(extra), "cpu ms": milliseconds}


def nobody(sources: Sources) -> Iterator[dict]:
    for name, photos in without_people(sources.n).items():
        for detector in DETECTORS:
            counts, milliseconds = search_all(some := share_of(photos, detector), detector)
            yield {
                "photos": name,
                "detector": detector,
                "n": len(some),
                "false faces": int(counts.sum()),
                "cpu ms": milliseconds,
            }


def cost(sources: Sources) -> Iterator[dict]:
    """Yields the median over several photos."""
    count = max(1, sources.n // 60)
    rng = np.random.default_rng(SEED)
    photos = {
        "224x224, a face": synthetic_photos(count, (224, 224), 130),
        "640x480, a face": synthetic_photos(count, (640, 480), 200),
        "1280x960, a face": synthetic_photos(count, (1280, 960), 360),
        "1280x960, nobody": [scene.backdrop(1280, 960, rng) for _ in range(count)],
        "1280x960, twenty faces": [scene.group_photo(FaceModel.load(), "twenty_faces", rng) for _ in range(min(3, count))],
        "4000x3000, nobody": [scene.backdrop(4000, 3000, rng)],
    } | {name: [photo] for name, _, _, photo in group_photos(sources.groups)}
    for name, some in photos.items():
        for detector in DETECTORS:
            times = [search_all([photo], detector)[1] for photo in share_of(some, detector)]
            size = f"{some[0].shape[1]}x{some[0].shape[0]}"
            yield {"photos": name, "detector": detector, "n": len(times), "size": size, "cpu ms": float(np.median(times))}


PARTS = {"faces": faces, "groups": groups, "nobody": nobody, "cost": cost}


def search_all(photos: list[Photo], detector: str) -> tuple[npt.NDArray[np.int64], float]:
    """Returns the number of faces found in each photo, and the mean processor milliseconds per photo."""
    with Clock() as clock:
        counts = np.array([len(detect(photo, detector)) for photo in photos])
    return counts, clock.cpu * 1000 / len(photos)


def share_of(photos: list[Photo], detector: str) -> list[Photo]:
    return photos[::SLOW] if "cnn" in detector else photos


if __name__ == "__main__":
    main()
