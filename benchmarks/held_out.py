"""The models from photo file to answer, through `predict` as a user has them, on the test part that they never saw.

    python benchmarks/held_out.py DATA [--runs FOLDER] [--gender-model FOLDER] [--age-model FOLDER] [--csv FILE]

DATA holds UTKFace/ and FairFace/, as for `python -m experiments.train_residual`, and perhaps adience/, whose pictures are all
judged as a check on photos of another kind. The largest face of each photo counts, or the whole photo
where none is found. Headline figures with their 95% bootstrap intervals, named as in `docs/results/released_results.csv`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.release import load_data
from src import data as datasets
from src.config import AGE_GROUPS, CACHE, MODELS
from src.data import table as tables
from src.evaluation.metrics import bootstrap_mean
from src.predict.predictor import predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=CACHE)
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    data = load_data(options.data, options.runs)
    photos_of = dict(list(data.table[data.split == "test"].groupby("dataset")))
    if (options.data / "adience").is_dir():
        photos = datasets.load("adience", options.data / "adience").table
        photos_of["adience"] = photos.assign(path="adience/" + photos["path"])
    rows = []
    for name, photos in photos_of.items():
        photos = photos.reset_index(drop=True)
        files = [options.data / path for path in photos["path"]]
        answers = predict(files, options.gender_model, options.age_model, "whole-photo")
        answers = answers[answers["face"].isin([1]) | answers["face"].isna()].reset_index(drop=True)
        print(name, answers["status"].value_counts().to_dict())
        rows += [{"dataset": name, **row} for row in measured(photos, answers)]
    table = pd.DataFrame(rows)
    print(table.round(4).to_string(index=False))
    if options.csv:
        table.to_csv(options.csv, index=False, float_format="%.5f", lineterminator="\n")


def measured(photos: pd.DataFrame, answers: pd.DataFrame) -> list[dict]:
    """Gender; the eight groups as answered; FairFace's nine ranges as the answered years fall into them; years off."""
    rows, subjects = [], photos["subject"].to_numpy(object)

    def row(
        measure: str, scores: np.ndarray, of: np.ndarray, unit: str = "share", by: str = "all", group: str = "all"
    ) -> None:
        found = bootstrap_mean(scores[of], subjects[of], unit)._asdict()
        rows.append({"measure": measure, "by": by, "group": group} | found)

    row("no face found", (answers["status"] == "whole_photo").to_numpy(float), np.ones(len(photos), bool))
    known = photos["gender"].notna().to_numpy()
    right = (answers["gender"] == photos["gender"]).to_numpy(bool, na_value=False)
    row("gender accuracy", right, known)
    low, high = (photos[name].to_numpy(float, na_value=np.nan) for name in ("age_low", "age_high"))
    years = answers["age_years"].to_numpy(float, na_value=np.nan)
    eight, nine = AGE_GROUPS["adience"], AGE_GROUPS["fairface"]
    said = {
        "eight groups": (eight, answers["age_group"].map({name: i for i, name in enumerate(eight.names)}).to_numpy(float)),
        "nine ranges": (nine, nine.index(np.round(years), np.round(years))),
    }
    for what, (groups, answer) in said.items():
        truth = groups.index(low, high)
        labelled = truth >= 0
        if labelled.mean() > 0.5:  # the other data set's groups cut across its labels
            row(f"{what} exact", answer == truth, labelled)
            row(f"{what} 1-off", np.abs(answer - truth) <= 1, labelled)
    exact = np.isfinite(tables.exact_years(photos))
    if exact.any():
        row("gender accuracy", right, known & exact & (low < 7), by="age", group="0-6")
        row("absolute error", np.abs(years - low), exact, "years")
        label = photos["age_low"].clip(upper=100)  # the interval ends at 100
        covered = (answers["age_interval_low"] <= label) & (label <= answers["age_interval_high"])
        row("90% interval covers", covered.to_numpy(bool, na_value=False), exact)
    return rows


if __name__ == "__main__":
    main()
