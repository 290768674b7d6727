"""Functions that loaders share: finding a data set's files, reading labels, checking which images exist."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.files import walk_images

# A path that is empty, absolute (POSIX or Windows) or contains "..", and may therefore lead outside the data set's folder.
OUTSIDE_PATTERN = r"^\s*$|^[\\/]|^[A-Za-z]:|(?:^|[\\/])\.\.(?:[\\/]|$)"


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
    """Returns "NAME/" of the first of these subfolders that contains a file matching the glob `pattern`; "" if none does."""
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
    """Maps label texts to the columns age_low and age_high (Float64), in years; NA for unknown texts."""
    low = {text: first for text, (first, _) in ranges.items()}
    high = {text: last for text, (_, last) in ranges.items()}
    return {"age_low": labels.map(low).astype("Float64"), "age_high": labels.map(high).astype("Float64")}


def is_outside(paths: pd.Series) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), the paths that are empty, absolute or contain ".."; see `OUTSIDE_PATTERN`."""
    return paths.str.contains(OUTSIDE_PATTERN).to_numpy(bool)


def list_images(folder: Path, expected: str) -> pd.Series:
    """Lists all images below a folder, sorted: paths relative to `folder`, with forward slashes.

    The search follows links. See `files.walk_images` for the files that it skips.

    Raises:
        FileNotFoundError: There are no images; the message names what was `expected`.
    """
    found = sorted(walk_images(folder, follow_links=True))
    if not found:
        raise missing_data_error(folder, "contains no images", expected)
    return pd.Series(found, dtype="str")


def parse_file_names(
    folder: str | Path, subfolders: tuple[str, ...], pattern: str, expected: str
) -> tuple[pd.Series, pd.DataFrame, dict[str, npt.NDArray[np.bool_]]]:
    """Reads a data set whose labels are numbers in the names of its images.

    Args:
        folder: The data set's folder, or the parent of one of `subfolders`.
        subfolders: Names of the folder with the images.
        pattern: Regular expression of a file name, with one group per number.
        expected: What the folder should contain, for the error message.

    Returns:
        The paths, sorted; the numbers, Float64 (n, groups), NA where a name does not fit; and masks (n,) by reason. A
        repeated image has the name of an earlier one that is kept.
    """
    folder = require_folder(folder, expected)
    subfolder = find_subfolder(folder, subfolders)
    path = subfolder + list_images(folder / subfolder, expected)
    name = path.str.rpartition("/")[2]
    numbers = name.str.extract(pattern).astype("Float64")
    masks = {"malformed name": numbers[0].isna().to_numpy(), "image missing": is_missing(folder, path)}
    return path, numbers, masks | {"repeated image": is_duplicate(name, masks)}


def is_duplicate(file: pd.Series, reasons: dict[str, npt.ArrayLike]) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), rows without a reason to drop them whose file is that of an earlier such row."""
    kept = ~np.logical_or.reduce(list(reasons.values()))
    return kept & file.where(kept).duplicated().to_numpy()


def is_missing(folder: Path, paths: pd.Series) -> npt.NDArray[np.bool_]:
    """Marks, shape (n,), the images that do not exist, including broken links and paths that lead outside the folder.

    Args:
        folder: The data set's folder.
        paths: Paths of the images, relative to `folder`.

    Raises:
        FileNotFoundError: None of the images exists.
    """
    wanted = paths[~is_outside(paths)]
    exists = paths.isin([path for path in wanted if os.path.isfile(f"{folder}/{path}")]).to_numpy(bool)
    if len(wanted) and not exists.any():
        problem = f"contains none of the {len(wanted):,} images that its labels name"
        raise missing_data_error(folder, problem, f"images such as {wanted.iloc[0]}")
    return ~exists
