"""What the loaders share: finding a data set's files, reading its label files, and checking which pictures exist.

Before it: `config`. After it: the loaders.
"""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import IMAGE_SUFFIXES

# Absolute (POSIX, Windows), leading out of the folder, or empty: no label file of these data sets does this on purpose.
_OUTSIDE = r"^\s*$|^[\\/]|^[A-Za-z]:|(?:^|[\\/])\.\.(?:[\\/]|$)"


def missing_data_error(folder: Path, problem: str, expected: str) -> FileNotFoundError:
    """The error for files that are not where they should be: what was found, what was expected, where to read more."""
    return FileNotFoundError(
        f"{folder} {problem}: expected {expected}; data/README.md says where to get it and how to unpack it"
    )


def open_folder(folder: str | Path, expected: str) -> Path:
    """The folder as a Path.

    Raises:
        FileNotFoundError: the folder is missing, is not a folder, or is empty; the message names what was `expected`.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise missing_data_error(folder, "does not exist", expected)
    if not folder.is_dir():
        raise missing_data_error(folder, "is not a folder", expected)
    if not any(folder.iterdir()):
        raise missing_data_error(folder, "is empty", expected)
    return folder


def find_subfolder(pattern: str, folder: Path, subfolders: tuple[str, ...]) -> Path | None:
    """The first of `folder` and its `subfolders` that holds a file matching the glob `pattern`, or None."""
    places = [folder, *(folder / name for name in subfolders)]
    return next((place for place in places if any(file.is_file() for file in place.glob(pattern))), None)


def prefix(folder: Path, place: Path) -> str:
    """The text that turns a path relative to `place` into a path relative to `folder`."""
    return "" if place == folder else place.relative_to(folder).as_posix() + "/"


def label_table(file: Path, separator: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Reads a delimited label file as text; blank cells become "".

    Raises:
        ValueError: the file cannot be read as a table, or lacks one of `columns`.
    """
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
    except ValueError as error:  # pandas' parser errors are ValueErrors, the one for an empty file included
        raise ValueError(f"{file}: expected a table with the columns {', '.join(columns)}, got: {error}") from error
    missing = [name for name in columns if name not in table]
    if missing:
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"{file}: the columns {', '.join(missing)} are missing; it has {found}")
    return table.fillna("")


def require_rows(rows: pd.DataFrame, where: str | Path) -> pd.DataFrame:
    """The rows as they are.

    Raises:
        ValueError: there is no row; the message names `where` the rows were read from.
    """
    if rows.empty:
        raise ValueError(f"{where}: expected at least one labelled face, found none; replace it with the complete original")
    return rows


def parse_ages(labels: pd.Series, ranges: Mapping[str, tuple[int, int]]) -> dict[str, pd.Series]:
    """The columns age_low and age_high (Float64, years) for the label texts; NA for a text that is not in `ranges`."""
    bounds = {"age_low": 0, "age_high": 1}
    return {
        name: labels.map({text: both[side] for text, both in ranges.items()}).astype("Float64")
        for name, side in bounds.items()
    }


def forward_slashes(paths: pd.Series) -> pd.Series:
    """Paths as text with forward slashes, also where a label file was written on Windows."""
    names = paths.to_numpy(object)
    if "\\" not in "\n".join(names):  # the rule: half a million names need no conversion
        return paths.astype("str")
    return pd.Series([name.replace("\\", "/") for name in names], paths.index, dtype="str")


def outside_folder(paths: pd.Series) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), the paths that are absolute, lead out of their folder through "..", or are empty."""
    names = paths.to_numpy(object)
    starts = {name[:2] for name in names}
    if all(start[:1].isalnum() and start[1:] != ":" for start in starts) and ".." not in "\n".join(names):
        return np.zeros(len(names), bool)  # as in nearly every file: half a million need no closer look
    return paths.str.contains(_OUTSIDE, regex=True).to_numpy(bool)


def list_images(place: Path, expected: str) -> pd.Series:
    """Every picture below a folder, sorted: paths relative to `place`, with forward slashes.

    Links to folders are followed. A folder that is reached twice, through a link, is read once. Hidden files and the copies
    that macOS puts into archives are left out.

    Raises:
        FileNotFoundError: there are none; the message names what was `expected`.
    """
    found, seen = [], {os.path.realpath(place)}
    for parent, folders, names in os.walk(place, followlinks=True):
        new = []
        # Real folders first, so that a link beside the folder that it leads to does not take its place.
        for name in sorted(folders, key=lambda name: (os.path.islink(os.path.join(parent, name)), name)):
            real = os.path.realpath(os.path.join(parent, name))
            if real not in seen and not name.startswith((".", "__MACOSX")):
                seen.add(real)
                new.append(name)
        folders[:] = new
        inside = prefix(place, Path(parent))
        found += [inside + name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    if not found:
        raise missing_data_error(place, "holds no pictures", expected)
    return pd.Series(sorted(found), dtype="str")


def repeated_names(paths: pd.Series) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), the pictures whose file name an earlier one has in another folder: copies of one picture."""
    return paths.str.rpartition("/")[2].duplicated().to_numpy()


def list_files(folder: Path, paths: pd.Series) -> set[str]:
    """Every file in the folders that `paths` (relative to `folder`) name, as paths relative to `folder`.

    Each folder is listed once: asking the disk for half a million files one by one would take minutes on some machines.
    Links to files and folders count wherever they lead, because many tools keep pictures in a store of their own and put
    links into the data folder. A link that leads nowhere does not count.
    """
    parents = {name.rpartition("/")[0] for name in paths[~outside_folder(paths)]}
    present: set[str] = set()
    for parent in parents:
        try:
            with os.scandir(folder / parent) as entries:
                names = [entry.name for entry in entries if _is_file(entry)]
        except (OSError, ValueError):  # no such folder, or a name that no folder can have (a null byte)
            continue
        present.update(f"{parent}/{name}" if parent else name for name in names)
    return present


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or to where this user may not look
        return False


def find_missing(
    folder: Path, paths: pd.Series, present: set[str], refused: npt.NDArray[np.bool_] | None = None, where: str = ""
) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), the pictures that are not on disk.

    Args:
        folder: the data set's folder.
        paths: the pictures that the labels name, relative to `folder`.
        present: what is on disk, from `listing`.
        refused: marks, shape (n,), paths that were not looked for, from `outside`.
        where: for the error message, the folders in which the pictures were looked for.

    Raises:
        FileNotFoundError: pictures were looked for and none was found.
    """
    gone = ~paths.isin(present).to_numpy(bool)
    wanted = paths if refused is None else paths[~refused]
    if len(wanted) and gone.all():
        problem = f"holds none of the {len(wanted):,} pictures that its labels name (links that lead nowhere do not count)"
        raise missing_data_error(folder, problem, f"pictures such as {wanted.iloc[0]}{where}")
    return gone
