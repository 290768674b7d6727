"""Writing whole or not at all: under a temporary name first, then renamed.

Used by every module that writes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

HIDDEN = ".writing-"  # how temporary names begin; short, so that they fit where the final name does


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside `target` to write a file to; on leaving, it takes the target's place at once.

    Where the writing fails, the target stays as it was.
    """
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=HIDDEN, suffix=target.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """The same for a folder; one that stands there already is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=target.parent, prefix=HIDDEN))
    try:
        os.chmod(new, 0o755)
        yield new
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
    """A UTF-8 text file, written whole."""
    with written_whole(target) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits, and says so, while another process is in here with the same folder, which is made if need be.

    What a killed one left half written there is removed.
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
