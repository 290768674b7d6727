"""The CSV file that the command writes while it predicts. After an interruption, the same command resumes the file."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from src.files import atomic_write, exclusive_lock, resolve_links, write_text
from src.predict.decode import PREDICTION_COLUMNS

HEADER = (",".join(PREDICTION_COLUMNS) + "\n").encode()
PHOTO, STATUS, FACE = map(PREDICTION_COLUMNS.index, ("photo", "status", "face"))
OPEN_FILES = ("/dev/std", "/dev/fd/", "/proc/")  # paths of files that are open already, such as /dev/stdout


@dataclass
class TableFile:
    """A table of predictions that grows by whole photos; see `open_table`."""

    path: Path
    file: io.FileIO
    resumable: bool  # not if the table goes to a pipe, a terminal or another device
    done: int = 0  # how many photos, counted from the first one, an interrupted run has written
    counts: Counter[str] = field(default_factory=Counter)  # rows by status

    def add(self, table: pd.DataFrame) -> None:
        """Appends the rows of whole photos.

        Raises:
            OSError: The rows cannot be written, for example because the disk is full. The file then has none of them.
        """
        text = table.assign(photo=table["photo"].map(_escape)).to_csv(index=False, header=False, lineterminator="\n")
        content, size = memoryview(text.encode()), self.file.seek(0, io.SEEK_END) if self.resumable else 0
        try:
            while content:
                content = content[self.file.write(content) :]
        except OSError as error:
            if self.resumable:
                self.file.truncate(size)
            hint = "free some space, then the same command resumes the file" if self.resumable else "the rest is lost"
            raise OSError(f"{self.path} cannot be written ({error.strerror}): {hint}") from error
        self.counts.update(table["status"])


@contextmanager
def open_table(path: Path, photos: list[str], settings: dict) -> Iterator[TableFile]:
    """Opens a table for the rows of photos.

    A finished table is replaced. An unfinished one is resumed if its settings are the same: it keeps its rows up to the last
    photo, which may be incomplete, or up to the first photo that is not the expected one. Until the table is finished, a
    hidden file beside it holds the settings.

    Args:
        path: A file, a link to one, a pipe or a device.
        photos: The names of all photos, in order.
        settings: Everything that must be the same to resume the table, in types that JSON knows.

    Yields:
        The table. It is finished on leaving without an exception.

    Raises:
        BlockingIOError: Another process is writing this table.
        ValueError: The path is not a table of predictions. It is not changed.
        OSError: The table cannot be written.
    """
    if str(path).startswith(OPEN_FILES) or (path.exists() and not path.is_file() and not path.is_dir()):
        with open(path, "ab", buffering=0) as file:
            file.write(HEADER)
            yield TableFile(path, file, resumable=False)
        return
    path = resolve_links(path)
    if path.exists() and (path.is_dir() or not _is_table(path)):
        raise ValueError(f"{path} is not a table of predictions, and only such a table is replaced: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(path.with_name(f".{path.name}.lock"), wait=False):
        note, text = path.with_name(f".{path.name}.unfinished"), json.dumps([settings, PREDICTION_COLUMNS], sort_keys=True)
        resume = path.exists() and note.exists() and note.read_text(encoding="utf-8") == text
        done, rows = _finished_photos(path, photos) if resume else (0, [])
        with atomic_write(path) as new, new.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([PREDICTION_COLUMNS, *rows])
        write_text(note, text)  # after the table, so that no older table is resumed
        with open(path, "ab", buffering=0) as file:
            yield TableFile(path, file, True, done, Counter(row[STATUS] for row in rows))
        note.unlink()


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(len(HEADER)) in (b"", HEADER)


def _finished_photos(path: Path, photos: list[str]) -> tuple[int, list[list[str]]]:
    """The number of photos that an unfinished table can keep, and their rows."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(PREDICTION_COLUMNS)][1:]
    starts = [i for i, row in enumerate(rows) if row[FACE] in ("", "1")]  # the first row of each photo
    done = 0
    while done < min(len(starts) - 1, len(photos)) and rows[starts[done]][PHOTO] == _escape(photos[done]):
        done += 1
    return done, rows[: starts[done]] if starts else []


def _escape(name: str) -> str:
    """A photo's name as it is written: names may hold any bytes, but the table is UTF-8, and its lines end in one way."""
    return name.encode(errors="backslashreplace").decode().replace("\r", "\\r")
