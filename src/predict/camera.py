"""Shows the live view of a camera with the predictions drawn in, in a window or in a notebook.

A camera is connected to the machine that Python runs on, or sends a stream over the network. To use the camera of another
machine, open the page of `make demo` there through an SSH tunnel.
"""

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterator

import cv2
from PIL import Image

from src.data.table import BOX_COLUMNS
from src.faces.detect import Photo
from src.predict.annotate import annotate
from src.predict.predictor import Predictor
from src.predict.tracks import MIN_DETECTIONS, MultiTracker
from src.predict.video import add_probabilities, predictions_of

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
        got = f"an address that begins with {scheme}://" if separator else repr(text)
        schemes = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(
            "a camera is a number such as 0, a device such as /dev/video0, or an address that begins with "
            f"{schemes}; got {got}"
        )
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's messages would contain the password
    if network:
        limit = round(1000 * timeout)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        camera = cv2.VideoCapture(f"{scheme.lower()}://{rest}", cv2.CAP_FFMPEG, limits)
    else:
        camera = cv2.VideoCapture(int(text) if text.isdecimal() else text)
    try:
        received, first = camera.read() if camera.isOpened() else (False, None)
        if not received:
            if network:  # The message names the host only: passwords also occur in paths and queries.
                host = rest.rpartition("@")[2].replace("?", "/").replace("#", "/").partition("/")[0]
                text = f"at {scheme.lower()}://{host}"
                reason = f"no stream within {timeout:g} seconds; check the address, the user and the password"
            else:
                reason = "there is no such camera, or another program is using it"
            raise NoCamera(f"camera {text} gives no picture: {reason}")
        with contextlib.closing(_newest(camera, first)) as frames:
            yield frames
    finally:
        camera.release()


def _newest(camera: cv2.VideoCapture, first: Photo) -> Generator[Photo, None, None]:
    """The newest frame at each request. A thread reads all frames, since a camera delivers them in order."""
    changed, newest, ended = threading.Condition(), [first], threading.Event()

    def read() -> None:
        while not ended.is_set():
            received, frame = camera.read()
            with changed:
                if received:
                    newest[:] = [frame]
                else:
                    ended.set()
                changed.notify()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: newest or ended.is_set())
                if not newest:
                    return
                frame = newest.pop()
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        ended.set()
        reader.join()  # the camera must not be released during a read


def annotate_frames(frames: Iterator[Photo], predictor: Predictor) -> Iterator[Photo]:
    """Draws the predictions on each frame. They are means over all detections so far, so they become stable."""
    tracker = MultiTracker(predictor.detector)
    for frame in frames:
        add_probabilities(tracker.update(frame), frame, predictor.models)
        tracks = [track for track in tracker.in_sight if track.detections >= MIN_DETECTIONS]
        rows = predictions_of(tracks, predictor.models).assign(person=[track.number for track in tracks])
        for i, side in enumerate(BOX_COLUMNS):
            rows[side] = [track.box[i] for track in tracks]
        yield annotate(frame, rows, legend=False)


def show(frames: Iterator[Photo], predictor: Predictor) -> None:
    """Shows the view in a window until it is closed or Escape is pressed.

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
    label, views = tkinter.Label(window), annotate_frames(frames, predictor)
    label.pack()
    window.bind("<Escape>", lambda _: window.destroy())

    def step() -> None:
        view = next(views, None)
        if view is None:
            window.destroy()
            return
        label.image = ImageTk.PhotoImage(Image.fromarray(view))  # type: ignore[attr-defined]  # Tk keeps no reference itself
        label.configure(image=label.image)  # type: ignore[attr-defined]
        window.after(1, step)

    step()
    window.mainloop()


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
