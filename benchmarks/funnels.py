"""From rows read to faces kept: what each data set's loader leaves out, and why.

    python benchmarks/funnels.py utkface=FOLDER adience=FOLDER … [--csv docs/results/funnels.csv]

Adience and IMDB-WIKI are read without a look at the pictures, so that their label files are enough.
"""

import argparse
from pathlib import Path

import pandas as pd

from src import data
from src.files import write_text

LABELS_ALONE = ("adience", "imdb_wiki")


def funnel(name: str, folder: str) -> pd.DataFrame:
    """Rows of dataset, step and rows: "read", each reason from the commonest on, "kept"."""
    options = {"check_images": False} if name in LABELS_ALONE else {}
    table, ledger = data.load(name, folder, **options)
    steps = {"read": len(table) + len(ledger)} | ledger["reason"].value_counts().to_dict() | {"kept": len(table)}
    return pd.DataFrame({"dataset": name, "step": list(steps), "rows": list(steps.values())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    result = pd.concat([funnel(*one.split("=", 1)) for one in options.sets], ignore_index=True)
    print(result.to_string(index=False))
    if options.csv:
        write_text(options.csv, result.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    main()
