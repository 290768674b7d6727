"""The CSV file that the command writes while it predicts. After an interruption, the same command resumes the file."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from src.files import atomic_write, exclusive_lock, resolve_links, write_text
from src.predict.inference import PREDICTION_COLUMNS

HEADER = (",".join(PREDICTION_COLUMNS) + "\n").encode()
PHOTO_COLUMN, STATUS_COLUMN, FACE_COLUMN = map(PREDICTION_COLUMNS.index, ("photo", "status", "face"))
STREAM_PATHS = ("/dev/std", "/dev/fd/", "/proc/")  # of files that are open already, such as /dev/stdout


@dataclass
class TableFile:
    """A table of predictions that grows by whole photos; see `open_table`."""

    path: Path
    file: io.FileIO
    resumable: bool  # not if the table goes to a pipe, a terminal or another device
    done: int = 0  # number of photos written by an interrupted run
    counts: Counter[str] = field(default_factory=Counter)  # rows by status

    def add(self, table: pd.DataFrame) -> None:
        """Appends the rows of whole photos.

        Raises:
            OSError: The rows cannot be written, for example because the disk is full. The last row may be incomplete.
        """
        text = table.assign(photo=table["photo"].map(_escape)).to_csv(index=False, header=False, lineterminator="\n")
        content = memoryview(text.encode())
        try:
            while content:
                content = content[self.file.write(content) :]
        except OSError as error:
            hint = "free some space, then the same command resumes the file" if self.resumable else "the rest is lost"
            raise OSError(f"{self.path} cannot be written ({error.strerror}): {hint}") from error
        self.counts.update(table["status"])


@contextmanager
def open_table(path: Path, photos: list[str], settings: dict) -> Iterator[TableFile]:
    """Opens a table for the rows of photos.

    A finished table is replaced. An unfinished one is resumed if its settings are the same; a hidden file beside it contains
    them. Its last photo may be incomplete, so its rows are written again, as are all rows from the first photo that differs
    from `photos`.

    Args:
        path: A file, a link to one, a pipe or a device.
        photos: The names of all photos, in order.
        settings: Everything that must be the same to resume the table: strings, numbers, None, lists and dictionaries.

    Yields:
        The table. It is finished if the block ends without an exception.

    Raises:
        BlockingIOError: Another process is writing this table.
        ValueError: The path is not a table of predictions. It is not changed.
        OSError: The table cannot be written.
        KeyboardInterrupt: The user stopped the block; the exception's text says how to resume the table.
    """
    if str(path).startswith(STREAM_PATHS) or (path.exists() and not path.is_file() and not path.is_dir()):
        with open(path, "ab", buffering=0) as file:
            file.write(HEADER)
            yield TableFile(path, file, resumable=False)
        return
    name, path = path, resolve_links(path)
    if path.exists() and (path.is_dir() or not _is_table(path)):
        found = "a folder" if path.is_dir() else "not a table of predictions"
        raise ValueError(f"{path} is {found}, and only a table of predictions is replaced: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(path.with_name(f".{path.name}.lock"), path):
        settings_file = path.with_name(f".{path.name}.unfinished")
        text = json.dumps([settings, PREDICTION_COLUMNS], sort_keys=True)
        unfinished = path.exists() and settings_file.exists()
        resume = unfinished and settings_file.read_text(encoding="utf-8") == text
        if unfinished and not resume:
            print(f"{name} was unfinished, but with other photos, models or options: starting again", file=sys.stderr)
        done, rows = _finished_photos(path, photos) if resume else (0, [])
        try:
            with atomic_write(path) as new, new.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([PREDICTION_COLUMNS, *rows])
            write_text(settings_file, text)  # last: after a crash in between, an older finished table must not look resumable
            with open(path, "ab", buffering=0) as file:
                counts = Counter(row[STATUS_COLUMN] for row in rows)
                yield TableFile(path, file, resumable=True, done=done, counts=counts)
        except KeyboardInterrupt as stop:
            stop.args = (f"stopped; {name} has the photos done so far, and the same command resumes it",)
            raise
        settings_file.unlink()


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(len(HEADER)) in (b"", HEADER)


def _finished_photos(path: Path, photos: list[str]) -> tuple[int, list[list[str]]]:
    """Returns the number of photos that an unfinished table can keep, and their rows."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(PREDICTION_COLUMNS)][1:]
    starts = [i for i, row in enumerate(rows) if row[FACE_COLUMN] in ("", "1")]  # the first row of each photo
    done = 0
    while done < min(len(starts) - 1, len(photos)) and rows[starts[done]][PHOTO_COLUMN] == _escape(photos[done]):
        done += 1
    return done, rows[: starts[done]] if starts else []


def _escape(name: str) -> str:
    r"""Returns a photo's name for the table, which is UTF-8 with lines that end in \n, while names may contain any bytes."""
    return name.encode(errors="backslashreplace").decode().replace("\r", "\\r")
