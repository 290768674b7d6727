"""Faces in a photo: their 68 landmarks, and the alignment that training and prediction share.

Before it: `detect` and `photos`. After it: `prepare` (whole tables) and `predict` (new photos).
"""

import functools
from dataclasses import asdict, dataclass
from typing import NamedTuple

import cv2
import dlib
import numpy as np

from src.config import FACE_SIZE
from src.faces.detect import DEFAULT, FIRST_SIDE, Box, Detection, detect, intersection_over_union
from src.faces.landmark_file import install_landmark_file

EYES = (slice(36, 42), slice(42, 48))  # of the 68 landmarks: the eye on the picture's left, the one on its right
LANDMARK_SIDE = 256  # pixels: larger faces are scaled down to this before their landmarks are found

# The landmark predictor expects boxes as HOG draws them: squares. What to make of another detector's box: the square's
# side as a share of the mean of width and height, and how far its middle lies below, as a share of the height
# (benchmarks/alignment.py).
TO_HOG_BOX = {"yunet": (1.0, 0.02)}

# The distance of the eyes, and their height below the upper edge, in a detector's box, as shares of the box's width:
# measured on UTKFace by benchmarks/alignment.py.
HOG_EYES, CNN_EYES = (0.43, 0.25), (0.45, 0.34)

# The distance of the eyes as a share of the mean of YuNet's width and height: of a face from the front, and below which the
# head is turned.
YUNET_EYE_DISTANCE, TURNED = 0.425, 0.38


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

    box: Box  # as the detector draws it; it may reach over the photo's edge
    score: float  # see `detect.Detection`
    landmarks: np.ndarray  # float64 (68, 2), (x, y)
    eyes: np.ndarray  # float64 (2, 2), (x, y): the eye centres to align the face by, the picture's left eye first


@functools.cache
def _predictor():
    file = install_landmark_file()
    try:
        return dlib.shape_predictor(str(file))
    except RuntimeError as error:
        raise ValueError(f"{file} is damaged: delete it and run: python -m src.faces.landmark_file") from error


def ready() -> None:
    """Loads the detector and the landmark predictor, which takes a second, before the first photo needs them."""
    find_faces(np.zeros((64, 64, 3), np.uint8), DEFAULT)
    _predictor()


def find_faces(photo: np.ndarray, detector: str = DEFAULT, first_side: int = FIRST_SIDE) -> list[Face]:
    """Finds all faces of a photo, each with its 68 landmarks.

    Args:
        photo: uint8 (height, width, 3), RGB, 0-255.
        detector: See `detect.detect`.
        first_side: See `detect.detect`.

    Returns:
        The faces, largest first.

    Raises:
        ValueError: For an unknown detector, or one that is not installed on this machine.
    """
    faces = []
    for found in detect(photo, detector, first_side):
        landmarks = find_landmarks(photo, _hog_box(found))
        faces.append(Face(found.box, found.score, landmarks, _alignment_eyes(found, landmarks)))
    return faces


def _alignment_eyes(found: Detection, landmarks: np.ndarray) -> np.ndarray:
    """The landmarks' eye centres or, of a face that may be turned, the places where eyes lie in its box.

    The landmarks of a turned face show its eyes too close together, so that aligning by them would enlarge it. In YuNet's
    box they give the middle between the eyes and the tilt, and the box's size gives their distance. In a box of dlib's
    network, which finds covered faces too, they give only the tilt. benchmarks/alignment.py compares these.
    """
    eyes = eye_centres(landmarks)
    (one, other) = eyes @ (1, 1j)
    apart = abs(other - one)
    tilt = (other - one) / apart if apart else 1
    if found.detector == "cnn":
        return _eyes_in_box(found.box, CNN_EYES, tilt)
    if found.detector == "yunet" and apart < TURNED * found.side:
        return _eyes_about((one + other) / 2, YUNET_EYE_DISTANCE * found.side, tilt)
    return eyes


