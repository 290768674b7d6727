"""Settings that the whole project shares: paths, sizes, age groups, colours, the seed and the Keras backend."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
SAMPLE = DATA / "sample"
PHOTOS = DATA / "photos"
CACHE = ROOT / "cache"
RUNS = ROOT / "runs"
MODELS = ROOT / "models"
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
NOTEBOOKS = ROOT / "notebooks"

LANDMARK_FILE = ROOT / "shape_predictor_68_face_landmarks.dat"
LANDMARK_SHA256 = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"

BACKENDS = ("tensorflow", "jax")  # supported Keras backends; the first is the default

SEED = 1
FACE_SIZE = 227  # pixels, the input side of the two-level CNN
SAMPLE_FACE_SIZE = 128  # pixels, the input side in trainings on the sample; smaller faces train faster
GENDERS = ("female", "male")
YEAR_COUNT = 101  # classes of an age distribution, one per year from 0 to 100; older people count as 100
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".bmp", ".ppm", ".tif", ".tiff", ".gif", ".heic",
    ".heif", ".hif",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts")

# Colours of the boxes in a photo, in turn, distinguishable for colour-blind readers. Source: Okabe and Ito, "Color universal
# design", 2008.
FACE_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442")


def require_keras_backend() -> str:
    """Returns the Keras backend that KERAS_BACKEND selects; ends the program with a message if it is not supported.

    Commands import Keras before they can handle exceptions, so an exception would reach the user as a traceback.
    """
    name = os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    if name not in BACKENDS:
        message = f"KERAS_BACKEND must be {' or '.join(BACKENDS)}, got {name!r}; unset it to use {BACKENDS[0]}"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    return name


@dataclass(frozen=True)
class AgeGroups:
    """Ordered age groups that cover all ages.

    Attributes:
        years: First and last year of each group's label, inclusive. Labels may leave gaps: Adience has 4-6 and 8-12.
        starts: The age from which on each group counts, so that no age is between two groups: Adience's 4-6 counts from 4 to
            7.
        names: Name of each group.
    """

    years: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    names: tuple[str, ...]

    def index(self, low: npt.ArrayLike, high: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Finds the class of each age range.

        Args:
            low: Youngest age in years, shape (n,), NaN where unknown.
            high: Oldest age in years, inclusive, shape (n,), NaN where unknown.

        Returns:
            Class indices, shape (n,); -1 where the age is unknown or the range touches more than one class.
        """
        low, high = np.asarray(low, float), np.asarray(high, float)
        first = np.searchsorted(self.starts, low, side="right") - 1
        last = np.searchsorted(self.starts, high, side="right") - 1
        known = np.isfinite(low) & np.isfinite(high)
        return np.where(known & (first == last), first, -1)


def named_by_years(years: tuple[tuple[int, int], ...], starts: tuple[int, ...] | None = None) -> AgeGroups:
    """Returns age groups whose names are their years, such as "4-6". Without `starts`, the years leave no gaps."""
    return AgeGroups(years, starts or tuple(low for low, _ in years), tuple(f"{low}-{high}" for low, high in years))


# Age groups that a network can predict: Adience's eight, FairFace's nine ranges, and "four" for small data sets.
AGE_GROUPS = {
    # Ages between two labels go to the group that `adience.load(labels="mapped")` assigns.
    "adience": named_by_years(
        ((0, 2), (4, 6), (8, 12), (15, 20), (25, 32), (38, 43), (48, 53), (60, 100)), (0, 4, 8, 14, 23, 36, 46, 57)
    ),
    "four": AgeGroups(((0, 13), (14, 34), (35, 56), (57, 100)), (0, 14, 35, 57), ("Kid", "Youth", "Adult", "Old")),
    "fairface": named_by_years(((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 100))),
}
