"""Evaluates `predict`, from photo files to the table, on test faces that the models have not seen.

    python -m benchmarks.held_out DATA [--runs FOLDER] [--gender-model FOLDER] [--age-model FOLDER] [--csv FILE]

DATA contains UTKFace/, FairFace/ and AllAgeFaces/. If it contains adience/, all of Adience is evaluated as well.
The largest face of each photo counts, or the whole photo if no face is found.
The metrics have 95% bootstrap intervals and the names of `docs/results/released_results.csv`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import parser, report
from experiments.results import NO_FACE_METRIC
from experiments.training_steps import load_data
from src import data as datasets
from src.config import AGE_GROUPS, CACHE, MODELS
from src.data import table as tables
from src.evaluation.metrics import Unit, bootstrap_mean
from src.evaluation.subgroups import AGE_BANDS, GROUP_METRICS, Grouping, Metric
from src.predict.extract_faces import Fallback, Status
from src.predict.predictor import predict


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--runs", type=Path, default=CACHE)
    arguments.add_argument("--gender-model", type=Path, default=MODELS / "gender")
    arguments.add_argument("--age-model", type=Path, default=MODELS / "age")
    options = arguments.parse_args()
    data = load_data(options.data, options.runs)
    photos_of = dict(list(data.table[data.split == "test"].groupby("dataset")))
    if (options.data / "adience").is_dir():
        photos = datasets.load("adience", options.data / "adience").table
        photos_of["adience"] = photos.assign(path="adience/" + photos["path"])
    rows = []
    for name, photos in photos_of.items():
        photos = photos.reset_index(drop=True)
        files = [options.data / path for path in photos["path"]]
        predictions = predict(
            files, gender_model=options.gender_model, age_model=options.age_model, fallback=Fallback.WHOLE_PHOTO
        )
        predictions = predictions[predictions["face"].isin([1]) | predictions["face"].isna()].reset_index(drop=True)
        print(name, predictions["status"].value_counts().to_dict())
        rows += [{"dataset": name, **row} for row in measured(photos, predictions)]
    report(rows, options.csv)


def measured(photos: pd.DataFrame, predictions: pd.DataFrame) -> list[dict]:
    """Returns a row for each metric that the data set has labels for; the nine ranges are those of the predicted years."""
    rows, subjects = [], photos["subject"].to_numpy(object)

    def add(metric: str, scores, of, unit: Unit = Unit.SHARE, by: Grouping = Grouping.ALL, group: str = Grouping.ALL) -> None:
        found = bootstrap_mean(scores[of], subjects[of], unit)._asdict()
        rows.append({"metric": metric, "by": by, "group": group} | found)

    add(NO_FACE_METRIC, (predictions["status"] == Status.WHOLE_PHOTO).to_numpy(float), np.ones(len(photos), bool))
    known = photos["gender"].notna().to_numpy()
    is_correct = (predictions["gender"] == photos["gender"]).to_numpy(bool, na_value=False)
    add(Metric.GENDER_ACCURACY, is_correct, known)
    low, high = tables.age_bounds(photos)
    years = predictions["age_years"].to_numpy(float, na_value=np.nan)
    group_number = {name: number for number, name in enumerate(AGE_GROUPS["adience"].names)}
    predicted = {
        "adience": predictions["age_group"].map(group_number).to_numpy(float),
        "fairface": AGE_GROUPS["fairface"].index(np.round(years), np.round(years)),
    }
    for groups, (exact_metric, one_off_metric) in GROUP_METRICS.items():
        truth = AGE_GROUPS[groups].index(low, high)
        labelled = truth >= 0
        if labelled.mean() > 0.5:  # not where most labels overlap several groups
            add(exact_metric, predicted[groups] == truth, labelled)
            add(one_off_metric, np.abs(predicted[groups] - truth) <= 1, labelled)
    exact = np.isfinite(tables.exact_years(photos))
    if exact.any():
        add(Metric.GENDER_ACCURACY, is_correct, known & exact & (low < 7), by=Grouping.AGE, group=AGE_BANDS.names[0])
        add(Metric.ABSOLUTE_ERROR, np.abs(years - low), exact, Unit.YEARS)
        label = photos["age_low"].clip(upper=100)  # the interval ends at 100
        covered = (predictions["age_interval_low"] <= label) & (label <= predictions["age_interval_high"])
        add(Metric.INTERVAL_COVERAGE, covered.to_numpy(bool, na_value=False), exact)
    return rows


if __name__ == "__main__":
    main()