def find_landmarks(photo: np.ndarray, box: Box) -> np.ndarray:
    """The 68 landmarks of the face in a box, by dlib's predictor (Kazemi and Sullivan, CVPR 2014).

    Args:
        photo: uint8 (height, width, 3), RGB, 0-255.
        box: The face as dlib's HOG detector would draw it; it may reach over the photo's edge.

    Returns:
        float64 (68, 2), (x, y) in the photo's pixels.
    """
    left, top, right, bottom = box
    # The predictor looks at single pixels: of a large face they would show nothing but noise.
    scale = min(1.0, LANDMARK_SIDE / max(right - left, bottom - top))
    x, y = max(0, int(left - (right - left) / 2)), max(0, int(top - (bottom - top) / 2))
    near = photo[y : int(bottom + (bottom - top) / 2) + 1, x : int(right + (right - left) / 2) + 1]
    grey = cv2.cvtColor(near, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    edges = [round((edge - start) * scale) for edge, start in zip(box, (x, y, x, y))]
    points = _predictor()(grey, dlib.rectangle(edges[0], edges[1], edges[2] - 1, edges[3] - 1)).parts()
    return (np.array([(p.x, p.y) for p in points]) + 0.5) / scale - 0.5 + (x, y)


def _hog_box(found: Detection) -> Box:
    """The square that HOG would draw around a face, from another detector's box."""
    if found.detector not in TO_HOG_BOX:
        return found.box
    left, top, right, bottom = found.box
    share, lower = TO_HOG_BOX[found.detector]
    half, x, y = share * found.side / 2, (left + right) / 2, (top + bottom) / 2 + lower * (bottom - top)
    return x - half, y - half, x + half, y + half


def choose_face(faces: list[Face], box: tuple | None, shape: tuple) -> Face | None:
    """The one face that a data set's row is about, or None.

    With the data set's `box` (left, top, right, bottom) it is the face that overlaps it most, a tenth of their union at
    least. Without one, pictures are taken to show their face in the middle: the large and central one is chosen.
    """
    if not faces:
        return None
    if box is not None:
        best = max(faces, key=lambda face: intersection_over_union(face.box, box))
        return best if intersection_over_union(best.box, box) >= 0.1 else None
    height, width = shape[:2]

    def weight(face: Face) -> float:
        left, top, right, bottom = face.box
        away = np.hypot((left + right - width) / width, (top + bottom - height) / height)
        return (right - left) * (1 - away / 2)

    return max(faces, key=weight)


def align(photo: np.ndarray, landmarks: np.ndarray, alignment: Alignment = Alignment()) -> np.ndarray:
    """The face turned, scaled and moved (a similarity) so that its eye centres lie on the template's.

    photo: uint8 (height, width, 3), RGB. landmarks: (68, 2) in its pixels. Gives uint8 (size, size, 3), RGB, cut from the
    photo's own pixels; beyond the photo's edge its border is repeated. Raises ValueError where the eye centres are not two
    distinct, finite points.
    """
    return _cut(photo, eye_centres(landmarks), alignment)


def align_face(photo: np.ndarray, face: Face, alignment: Alignment = Alignment()) -> np.ndarray:
    """`align` for a face as `find_faces` gives it: by its landmarks, or where it may be turned by its `eyes`."""
    return _cut(photo, face.eyes, alignment)


def align_box(photo: np.ndarray, box: tuple, alignment: Alignment = Alignment()) -> np.ndarray:
    """A face of which only the box is known, cut as `align` would if its eyes lay level where eyes lie in such a box."""
    return _cut(photo, _eyes_in_box(box, HOG_EYES), alignment)


def eye_centres(landmarks: np.ndarray) -> np.ndarray:
    """The eye centres of 68 landmarks, float64 (2, 2): the picture's left eye first."""
    return np.array([landmarks[eye].mean(axis=0) for eye in EYES])


def _eyes_in_box(box: tuple, shares: tuple[float, float], turn: complex = 1) -> np.ndarray:
    """Where eyes lie in a box, (2, 2), if the face is turned about the box's middle; turn: a number on the unit circle."""
    (left, top, right, bottom), (distance, height) = box, shares
    width = right - left
    middle = complex(left + right, top + bottom) / 2 + turn * 1j * (width * height - (bottom - top) / 2)
    return _eyes_about(middle, width * distance, turn)


def _eyes_about(middle: complex, distance: float, turn: complex) -> np.ndarray:
    """Eyes at a distance from each other, (2, 2), about a point."""
    both = middle + turn * distance / 2 * np.array([-1, 1])
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
