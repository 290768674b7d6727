"""The data sets: each loader reads one as its owners publish it and returns the table of faces with its ledger.

Before it: `tables`. After it: `prepare`.
"""

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
# The age classes of `config.AGE_GROUPS` that suit each set's labels.
AGE_GROUPS_OF = {name: "fairface" if name == "fairface" else "adience" for name in NAMES}


def resolve_folder(name: str, folder: str | Path = "") -> Path:
    """The folder to load the data set `name` from: the given one or, for the sample, its own, drawn first if necessary.

    Raises:
        ValueError: no folder is given for a data set other than the sample.
    """
    if name == "sample":
        return draw.draw_sample() / "adience"
    if not str(folder):
        raise ValueError(f"{name} requires its folder, got none; data/README.md says what the folder holds")
    return Path(folder).expanduser()


def load(name: str, folder: str | Path, **options) -> Loaded:
    """Loads a data set.

    Args:
        name: one of `NAMES`.
        folder: where the data set is unpacked.
        **options: those of the data set's own `load`.

    Returns:
        The table of faces, with at least one row, and the ledger of the rows that were left out.

    Raises:
        ValueError: the name or an option value is unknown, a label file is damaged or empty, or every row was left out; the
            message then gives the reasons with their counts.
        FileNotFoundError: the folder is missing, empty or without the data set's files; the message names what belongs there.
    """
    if name not in LOADERS:
        raise ValueError(f"data set must be one of {', '.join(NAMES)}, got {name!r}")
    table, ledger = LOADERS[name](folder, **options)
    if table.empty:
        counts = ledger["reason"].value_counts()
        told = ", ".join(f"{reason}: {count:,}" for reason, count in counts.items()) or "no rows"
        raise ValueError(
            f"{folder} holds no usable face of {name}: expected at least one, but every row was left out ({told}); "
            "data/README.md says what the folder should hold"
        )
    return Loaded(check_table(table.assign(dataset=name)), ledger)
