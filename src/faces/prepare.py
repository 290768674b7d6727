"""Aligns all faces of a table in parallel and caches them. A killed run resumes; the originals are only read.

    python -m src.faces.prepare --dataset imdb_wiki --data FOLDER [--scheduler tcp://HOST:8786]

A cache folder contains `faces.npy` (uint8, (n, size, size, 3), RGB, in the table's order), `settings.json`, and one result
file per chunk of rows, written after the chunk's faces. The next run aligns the chunks without a result file.
"""

import argparse
import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import dlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from src import data, processes
from src.config import CACHE
from src.data.table import BOX_COLUMNS
from src.faces.align import Alignment, align_by_box, align_face, choose_face, find_faces, whole_photo
from src.faces.detect import DEFAULT_DETECTOR, DETECTORS, require_detector
from src.faces.image_io import MIN_SIDE, UnreadablePhoto, read_photo
from src.faces.landmark_file import install_landmark_file
from src.files import TEMPORARY_PREFIX, atomic_write, exclusive_lock, file_stamps, write_text

VERSION = 4  # version of the cached faces; increase it when their pixels change
CHUNK = 64  # rows per task: about a second of work, which is lost if a worker is killed
CONNECT_TIMEOUT = 30  # seconds that a Dask cluster has to answer
WORKER_DIED = "a worker process died: memory ran out, or an image crashed its decoder; finished work is kept, so run again"


class AlignmentSource(StrEnum):
    """What a face was aligned by."""

    LANDMARKS = "landmarks"  # a detected face, by its eyes; see `align.find_faces`
    BOX = "box"  # the data set's box, because no detected face overlaps it
    WHOLE_PHOTO = "whole_photo"  # the image's central square, because no face was detected and the data set has no box
    UNUSABLE = ""  # no face: the image cannot be used


class AlignedFaces(NamedTuple):
    """Aligned faces in the order of their table."""

    faces: npt.NDArray[np.uint8]  # (n, size, size, 3), RGB, memory-mapped; zeros where the image is unusable
    alignment_source: npt.NDArray[np.object_]  # (n,), values of `AlignmentSource`
    reason: npt.NDArray[np.object_]  # (n,), why the image is unusable; "" where it is usable
    folder: Path  # the cache folder

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Marks, shape (n,), the rows that have a face."""
        return self.reason == ""


class _ChunkSettings(NamedTuple):
    """What the chunks of one table have in common."""

    folder: Path
    target: Path
    alignment: Alignment
    detector: str
    settings: dict  # from `_settings`
    offset: int  # bytes in faces.npy before the first face; workers write there directly, see `_prepare_chunk`


def prepare(
    table: pd.DataFrame,
    folder: str | Path,
    alignment: Alignment = Alignment(),
    cache: Path = CACHE,
    workers: int = -1,
    scheduler: str | None = None,
    detector: str = DEFAULT_DETECTOR,
) -> AlignedFaces:
    """Detects and aligns the faces of all rows that are not cached. After an error, the next run resumes.

    Args:
        table: Table of faces with paths relative to `folder`. A row's box selects one of several faces.
        folder: The data set's folder.
        alignment: Template of the aligned faces.
        cache: Folder of the cache folders.
        workers: Number of processes, -1 for one per core.
        scheduler: Address of a Dask cluster that does the work instead; its machines must see both folders under the same
            paths.
        detector: See `detect.detect`.

    Raises:
        ValueError: The table is empty, the detector is not available, a cluster does not answer or has other versions, a
            worker died, or an image vanished during the run.
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
        rows = table[["path", *BOX_COLUMNS]].assign(exists=stamps.any(axis=1))  # the stamps of a missing file are zeros
        try:
            with exclusive_lock(target / ".lock"):
                offset = _create_files(target, (len(table), alignment.size, alignment.size, 3), settings)
                common = _ChunkSettings(folder.absolute(), target, alignment, detector, settings, offset)
                _prepare_chunks(common, rows, _unfinished(target, starts), workers, scheduler)
        except OSError as error:
            if error.errno is None:  # not from the operating system, such as a missing package: its message says all
                raise
            raise OSError(
                error.errno,
                f"the aligned faces cannot be written to {target} ({error.strerror}): make room, or replace "
                f"{cache} by a link to a folder on another disk, then run again; finished work is kept",
            ) from error
    results = [result for start in starts for result in json.loads(_result_file(target, start).read_text())]
    source, reason = np.array(results, object).T
    return AlignedFaces(np.load(target / "faces.npy", mmap_mode="r"), source, reason, target)


