"""The live view of a camera with the predictions drawn in: in a window, or in a notebook.

A camera is a number or a device path of the machine that Python runs on, or the address of a network camera's stream. To
use the camera of another machine, open the page of `make demo` there through an ssh tunnel.

Before it: `video`. After it: `predict` and notebooks 3 and 4.
"""

import contextlib
import os
import threading
from collections.abc import Generator, Iterator

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from src.data.table import BOX_COLUMNS
from src.predict.annotate import annotate
from src.predict.predictor import Predictor
from src.predict.tracks import SURE, Tracks
from src.predict.video import FacePredictions, table_of_answers

SCHEMES = ("rtsp", "rtsps", "http", "https")  # of the addresses of streams
TIMEOUT = 10.0  # seconds: to connect to a stream, and to wait for its next picture


class NoCamera(OSError):
    """There is no camera, or no window to show its view in. The text says so in one sentence."""


@contextlib.contextmanager
def open_camera(source: int | str = 0, timeout: float = TIMEOUT) -> Iterator[Iterator[npt.NDArray[np.uint8]]]:
    """Opens a camera and gives its frames, until it sends no more.

    Args:
        source: the number of a camera of this machine, as an int or as text; the path of its device, such as /dev/video0; or
            the address of a stream, such as rtsp://192.168.1.20:554/stream1 or http://192.168.1.20/video. An address may
            hold a user and a password, which no message repeats.
        timeout: seconds to wait for a stream to open, and for each of its pictures.

    Yields:
        The frames: uint8 (height, width, 3), RGB, 0-255. Of a stream always the newest one: those that arrive while
        another one is processed are skipped, so that the view does not fall behind.

    Raises:
        ValueError: `source` is none of these.
        NoCamera: no picture can be had from it.
    """
    kind, wanted, name = _kind_of(source)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: errors are reported here, and without the password
    if kind == "stream":
        times = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * timeout), cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * timeout)]
        camera = cv2.VideoCapture(wanted, cv2.CAP_FFMPEG, times)
    else:
        camera = cv2.VideoCapture(wanted)
    try:
        good, first = camera.read() if camera.isOpened() else (False, None)
        if not good:
            raise NoCamera(f"{name} gives no picture: {_WHY[kind].format(timeout=timeout)}")
        with contextlib.closing(_newest(camera, first) if kind == "stream" else _frames(camera, first)) as frames:
            yield frames
    finally:
        camera.release()


_WHY = {
    "stream": "nothing sends a stream there within {timeout:g} seconds; check the address, the user and the password",
    "number": "there is no such camera, or another program is using it",
    "device": "there is no such camera, or another program is using it",
}


def _kind_of(source: int | str) -> tuple[str, int | str, str]:
    """The kind of a source, what OpenCV is to open, and its name in messages, which holds no password."""
    text = str(source).strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() in SCHEMES:
        # The host alone: passwords also stand in paths and queries, and may themselves hold a slash.
        host = rest.rpartition("@")[2]
        for end in "/?#":
            host = host.partition(end)[0]
        return "stream", f"{scheme.lower()}://{rest}", f"the camera at {scheme.lower()}://{host}"
    if text.isdecimal():
        return "number", int(text), f"camera {text}"
    if text.startswith("/dev/"):
        return "device", text, f"camera {text}"
    shown = f"an address that begins with {scheme}://" if separator else repr(text)
    raise ValueError(
        f"a camera is a number such as 0, a device such as /dev/video0, or an address that begins with "
        f"{', '.join(f'{one}://' for one in SCHEMES)}; got {shown}"
    )


def _frames(camera: cv2.VideoCapture, frame: np.ndarray) -> Generator[npt.NDArray[np.uint8], None, None]:
    good = True
    while good:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        good, frame = camera.read()


def _newest(camera: cv2.VideoCapture, first: np.ndarray) -> Generator[npt.NDArray[np.uint8], None, None]:
    """The newest frame whenever one is asked for. A thread reads all of them, since streams are delivered in order."""
    arrived, newest, ended = threading.Condition(), [first], threading.Event()

    def read() -> None:
        good = True
        while good and not ended.is_set():
            good, frame = camera.read()
            with arrived:
                if good:
                    newest[:] = [frame]
                else:
                    ended.set()
                arrived.notify()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            with arrived:
                arrived.wait_for(lambda: newest or ended.is_set())
                if not newest:
                    return
                frame = newest.pop()
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        ended.set()
        reader.join()  # the camera must not be released while it is read


def annotated(frames: Iterator[np.ndarray], predictor: Predictor) -> Iterator[np.ndarray]:
    """Each frame with the answers so far drawn in: the mean over all looks at a person, so that they settle."""
    tracks, looks = Tracks(predictor.detector), FacePredictions(predictor.models)
    for frame in frames:
        looks.add(frame, tracks.update(frame))
        people = [person for person in tracks.in_sight if person.detections >= SURE]
        rows = table_of_answers(looks, people)
        rows[BOX_COLUMNS] = [person.box for person in people] if people else np.empty((0, 4))
        rows = rows.assign(status="ok", person=[person.number for person in people])
        yield annotate(frame, rows, legend=False)


def show(frames: Iterator[np.ndarray], predictor: Predictor) -> None:
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
    label, views = tkinter.Label(window), annotated(frames, predictor)
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


def in_notebook(frames: Iterator[np.ndarray], predictor: Predictor, seconds: float = 30) -> None:
    """The view in a cell, for some seconds or until the cell is interrupted."""
    import time

    import ipywidgets
    from IPython.display import display

    picture, end = ipywidgets.Image(format="jpeg"), time.monotonic() + seconds
    display(picture)
    with contextlib.suppress(KeyboardInterrupt):
        for view in annotated(frames, predictor):
            picture.value = cv2.imencode(".jpg", cv2.cvtColor(view, cv2.COLOR_RGB2BGR))[1].tobytes()
            if time.monotonic() > end:
                break
