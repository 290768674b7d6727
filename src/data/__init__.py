"""Data sets: each loader reads the files of one data set as its authors publish them and returns a table of faces.

Reading order: `table`, `label_files`, `utkface` and the other loaders, `download`.
"""

from importlib import import_module
from pathlib import Path

from src.config import DATA
from src.data.table import TableAndLedger, check_table

# A module of the same name loads each data set. The sample has Adience's layout.
DATASETS = ("sample", "adience", "imdb_wiki", "utkface", "fairface", "allagefaces")
# The key in `config.AGE_GROUPS` of the age classes that suit each data set's labels; Adience's unless stated otherwise.
AGE_GROUPS_OF = dict.fromkeys(DATASETS, "adience") | {"fairface": "fairface"}
TITLES = {  # full names, for tables and figures
    "sample": "synthetic sample", "adience": "Adience", "imdb_wiki": "IMDB-WIKI", "utkface": "UTKFace",
    "fairface": "FairFace", "allagefaces": "All-Age-Faces",
}  # fmt: skip


def resolve_folder(name: str, folder: str | Path = "") -> Path:
    """Returns the folder to load a data set from.

    Args:
        name: One of `DATASETS`.
        folder: The data set's folder; "" selects data/NAME, where `make data` puts it. The sample, which is drawn first if
            necessary, always has its own folder.

    Raises:
        ValueError: A folder is given for the sample.
        FileNotFoundError: The folder does not exist.
    """
    if name == "sample":
        from src.sample import draw

        if str(folder):
            raise ValueError(f"the sample has its own folder, got {folder}: name the data set too, such as DATASET=utkface")
        return draw.draw_sample() / "adience"
    folder = Path(folder).expanduser() if str(folder) else DATA / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected the folder of {name}, but {folder} is not a folder: choose it with DATA=/path, or run "
            f"make data DATASET={name}; data/README.md describes its content"
        )
    return folder


def load(name: str, folder: str | Path, **options) -> TableAndLedger:
    """Loads a data set.

    Args:
        name: One of `DATASETS`.
        folder: Folder of the unpacked data set.
        **options: Options of the data set's own `load`.

    Returns:
        The table of faces, with at least one row, and the ledger of dropped rows.

    Raises:
        ValueError: The name or an option is unknown, a label file is damaged, or every row was dropped.
        FileNotFoundError: The folder, its label files or all of its images are missing.
    """
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {', '.join(DATASETS)}, got {name!r}")
    # Imported here, because predictions need no loader.
    module = import_module(f"src.data.{'adience' if name == 'sample' else name}")
    table, ledger = module.load(folder, **options)
    if table.empty:
        counts = [f"{reason}: {count:,}" for reason, count in ledger["reason"].value_counts().items()]
        raise ValueError(
            f"{folder}: expected at least one usable face of {name}, but every row was dropped "
            f"({', '.join(counts) or 'the label files have 0 rows'}); data/README.md describes the expected content"
        )
    return TableAndLedger(check_table(table.assign(dataset=name)), ledger)  # Adience's loader also reads the sample


def load_for_training(name: str, folder: str | Path, **options) -> TableAndLedger:
    """Loads a data set as `load` does, or the table that notebook 5 has cleaned, if there is one for this folder.

    Prints the size of a cleaned table. With options of the loader it always loads the data set.
    """
    if name == "imdb_wiki" and not options:
        from src.data import imdb_wiki

        cleaned = imdb_wiki.read_cleaned(folder)
        if cleaned:
            print(f"cleaned by notebook 5: {len(cleaned.table):,} faces kept, {len(cleaned.ledger):,} rows dropped")
            return cleaned
    return load(name, folder, **options)