def _unfinished(target: Path, starts: range) -> list[int]:
    has_faces = (target / "faces.npy").exists()
    return [start for start in starts if not (has_faces and _result_file(target, start).exists())]


def _create_files(target: Path, shape: tuple[int, ...], settings: dict) -> int:
    """Removes files of a killed run and creates `faces.npy`, empty, and `settings.json` if they are missing.

    Returns where the first face begins in `faces.npy`; raises OSError if the disk is too full.
    """
    array = target / "faces.npy"
    (target / "chunks").mkdir(exist_ok=True)
    unfinished = f"{TEMPORARY_PREFIX}*"  # files of a killed run; without faces.npy, all results are worthless
    for path in [*target.glob(unfinished), *(target / "chunks").glob(unfinished if array.exists() else "*")]:
        path.unlink()
    if not array.exists():
        needed, free = int(np.prod(shape)), shutil.disk_usage(target).free
        if needed > free:
            problem = f"{shape[0]:,} faces require {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
            raise OSError(errno.ENOSPC, problem)
        write_text(target / "settings.json", json.dumps(settings, indent=1))
        with atomic_write(array) as new:
            np.lib.format.open_memmap(new, "w+", np.uint8, shape)
    return np.load(array, mmap_mode="r").offset


def _prepare_chunks(
    common: _ChunkSettings, rows: pd.DataFrame, starts: list[int], workers: int, scheduler: str | None
) -> None:
    tasks = ((common, start, rows.iloc[start : start + CHUNK]) for start in starts)
    missing = sum(min(CHUNK, len(rows) - start) for start in starts)
    with tqdm(mininterval=0.5, total=len(rows), initial=len(rows) - missing, desc="aligning", unit=" faces") as bar:
        if scheduler is None and (workers == 1 or not processes.can_start_processes()):
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
        try:
            with processes.worker_pool(None if workers == -1 else workers) as pool:
                yield pool
        except BrokenProcessPool as error:
            raise ValueError(WORKER_DIED) from error
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


def _prepare_chunk(common: _ChunkSettings, start: int, rows: pd.DataFrame) -> int:
    """Aligns a chunk of rows and writes their faces, then their results; returns the number of rows."""
    alignment, detector = common.alignment, common.detector
    _require_same_versions(_settings(alignment, detector), common.settings)
    faces = np.zeros((len(rows), alignment.size, alignment.size, 3), np.uint8)
    results = []
    for slot, row in zip(faces, rows.itertuples(index=False)):
        path, box = common.folder / row.path, tuple(getattr(row, edge) for edge in BOX_COLUMNS)
        aligned, source, reason = _align_row(path, None if any(map(pd.isna, box)) else box, alignment, detector)
        if aligned is not None:
            slot[:] = aligned
        elif row.exists and not path.exists():  # the drive may be disconnected: this must not be cached as a failure
            raise ValueError(f"{path} existed at the start and is missing now: check the drive, then run again")
        results.append((source, reason))
    # On a full disk, a plain write raises OSError; writing to a memory map would end the process.
    with (common.target / "faces.npy").open("r+b") as file:
        file.seek(common.offset + start * faces[0].nbytes)
        file.write(faces)
    write_text(_result_file(common.target, start), json.dumps(results))
    return len(rows)


def _require_same_versions(found: dict, expected: dict) -> None:
    different = [f"{name} {expected[name]} here, {found[name]} there" for name in found if found[name] != expected[name]]
    if different:
        problem = f"a worker must have the versions of this machine, got {', '.join(different)}: install the same versions"
        raise ValueError(problem)


