"""Finds the faces of a photo with their landmarks, and aligns them in the one way that training and prediction share.

Some functions represent a point (x, y) by the complex number x + iy, because a rotation with scaling is then one
multiplication.
"""

import functools
from dataclasses import asdict, dataclass
from typing import NamedTuple, TypeAlias

import cv2
import dlib
import numpy as np
import numpy.typing as npt

from src.config import FACE_SIZE
from src.faces.detect import (
    DEFAULT_DETECTOR,
    DETECTORS,
    Box,
    Detection,
    Detector,
    Photo,
    detect,
    intersection_over_union,
)
from src.faces.landmark_file import install_landmark_file

Points: TypeAlias = npt.NDArray[np.float64]  # (n, 2), (x, y) in pixels

EYES = (slice(36, 42), slice(42, 48))  # landmarks of the eye on the image's left and of the one on its right
LANDMARK_SIDE = 256  # pixels: larger faces are reduced to this before their landmarks are found
MIN_OVERLAP = 0.1  # lowest intersection over union of a data set's box and its detected face


@dataclass(frozen=True)
class Alignment:
    """The template that faces are aligned to. The line between the eyes is level, and its middle is horizontally centred."""

    size: int = FACE_SIZE  # side of the square face in pixels
    eye_distance: float = 0.39  # between the eye centres, as a fraction of the size
    eye_height: float = 0.34  # from the upper edge down to the eye centres, as a fraction of the size
    gamma: bool = False  # whether to apply `adaptive_gamma`
    denoise: bool = False  # whether to apply `denoise`, before gamma

    def __post_init__(self):
        valid_size = isinstance(self.size, int) and self.size >= 16
        if not (valid_size and 0 < self.eye_distance < 1 and 0 < self.eye_height < 1):
            raise ValueError(
                f"alignment requires a whole size >= 16 and eye_distance and eye_height between 0 and 1, got {asdict(self)}"
            )

    @property
    def eyes(self) -> Points:
        """The eye centres in the aligned face, (2, 2): the eye on the image's left first."""
        half = self.eye_distance / 2
        return self.size * np.array([[0.5 - half, self.eye_height], [0.5 + half, self.eye_height]]) - 0.5


class Face(NamedTuple):
    """A face found in a photo, in the photo's pixels."""

    box: Box  # the detector's; may reach over the photo's edge
    score: float  # see `detect.Detection`
    landmarks: Points  # (68, 2)
    eyes: Points  # (2, 2): the eye centres to align by, the eye on the photo's left first


@functools.cache
def _landmark_predictor() -> dlib.shape_predictor:
    file = install_landmark_file()
    try:
        return dlib.shape_predictor(str(file))
    except RuntimeError as error:
        raise ValueError(f"{file} is damaged: delete it and run: python -m src.faces.landmark_file") from error


def load_detectors() -> None:
    """Loads the default detector and the landmark predictor, which takes a second, before the first photo."""
    find_faces(np.zeros((64, 64, 3), np.uint8))
    _landmark_predictor()


def find_faces(photo: Photo, detector: str = DEFAULT_DETECTOR, video: bool = False) -> list[Face]:
    """Finds all faces of a photo with their landmarks, largest first; for arguments and errors see `detect.detect`."""
    faces = []
    for found in detect(photo, detector, video):
        landmarks = find_landmarks(photo, _hog_box(found))
        faces.append(Face(found.box, found.score, landmarks, _eyes_to_align_by(found, landmarks)))
    return faces


def _eyes_to_align_by(found: Detection, landmarks: Points) -> Points:
    """Returns the landmarks' eye centres, or eyes at a frontal face's distance; see `Detector`.

    The eyes of a turned face are closer together, so aligning by them would enlarge the face.
    """
    properties, eyes = DETECTORS[found.detector], eye_centres(landmarks)
    left, right = _to_complex(eyes)
    distance = abs(right - left)
    if distance >= properties.min_eye_distance * found.side and not properties.eyes_from_box:
        return eyes
    tilt = (right - left) / distance if distance else 1
    if properties.eyes_from_box:
        return _eyes_in_box(found.box, properties, tilt)
    return _eyes_around((left + right) / 2, properties.eye_distance * found.side, tilt)


