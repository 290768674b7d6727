"""Faces of nobody: a statistical face space from which new faces are drawn.

A face is a mean plus principal components; one Gaussian per age group and gender says which components are likely. The
file was learnt once from UTKFace (https://susanqq.github.io/UTKFace/) by `tools/learn_face_space.py` and holds no photo.

After it: `datasets.portraits`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.config import AGE_GROUPS, GENDERS, ROOT, SAMPLE

FILE = SAMPLE / "face_space.npz"
GROUPS = AGE_GROUPS["adience"]
EYES = (0.325, 0.32), (0.675, 0.32)  # centres, as fractions of the face's width and height
SPREAD = 0.75  # of the learnt standard deviation: the outskirts of the Gaussians hold few human-looking faces
LOOKS, CHANGE = 24, 0.15  # components in which photos of one person differ, and by how many deviations
LIMIT = 2.0  # no draw lies further out than this, in standard deviations, before SPREAD


@dataclass(frozen=True)
class FaceSpace:
    """The learnt arrays; k components, faces of 64x64 pixels.

    mean: float32 (16384,), RGB and opacity, 0-255. components: float32 (k, 16384), a standard deviation each, in the same
    units.
    group_means: float32 (8, 2, k) and group_factors: float32 (8, 2, k, k), the Cholesky factors of the covariances;
    axes: age group of Adience, gender in the order of `config.GENDERS`.
    """

    mean: np.ndarray
    components: np.ndarray
    group_means: np.ndarray
    group_factors: np.ndarray

    @classmethod
    def load(cls, path: Path = FILE) -> "FaceSpace":
        """Reads the file; FileNotFoundError says how to get it back where it is missing."""
        if not Path(path).is_file():
            ours = FILE.relative_to(ROOT).as_posix()
            raise FileNotFoundError(f"no face space at {path}; it is part of the repository: git checkout {ours}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in file.files}
        components = arrays["components"] * arrays["scales"][:, None]
        return cls(arrays["mean"].ravel(), components, arrays["group_means"], arrays["group_factors"])

    def draw(self, age_group: int, gender: str, rng: np.random.Generator) -> np.ndarray:
        """A new face's coefficients, float32 (k,).

        age_group: index into the eight groups of Adience. gender: "female" or "male". ValueError for any other.
        """
        if age_group not in range(len(GROUPS.years)):
            raise ValueError(f"age group must be 0 to {len(GROUPS.years) - 1}, got {age_group!r}")
        if gender not in GENDERS:
            raise ValueError(f"gender must be one of {', '.join(GENDERS)}, got {gender!r}")
        cell = age_group, GENDERS.index(gender)
        steps = np.clip(rng.standard_normal(len(self.components)), -LIMIT, LIMIT) * SPREAD
        return self.group_means[cell] + self.group_factors[cell] @ steps.astype(np.float32)

    def face(self, coefficients: np.ndarray) -> np.ndarray:
        """The face of float (k,) coefficients: uint8, (64, 64, 4), RGB and opacity; see-through outside the face."""
        pixels = self.mean + coefficients.astype(np.float32) @ self.components
        return np.clip(np.round(pixels), 0, 255).astype(np.uint8).reshape(64, 64, 4)

    def picture(self, coefficients: np.ndarray) -> np.ndarray:
        """The face alone: uint8, (64, 64, 3), RGB, brow to chin, eyes at `EYES`."""
        return self.face(coefficients)[..., :3]

    def another_photo(self, face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The same `face` on another occasion, uint8 (64, 64, 4).

        Light and expression, which the first components hold, change a little: too little to change who it is.
        """
        change = rng.normal(0, CHANGE, LOOKS).astype(np.float32) @ self.components[:LOOKS]
        return np.clip(np.round(face + change.reshape(64, 64, 4)), 0, 255).astype(np.uint8)


def relit(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture in other light: brightness, contrast and warmth change a little. uint8 (h, w, 3) RGB in and out."""
    gain = rng.uniform(0.88, 1.12) * (1 + rng.uniform(-0.03, 0.03) * np.array([1, 0, -1]))
    lit = (picture.astype(np.float32) - 128) * gain + 128 + rng.uniform(-14, 14)
    return np.clip(np.round(lit), 0, 255).astype(np.uint8)