def _align_row(
    path: Path, box: tuple | None, alignment: Alignment, detector: str
) -> tuple[npt.NDArray[np.uint8] | None, AlignmentSource, str]:
    """Aligns the face of one row, whose `box` may be None. Returns the face or None, its source, and the reason for None."""
    try:
        photo = read_photo(path)
    except UnreadablePhoto as error:
        return None, AlignmentSource.UNUSABLE, f"unreadable: {error}"
    height, width = photo.shape[:2]
    if min(height, width) < MIN_SIDE:
        return None, AlignmentSource.UNUSABLE, "image too small"
    if box is not None:
        left, top, right, bottom = box
        overlaps = left < width and top < height and right > 0 and bottom > 0
        if not (overlaps and left < right and top < bottom and np.isfinite(box).all()):
            return None, AlignmentSource.UNUSABLE, "box outside the image"
        # Only the box and its surroundings are searched: this is faster, and other people stay outside.
        x, y = max(0, int(left - (right - left))), max(0, int(top - (bottom - top)))
        photo = photo[y : int(bottom + (bottom - top)) + 1, x : int(right + (right - left)) + 1]
        box = (left - x, top - y, right - x, bottom - y)
    face = choose_face(find_faces(photo, detector), box, photo.shape)
    if face is not None:
        return align_face(photo, face, alignment), AlignmentSource.LANDMARKS, ""
    if box is not None:
        return align_by_box(photo, box, alignment), AlignmentSource.BOX, ""
    return whole_photo(photo, alignment), AlignmentSource.WHOLE_PHOTO, ""


def _result_file(target: Path, start: int) -> Path:
    return target / "chunks" / f"{start:08d}.json"


def _settings(alignment: Alignment, detector: str) -> dict:
    package = DETECTORS[detector].package
    versions = {"dlib": dlib.__version__} | ({detector: version(package)} if package else {})
    return {"version": VERSION, "detector": detector, **versions, **asdict(alignment)}


def _cache_name(table: pd.DataFrame, folder: Path, settings: dict, stamps: np.ndarray) -> str:
    """Names a cache folder by the data set, the size, and a hash of everything that the faces depend on."""
    digest = hashlib.sha256(json.dumps([settings, str(folder.resolve())]).encode())
    digest.update(pd.util.hash_pandas_object(table[["path", *BOX_COLUMNS]], index=False).to_numpy().tobytes())
    digest.update(stamps.tobytes())
    return f"{'-'.join(table['dataset'].unique())}-{settings['size']}-{digest.hexdigest()[:12]}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m src.faces.prepare", description="Aligns a data set's faces.")
    parser.add_argument("--dataset", default="sample", choices=data.DATASETS)
    parser.add_argument("--data", default="", help="the data set's folder; see data/README.md")
    parser.add_argument("--workers", type=int, default=-1, help="number of processes (default: one per core)")
    parser.add_argument("--scheduler", help="address of a Dask cluster, such as tcp://host:8786")
    options = parser.parse_args(arguments)
    folder = data.resolve_folder(options.dataset, options.data)
    table, ledger = data.load_for_training(options.dataset, folder)
    scheduler = options.scheduler or None  # `make prepare` without a scheduler passes ""
    try:
        prepared = prepare(table, folder, cache=CACHE, workers=options.workers, scheduler=scheduler)
    except KeyboardInterrupt as interrupt:
        interrupt.args = ("stopped; finished work is kept, and the same command resumes",)
        raise
    if len(ledger):
        print(f"dropped by the loader:\n{ledger['reason'].value_counts().to_string(header=False)}")
    outcome = pd.Series(np.where(prepared.usable, prepared.alignment_source, prepared.reason))
    counts = outcome.str.split(" (", regex=False).str[0].value_counts()  # without the details in brackets
    print(f"aligned by, or reason for no face:\n{counts.to_string()}")
    print(f"{len(table):,} faces are in {prepared.folder}")
    return 0


if __name__ == "__main__":
    from src.faces.prepare import main as importable_main  # workers cannot import functions from the module __main__

    processes.run_command(importable_main)
