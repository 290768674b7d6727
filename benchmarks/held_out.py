"""The released models on faces that they were not trained on: the held-out tenth of a data set.

    python benchmarks/held_out.py utkface /path/to/UTKFace

Prints the headline figures with their 95% bootstrap intervals twice: for faces prepared as in training, and from the
photo file through `predict`, as a user has them (the largest face; the whole photo where none is found).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from src import datasets, evaluate, model_folder, predict, prepare, tables, train
from src.config import AGE_GROUPS, MODELS, AgeGroups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=datasets.NAMES)
    parser.add_argument("folder", type=Path, nargs="?", default="")
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age")
    options = parser.parse_args()
    folder = datasets.place(options.dataset, options.folder)
    table = datasets.load(options.dataset, folder).table
    models = {task: model_folder.load(place) for task, place in
              (("gender", options.gender_model), ("age", options.age_model))}  # fmt: skip
    folds = {trained.card["trained_on"]["test_fold"] for trained in models.values()}
    if len(folds) > 1:
        raise SystemExit(f"error: the two models must have the same test part, got test folds {folds}")
    groups = next(groups for groups in AGE_GROUPS.values() if groups.years == models["age"].labels.years)
    photos = table[tables.split(table, folds.pop()) == "test"].reset_index(drop=True)
    for task, trained in models.items():
        prepared = prepare.prepare(photos, folder, trained.alignment)
        labelled = tables.for_task(photos, task, groups).table
        labelled = labelled[prepared.how[labelled.index] != ""]
        show(f"{task}, prepared as in training", judge(trained, labelled, prepared.faces))
        print(pd.Series(prepared.how[labelled.index]).value_counts().rename("aligned by").to_string(), "\n")
    answers = predict.predict(
        [folder / path for path in photos["path"]], options.gender_model, options.age_model, "whole-photo"
    )
    end_to_end(photos, groups, answers[answers["face"].isin([1]) | answers["face"].isna()].reset_index(drop=True))


def judge(trained: model_folder.TrainedModel, labelled: pd.DataFrame, faces: np.ndarray) -> pd.DataFrame:
    labels = trained.labels
    probability = train.predict(trained.model, faces, labelled.index)
    years = tables.exact_years(labelled) if labels.task == "age" else None
    return evaluate.headline(
        labels.task, labelled["label"], probability, years, labels.centre_years, labelled["subject"]
    )


def end_to_end(photos: pd.DataFrame, groups: AgeGroups, answers: pd.DataFrame) -> None:
    truth = groups.index(photos["age_low"], photos["age_high"])
    said = answers["age_group"].map({name: i for i, name in enumerate(groups.names)}).to_numpy(float, na_value=np.nan)
    error = (answers["age_years"] - photos["age_low"]).abs().to_numpy(float, na_value=np.nan)
    known = ~np.isnan(error) & (photos["age_low"] == photos["age_high"]).to_numpy(bool, na_value=False)
    aged, gendered = truth >= 0, photos["gender"].notna().to_numpy()
    right = (answers["gender"] == photos["gender"]).to_numpy(bool, na_value=False)
    measures = {
        "gender accuracy": evaluate.with_interval(right[gendered]),
        "age accuracy": evaluate.with_interval((said == truth)[aged]),
        "age one-off accuracy": evaluate.with_interval((abs(said - truth) <= 1)[aged]),
        "mean absolute error": evaluate.with_interval(error[known], unit="years"),
    }
    print("from photo to answer", answers["status"].value_counts().to_dict())
    print(pd.Series({name: str(measure) for name, measure in measures.items()}).to_string())


def show(title: str, headline: pd.DataFrame) -> None:
    print(title)
    print(pd.Series({row.Index: str(evaluate.Measure(*row[1:])) for row in headline.itertuples()}).to_string())


if __name__ == "__main__":
    main()
