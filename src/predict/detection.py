"""Looking at photo files: reads them, finds and aligns their faces, for many photos in several processes.

Nothing here needs the models or TensorFlow, which other processes would take seconds to import. After it: `answers`, which
asks the models.
"""

import contextlib
import itertools
import os
import signal
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import cv2
import joblib
import numpy as np
import numpy.typing as npt
from joblib.externals.loky import ProcessPoolExecutor
from PIL import Image

from src import processes
from src.faces import align as face_tools
from src.faces.align import Alignment
from src.faces.detect import DEFAULT_DETECTOR
from src.faces.image_io import PhotoFile, UnreadablePhoto, read_photo, read_scaled_photo

NO_FACE = "no face found"
AHEAD = 4  # photos a process that are looked at before they are asked for; bounds the memory


class Source(NamedTuple):
    """A photo's name in the table of predictions, and where its pixels come from."""

    name: str
    photo: PhotoFile | npt.NDArray[np.uint8]  # a file, its content, a PIL image, or uint8 (height, width, 3), RGB


def detect_faces_in_photo(
    source: Source, alignments: dict[str, Alignment], fallback: str = "none", detector: str = DEFAULT_DETECTOR
) -> list[dict]:
    """One photo's rows before the models run; a row with a face carries it, aligned for each task, in `aligned`.

    alignments: by task. fallback, detector: as in `predict`. A file that can't be read raises nothing and gives a row.
    """
    name, photo = source
    try:
        if isinstance(photo, np.ndarray):
            return detect_in_pixels(photo, name, alignments, fallback, detector)
        pixels, scale, _ = read_scaled_photo(photo)
        return detect_in_pixels(pixels, name, alignments, fallback, detector, scale)
    except UnreadablePhoto as error:
        return [_unreadable(name, str(error))]


def detect_in_pixels(
    photo: np.ndarray, name: str, alignments: dict[str, Alignment], fallback: str, detector: str, scale: int = 1
) -> list[dict]:
    """The same for a photo that has been read: uint8 (height, width, 3), RGB. scale: by which its size was reduced."""
    found = face_tools.find_faces(photo, detector)
    height, width = photo.shape[:2]
    rows = []
    for number, face in enumerate(found, start=1):
        aligned = _aligned(alignments, lambda alignment, face=face: face_tools.align_face(photo, face, alignment))
        inside = np.clip(face.box, 0, (width, height, width, height)) * scale
        rows.append(_row(name, "ok", number, inside, aligned) | {"detection_score": face.score})
    if not found and fallback == "whole-photo":
        aligned = _aligned(alignments, lambda alignment: face_tools.whole_photo(photo, alignment))
        row = _row(name, "whole_photo", 1, (0, 0, width * scale, height * scale), aligned)
        rows.append(row | {"message": f"{NO_FACE}; the whole photo was used instead"})
    return rows or [{"photo": name, "status": "no_face", "message": NO_FACE}]


def first_with_face(
    paths: Iterable[Path], detector: str = DEFAULT_DETECTOR
) -> tuple[np.ndarray, list[face_tools.Face]] | None:
    """The first photo in which a face is found, with its faces, largest first; None where there is no such photo."""
    for path in paths:
        try:
            photo = read_photo(path)
        except UnreadablePhoto:
            continue
        if found := face_tools.find_faces(photo, detector):
            return photo, found
    return None


def _unreadable(name: str, why: str) -> dict:
    return {"photo": name, "status": "unreadable", "message": why}


def _row(name: str, status: str, number: int, box, aligned: dict) -> dict:
    edges = dict(zip(("left", "top", "right", "bottom"), (round(edge) for edge in box), strict=True))
    return {"photo": name, "status": status, "face": number, **edges, "aligned": aligned}


def _aligned(alignments: dict[str, Alignment], align) -> dict[str, np.ndarray]:
    once: dict[Alignment, np.ndarray] = {}
    for alignment in alignments.values():
        if alignment not in once:
            once[alignment] = align(alignment)
    return {task: once[alignment] for task, alignment in alignments.items()}


