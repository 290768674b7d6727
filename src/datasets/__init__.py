"""The data sets: each loader reads one as its owners publish it and gives the table of faces with its ledger.

Before it: `tables`. After it: `prepare`.
"""

from collections.abc import Callable
from pathlib import Path

from src.datasets import adience, fairface, imdb_wiki, sample, utkface
from src.tables import Loaded, checked

LOADERS: dict[str, Callable[..., Loaded]] = {
    "sample": adience.load,  # drawn faces in Adience's layout
    "adience": adience.load,
    "imdb_wiki": imdb_wiki.load,
    "utkface": utkface.load,
    "fairface": fairface.load,
}
NAMES = tuple(LOADERS)
# The age classes of `config.AGE_GROUPS` that suit each set's labels.
AGE_GROUPS_OF = {name: "fairface" if name == "fairface" else "adience" for name in NAMES}


def place(name: str, folder: str | Path = "") -> Path:
    """The folder to load the data set `name` from: the one given or, for the sample, its own, drawn if need be.

    Raises ValueError where another data set's folder is not named.
    """
    if name == "sample":
        return sample.draw() / "adience"
    if not str(folder):
        raise ValueError(f"{name} needs its folder, got none; data/README.md says what it holds")
    return Path(folder).expanduser()


def load(name: str, folder: str | Path, **options) -> Loaded:
    """The table of faces of the data set `name` unpacked in `folder`, and the ledger of the rows left out.

    options: those of the data set's own `load`. Raises ValueError for an unknown name or option value, and
    FileNotFoundError, saying what belongs where, for a folder that is missing, empty or without the data set's files.
    """
    if name not in LOADERS:
        raise ValueError(f"data set must be one of {', '.join(NAMES)}, got {name!r}")
    table, ledger = LOADERS[name](folder, **options)
    return Loaded(checked(table.assign(dataset=name)), ledger)
