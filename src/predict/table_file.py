"""A table of predictions that is written while it is made: rows are added a batch at a time, and an interrupted run resumes.

The CSV file is whole and valid after every batch. Until all is done, a hidden file beside it says how the table was begun,
so that only the same command resumes it; a finished table is replaced. Pipes, terminals and other devices get the rows as
they come.

Before it: `answers`. After it: `predict`.
"""

import csv
import errno
import itertools
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pandas as pd

from src.files import exclusive_lock, resolve_links, write_text
from src.predict.decode import PREDICTION_COLUMNS, to_table

OLDEST = PREDICTION_COLUMNS[: PREDICTION_COLUMNS.index("message") + 1]  # the columns of every version
ADDED = ((), ("age_low", "age_high"), PREDICTION_COLUMNS[len(OLDEST) :])  # what the versions have after these
DESCRIPTOR = re.compile(r"/dev/(?:std(out|err)|fd/(\d+))|/proc/self/fd/(\d+)")  # names of a file that is open already


@contextmanager
def open_table(path: Path, photos: list[Path], settings: dict) -> Iterator["TableFile | TableStream"]:
    """The table at `path`, to add rows to; see `TableFile` and `TableStream`.

    A link stays, and the table is where it leads to.

    Raises:
        BlockingIOError: Another run is writing this table.
        ValueError: A file that is no table of predictions is there; it stays as it is.
        OSError: The table cannot be written.
    """
    if is_stream(path):
        table = TableStream(path)
        try:
            yield table
        finally:
            table.close()
        return
    path = resolve_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(path.with_name(f".{path.name}.lock"), wait=False):
        yield TableFile(path, photos, settings)


def is_stream(path: Path) -> bool:
    """Whether rows go to `path` as they come: a pipe, a terminal or other device, or an open file such as /dev/stdout."""
    if DESCRIPTOR.fullmatch(os.path.abspath(path)):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


class TableFile:
    """A table in a regular file, which an interrupted run resumes.

    Args:
        path: The CSV file.
        photos: All photos that the table is for, in order.
        settings: What must be the same for an unfinished table to be resumed; it must go into JSON.

    Attributes:
        done: How many of the photos, from the first on, are in the table already. If the photos have changed meanwhile,
            what comes after the first that differs is taken out of the table.

    Raises:
        ValueError: A file that is no table of predictions is there; it stays as it is.
    """

    resumes: ClassVar[bool] = True

    def __init__(self, path: Path, photos: list[Path], settings: dict):
        _check_header(path)
        self.path = path
        self.note = path.with_name(f".{path.name}.unfinished")
        self.done = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        told = json.dumps(settings | {"columns": PREDICTION_COLUMNS}, sort_keys=True)
        if _content(self.note) == told and path.is_file():
            self.done = _cut_to_begin_of(path, photos)
        if not self.done:
            write_text(path, ",".join(PREDICTION_COLUMNS) + "\n")  # before the note: an older table is never resumed
            write_text(self.note, told)

    def add(self, rows: list[dict]) -> None:
        """Adds the rows of whole photos, all or none: OSError where there is no room for them."""
        content = _as_csv(to_table(rows))
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
        """Removes the note by which a run resumes: all is answered."""
        self.note.unlink(missing_ok=True)


class TableStream:
    """A table that goes to a pipe, a terminal or another device: the header first, then the rows as they come."""

    resumes: ClassVar[bool] = False
    done: ClassVar[int] = 0

    def __init__(self, path: Path):
        self.path = path
        self._counts: Counter[str] = Counter()
        if named := DESCRIPTOR.fullmatch(os.path.abspath(path)):
            # Not opened a second time: that fails for sockets, and in a file it would begin at the start again.
            number = next(filter(None, named.groups()))
            self._file = os.dup({"out": 1, "err": 2}.get(number) or int(number))
        else:
            self._file = os.open(path, os.O_WRONLY)
        self._write((",".join(PREDICTION_COLUMNS) + "\n").encode())

    def add(self, rows: list[dict]) -> None:
        """Writes the rows of whole photos: OSError where the other end is closed."""
        self._write(_as_csv(to_table(rows)))
        self._counts.update(row["status"] for row in rows)

    def counts(self) -> dict[str, int]:
        """How many rows have each status, the commonest first."""
        return dict(self._counts.most_common())

    def finish(self) -> None:
        """Nothing: a stream has no note."""

    def close(self) -> None:
        os.close(self._file)

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._file, content) :]


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


def _check_header(path: Path) -> None:
    """ValueError for a file that is neither empty nor a table of predictions of this or an older version."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.readline(1 << 16)
    header = tuple(next(csv.reader([start.decode(errors="replace")]), ()))
    if start and not (header[: len(OLDEST)] == OLDEST and header[len(OLDEST) :] in ADDED):
        raise ValueError(
            f"{path} is not a table of predictions, which alone would be replaced: move it away or choose another name"
        )


def _cut_to_begin_of(path: Path, photos: list[Path]) -> int:
    """Removes what does not begin `photos`, and a last photo that a kill may have left half written; counts what stays."""
    position, begin = 0, 0
    starts, names = [], []  # of each photo's first row
    with path.open("rb") as file:

        def lines():
            nonlocal position
            for line in file:
                position += len(line)
                yield line.decode(errors="replace")

        for record in csv.reader(lines()):
            if begin and len(record) == len(PREDICTION_COLUMNS) and record[PREDICTION_COLUMNS.index("face")] in ("", "1"):
                starts.append(begin)
                names.append(record[PREDICTION_COLUMNS.index("photo")])
            begin = position
    expected = (as_written(str(photo)) for photo in photos)
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(names[:-1], expected))
    done = sum(1 for _ in alike)
    if names:
        with path.open("r+b") as file:
            file.truncate(starts[done])
    return done
