"""Reading one struct of a Matlab file into plain columns, quickly enough for half a million records.

Before it: nothing. After it: `imdb_wiki`.
"""

import contextlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat


def read_struct(
    file: Path, struct: str, texts: tuple[str, ...], boxes: tuple[str, ...], numbers: tuple[str, ...], optional: tuple = ()
) -> dict:
    """Fields of a Matlab file's one struct, each of the same length n.

    texts: cell arrays of text, given as lists of str, "" where a cell is empty. boxes: cell arrays of four numbers, given
    as float (n, 4), NaN where a cell is no box. numbers: given as float (n,). optional: those of the names that may be
    absent, and then are in the answer too. Raises ValueError, naming the file, for anything else.
    """
    found = _found(file, struct)
    wanted = [name for name in (*texts, *boxes, *numbers) if name in found.dtype.names or name not in optional]
    missing = [name for name in wanted if name not in found.dtype.names]
    if missing:
        raise ValueError(f"{file}: the struct {struct} lacks {', '.join(missing)}; it has {', '.join(found.dtype.names)}")
    fields = {name: found.flat[0][name].ravel() for name in wanted}
    sizes = {name: field.size for name, field in fields.items()}
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{file}: the fields of {struct} must be equally long, got {told}")
    try:
        for name, cells in fields.items():
            read = _texts if name in texts else _boxes if name in boxes else _numbers
            fields[name] = read(cells)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: expected numbers in the field {name}, got {cells.dtype} data: {error}") from error
    return fields


def _found(file: Path, struct: str) -> np.ndarray:
    try:
        content = loadmat(file)
    except Exception as error:  # a damaged file makes scipy raise nearly anything, from zlib.error to TypeError
        raise ValueError(f"{file}: expected a Matlab file of version 5 to 7, but reading it failed: {error}") from error
    found = content.get(struct)
    if not getattr(getattr(found, "dtype", None), "names", None) or found.size != 1:
        names = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise ValueError(f"{file}: expected one Matlab struct named {struct}, got a file that holds {names}")
    return found


def text(cell) -> str:
    """A cell's text: "" where it is empty, and never a character that UTF-8 can't write."""
    flat = np.asarray(cell).ravel()
    if not flat.size:
        return ""
    return str(decoded(flat[0])).encode("utf-8", "replace").decode("utf-8")


def decoded(value):
    """Bytes as text, from UTF-8 or else Latin-1; anything else as it is."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _texts(cells: np.ndarray) -> list[str]:
    try:
        found = [cell.item() if cell.size == 1 else text(cell) for cell in cells]
        "".join(found).encode("utf-8")
        return found
    except (AttributeError, TypeError, ValueError):  # an odd cell or character among them: look at each closely
        pass
    return [text(cell) for cell in cells]


def _boxes(cells: np.ndarray) -> np.ndarray:
    with contextlib.suppress(TypeError, ValueError):  # an odd cell among them: look at each closely
        joined = np.concatenate(cells.tolist(), dtype=float)
        if joined.shape == (len(cells), 4) and all(map(len, cells)):
            return joined
    no_box = np.full(4, np.nan)
    boxes = [np.ravel(cell) for cell in cells]
    return np.array([box if box.size == 4 else no_box for box in boxes], float).reshape(-1, 4)


def _numbers(cells: np.ndarray) -> np.ndarray:
    return cells.astype(float)
