"""Shows the live view of a camera with the predictions drawn in, in a window or in a notebook.

A camera is connected to the machine that Python runs on, or sends a stream over the network. To use the camera of another
machine, open the page of `make demo` there through an SSH tunnel.
"""

import contextlib
import os
import queue
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
from src.predict.tracks import MIN_DETECTIONS, MultiTracker
from src.predict.video import predictions_of, run_models

SCHEMES = ("rtsp", "rtsps", "http", "https")  # of the addresses of network cameras
TIMEOUT = 10.0  # seconds to connect to a network camera, and to wait for its next frame


class NoCamera(OSError):
    """The camera sends no picture, or no window can be opened to show it."""


@contextlib.contextmanager
def open_camera(source: int | str = 0, timeout: float = TIMEOUT) -> Iterator[Iterator[Photo]]:
    """Opens a camera.

    Args:
        source: Number of a camera of this machine; path of its device, such as /dev/video0; or address of a network camera,
            such as rtsp://192.168.1.20:554/stream1. An address may contain a user and a password.
        timeout: Seconds to wait for a network camera and for each of its frames.

    Yields:
        The frames until the camera stops: uint8 (height, width, 3), RGB, 0-255. Each is the newest one; frames that arrive
        while another one is processed are skipped.

    Raises:
        ValueError: `source` is not a camera.
        NoCamera: The camera sends no picture.
    """
    text = str(source).strip()
    scheme, separator, rest = text.partition("://")
    network = bool(separator) and scheme.lower() in SCHEMES
    if not (network or text.isdecimal() or text.startswith("/dev/")):
        got = f"an address that begins with {scheme}://" if separator else repr(text)  # the rest may contain a password
        schemes = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(
            f"a camera is a number such as 0, a device such as /dev/video0, or an address ({schemes}); got {got}"
        )
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's messages would contain the password
    if network:
        host = rest.rpartition("@")[2].replace("?", "/").replace("#", "/").partition("/")[0]  # a password may contain these
        name = f"at {scheme.lower()}://{host}"
        reason = f"no stream within {timeout:g} seconds; check the address, the user and the password"
        limit = round(1000 * timeout)
        options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        camera = cv2.VideoCapture(f"{scheme.lower()}://{rest}", cv2.CAP_FFMPEG, options)
    else:
        name, reason = text, "there is no such camera, or another program is using it"
        camera = cv2.VideoCapture(int(text) if text.isdecimal() else text)
    try:
        received, first = camera.read() if camera.isOpened() else (False, None)
        if not received:
            raise NoCamera(f"camera {name} gives no picture: {reason}")
        with contextlib.closing(_newest(camera, first)) as frames:
            yield frames
    finally:
        camera.release()


def _newest(camera: cv2.VideoCapture, first: Photo) -> Generator[Photo, None, None]:
    """The newest frame at each request. A thread reads all frames, since a camera delivers them in order."""
    newest: queue.Queue[Photo | None] = queue.Queue(1)
    newest.put(first)
    stopped = threading.Event()

    def read() -> None:
        received = True
        while received and not stopped.is_set():
            received, frame = camera.read()
            with contextlib.suppress(queue.Empty):
                newest.get_nowait()  # the frame that nobody requested
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
    """Draws the predictions on each frame. They are means over all detections so far, so they become stable."""
    tracker = MultiTracker(predictor.detector)
    for frame in frames:
        run_models(tracker.update(frame), frame, predictor.models)
        tracks = [track for track in tracker.in_sight if track.detections >= MIN_DETECTIONS]
        boxes = pd.DataFrame([track.box for track in tracks], columns=BOX_COLUMNS).assign(person=[t.number for t in tracks])
        yield annotate(frame, predictions_of(tracks, predictor.models).join(boxes), legend=False)


def show(frames: Iterator[Photo], predictor: Predictor) -> None:
    """Shows the view in a window until it is closed or Escape is pressed. Raises NoCamera if no window can be opened."""
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
            picture = ImageTk.PhotoImage(Image.fromarray(view))
            label.configure(image=picture)
            window.update()


def in_notebook(frames: Iterator[Photo], predictor: Predictor, seconds: float = 30) -> None:
    """Shows the view in a notebook cell for some seconds or until the cell is interrupted."""
    import ipywidgets
    from IPython.display import display

    picture, end = ipywidgets.Image(format="jpeg"), time.monotonic() + seconds
    display(picture)
    with contextlib.suppress(KeyboardInterrupt):
        for view in annotate_frames(frames, predictor):
            picture.value = cv2.imencode(".jpg", cv2.cvtColor(view, cv2.COLOR_RGB2BGR))[1].tobytes()
            if time.monotonic() > end:
                break
