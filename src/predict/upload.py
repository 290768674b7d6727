"""An upload button for the notebooks: photos from the reader's own machine, wherever the notebook runs.

Before it: `files`. After it: notebooks 3 and 4.
"""

from collections.abc import Callable
from pathlib import Path

import ipywidgets

from src.config import IMAGE_SUFFIXES
from src.files import atomic_write


def button(folder: Path, then: Callable[[list[Path]], None]) -> ipywidgets.VBox:
    """Chosen files are written into the folder, and `then` is called with their paths; what it shows appears below."""
    chooser = ipywidgets.FileUpload(accept=",".join(IMAGE_SUFFIXES), multiple=True, description="Upload photos")
    below = ipywidgets.Output()

    def uploaded(change: dict) -> None:
        below.clear_output()
        with below:
            then([save(folder, name, content) for name, content in files_of(change["new"])])

    chooser.observe(uploaded, names="value")
    return ipywidgets.VBox([chooser, below])


def files_of(value) -> list[tuple[str, bytes]]:
    """Names and contents of what a FileUpload holds; version 7 of ipywidgets, as some services have it, gives a dict."""
    if isinstance(value, dict):
        return [(name, bytes(file["content"])) for name, file in value.items()]
    return [(file["name"], bytes(file["content"])) for file in value]


def save(folder: Path, name: str, content: bytes) -> Path:
    """Writes an uploaded file under its own name, whatever folders the name claims; never over another file."""
    name = name.replace("\\", "/").rpartition("/")[2].lstrip(".").replace("\0", "") or "photo"
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / name, 2
    while target.exists() and target.read_bytes() != content:
        target, number = folder / f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
    with atomic_write(target) as new:
        new.write_bytes(content)
    return target
