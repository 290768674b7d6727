"""How should an age distribution be turned into an answer? Mean or median year, likeliest or median group.

    python benchmarks/answers.py DATA [--runs FOLDER] [--models FOLDER]

DATA holds UTKFace/ and FairFace/, as for `python -m experiments.train_residual`, whose validation faces are asked.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.release import load_data
from src.config import AGE_GROUPS, CACHE, MODELS, YEARS
from src.data import AGE_GROUPS_OF
from src.data import table as tables
from src.evaluation import metrics
from src.evaluation.calibration import sum_to_groups
from src.models import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=CACHE)
    parser.add_argument("--models", type=Path, default=MODELS)
    options = parser.parse_args()
    data = load_data(options.data, options.runs)
    gender, age = (model_folder.load_model(options.models / task).model for task in ("gender", "age"))
    rows = []
    for name in ("utkface", "fairface"):
        chosen = np.flatnonzero((data.split == "validation") & (data.table["dataset"] == name).to_numpy(bool))
        table, faces = data.table.iloc[chosen].reset_index(drop=True), np.asarray(data.faces[chosen])
        female_male, years = (model.predict(faces, verbose=0) for model in (gender, age))
        for rule, ordered in (("likeliest or mean", False), ("median", True)):
            groups = AGE_GROUPS[AGE_GROUPS_OF[name]]
            rows.append((name, rule, len(table), *_scores(table, female_male, years, groups, ordered)))
    columns = ["data set", "answer", "n", "gender", "exact", "within one", "years off", "group of that year"]
    print(pd.DataFrame(rows, columns=columns).round(4).to_string(index=False))


def _scores(table, gender, age, groups, ordered: bool) -> tuple:
    """Gender accuracy, groups exact and within one, years off, and how often the year lies in the right group."""
    told = tables.task_labels(table, "gender").table["label"]
    right = metrics.exact_match(told.to_numpy(), gender[told.index]).mean()
    label = tables.task_labels(table, "age", groups).table["label"]
    off = np.abs(metrics.decode(sum_to_groups(age, groups), ordered)[label.index] - label)
    year = metrics.decode(age, ordered=True) if ordered else metrics.expected_years(age, np.arange(YEARS))
    error = np.abs(year - tables.exact_years(table))
    error = np.nanmean(error) if np.isfinite(error).any() else np.nan
    of_year = groups.index(np.round(year), np.round(year))[label.index]
    return right, (off == 0).mean(), (off <= 1).mean(), error, (of_year == label).mean()


if __name__ == "__main__":
    main()
