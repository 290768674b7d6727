"""Finding faces, their 68 landmarks, and aligning them: the one way that training and prediction share.

Before it: `photos`. After it: `prepare` (whole tables) and `predict` (new photos).
"""

import functools
import threading
from dataclasses import asdict, dataclass
from typing import NamedTuple

import cv2
import dlib
import numpy as np

from src.config import FACE_SIZE
from src.landmark_file import install, packaged_file

DETECTORS = ("hog", "cnn", "hog+cnn")
DETECTOR = "hog+cnn"  # of photos: finds most of what hog misses, costs no more where that finds a face; benchmarks/photos.py
SEARCH_SIDE = 800  # pixels: the longest side at which a photo is first searched; dlib's detector sees faces from 80 up
CNN_SIDE = 480  # the same for the network, which takes seven times as long a pixel, and sees faces from about 40 up
CNN_THINNEST = 16  # pixels: dlib fails on strips that are thinner than its first filters
CLEAR_SCORE = 0.1  # of the detector; patterns that look a little like a face score between 0 and this
EYES = (slice(36, 42), slice(42, 48))  # of the 68 landmarks: the eye on the picture's left, the one on its right

# The distance of the eyes, and their height below the upper edge, in a box of each of dlib's detectors, as shares of the
# box's width: measured on UTKFace by benchmarks/alignment.py.
HOG_EYES, CNN_EYES = (0.43, 0.25), (0.45, 0.34)


@dataclass(frozen=True)
class Alignment:
    """The template that faces are aligned to, and the filters after it.

    size: side of the square face in pixels. eye_distance, eye_height: the distance between the eye centres and their
    height below the upper edge, as shares of the size; the eyes lie level and centred. gamma: adaptive gamma
    correction. denoise: non-local means.
    """

    size: int = FACE_SIZE
    eye_distance: float = 0.39
    eye_height: float = 0.34
    gamma: bool = False
    denoise: bool = False

    def __post_init__(self):
        whole = isinstance(self.size, int) and self.size >= 16
        if not (whole and 0 < self.eye_distance < 1 and 0 < self.eye_height < 1):
            raise ValueError(
                f"alignment needs a whole size >= 16 and eye_distance and eye_height between 0 and 1, got {asdict(self)}"
            )

    @property
    def eyes(self) -> np.ndarray:
        """The eye centres in the aligned face: float64 (2, 2), (x, y) in pixels, the picture's left eye first."""
        half = self.eye_distance / 2
        return self.size * np.array([[0.5 - half, self.eye_height], [0.5 + half, self.eye_height]]) - 0.5


class Face(NamedTuple):
    """A face found in a photo, in the photo's pixels."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float  # the detector's, above 0; about 1 and more for a clear frontal face
    landmarks: np.ndarray  # float64 (68, 2), (x, y)
    frontal: bool = True  # False: dlib's network found it, which finds turned and covered faces too

    @property
    def eyes(self) -> np.ndarray:
        """The eye centres to align it by: float64 (2, 2), (x, y) in pixels, the picture's left eye first.

        Of a face that may be turned, whose eyes seem too near each other, the landmarks tell only how it is tilted; where
        eyes lie in such a box tells the rest.
        """
        eyes = _eye_centres(self.landmarks)
        if self.frontal:
            return eyes
        (one, other) = eyes @ (1, 1j)
        return _eyes_in_box(self.box, CNN_EYES, (other - one) / abs(other - one) if one != other else 1)


class _Detectors(threading.local):
    """dlib's detectors, made when they are first used; one each a thread, since they keep notes while they search."""

    @functools.cached_property
    def hog(self):
        return dlib.get_frontal_face_detector()

    @functools.cached_property
    def cnn(self):
        return dlib.cnn_face_detection_model_v1(str(packaged_file("mmod_human_face_detector.dat")))


_detectors = _Detectors()


@functools.cache
def _predictor():
    file = install()
    try:
        return dlib.shape_predictor(str(file))
    except RuntimeError as error:
        raise ValueError(f"{file} is damaged: delete it and run: python -m src.landmark_file") from error


def ready() -> None:
    """Reads dlib's detector and landmarks, which takes a second, before they are asked for."""
    _ = _detectors.hog, _predictor()


def find_faces(photo: np.ndarray, detector: str = "hog") -> list[Face]:
    """All faces that a detector finds, largest first, each with its 68 landmarks.

    photo: uint8 (height, width, 3), RGB. detector: "hog", dlib's frontal detector; "cnn", dlib's network (King, "Max-margin
    object detection", 2015), which also finds turned and covered faces and takes far longer; "hog+cnn", the network only
    where the other finds no clear face. Raises ValueError for another.
    """
    if detector not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {detector!r}")
    clear, weak = ([], []) if detector == "cnn" else _by_hog(photo)
    if not clear and detector != "hog":
        clear = _by_cnn(photo)
    return clear or weak


