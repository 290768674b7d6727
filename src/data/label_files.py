"""Functions that loaders share: finding a data set's files, reading labels, checking which images exist."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import IMAGE_SUFFIXES

# A path that is empty, absolute (POSIX or Windows) or contains "..", and may therefore lead outside the data set's folder.
OUTSIDE = r"^\s*$|^[\\/]|^[A-Za-z]:|(?:^|[\\/])\.\.(?:[\\/]|$)"


def missing_data_error(folder: Path, problem: str, expected: str) -> FileNotFoundError:
    """Returns the error for missing files: what is wrong with the folder, what was expected, and where to read more."""
    return FileNotFoundError(
        f"{folder} {problem}: expected {expected}; data/README.md says where to get it and how to unpack it"
    )


def require_folder(folder: str | Path, expected: str) -> Path:
    """Returns the folder as a Path.

    Raises:
        FileNotFoundError: The folder is missing or empty; the message names what was `expected`.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir() or not any(folder.iterdir()):
        raise missing_data_error(folder, "is not a folder or is empty", expected)
    return folder


def find_subfolder(folder: Path, names: tuple[str, ...], pattern: str = "*") -> str:
    """Returns "NAME/", for paths, of the first subfolder in `names` with a file that fits the glob `pattern`; else ""."""
    return next((f"{name}/" for name in names if any((folder / name).glob(pattern))), "")


def read_labels(file: Path, separator: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Reads columns of a delimited label file as text; blank cells become "".

    Raises:
        ValueError: The file is damaged or lacks one of `columns`.
    """
    try:
        table = pd.read_csv(file, sep=separator, usecols=list(columns), dtype=str, keep_default_na=False, index_col=False)
    except ValueError as error:  # the parser errors of pandas are ValueErrors
        raise ValueError(f"{file}: expected a table with the columns {', '.join(columns)}, got: {error}") from error
    return table.fillna("")


def parse_ages(labels: pd.Series, ranges: Mapping[str, tuple[int, int]]) -> dict[str, pd.Series]:
    """Returns the columns age_low and age_high (Float64) of label texts, from each text's first and last year; NA without."""
    low, high = ({text: years[end] for text, years in ranges.items()} for end in (0, 1))
    return {"age_low": labels.map(low).astype("Float64"), "age_high": labels.map(high).astype("Float64")}


def is_outside(paths: pd.Series) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), the paths that are empty, absolute or contain ".."; see `OUTSIDE`."""
    return paths.str.contains(OUTSIDE).to_numpy(bool)


def list_images(folder: Path, expected: str) -> pd.Series:
    """Lists all images below a folder, sorted: paths relative to `folder`, with forward slashes.

    The search follows links and reads each folder once. It skips hidden files and the copies that macOS adds to archives.

    Raises:
        FileNotFoundError: There are no images; the message names what was `expected`.
    """
    found: list[str] = []
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link leads to a folder that was already read
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        subfolder = f"{Path(parent).relative_to(folder).as_posix()}/".removeprefix("./")
        found += [subfolder + name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    if not found:
        raise missing_data_error(folder, "holds no images", expected)
    return pd.Series(sorted(found), dtype="str")


def read_names(
    folder: str | Path, subfolders: tuple[str, ...], pattern: str, expected: str
) -> tuple[pd.Series, pd.DataFrame, dict[str, npt.NDArray[np.bool_]]]:
    """Reads a data set whose labels are numbers in the names of its images.

    Args:
        folder, subfolders, expected: As in `require_folder` and `find_subfolder`.
        pattern: Regular expression of a file name, with one group per number.

    Returns:
        The sorted paths; the numbers, Float64 (n, groups), NA where a name does not fit; and masks (n,) by reason. A repeated
        picture has the same name as another one.
    """
    folder = require_folder(folder, expected)
    subfolder = find_subfolder(folder, subfolders)
    path = subfolder + list_images(folder / subfolder, expected)
    name = path.str.rpartition("/")[2]
    numbers = name.str.extract(pattern).astype("Float64")
    masks = {
        "malformed name": numbers[0].isna().to_numpy(),
        "image missing": is_missing(folder, path),
        "repeated picture": name.duplicated().to_numpy(),
    }
    return path, numbers, masks


def is_missing(folder: Path, paths: pd.Series, outside: npt.ArrayLike = False) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), the images that do not exist, including links that lead nowhere.

    Args:
        folder: The data set's folder.
        paths: Paths of the images, relative to `folder`.
        outside: Mask (n,) of the paths not to look for, from `is_outside`.

    Raises:
        FileNotFoundError: None of the images exists.
    """
    wanted = paths[np.broadcast_to(~np.asarray(outside, bool), len(paths))]
    exists = paths.isin([path for path in wanted if os.path.isfile(f"{folder}/{path}")]).to_numpy(bool)
    if len(wanted) and not exists.any():
        problem = f"holds none of the {len(wanted):,} images that its labels name"
        raise missing_data_error(folder, problem, f"images such as {wanted.iloc[0]}")
    return ~exists
