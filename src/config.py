"""Paths, sizes and classes: the one place for what the whole project agrees on.

Before it: nothing. After it: everything.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
SAMPLE = DATA / "sample"
PHOTOS = DATA / "photos"
CACHE = ROOT / "cache"
RUNS = ROOT / "runs"
MODELS = ROOT / "models"
RESULTS = ROOT / "docs" / "results"
NOTEBOOKS = ROOT / "notebooks"

LANDMARK_FILE = ROOT / "shape_predictor_68_face_landmarks.dat"
LANDMARK_SHA256 = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"

BACKENDS = ("tensorflow", "jax")  # of Keras; the first is the default

SEED = 1
FACE_SIZE = 227  # pixels: the input of the two-level CNN
GENDERS = ("female", "male")
YEARS = 101  # an age distribution covers the years 0 to 100; whoever is older counts as 100
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".bmp", ".ppm", ".tif", ".tiff", ".gif", ".heic",
    ".heif", ".hif",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts")


def keras_backend() -> str:
    """Returns the name of Keras's backend, from the environment variable KERAS_BACKEND.

    For a backend that is not supported, it ends the program with status 2 and one sentence on stderr. Commands import
    Keras together with their modules, so that no command could catch an ordinary exception.
    """
    name = os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    if name not in BACKENDS:
        print(
            f"error: the environment variable KERAS_BACKEND must be {' or '.join(BACKENDS)}, got {name!r}; "
            f"unset it to use {BACKENDS[0]}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return name


@dataclass(frozen=True)
class AgeGroups:
    """Ordered age classes.

    `years` are the classes as their data set labels them, inclusive. `starts` is each class's first year once the gaps
    between the labels are closed, so that every age has a class.
    """

    years: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    names: tuple[str, ...]

    def index(self, low, high) -> np.ndarray:
        """The class of each age range.

        low, high: years, inclusive, shape (n,), NaN where unknown. Gives int64 (n,): the index of the class, or -1 where
        the age is unknown or the range touches more than one class.
        """
        low, high = np.asarray(low, float), np.asarray(high, float)
        first = np.searchsorted(self.starts, low, side="right") - 1
        last = np.searchsorted(self.starts, high, side="right") - 1
        known = np.isfinite(low) & np.isfinite(high)
        return np.where(known & (first == last), first, -1)


def _groups(years: tuple, starts: tuple) -> AgeGroups:
    return AgeGroups(years, starts, tuple(f"{low}-{high}" for low, high in years))


AGE_GROUPS = {
    # The eight labels of Adience; the gaps go where the mapped variant of its protocol puts them
    # (13 to 8-12, 22 to 15-20, 35 to 25-32, 45 to 38-43, 56 to 48-53, 57 to 60-100).
    "adience": _groups(
        ((0, 2), (4, 6), (8, 12), (15, 20), (25, 32), (38, 43), (48, 53), (60, 100)), (0, 4, 8, 14, 23, 36, 46, 57)
    ),
    # Four coarse groups.
    "four": AgeGroups(((0, 13), (14, 34), (35, 56), (57, 100)), (0, 14, 35, 57), ("Kid", "Youth", "Adult", "Old")),
    # The nine ranges of FairFace.
    "fairface": _groups(
        ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 100)),
        (0, 3, 10, 20, 30, 40, 50, 60, 70),
    ),
}

# Colours that tell faces apart, also for colour-blind readers (Okabe and Ito, "Color universal design", 2008).
FACE_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442")