# --- many photos ------------------------------------------------------------------------------------------------------


def detect_faces_in_photos(
    sources: list[Source], alignments: dict[str, Alignment], fallback: str, detector: str, workers: int = -1
) -> Iterator[list[dict]]:
    """The rows of `look` for each photo, in order.

    Args:
        sources: The photos.
        alignments: Alignment by task.
        fallback: As in `predict`.
        detector: As in `predict`.
        workers: Number of processes, -1 for one per core. With 1, this process does the work unless a worker is `started`
            already. A process that may not start others does the work itself.

    Yields:
        Rows of one photo. A file that ends the process that reads it, as a fault in a decoder can, gives a row that says so.
    """
    workers = process_count(workers)
    asked = (alignments, fallback, detector)
    if not processes.can_have_children() or (workers == 1 and _key(workers) not in _pools):
        yield from (detect_faces_in_photo(source, *asked) for source in sources)
        return
    waiting: deque[tuple[Source, Future]] = deque()
    left = iter(sources)
    try:
        while True:
            for source in itertools.islice(left, workers * AHEAD - len(waiting)):
                waiting.append((source, _submitted(workers, source, *asked)))
            if not waiting:
                return
            source, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:  # the others that waited there are lost too: each is looked at again alone
                _pools.clear()
                lost = [source, *(other for other, _ in waiting)]
                waiting.clear()
                yield from (_look_alone(source, *asked) for source in lost)
    finally:
        for _, future in waiting:
            future.cancel()


def process_count(workers: int = -1) -> int:
    """The number of processes that can work: `workers`, or one per core for -1; 1 where no others may be started."""
    if not processes.can_have_children():
        return 1
    return joblib.cpu_count() if workers == -1 else workers


def start_workers(workers: int = -1) -> Executor:
    """The processes that look at photos, started if they are not there; they end after a minute without work."""
    key = _key(process_count(workers))
    if key not in _pools:
        # loky replaces a worker that has grown, and warns of it; nothing is lost.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        # One of our own: the one that joblib and loky keep for everybody is made in two ways that do not go together.
        _pools[key] = ProcessPoolExecutor(key[1], timeout=60, initializer=_start, initargs=(os.getpid(),))
        _pools[key].submit(int)  # with the first task they all start
    return _pools[key]


_pools: dict[tuple[int, int], Executor] = {}  # by `_key`


def _key(workers: int) -> tuple[int, int]:
    return os.getpid(), workers  # a fork of this process inherits pools that it cannot use


def _submitted(workers: int, source: Source, *asked) -> Future:
    try:
        return _submit(workers, source, *asked)
    except BrokenProcessPool:  # since the last photo; what waited there says so too, and is looked at again
        _pools.pop(_key(workers), None)
        return _submit(workers, source, *asked)


def _submit(workers: int, source: Source, *asked) -> Future:
    name, photo = source
    if isinstance(photo, Image.Image):
        # Pickling would decode it in this process too, but would lose its orientation, and fail if it is damaged.
        try:
            photo = read_photo(photo)
        except UnreadablePhoto as error:
            unreadable: Future = Future()
            unreadable.set_result([_unreadable(name, str(error))])
            return unreadable
    return start_workers(workers).submit(detect_faces_in_photo, Source(name, photo), *asked)


def kill() -> None:
    """Ends the processes at once, whatever they are doing; the next photos start new ones."""
    _pools.clear()
    processes.end_children()


def _start(parent: int) -> None:
    processes.end_with_parent(parent)
    for name in ("SIGINT", "SIGHUP"):  # Ctrl-C or a closed terminal reach all processes; the one that asked answers them
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)  # each core has a process
    with contextlib.suppress(Exception):  # the first photo asks again, and what is wrong is said there
        face_tools.load_detectors()


def _look_alone(source: Source, *asked) -> list[dict]:
    try:
        return _submit(1, source, *asked).result()
    except BrokenProcessPool:
        _pools.clear()
        return [_unreadable(source.name, "damaged picture (reading it ended the reader)")]
