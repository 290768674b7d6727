"""What the loaders share: finding a data set's files, reading its label files, and seeing which pictures are there.

Before it: `photos`. After it: the loaders.
"""

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd

# Absolute (POSIX, Windows), climbing out, or empty: nothing that a label file of these data sets names on purpose.
_OUTSIDE = r"^\s*$|^[\\/]|^[A-Za-z]:|(?:^|[\\/])\.\.(?:[\\/]|$)"


def absent(folder: Path, problem: str, expected: str) -> FileNotFoundError:
    """The one sentence for files that are not where they should be."""
    return FileNotFoundError(
        f"{folder} {problem}: expected {expected}; data/README.md says where to get it and how to unpack it"
    )


def opened(folder: str | Path, expected: str) -> Path:
    """The folder as a Path. Raises FileNotFoundError, naming what was `expected`, where it is missing or empty."""
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise absent(folder, "does not exist", expected)
    if not folder.is_dir():
        raise absent(folder, "is not a folder", expected)
    if not any(folder.iterdir()):
        raise absent(folder, "is empty", expected)
    return folder


def place_of(pattern: str, folder: Path, subfolders: tuple[str, ...]) -> Path | None:
    """The first of `folder` and its `subfolders` that holds a file fitting the glob `pattern`, or None."""
    places = [folder, *(folder / name for name in subfolders)]
    return next((place for place in places if any(file.is_file() for file in place.glob(pattern))), None)


def prefix(folder: Path, place: Path) -> str:
    """What to put before a path relative to `place` to make it relative to `folder`."""
    return "" if place == folder else place.relative_to(folder).as_posix() + "/"


def label_table(file: Path, separator: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """A delimited label file as text, blanks as "". ValueError where it can't be read or lacks one of `columns`."""
    try:
        table = pd.read_csv(
            file,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,  # nothing is quoted in fold files
            index_col=False,
            encoding="utf-8-sig",
            encoding_errors="replace",
        )
    except ValueError as error:  # pandas' parser errors are ValueErrors, an empty file's among them
        raise ValueError(f"{file}: expected a table with the columns {', '.join(columns)}, got: {error}") from error
    missing = [name for name in columns if name not in table]
    if missing:
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"{file}: the columns {', '.join(missing)} are missing; it has {found}")
    return table.fillna("")


def outside(paths: pd.Series) -> np.ndarray:
    """Boolean (n,): paths that are absolute, climb out of their folder, or are empty."""
    names = paths.to_numpy(object)
    starts = {name[:2] for name in names}
    if all(start[:1].isalnum() and start[1:] != ":" for start in starts) and ".." not in "\n".join(names):
        return np.zeros(len(names), bool)  # as in nearly every file: half a million need no closer look
    return paths.str.contains(_OUTSIDE, regex=True).to_numpy(bool)


def listing(folder: Path, paths: pd.Series) -> set[str]:
    """Every file in the folders that `paths` (relative to `folder`) name.

    Folders are listed once each: asking the disk for half a million files one by one would take minutes on some. A
    picture that is a link counts where it leads to a file inside `folder`; what lies elsewhere is not the data set's.
    """
    inside = folder.resolve()
    parents = paths[~outside(paths)].str.rpartition("/")[0]
    present = set()
    for parent in parents.unique():
        try:
            with os.scandir(folder / parent) as entries:
                names = [entry.name for entry in entries if entry.is_file() and not _leads_out(entry, inside)]
        except (OSError, ValueError):  # no such folder, or a name no folder can have (a null byte)
            continue
        present.update(f"{parent}/{name}" if parent else name for name in names)
    return present


def _leads_out(entry: os.DirEntry, inside: Path) -> bool:
    return entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside)


def missing(folder: Path, paths: pd.Series, present: set[str]) -> np.ndarray:
    """Boolean (n,): pictures that are not on disk. FileNotFoundError where not one of them is."""
    gone = ~paths.isin(present).to_numpy(bool)
    if len(paths) and gone.all():
        problem = f"holds none of the {len(paths):,} pictures that its labels name"
        raise absent(folder, problem, f"pictures such as {paths.iloc[0]}")
    return gone
