"""Faces of nobody: a statistical model from which new faces are drawn.

A face is a shape (dlib's 68 landmarks) and a texture (its colours in the mean shape). Both are a mean plus principal
components, and one Gaussian per age group and gender says which components are likely. This is the active appearance model of
Cootes, Edwards and Taylor (ECCV 1998), learnt once from UTKFace by `tools/learn_face_model.py`; its file holds no photo.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator

from src.config import AGE_GROUPS, GENDERS, ROOT, SAMPLE

FILE = SAMPLE / "face_model.npz"
GROUPS = AGE_GROUPS["adience"]
SIZE = 128  # pixels: the side of a texture
EYES = (0.335, 0.30), (0.665, 0.30)  # eye centres as fractions of the face's square
CONTRAST = 1.2  # how far a cell's mean face is moved away from the mean of all faces, to make labels learnable
SPREAD = 0.6  # of the learnt standard deviations within a cell
LIMIT = 2.0  # no draw lies further out than this, in standard deviations before SPREAD

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FaceModel:
    """The learnt arrays, all float32, with k components; each component is one standard deviation long."""

    mean_texture: Floats  # (SIZE, SIZE // 2, 3), RGB, 0-255: the left half, since drawn faces are symmetric
    textures: Floats  # (k, SIZE * SIZE // 2 * 3)
    mean_shape: Floats  # (68, 2), x and y of the landmarks as fractions of the face's square
    shapes: Floats  # (k, 136)
    group_means: Floats  # (8, 2, k): age group of Adience, gender in the order of `config.GENDERS`
    group_factors: Floats  # (8, 2, k, k), Cholesky factors of the covariances

    @classmethod
    def load(cls, path: Path = FILE) -> "FaceModel":
        """Reads the model.

        Raises:
            FileNotFoundError: The file is missing.
        """
        if not Path(path).is_file():
            ours = FILE.relative_to(ROOT).as_posix()
            raise FileNotFoundError(f"no face model at {path}: restore the repository's file with `git checkout {ours}`")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in file.files}
        arrays["textures"] *= arrays.pop("scales")[:, None]
        return cls(**arrays)

    def draw(self, age_group: int, gender: str, rng: np.random.Generator) -> Floats:
        """Draws the coefficients of a new face.

        Args:
            age_group: Index into the eight groups of Adience.
            gender: "female" or "male".
            rng: Source of randomness.

        Returns:
            float32 (k,).

        Raises:
            ValueError: There is no such age group or gender.
        """
        if age_group not in range(len(GROUPS.years)):
            raise ValueError(f"age group must be 0 to {len(GROUPS.years) - 1}, got {age_group!r}")
        if gender not in GENDERS:
            raise ValueError(f"gender must be one of {', '.join(GENDERS)}, got {gender!r}")
        cell = age_group, GENDERS.index(gender)
        steps = np.clip(rng.standard_normal(len(self.shapes)), -LIMIT, LIMIT) * SPREAD
        centre = self.group_means.mean((0, 1))
        mean = centre + CONTRAST * (self.group_means[cell] - centre)
        return mean + self.group_factors[cell] @ steps.astype(np.float32)

    def texture(self, coefficients: Floats) -> Floats:
        """Returns the face's colours in the mean shape: float32 (SIZE, SIZE, 3), RGB, 0-255."""
        half = self.mean_texture + (coefficients @ self.textures).reshape(self.mean_texture.shape)
        return np.clip(np.hstack([half, half[:, ::-1]]), 0, 255)

    def shape(self, coefficients: Floats) -> Floats:
        """Returns the face's 68 landmarks: float32 (68, 2), x and y as fractions of the face's square."""
        return self.mean_shape + (coefficients @ self.shapes).reshape(68, 2)

    def face(self, coefficients: Floats, size: int = 64) -> npt.NDArray[np.uint8]:
        """Returns the face without hair and neck: uint8 (size, size, 3), RGB, with the eyes at `EYES`."""
        points = self.mean_shape * SIZE - 0.5
        return warp(self.texture(coefficients), self.shape(coefficients), points, size).round().astype(np.uint8)


def face_mask(shape: Floats, forehead: float = 0.28) -> Floats:
    """Returns which part of the square is face: float32 (SIZE, SIZE), 0-1 with a soft edge.

    Args:
        shape: (68, 2), the landmarks as fractions of the square.
        forehead: How far the face reaches above the brows, in eye distances.
    """
    above = shape[17:27] - (0, forehead * (EYES[1][0] - EYES[0][0]))
    hull = cv2.convexHull((np.vstack([shape[:27], above]) * SIZE).astype(np.int32))
    mask = cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), hull, 255)
    return cv2.GaussianBlur(mask, (0, 0), SIZE / 50).astype(np.float32) / 255


def warp(image: np.ndarray, shape: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """Warps an image by a thin-plate spline, so that its `points` move to the landmarks `shape` of a new square.

    Args:
        image: (h, w, c), uint8 or float32.
        shape: (68, 2), x and y as fractions of the new square.
        points: (68, 2), x and y of the same landmarks in the image, in pixels.
        size: Side of the new square in pixels.

    Returns:
        (size, size, c), of the image's type.
    """
    # The spline is smooth: a coarse grid of it is enough.
    centres = (np.arange(32) + 0.5) / 32
    grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    spline = RBFInterpolator(shape, points, kernel="thin_plate_spline", smoothing=1e-3)
    places = cv2.resize(spline(grid).reshape(32, 32, 2).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
