"""Atomic writes and locks, used by every module that writes.

A file or folder is written under a temporary name first and then renamed, so that it is there whole or not at all.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

HIDDEN = ".writing-"  # prefix of temporary names; short, so that they fit wherever the final name does
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # errors of file systems without locks


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside `target` to write a file to; on leaving, the file takes the target's place at once.

    If the writing fails, the target stays as it was. A link stays, and the file that it leads to is replaced. A replaced
    file keeps its mode; a new one gets the mode that the umask allows.

    Args:
        target: File to write, in a folder that exists.

    Yields:
        Path of an empty file with the same suffix.

    Raises:
        shutil.SpecialFileError: The target is a pipe, a socket or a device.
        OSError: The file cannot be written.
    """
    target = resolve_links(target)
    mode = _mode(target)
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise shutil.SpecialFileError(f"{target} is a pipe, a socket or a device, not a regular file: choose another name")
    new = _temporary(target, target.suffix)
    try:
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask
        yield new
        _keep_mode(new, mode)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """The same for a folder and all that is in it; a folder that is there already is replaced.

    Args:
        target: Folder to write. Its parents are made if need be.

    Yields:
        Path of an empty folder beside it.

    Raises:
        NotADirectoryError: The target is a file.
        OSError: The folder cannot be written.
    """
    target = resolve_links(target)
    mode = _mode(target)
    if mode is not None and not stat.S_ISDIR(mode):
        raise NotADirectoryError(f"{target} is a file, not a folder: move it away or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    new = _temporary(target)
    try:
        new.mkdir()
        yield new
        _keep_mode(new, mode)
        if target.exists():
            old = new.with_name(f"{new.name}-old")
            os.replace(target, old)
            try:
                os.replace(new, target)
            except BaseException:
                os.replace(old, target)
                raise
            shutil.rmtree(old)
        else:
            os.replace(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Writes a UTF-8 text file; see `written_whole`."""
    with atomic_write(target) as path:
        path.write_text(text, encoding="utf-8")


def resolve_links(path: Path) -> Path:
    """What a link leads to in the end, whether that exists or not; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _mode(target: Path) -> int | None:
    try:
        return target.stat().st_mode
    except FileNotFoundError:
        return None


def _temporary(target: Path, suffix: str = "") -> Path:
    return target.with_name(f"{HIDDEN}{secrets.token_hex(4)}{suffix}")


def _keep_mode(new: Path, mode: int | None) -> None:
    """Gives `new` the mode of what it replaces, if any, where the file system can: network shares and exFAT refuse."""
    if mode is not None and stat.S_IMODE(mode) != stat.S_IMODE(new.stat().st_mode):
        with contextlib.suppress(OSError):
            new.chmod(stat.S_IMODE(mode))


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Waits, and says so, while another process is in here with the same folder, which is made if need be.

    What a killed process left half written there is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")  # the system's: one of a process that was killed is free
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another run works in {folder}: waiting for its end", flush=True)
        lock.acquire()
    try:
        for half_written in folder.glob(f"{HIDDEN}*/"):
            shutil.rmtree(half_written, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Holds a lock on a file for as long as it is being written; unlike `alone`, it does not wait.

    The lock is a hidden file beside the target, which is removed at the end. On a file system without locks there is none.

    Args:
        target: File to write, in a folder that exists; links are to be followed before.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: Nothing can be written in the target's folder.
    """
    lock = FileLock(target.with_name(f".{target.name}.lock"), fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another run is writing {target}: wait for its end or choose another name") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(target)) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # before the release, so that no other run's lock is removed; Windows refuses
            if lock.is_locked:
                os.unlink(lock.lock_file)
        lock.release()
