"""Shows the live view of a camera with predictions, in a window or in a notebook.

A camera is connected to the machine that Python runs on, or sends a stream over the network. To use the camera of another
machine, open the page of `make demo` there through an SSH tunnel.
"""

import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Generator, Iterator

import cv2
import pandas as pd
from PIL import Image

from src.data.table import BOX_COLUMNS
from src.faces.detect import Photo
from src.predict.annotate import annotate
from src.predict.predictor import Predictor
from src.predict.tracks import MIN_DETECTIONS, MultiTracker, predictions_table, run_models

# Address of a network camera: scheme, and host with port. A password may contain / ? and #, so the last @ ends it.
ADDRESS = re.compile(r"(rtsps?|https?)://(?:.*@)?([^/?#]*)", re.IGNORECASE)
TIMEOUT = 10.0  # seconds to connect to a network camera, and to wait for its next frame


class NoCamera(OSError):
    """The camera sends no image, or no window can be opened to show it."""


@contextlib.contextmanager
def open_camera(source: int | str = 0) -> Iterator[Iterator[Photo]]:
    """Opens a camera.

    Args:
        source: Number of a camera of this machine; path of its device, such as /dev/video0; or address of a network camera,
            such as rtsp://192.168.1.20:554/stream1. An address may contain a user and a password.

    Yields:
        The frames until the camera stops: uint8 (height, width, 3), RGB, 0-255. Each is the newest one; frames that arrive
        while another one is processed are skipped.

    Raises:
        ValueError: `source` is not a camera.
        NoCamera: The camera sends no image.
    """
    text = str(source).strip()
    address = ADDRESS.match(text)
    if not (address or text.isdecimal() or text.startswith("/dev/")):
        expected = "a number such as 0, a device such as /dev/video0, or an address (rtsp://, rtsps://, http://, https://)"
        raise ValueError(f"a camera is {expected}; got {text.partition('://')[0]!r}")  # the rest may contain a password
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's messages would contain the password
    if address:
        scheme, host = address[1].lower(), address[2]
        name = f"at {scheme}://{host}"
        reason = f"no connection, or no stream within {TIMEOUT:g} seconds; check the address, the user and the password"
        limit = round(1000 * TIMEOUT)
        options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        camera = cv2.VideoCapture(scheme + text[len(scheme) :], cv2.CAP_FFMPEG, options)
    else:
        name, reason = text, "there is no such camera, or another program is using it"
        camera = cv2.VideoCapture(int(text) if text.isdecimal() else text)
    try:
        received, first = camera.read() if camera.isOpened() else (False, None)
        if not received:
            raise NoCamera(f"camera {name} sends no image: {reason}")
        with contextlib.closing(_newest(camera, first)) as frames:
            yield frames
    finally:
        camera.release()


def _newest(camera: cv2.VideoCapture, first: Photo) -> Generator[Photo, None, None]:
    """Yields the newest frame at each request. A thread reads all frames, since a camera delivers them in order."""
    newest: queue.Queue[Photo | None] = queue.Queue(1)
    newest.put(first)
    stopped = threading.Event()

    def read() -> None:
        received = True
        while received and not stopped.is_set():
            received, frame = camera.read()
            with contextlib.suppress(queue.Empty):
                newest.get_nowait()  # drops the previous frame
            newest.put(frame if received else None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (frame := newest.get()) is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        stopped.set()
        reader.join()  # the camera must not be released during a read


def annotate_frames(frames: Iterator[Photo], predictor: Predictor) -> Iterator[Photo]:
    """Draws the predictions on each frame of `open_camera`. They are means over all detections so far and thus stabilise."""
    tracker = MultiTracker(predictor.detector)  # the rate of the frames is unknown, so the default is assumed
    for frame in frames:
        run_models(tracker.update(frame), frame, predictor.models)
        tracks = [track for track in tracker.in_sight if track.detections >= MIN_DETECTIONS]
        boxes = pd.DataFrame([track.box for track in tracks], columns=BOX_COLUMNS).assign(person=[t.number for t in tracks])
        yield annotate(frame, predictions_table(tracks, predictor.models).join(boxes), legend=False)


def show(frames: Iterator[Photo], predictor: Predictor) -> None:
    """Shows the frames of `open_camera` in a window until it is closed or Escape is pressed.

    Raises:
        NoCamera: No window can be opened.
    """
    try:
        import tkinter

        from PIL import ImageTk

        window = tkinter.Tk()
    except Exception as error:  # ImportError, or tkinter.TclError, which exists only together with tkinter
        raise NoCamera(f"no window can be opened: {error}") from error
    window.title("Age and gender")
    window.bind("<Escape>", lambda _: window.destroy())
    label = tkinter.Label(window)
    label.pack()
    with contextlib.suppress(tkinter.TclError):  # the window is closed
        for view in annotate_frames(frames, predictor):
            image = ImageTk.PhotoImage(Image.fromarray(view))
            label.configure(image=image)
            window.update()


def in_notebook(frames: Iterator[Photo], predictor: Predictor, seconds: float = 30) -> None:
    """Shows the frames of `open_camera` in a notebook cell for some seconds or until the cell is interrupted."""
    import ipywidgets
    from IPython.display import display

    image, end = ipywidgets.Image(format="jpeg"), time.monotonic() + seconds
    display(image)
    with contextlib.suppress(KeyboardInterrupt):
        for view in annotate_frames(frames, predictor):
            image.value = cv2.imencode(".jpg", cv2.cvtColor(view, cv2.COLOR_RGB2BGR))[1].tobytes()
            if time.monotonic() > end:
                break