def _by_hog(photo: np.ndarray) -> tuple[list[Face], list[Face]]:
    """Clear faces or, where there are none, weak detections, which are mostly no faces.

    A large photo is searched at `SEARCH_SIDE`; only where that finds nothing it is searched again at twice the resolution,
    which finds faces half as large, and a very large one at four times.
    """
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, SEARCH_SIDE / max(grey.shape))
    weak = []
    for closer in (1, 2, 4) if 4 * scale <= 1 else (1, 2):
        seen = _resized(grey, closer * scale)
        if seen is None:
            continue
        boxes, scores, _ = _detectors.hog.run(seen, 0, 0.0)
        faces = _with_landmarks(seen, zip(boxes, scores, strict=True), closer * scale)
        clear = [face for face in faces if face.score >= CLEAR_SCORE]
        if clear:
            return clear, []
        weak = weak or faces
    return [], weak


def _by_cnn(photo: np.ndarray) -> list[Face]:
    scale = min(1.0, CNN_SIDE / max(photo.shape))
    if min(photo.shape[:2]) * scale < CNN_THINNEST:
        return []
    seen = _resized(photo, scale)
    found = [(one.rect, one.confidence) for one in _detectors.cnn(seen, 0) if one.confidence >= CLEAR_SCORE]
    faces = _with_landmarks(cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY), found, scale)
    return [face._replace(frontal=False) for face in faces]


def _resized(picture: np.ndarray, scale: float) -> np.ndarray | None:
    """None for a line of pixels, with which OpenCV can't do anything."""
    if min(picture.shape[:2]) * scale < 1:
        return None
    if scale == 1:
        return picture
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)


def _with_landmarks(grey: np.ndarray, found, scale: float) -> list[Face]:
    """The faces in the photo's pixels, largest first; found: (rectangle, score) in the pixels of `grey`."""
    faces = []
    for box, score in found:
        points = _predictor()(grey, box).parts()
        landmarks = (np.array([(p.x, p.y) for p in points]) + 0.5) / scale - 0.5
        edges = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)
        faces.append(Face(tuple(edge / scale for edge in edges), score, landmarks))
    return sorted(faces, key=lambda face: face.box[0] - face.box[2])


def choose_face(faces: list[Face], box: tuple | None, shape: tuple) -> Face | None:
    """The one face that a data set's row is about, or None.

    With the data set's `box` (left, top, right, bottom) it is the face that overlaps it most, a tenth of their union at
    least. Without one, pictures are taken to show their face in the middle: the large and central one is chosen.
    """
    if not faces:
        return None
    if box is not None:
        best = max(faces, key=lambda face: overlap(face.box, box))
        return best if overlap(best.box, box) >= 0.1 else None
    height, width = shape[:2]

    def weight(face: Face) -> float:
        left, top, right, bottom = face.box
        away = np.hypot((left + right - width) / width, (top + bottom - height) / height)
        return (right - left) * (1 - away / 2)

    return max(faces, key=weight)


def overlap(a: tuple, b: tuple) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def align(photo: np.ndarray, landmarks: np.ndarray, alignment: Alignment = Alignment()) -> np.ndarray:
    """The face turned, scaled and moved (a similarity) so that its eye centres lie on the template's.

    photo: uint8 (height, width, 3), RGB. landmarks: (68, 2) in its pixels. Gives uint8 (size, size, 3), RGB, cut from the
    photo's own pixels; beyond the photo's edge its border is repeated. Raises ValueError where the eye centres are not two
    distinct, finite points.
    """
    return _cut(photo, _eye_centres(landmarks), alignment)


def align_face(photo: np.ndarray, face: Face, alignment: Alignment = Alignment()) -> np.ndarray:
    """`align` for a face as `find_faces` gives it: by its landmarks, or where it may be turned by its `eyes`."""
    return _cut(photo, face.eyes, alignment)


def align_box(photo: np.ndarray, box: tuple, alignment: Alignment = Alignment()) -> np.ndarray:
    """A face of which only the box is known, cut as `align` would if its eyes lay level where eyes lie in such a box."""
    return _cut(photo, _eyes_in_box(box, HOG_EYES), alignment)


def _eye_centres(landmarks: np.ndarray) -> np.ndarray:
    return np.array([landmarks[eye].mean(axis=0) for eye in EYES])


