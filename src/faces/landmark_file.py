"""Puts dlib's 68-point landmark file at the root of the repository; `python -m src.faces.landmark_file` does it by hand.

The file comes with the package face_recognition_models. It was trained on iBUG 300-W, whose licence excludes commercial
use (http://dlib.net/files/).

Before it: `files`. After it: `faces`.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from src.config import LANDMARK_FILE, LANDMARK_SHA256
from src.files import resolve_links


def install_landmark_file(target: Path = LANDMARK_FILE) -> Path:
    """The landmark file, put in place and verified if it is not there yet.

    Raises FileNotFoundError where the package that carries it is not installed, and ValueError where its SHA-256 is wrong.
    """
    if not target.exists():
        # Always the same name, opened without emptying it: a copy that was killed is completed by the next one, and two
        # at a time write the same bytes.
        real = resolve_links(target)
        copy = real.with_name(f".{real.name}-part")
        try:
            with packaged_file(LANDMARK_FILE.name).open("rb") as source:
                copy.touch()
                with copy.open("r+b") as file:
                    shutil.copyfileobj(source, file)
                    file.truncate()
            _verify(copy)
            os.replace(copy, real)
        except FileNotFoundError:
            if not target.exists():  # else another process was quicker
                raise
        finally:
            copy.unlink(missing_ok=True)
    return target


def packaged_file(name: str) -> Path:
    """A file of the package face_recognition_models; FileNotFoundError where that is not installed."""
    # The package is only looked up, not imported: its code needs pkg_resources, which setuptools has dropped.
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(
            f"{name} comes with the package face_recognition_models, which is not installed; "
            "run: pip install -r requirements.txt"
        )
    return Path(package.submodule_search_locations[0]) / "models" / name


def _verify(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != LANDMARK_SHA256:
        raise ValueError(
            f"{LANDMARK_FILE.name} must have SHA-256 {LANDMARK_SHA256}, got {found}; "
            "delete it and run: python -m src.faces.landmark_file"
        )


if __name__ == "__main__":
    try:
        path = install_landmark_file()
        _verify(path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{path.name}: in place, SHA-256 verified")
