"""A statistical face model from which new faces are drawn.

A face is a shape (dlib's 68 landmarks) and a texture (its colours in the mean shape). Both are a mean plus principal
components, whose coefficients follow one Gaussian per age group and gender. Coordinates are fractions of the face square, a
square around the face in which the eyes are at `EYE_POSITIONS`.

This is the active appearance model of Cootes, Edwards and Taylor (ECCV 1998), learnt once from UTKFace by
`tools/learn_face_model.py`; its file contains no photo.
"""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator

from src.config import AGE_GROUPS, GENDERS, SAMPLE

FILE = SAMPLE / "face_model.npz"
GROUPS = AGE_GROUPS["adience"]
TEXTURE_SIZE = 128  # pixels: the side of a texture
EYE_POSITIONS = (0.335, 0.30), (0.665, 0.30)  # eye centres
GROUP_CONTRAST = 1.2  # factor of the difference between a group's mean and the overall mean, so that labels can be learnt
SAMPLING_SCALE = 0.6  # factor of the learnt standard deviations within a group
MAX_DEVIATIONS = 2.0  # samples are clipped to this many standard deviations

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FaceModel:
    """The learnt arrays, float32, for k principal components.

    A row of `textures` and `shapes` is a component times its standard deviation, so coefficients are in standard deviations.
    In the file, each row of `textures` is divided by its entry in a further array, `scales`.
    """

    mean_texture: Floats  # (TEXTURE_SIZE, TEXTURE_SIZE // 2, 3), RGB, 0-255: the left half, because drawn faces are symmetric
    textures: Floats  # (k, TEXTURE_SIZE * TEXTURE_SIZE // 2 * 3), RGB
    mean_shape: Floats  # (68, 2), x and y of the landmarks
    shapes: Floats  # (k, 136)
    group_means: Floats  # (8, 2, k), means of the coefficients, by age group of Adience and by gender (`config.GENDERS`)
    group_factors: Floats  # (8, 2, k, k), Cholesky factors of the coefficients' covariances

    @classmethod
    def load(cls) -> "FaceModel":
        """Reads the model.

        Raises:
            FileNotFoundError: The file is missing.
        """
        if not FILE.is_file():
            raise FileNotFoundError(f"no face model at {FILE}: restore it with `git checkout data/sample/{FILE.name}`")
        with np.load(FILE, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in file.files}
        arrays["textures"] *= arrays.pop("scales")[:, None]
        return cls(**arrays)

    def sample_coefficients(self, age_group: int, gender: str, rng: np.random.Generator) -> Floats:
        """Draws the coefficients of a new face.

        Args:
            age_group: Index into the eight groups of Adience.
            gender: "female" or "male".
            rng: Source of randomness.

        Returns:
            float32 (k,), in standard deviations.
        """
        group = age_group, GENDERS.index(gender)
        deviations = np.clip(rng.standard_normal(len(self.shapes)), -MAX_DEVIATIONS, MAX_DEVIATIONS) * SAMPLING_SCALE
        overall_mean = self.group_means.mean((0, 1))
        mean = overall_mean + GROUP_CONTRAST * (self.group_means[group] - overall_mean)
        return mean + self.group_factors[group] @ deviations.astype(np.float32)

    def texture(self, coefficients: Floats) -> Floats:
        """Returns the face's colours in the mean shape: float32 (TEXTURE_SIZE, TEXTURE_SIZE, 3), RGB, 0-255."""
        half = self.mean_texture + (coefficients @ self.textures).reshape(self.mean_texture.shape)
        return np.clip(np.hstack([half, half[:, ::-1]]), 0, 255)

    def shape(self, coefficients: Floats) -> Floats:
        """Returns the face's 68 landmarks: float32 (68, 2), x and y."""
        return self.mean_shape + (coefficients @ self.shapes).reshape(68, 2)


def face_mask(shape: Floats, forehead: float = 0.28) -> Floats:
    """Returns the part of the face square that is face: float32 (TEXTURE_SIZE, TEXTURE_SIZE), 0-1 with a soft edge.

    Args:
        shape: (68, 2), the landmarks.
        forehead: Height of the forehead above the brows in eye distances.
    """
    above = shape[17:27] - (0, forehead * (EYE_POSITIONS[1][0] - EYE_POSITIONS[0][0]))
    hull = cv2.convexHull((np.vstack([shape[:27], above]) * TEXTURE_SIZE).astype(np.int32))
    mask = cv2.fillConvexPoly(np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), np.uint8), hull, 255)
    return cv2.GaussianBlur(mask, (0, 0), TEXTURE_SIZE / 50).astype(np.float32) / 255


def warp(image: np.ndarray, shape: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """Warps an image into a face square by a thin-plate spline that moves `points` to the landmarks `shape`.

    Args:
        image: (h, w, c), uint8 or float32.
        shape: (68, 2), x and y in the face square.
        points: (68, 2), x and y of the same landmarks in the image, in pixels.
        size: Side of the face square in pixels.

    Returns:
        (size, size, c), of the image's type.
    """
    # The spline is smooth, so a grid of 32 x 32 of its points is interpolated.
    centres = (np.arange(32) + 0.5) / 32
    grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    spline = RBFInterpolator(shape, points, kernel="thin_plate_spline", smoothing=1e-3)
    places = cv2.resize(spline(grid).reshape(32, 32, 2).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