def _eyes_in_box(box: tuple, shares: tuple[float, float], turn: complex = 1) -> np.ndarray:
    """Where eyes lie in a box, (2, 2), if the face is turned about the box's middle; turn: a number on the unit circle."""
    (left, top, right, bottom), (distance, height) = box, shares
    width = right - left
    middle = complex(left + right, top + bottom) / 2 + turn * 1j * (width * height - (bottom - top) / 2)
    both = middle + turn * width * distance / 2 * np.array([-1, 1])
    return np.column_stack([both.real, both.imag])


def whole_photo(photo: np.ndarray, alignment: Alignment = Alignment()) -> np.ndarray:
    """The photo's central square, scaled to the template's size: for face crops in which no face is found."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = photo[top : top + side, left : left + side]
    shrinking = side > alignment.size
    resized = cv2.resize(square, (alignment.size,) * 2, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    return _filtered(resized, alignment)


def _cut(photo: np.ndarray, eyes: np.ndarray, alignment: Alignment) -> np.ndarray:
    """The similarity that carries two eye centres (2, 2) onto the template's, applied to the photo."""
    if not np.isfinite(eyes).all() or np.allclose(eyes[0], eyes[1]):
        raise ValueError(f"two distinct eye centres are needed, got {eyes.tolist()}")
    # As complex numbers a similarity is z -> a z + b; two points fix a and b.
    (p, q), (u, v) = eyes @ (1, 1j), alignment.eyes @ (1, 1j)
    a = (v - u) / (q - p)
    if abs(a) < 0.5:  # bilinear sampling would skip pixels: average them first
        step = int(np.ceil(0.5 / abs(a)))
        photo, corner = _around(photo, (p + q) / 2, 1.5 * alignment.size / abs(a), step)
        half = 0.5 + 0.5j  # from a pixel's corner to its centre, where points are counted from
        p, q, a = (p + half - corner) / step - half, (q + half - corner) / step - half, a * step
    b = u - a * p
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    face = cv2.warpAffine(photo, matrix, (alignment.size,) * 2, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _filtered(face, alignment)


def _around(photo: np.ndarray, middle: complex, reach: float, step: int) -> tuple[np.ndarray, complex]:
    """The part of a photo that lies within `reach` of a point, each step x step pixels averaged to one, and its corner.

    The part's size is a multiple of the step; a thin rest at the photo's right or lower edge is left out.
    """
    ends = []
    for at, side in ((middle.imag, photo.shape[0]), (middle.real, photo.shape[1])):
        most = max(1, side // step)
        first = int(np.clip((at - reach) // step, 0, most - 1))
        ends.append((first, int(np.clip((at + reach) // step + 1, first + 1, most))))
    (top, bottom), (left, right) = ends
    part = photo[top * step : bottom * step, left * step : right * step]
    return cv2.resize(part, (right - left, bottom - top), interpolation=cv2.INTER_AREA), step * complex(left, top)


def _filtered(face: np.ndarray, alignment: Alignment) -> np.ndarray:
    if alignment.denoise:
        face = denoise(face)
    return adaptive_gamma(face) if alignment.gamma else face


def adaptive_gamma(face: np.ndarray) -> np.ndarray:
    """Adaptive gamma correction of a face's brightness.

    face: uint8 (height, width, 3), RGB; gives the same. Source: Rahman et al., "An adaptive gamma correction for image
    enhancement", EURASIP Journal on Image and Video Processing 2016:35, equations 3 to 10, on the V of HSV.
    """
    hsv = cv2.cvtColor(face, cv2.COLOR_RGB2HSV)
    value = hsv[..., 2].astype(np.float32) / 255
    mean, deviation = float(value.mean()), float(value.std())
    low_contrast = 4 * deviation <= 1 / 3
    gamma = -np.log2(max(deviation, 1e-3)) if low_contrast else np.exp((1 - (mean + deviation)) / 2)
    # The correction depends on a pixel's value alone: a table of 256 entries does the picture.
    level = np.linspace(0, 1, 256) ** gamma
    if 0 < mean < 0.5:  # a black picture stays black
        level = level / (level + (1 - level) * mean**gamma)
    hsv[..., 2] = cv2.LUT(hsv[..., 2], np.uint8(np.round(255 * np.clip(level, 0, 1))))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def denoise(face: np.ndarray) -> np.ndarray:
    """Non-local means with the strengths 5 and 6 and windows of 7 and 21 pixels on uint8 (height, width, 3), RGB."""
    bgr = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
    return cv2.cvtColor(cv2.fastNlMeansDenoisingColored(bgr, None, 5, 6, 7, 21), cv2.COLOR_BGR2RGB)
