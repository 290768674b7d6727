"""Label agreement: images that a data set contains twice, each time with its own label.

    python -m benchmarks.label_limits FOLDER [--runs cache] [--csv FILE]

FOLDER contains UTKFace/, FairFace/ and AllAgeFaces/. Only pairs of near-duplicates count, not larger groups. For each data
set and band of ages, it measures the share of pairs with different genders, and the mean number of years between their ages.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import parser, report
from experiments.results import OTHER_GENDER, YEARS_APART
from experiments.training_steps import load_data
from src.config import CACHE
from src.data.table import exact_years
from src.evaluation.metrics import Estimate, Unit, bootstrap_mean

BANDS = {"0–6": (0, 6), "7 and older": (7, np.inf), "all": (0, np.inf)}  # years, for both labels
MIN_PAIRS = 30  # smallest number of pairs for a row
COLUMNS = ["dataset", "ages", "metric", *Estimate._fields]


def pairs_of(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of both faces of each pair. The column `group` of the table numbers the groups of near-duplicates."""
    places = table.groupby("group").indices.values()
    return tuple(np.array([two for two in places if len(two) == 2], int).reshape(-1, 2).T)


def agreement(table: pd.DataFrame) -> list[dict]:
    """Returns a row for each data set, band of ages and label with enough pairs. The table is that of `pairs_of`."""
    rows = []
    for name, mine in table.groupby("dataset", sort=False):
        first, second = (mine.iloc[places].reset_index(drop=True) for places in pairs_of(mine))
        compared = {
            OTHER_GENDER: (first["gender"] != second["gender"], Unit.SHARE),  # NA where one of them is unknown
            YEARS_APART: (pd.Series(np.abs(exact_years(first) - exact_years(second))), Unit.YEARS),
        }
        lowest = np.minimum(first["age_low"], second["age_low"])
        highest = np.maximum(first["age_high"], second["age_high"])
        for band, (low, high) in BANDS.items():
            within = (lowest >= low) & (highest <= high)
            for metric, (scores, unit) in compared.items():
                known = scores[within.fillna(False)].dropna().to_numpy(float)
                if len(known) >= MIN_PAIRS:
                    found = bootstrap_mean(known, unit=unit)._asdict()
                    rows.append({"dataset": name, "ages": band, "metric": metric, **found})
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--runs", type=Path, default=CACHE, help="folder for aligned faces (default: %(default)s)")
    options = arguments.parse_args()
    data = load_data(options.folder, options.runs)
    group = np.load(data.folder / "near_duplicates.npy")
    report(pd.DataFrame(agreement(data.table.assign(group=group)), columns=COLUMNS), options.csv)


if __name__ == "__main__":
    main()
