"""Data sets: each loader reads the files of one data set as its owners publish them and returns a table of faces."""

from importlib import import_module
from pathlib import Path

from src.data.table import Loaded, check_table

# The module of each data set's `load`. It is imported when it is needed: programs that only predict need none.
LOADERS = {
    "sample": "adience",  # drawn faces in Adience's layout
    "adience": "adience",
    "imdb_wiki": "imdb_wiki",
    "utkface": "utkface",
    "fairface": "fairface",
    "allagefaces": "allagefaces",
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
        from src.sample import draw

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
    table, ledger = import_module(f"src.data.{LOADERS[name]}").load(folder, **options)
    if table.empty:
        counts = [f"{reason}: {count:,}" for reason, count in ledger["reason"].value_counts().items()]
        raise ValueError(
            f"{folder}: expected at least one usable face of {name}, but every row was dropped "
            f"({', '.join(counts) or 'the label files have 0 rows'}); data/README.md says what the folder should hold"
        )
    return Loaded(check_table(table.assign(dataset=name)), ledger)


def load_for_training(name: str, folder: str | Path, **options) -> Loaded:
    """Loads a data set as `load` does, or the table that notebook 5 has cleaned, if there is one for this folder.

    Prints which cleaned table it takes. With options of the loader it always loads the data set.
    """
    if name == "imdb_wiki" and not options:
        from src.data import imdb_wiki

        cleaned = imdb_wiki.read_cleaned(folder)
        if cleaned:
            print(f"cleaned by notebook 5: {len(cleaned.table):,} faces kept, {len(cleaned.ledger):,} rows dropped")
            return cleaned
    return load(name, folder, **options)
