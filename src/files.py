"""Atomic writes, locks, and searches for files."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from src.config import IMAGE_SUFFIXES

TEMPORARY_PREFIX = ".writing-"  # names of unfinished files and folders start with this


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Replaces a file when the block ends; if the block raises, the target stays as it was.

    A symbolic link is kept and its target is replaced. The new file has the permissions of the file that it replaces.

    Args:
        target: File to write, in an existing folder.

    Yields:
        Path of an empty file beside the target, with the same suffix.
    """
    target = resolve_links(target)
    new = _temporary_path(target, target.suffix)
    try:
        new.touch(exist_ok=False)
        yield new
        _copy_mode(target, new)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Replaces a folder and its content when the block ends; if the block raises, the target stays as it was.

    A folder cannot be replaced in one step: between two renames, the target is missing for a moment.

    Args:
        target: Folder to write; missing parents are created.

    Yields:
        Path of an empty folder beside the target.

    Raises:
        NotADirectoryError: The target is a file.
    """
    target = resolve_links(target)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file, not a folder: move it away or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    new = _temporary_path(target)
    old = new.with_name(f"{new.name}-old")
    try:
        new.mkdir()
        yield new
        try:
            if target.exists():
                _copy_mode(target, new)
                os.replace(target, old)
            os.replace(new, target)
        except BaseException:  # Ctrl-C between the two renames, too
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Writes a UTF-8 text file; see `atomic_write`."""
    with atomic_write(target) as path:
        path.write_text(text, encoding="utf-8")


def resolve_links(path: Path) -> Path:
    """Returns the target of a symbolic link, existing or not; returns any other path unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def file_stamps(folder: Path, paths: Iterable[str]) -> npt.NDArray[np.int64]:
    """Returns the size in bytes and the modification time in ns of each file, shape (n, 2); zeros for a missing file."""
    stamps = []
    for path in paths:
        try:
            state = (folder / path).stat()
            stamps.append((state.st_size, state.st_mtime_ns))
        except (OSError, ValueError):  # missing, or an impossible name
            stamps.append((0, 0))
    return np.array(stamps, np.int64).reshape(-1, 2)


def walk_images(folder: Path, follow_links: bool) -> Iterator[str]:
    """Yields the images in a folder and its subfolders: paths relative to `folder`, with forward slashes.

    Hidden files and folders, and the copies that macOS adds to archives, are skipped. Each folder is read once, even if
    several links lead to it.
    """
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=follow_links):
        real = os.path.realpath(parent)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        prefix = f"{Path(parent).relative_to(folder).as_posix()}/".removeprefix("./")  # "" in `folder` itself
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield prefix + name


def _temporary_path(target: Path, suffix: str = "") -> Path:
    return target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}{suffix}")


def _copy_mode(source: Path, target: Path) -> None:
    with contextlib.suppress(OSError):  # no source, or a file system without modes, such as exFAT or a network share
        shutil.copymode(source, target)


@contextmanager
def exclusive_lock(lock_file: Path, user_file: Path | None = None) -> Iterator[None]:
    """Acquires a lock that only one process at a time can have, and removes what a killed run left beside it.

    The operating system releases the lock of a killed process.

    Args:
        lock_file: The lock file. The function creates its folder and removes the file at the end.
        user_file: The file that the lock protects, if it is in a folder of the user. If another process has the lock, an
            error names this file, and nothing is removed. Without it, the function waits for the lock, then removes the
            unfinished folders of a killed `atomic_folder`, but not the content that it was replacing ("-old").

    Raises:
        BlockingIOError: Another process has the lock, and there is a `user_file`.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if user_file:
            raise BlockingIOError(f"another run is using {user_file}: wait for its end or choose another file") from None
        print(f"waiting for another run that is using {lock_file.parent}", flush=True)
        lock.acquire()
    try:
        if not user_file:
            for unfinished in lock_file.parent.glob(f"{TEMPORARY_PREFIX}*/"):
                if not unfinished.name.endswith("-old"):
                    shutil.rmtree(unfinished, ignore_errors=True)
        yield
    finally:
        # A process that waits for the removed file notices this after it has acquired it, and tries again (filelock).
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            os.unlink(lock_file)
        lock.release()
