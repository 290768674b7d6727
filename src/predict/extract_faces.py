"""Reads photos, detects their faces and aligns them; worker processes share the work of many photos.

Nothing here uses the models or Keras, so that the worker processes start quickly.
"""

import contextlib
import functools
import itertools
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import cv2
import joblib
import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from PIL import Image

from src import processes
from src.faces import align
from src.faces.align import Alignment, Face
from src.faces.detect import DEFAULT_DETECTOR, Photo
from src.faces.image_io import PhotoFile, UnreadablePhoto, read_photo, read_scaled_photo

PARALLEL_FROM = 8  # photos; fewer are processed before worker processes have started
QUEUED_PER_WORKER = 4  # photos; limits the memory
NO_FACE_FOUND = "no face found"


class Fallback(StrEnum):
    """What to predict for a photo without a detected face: nothing, or its central square as if it were a face."""

    NONE = "none"
    WHOLE_PHOTO = "whole-photo"


class Status(StrEnum):
    """The values of the column `status` in the table of predictions."""

    OK = "ok"
    NO_FACE = "no_face"
    WHOLE_PHOTO = "whole_photo"
    UNREADABLE = "unreadable"


class Source(NamedTuple):
    """A photo to predict for."""

    name: str  # in the table of predictions
    photo: PhotoFile | Photo  # a file, its content, a PIL image, or uint8 (height, width, 3), RGB


def detect_faces_in_photo(
    source: Source, alignments: dict[str, Alignment], fallback: str = Fallback.NONE, detector: str = DEFAULT_DETECTOR
) -> list[dict]:
    """Detects and aligns the faces of one photo.

    Args:
        source: The photo.
        alignments: How to align the faces, by task.
        fallback: A value of `Fallback`.
        detector: The face detector; see `detect.detect`.

    Returns:
        The photo's rows of the table of predictions, largest face first, with the columns `photo`, `status`, `message` and
        those of the face: `face`, `left`, `top`, `right`, `bottom`, `detection_score`. Values that do not apply are left
        out. A row with a face also has `aligned`: the aligned face by task, uint8 (size, size, 3), RGB, 0-255.
    """
    name, photo = source
    try:
        pixels, scale = (photo, 1) if isinstance(photo, np.ndarray) else read_scaled_photo(photo)[:2]
    except UnreadablePhoto as error:
        return [{"photo": name, "status": Status.UNREADABLE, "message": str(error)}]
    height, width = pixels.shape[:2]
    rows: list[dict] = []
    for number, face in enumerate(align.find_faces(pixels, detector), start=1):
        box = np.clip(face.box, 0, (width, height, width, height)) * scale  # in the pixels of the full photo
        rows.append({"photo": name, "status": Status.OK, "face": number, **_box_columns(box),
                     "detection_score": round(face.score, 3),
                     "aligned": align.align_for_tasks(pixels, face, alignments)})  # fmt: skip
    if rows or fallback == Fallback.NONE:
        return rows or [{"photo": name, "status": Status.NO_FACE, "message": NO_FACE_FOUND}]
    box = (0, 0, width * scale, height * scale)
    return [{"photo": name, "status": Status.WHOLE_PHOTO, "face": 1, **_box_columns(box),
             "aligned": {task: align.whole_photo(pixels, alignment) for task, alignment in alignments.items()},
             "message": f"{NO_FACE_FOUND}; the photo's central square was used instead"}]  # fmt: skip


def _box_columns(box: Iterable[float]) -> dict[str, int]:
    return dict(zip(("left", "top", "right", "bottom"), map(round, box), strict=True))


def first_with_face(paths: Iterable[Path]) -> tuple[Photo, list[Face]] | None:
    """Returns the first photo with a face, uint8 (height, width, 3), RGB, and its faces, largest first; None if none has."""
    for path in paths:
        with contextlib.suppress(UnreadablePhoto):
            photo = read_photo(path)
            if faces := align.find_faces(photo):
                return photo, faces
    return None


def detect_faces_in_photos(
    sources: list[Source], alignments: dict[str, Alignment], fallback: str, detector: str, workers: int = -1
) -> Iterator[list[dict]]:
    """Detects and aligns the faces of many photos, with the arguments of `detect_faces_in_photo` and `worker_count`.

    Yields:
        The rows of one photo, in the order of `sources`. A photo whose decoder crashes is "unreadable" and does not affect
        other photos.
    """
    detect = functools.partial(detect_faces_in_photo, alignments=alignments, fallback=fallback, detector=detector)
    workers = worker_count(len(sources), workers)
    if workers == 1:
        yield from map(detect, sources)
        return
    waiting: deque[tuple[Source, Future]] = deque()
    remaining = iter(sources)
    try:
        while True:
            for source in itertools.islice(remaining, workers * QUEUED_PER_WORKER - len(waiting)):
                waiting.append((source, _submit(workers, detect, source)))
            if not waiting:
                return
            source, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:  # this photo or another one crashed a worker, so this one is tried again alone
                try:
                    yield _submit(1, detect, source).result()
                except BrokenProcessPool:
                    message = "damaged image (its decoder crashed)"
                    yield [{"photo": source.name, "status": Status.UNREADABLE, "message": message}]
    finally:
        for _, future in waiting:
            future.cancel()


def worker_count(photos: int, workers: int = -1) -> int:
    """Returns the number of processes for a number of photos: `workers`, or one per core for -1.

    It is 1, this process alone, for a few photos and in processes that may not start others, such as those of Celery.
    """
    if photos < PARALLEL_FROM or not processes.can_start_processes():
        return 1
    return joblib.cpu_count() if workers == -1 else workers


def start_workers(workers: int) -> Executor:
    """Starts the worker processes unless they are running, and returns them. They end after a minute without work."""
    return _executor(os.getpid(), workers)


@functools.cache
def _executor(pid: int, workers: int) -> Executor:
    """Returns the worker processes of this process. A forked process cannot use its parent's, hence `pid`."""
    # loky restarts workers whose memory grows, and warns of it. No photo is lost.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    executor = ProcessPoolExecutor(workers, timeout=60, initializer=_initialise_worker, initargs=(pid,))
    executor.submit(int)  # the first task starts all processes
    return executor


def _initialise_worker(parent: int) -> None:
    processes.end_with_parent(parent)
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends these to all processes; the parent handles them
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)  # each core has a worker
    with contextlib.suppress(Exception):  # the error occurs again with the first photo and is reported there
        align.load_detectors()


def _submit(workers: int, detect: Callable[[Source], list[dict]], source: Source) -> Future:
    """Gives a photo to the workers. PIL images stay in this process, because pickling drops their EXIF orientation."""
    if isinstance(source.photo, Image.Image):
        done: Future = Future()
        done.set_result(detect(source))
        return done
    try:
        return start_workers(workers).submit(detect, source)
    except BrokenProcessPool:  # a worker has crashed since the last photo
        _executor.cache_clear()
        return _submit(workers, detect, source)
