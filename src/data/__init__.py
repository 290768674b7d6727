"""Data sets: each loader reads the files of one data set as its owners publish them and returns a table of faces."""

from collections.abc import Callable
from pathlib import Path

from src.data import adience, allagefaces, fairface, imdb_wiki, utkface
from src.data.table import Loaded, check_table
from src.sample import draw

LOADERS: dict[str, Callable[..., Loaded]] = {
    "sample": adience.load,  # drawn faces in Adience's layout
    "adience": adience.load,
    "imdb_wiki": imdb_wiki.load,
    "utkface": utkface.load,
    "fairface": fairface.load,
    "allagefaces": allagefaces.load,
}
NAMES = tuple(LOADERS)
# The key in `config.AGE_GROUPS` of the age classes that suit each data set's labels.
AGE_GROUPS_OF = {name: "fairface" if name == "fairface" else "adience" for name in NAMES}


def resolve_folder(name: str, folder: str | Path = "") -> Path:
    """Returns the folder to load a data set from. For the sample, this is its own folder; it is drawn first if necessary.

    Raises:
        ValueError: No folder is given for a data set other than the sample.
    """
    if name == "sample":
        return draw.draw_sample() / "adience"
    if not str(folder):
        raise ValueError(f"{name} requires its folder, got none; data/README.md says what the folder holds")
    return Path(folder).expanduser()


def load(name: str, folder: str | Path, **options) -> Loaded:
    """Loads a data set.

    Args:
        name: One of `NAMES`.
        folder: Folder of the unpacked data set.
        **options: Options of the data set's own `load`.

    Returns:
        The table of faces, with at least one row, and the ledger of the rows that were dropped.

    Raises:
        ValueError: The name or an option is unknown, a label file is damaged, or every row was dropped.
        FileNotFoundError: The folder, its label files or all of its images are missing.
    """
    if name not in LOADERS:
        raise ValueError(f"data set must be one of {', '.join(NAMES)}, got {name!r}")
    table, ledger = LOADERS[name](folder, **options)
    if table.empty:
        counts = [f"{reason}: {count:,}" for reason, count in ledger["reason"].value_counts().items()]
        raise ValueError(
            f"{folder}: expected at least one usable face of {name}, but every row was dropped "
            f"({', '.join(counts) or 'the label files have 0 rows'}); data/README.md says what the folder should hold"
        )
    return Loaded(check_table(table.assign(dataset=name)), ledger)