def find_landmarks(photo: Photo, box: Box) -> Points:
    """Finds the 68 landmarks of one face with dlib's predictor (Kazemi and Sullivan, CVPR 2014).

    Args:
        photo: uint8 (height, width, 3), RGB, 0-255.
        box: The face's box as dlib's HOG detector would draw it; may reach over the photo's edge.

    Returns:
        float64 (68, 2), (x, y) in the photo's pixels.
    """
    left, top, right, bottom = box
    # The predictor compares single pixels, which are mostly noise in a large face.
    scale = min(1.0, LANDMARK_SIDE / max(right - left, bottom - top))
    x, y = max(0, int(left - (right - left) / 2)), max(0, int(top - (bottom - top) / 2))
    crop = photo[y : int(bottom + (bottom - top) / 2) + 1, x : int(right + (right - left) / 2) + 1]
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    edges = [round((edge - start) * scale) for edge, start in zip(box, (x, y, x, y))]
    points = _landmark_predictor()(grey, dlib.rectangle(edges[0], edges[1], edges[2] - 1, edges[3] - 1)).parts()
    return (np.array([(p.x, p.y) for p in points]) + 0.5) / scale - 0.5 + (x, y)


def _hog_box(found: Detection) -> Box:
    """Returns the box that the landmark predictor expects: a square as HOG draws it. See `Detector.hog_shift`."""
    shift = DETECTORS[found.detector].hog_shift
    if shift is None:
        return found.box
    left, top, right, bottom = found.box
    half, x, y = found.side / 2, (left + right) / 2, (top + bottom) / 2 + shift * (bottom - top)
    return x - half, y - half, x + half, y + half


def choose_face(faces: list[Face], box: Box | None, shape: tuple[int, ...]) -> Face | None:
    """Chooses the face that a row of a data set belongs to.

    Args:
        faces: All faces of the photo.
        box: The row's box in the photo's pixels, or None if the data set has none.
        shape: The photo's shape, height first.

    Returns:
        With a box, the face that overlaps it most, or None if no face overlaps it by `MIN_OVERLAP`. Without a box, the
        largest face, where distance from the photo's centre reduces the size; None without faces.
    """
    if not faces:
        return None
    if box is not None:
        best = max(faces, key=lambda face: intersection_over_union(face.box, box))
        return best if intersection_over_union(best.box, box) >= MIN_OVERLAP else None
    height, width = shape[:2]

    def central_size(face: Face) -> float:
        left, top, right, bottom = face.box
        # 0 in the photo's centre, 1 in the middle of an edge
        distance = np.hypot((left + right - width) / width, (top + bottom - height) / height)
        return (right - left) * (1 - distance / 2)

    return max(faces, key=central_size)


