"""Counts the rows that each data set's loader reads, drops (by reason) and keeps.

    python -m benchmarks.funnels utkface=FOLDER adience=FOLDER … [--csv docs/results/funnels.csv]

The images of Adience and IMDB-WIKI are not opened, so their label files are enough.
"""

import pandas as pd

from benchmarks.common import parser, report
from src import data

LABELS_ONLY = ("adience", "imdb_wiki")


def funnel(name: str, folder: str) -> pd.DataFrame:
    """Returns the columns dataset, step ("read", the reasons by frequency, "kept") and rows."""
    table, ledger = data.load(name, folder, **({"check_images": False} if name in LABELS_ONLY else {}))
    steps = {"read": len(table) + len(ledger)} | ledger["reason"].value_counts().to_dict() | {"kept": len(table)}
    return pd.DataFrame({"dataset": name, "step": list(steps), "rows": list(steps.values())})


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    options = arguments.parse_args()
    report(pd.concat([funnel(*one.split("=", 1)) for one in options.sets], ignore_index=True), options.csv)


if __name__ == "__main__":
    main()
