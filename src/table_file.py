"""A table that is written while it is made: rows are added a batch at a time, and an interrupted run goes on.

The CSV file is whole and valid after every batch. Until all is done, a hidden file beside it says how the table was begun,
so that only the same command goes on with it; a finished table is replaced.

Before it: `answers`. After it: `predict`.
"""

import csv
import errno
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import pandas as pd

from src.answers import COLUMNS, as_table
from src.files import write_text


class TableFile:
    """The CSV file at `path`; settings: what must be the same for an unfinished table to be gone on with.

    photos: all that the table is for, in order. `done`: how many of these, from the first on, are in the table already. Where
    the photos have changed meanwhile, what comes after the first that differs is taken out of it.
    """

    def __init__(self, path: Path, photos: list[Path], settings: dict):
        self.path = path
        self.note = path.with_name(f".{path.name}.unfinished")
        self.done = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        told = json.dumps(settings | {"columns": COLUMNS}, sort_keys=True)
        if _content(self.note) == told and path.is_file():
            self.done = _cut_to_begin_of(path, photos)
        if not self.done:
            write_text(path, ",".join(COLUMNS) + "\n")  # before the note: an older table is never gone on with
            write_text(self.note, told)

    def add(self, rows: list[dict]) -> None:
        """Adds the rows of whole photos, all or none: OSError where there is no room for them."""
        content = _as_csv(as_table(rows))
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        try:
            before = os.fstat(file).st_size
            try:
                if os.write(file, content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BaseException:
                os.ftruncate(file, before)
                raise
        finally:
            os.close(file)

    def counts(self) -> dict[str, int]:
        """How many rows have each status, the commonest first."""
        with self.path.open(newline="", encoding="utf-8") as file:
            return dict(Counter(row["status"] for row in csv.DictReader(file)).most_common())

    def finish(self) -> None:
        """Takes away the note by which a run goes on: all is answered."""
        self.note.unlink(missing_ok=True)


def as_written(name: str) -> str:
    """A photo's name as it stands in the table: names hold any bytes, the table is UTF-8 and its lines end in one way."""
    return name.encode(errors="backslashreplace").decode().replace("\r", "\\r")


def _as_csv(table: pd.DataFrame) -> bytes:
    table = table.assign(photo=table["photo"].map(as_written))
    return table.to_csv(index=False, header=False, lineterminator="\n").encode()


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _cut_to_begin_of(path: Path, photos: list[Path]) -> int:
    """Takes off what does not begin `photos`, and a last photo that a kill may have left half written; counts what stays."""
    position, begin = 0, 0
    starts, names = [], []  # of each photo's first row
    with path.open("rb") as file:

        def lines():
            nonlocal position
            for line in file:
                position += len(line)
                yield line.decode(errors="replace")

        for record in csv.reader(lines()):
            if begin and len(record) == len(COLUMNS) and record[COLUMNS.index("face")] in ("", "1"):
                starts.append(begin)
                names.append(record[COLUMNS.index("photo")])
            begin = position
    expected = (as_written(str(photo)) for photo in photos)
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(names[:-1], expected))
    done = sum(1 for _ in alike)
    if names:
        with path.open("r+b") as file:
            file.truncate(starts[done])
    return done