def align_by_eyes(photo: Photo, eyes: Points, alignment: Alignment = Alignment()) -> Photo:
    """Rotates, scales and moves a face so that its eye centres are at the template's: the similarity z → a z + b.

    Args:
        photo: uint8 (height, width, 3), RGB, 0-255.
        eyes: (2, 2), (x, y) in the photo's pixels: the eye on the photo's left first.
        alignment: The template.

    Returns:
        uint8 (size, size, 3), RGB, sampled from the photo's own pixels; beyond the photo's edge, its border is repeated.

    Raises:
        ValueError: The eye centres are not two distinct, finite points.
    """
    if not np.isfinite(eyes).all() or np.allclose(eyes[0], eyes[1]):
        raise ValueError(f"alignment requires two distinct eye centres, got {eyes.tolist()}")
    (left, right), (left_target, right_target) = _to_complex(eyes), _to_complex(alignment.eyes)
    a = (right_target - left_target) / (right - left)
    if abs(a) < 0.5:  # bilinear sampling would skip pixels, so they are averaged first
        step = int(np.ceil(0.5 / abs(a)))
        photo, corner = _reduced_crop(photo, (left + right) / 2, 1.5 * alignment.size / abs(a), step)
        half = 0.5 + 0.5j  # coordinates refer to pixel centres, the crop's corner to the corner of a pixel
        left, a = (left + half - corner) / step - half, a * step
    b = left_target - a * left
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    face = cv2.warpAffine(photo, matrix, (alignment.size,) * 2, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _enhance(face, alignment)


def align_face(photo: Photo, face: Face, alignment: Alignment = Alignment()) -> Photo:
    """Aligns a face from `find_faces`; see `align_by_eyes`."""
    return align_by_eyes(photo, face.eyes, alignment)


def align_for_tasks(photo: Photo, face: Face, alignments: dict[str, Alignment]) -> dict[str, Photo]:
    """Aligns a face from `find_faces` for each task, once for all tasks with the same alignment; see `align_by_eyes`."""
    aligned = {alignment: align_face(photo, face, alignment) for alignment in set(alignments.values())}
    return {task: aligned[alignment] for task, alignment in alignments.items()}


def align_by_box(photo: Photo, box: Box, alignment: Alignment = Alignment()) -> Photo:
    """Aligns an upright face of which only the box is known, as if HOG had drawn this box; see `align_by_eyes`."""
    return align_by_eyes(photo, _eyes_in_box(box, DETECTORS["hog"]), alignment)


def eye_centres(landmarks: Points) -> Points:
    """Returns the eye centres of 68 landmarks, (2, 2): the eye on the image's left first."""
    return np.array([landmarks[eye].mean(axis=0) for eye in EYES])


def _to_complex(points: Points) -> npt.NDArray[np.complex128]:
    return points @ (1, 1j)


def _eyes_in_box(box: Box, properties: Detector, tilt: complex = 1) -> Points:
    """Returns typical eye centres in a detector's box. `tilt` is the face's rotation, a complex number of length 1."""
    left, top, right, bottom = box
    width = right - left
    middle = complex(left + right, top + bottom) / 2 + tilt * 1j * (width * properties.eye_height - (bottom - top) / 2)
    return _eyes_around(middle, width * properties.eye_distance, tilt)


def _eyes_around(middle: complex, distance: float, tilt: complex) -> Points:
    """Returns two eye centres at a distance, around their middle and rotated by `tilt`."""
    eyes = middle + tilt * distance / 2 * np.array([-1, 1])
    return np.column_stack([eyes.real, eyes.imag])


def whole_photo(photo: Photo, alignment: Alignment = Alignment()) -> Photo:
    """Scales the photo's central square to the template's size, for cropped faces that no detector finds."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = photo[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > alignment.size else cv2.INTER_LINEAR
    return _enhance(cv2.resize(square, (alignment.size,) * 2, interpolation=method), alignment)


def _reduced_crop(photo: Photo, middle: complex, reach: float, step: int) -> tuple[Photo, complex]:
    """Returns the photo within `reach` of a point, with step x step pixels averaged to one, and the crop's corner.

    The crop's size is a multiple of the step; up to step - 1 pixels at the photo's right or lower edge are left out.
    """
    ends = []
    for centre, side in ((middle.imag, photo.shape[0]), (middle.real, photo.shape[1])):
        most = max(1, side // step)
        first = int(np.clip((centre - reach) // step, 0, most - 1))
        ends.append((first, int(np.clip((centre + reach) // step + 1, first + 1, most))))
    (top, bottom), (left, right) = ends
    crop = photo[top * step : bottom * step, left * step : right * step]
    return cv2.resize(crop, (right - left, bottom - top), interpolation=cv2.INTER_AREA), step * complex(left, top)


def _enhance(face: Photo, alignment: Alignment) -> Photo:
    if alignment.denoise:
        face = denoise(face)
    return adaptive_gamma(face) if alignment.gamma else face


def adaptive_gamma(face: Photo) -> Photo:
    """Corrects the brightness of a face, uint8 (height, width, 3) RGB, by adaptive gamma correction.

    Source: Rahman et al., "An adaptive gamma correction for image enhancement", EURASIP Journal on Image and Video Processing
    2016:35, equations 3 to 10, on the V of HSV.
    """
    hsv = cv2.cvtColor(face, cv2.COLOR_RGB2HSV)
    value = hsv[..., 2].astype(np.float32) / 255
    mean, deviation = float(value.mean()), float(value.std())
    low_contrast = 4 * deviation <= 1 / 3
    gamma = -np.log2(max(deviation, 1e-3)) if low_contrast else np.exp((1 - (mean + deviation)) / 2)
    level = np.linspace(0, 1, 256) ** gamma  # a table of all values, because the result depends on a pixel's value alone
    if 0 < mean < 0.5:  # a black image stays black
        level = level / (level + (1 - level) * mean**gamma)
    hsv[..., 2] = cv2.LUT(hsv[..., 2], np.uint8(np.round(255 * np.clip(level, 0, 1))))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def denoise(face: Photo) -> Photo:
    """Denoises a face, uint8 (height, width, 3) RGB, by non-local means: strengths 5 and 6, windows of 7 and 21 pixels."""
    bgr = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
    return cv2.cvtColor(cv2.fastNlMeansDenoisingColored(bgr, None, 5, 6, 7, 21), cv2.COLOR_BGR2RGB)
