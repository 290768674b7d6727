"""The view of a camera with answers drawn in: in a window, or in a notebook.

The camera is one of the machine that Python runs on. From another machine, the page of `make demo`, by
way of an ssh tunnel, takes the camera of that one.

Before it: `video`. After it: `predict` and notebooks 3 and 4.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from src.annotate import annotate
from src.answers import Models, load_models
from src.tables import BOX
from src.tracks import SURE, Tracks
from src.video import ANSWERS, Looks


class NoCamera(OSError):
    """No camera, or no window to show it in; its text says so in one sentence."""


@contextlib.contextmanager
def opened(number: int = 0) -> Iterator[Iterator[np.ndarray]]:
    """The frames of a camera, uint8 (height, width, 3), RGB, until it gives no more; NoCamera where there is none."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(number)
    try:
        good, first = camera.read() if camera.isOpened() else (False, None)
        if not good:
            raise NoCamera(f"camera {number} gives no picture: there is none, or another program has taken it")
        yield _frames(camera, first)
    finally:
        camera.release()


def _frames(camera: cv2.VideoCapture, frame: np.ndarray) -> Iterator[np.ndarray]:
    good = True
    while good:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        good, frame = camera.read()


def annotated(frames: Iterator[np.ndarray], models: Models, detector: str = "hog") -> Iterator[np.ndarray]:
    """Each frame with the answers so far drawn in: the mean over all looks at a person, so that they settle."""
    tracks, looks = Tracks(detector), Looks(models)
    for frame in frames:
        looks.add(frame, tracks.update(frame))
        people = [person for person in tracks.in_sight if person.detections >= SURE]
        rows = pd.DataFrame(looks.answers(people), index=range(len(people))).reindex(columns=ANSWERS)
        rows[BOX] = [person.box for person in people] if people else np.empty((0, 4))
        rows = rows.assign(status="ok", person=[person.number for person in people])
        yield annotate(frame, rows, legend=False)


def show(frames: Iterator[np.ndarray], gender_model: str | Path, age_model: str | Path, detector: str = "hog") -> None:
    """A window with the view; closing it or Escape ends it. NoCamera where no window can be opened."""
    try:
        import tkinter

        window = tkinter.Tk()
    except (ImportError, RuntimeError) as error:
        raise NoCamera(f"no window can be opened: Python has no tkinter here ({error})") from error
    except Exception as error:  # tkinter.TclError, which only exists where tkinter does
        raise NoCamera(f"no window can be opened ({error})") from error
    from PIL import ImageTk

    window.title("Age and gender")
    label, views = tkinter.Label(window), annotated(frames, load_models(gender_model, age_model), detector)
    shown: list[ImageTk.PhotoImage] = []
    label.pack()
    window.bind("<Escape>", lambda _: window.destroy())

    def step() -> None:
        frame = next(views, None)
        if frame is None:
            window.destroy()
            return
        shown[:] = [ImageTk.PhotoImage(Image.fromarray(frame))]  # kept: Tk itself keeps no picture
        label.configure(image=shown[0])
        window.after(1, step)

    step()
    window.mainloop()


def in_notebook(frames: Iterator[np.ndarray], models: Models, seconds: float = 30, detector: str = "hog") -> None:
    """The view in a cell, for some seconds or until the cell is interrupted."""
    import time

    import ipywidgets
    from IPython.display import display

    picture, end = ipywidgets.Image(format="jpeg"), time.monotonic() + seconds
    display(picture)
    with contextlib.suppress(KeyboardInterrupt):
        for view in annotated(frames, models, detector):
            picture.value = cv2.imencode(".jpg", cv2.cvtColor(view, cv2.COLOR_RGB2BGR))[1].tobytes()
            if time.monotonic() > end:
                break
