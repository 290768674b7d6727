"""An upload button for the notebooks."""

from collections.abc import Callable
from pathlib import Path

import ipywidgets

from src.config import IMAGE_SUFFIXES
from src.files import atomic_write


def button(folder: Path, show: Callable[[list[Path]], None]) -> ipywidgets.VBox:
    """Returns a button that saves photos into a folder. The output of `show`, called with their paths, appears below it."""
    chooser = ipywidgets.FileUpload(accept=",".join(IMAGE_SUFFIXES), multiple=True, description="Upload photos")
    output = ipywidgets.Output()

    def upload(change: dict) -> None:
        output.clear_output()
        with output:
            show([_save(folder, file["name"], bytes(file["content"])) for file in change["new"]])

    chooser.observe(upload, names="value")
    return ipywidgets.VBox([chooser, output])


def _save(folder: Path, name: str, content: bytes) -> Path:
    """Writes an uploaded file under its own name, or with a number if another file has this name."""
    folder.mkdir(parents=True, exist_ok=True)
    first = target = folder / Path(name).name  # without any folders
    number = 1
    while target.exists() and target.read_bytes() != content:
        number += 1
        target = first.with_stem(f"{first.stem}-{number}")
    with atomic_write(target) as new:
        new.write_bytes(content)
    return target
