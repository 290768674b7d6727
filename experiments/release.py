"""What every training of released models shares: the prepared faces, and the steps from a trained network to its release.

`load_data` aligns and splits the data sets. `write_release` calibrates a trained network on the validation faces, evaluates
it on the test faces, and writes the two model folders and the result files.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import log_softmax, softmax

from src import data as datasets
from src.config import AGE_GROUPS, CACHE, GENDERS, MODELS, RESULTS, SEED, YEARS
from src.data.table import exact_years, split, split_key, task_labels
from src.evaluation.calibration import (
    INTERVAL_BANDS,
    Calibration,
    coverage_curve,
    fit_conformal_quantiles,
    fit_temperature,
    reliability,
)
from src.evaluation.metrics import exact_match, prediction_confidence
from src.evaluation.subgroups import evaluate_subgroups, labelled_predictions, load_races
from src.faces.align import Alignment
from src.faces.duplicates import duplicates_as_subjects, near_duplicates
from src.faces.prepare import prepare
from src.files import atomic_write, write_text
from src.keras_setup import keras, layers
from src.models.model_folder import Labels, save_model
from src.models.multitask import LOGITS, AbsoluteError, GenderAccuracy
from src.models.train import TrainingSettings, predict_probabilities

FIRST_DATASETS = ("utkface", "fairface")  # the split of these does not depend on data sets that were added later
ALIGNMENT = Alignment(size=128, eye_distance=0.36, eye_height=0.35)
AUGMENTED = TrainingSettings(
    batch_size=64, rotation=12, zoom=0.15, shift=0.05, brightness=0.3,
    grayscale_probability=0.1, downscale_probability=0.2, random_erasing_probability=0.25, patience=99,
)  # fmt: skip
METRICS = (GenderAccuracy, AbsoluteError)
UNSURE_BELOW = {"gender": 0.75, "age": 0.4}
CONFIDENCE_BINS = 20  # of the reliability curves; both limits of UNSURE_BELOW are edges between two bins


class PreparedData(NamedTuple):
    """Aligned faces with their labels and their split.

    table: A table of faces; near-duplicates share one subject.
    faces: uint8 (n, 128, 128, 3), RGB.
    alignment_source: As in `prepare.Prepared`.
    split: (n,) of "train", "validation", "test", and "none" for a photo without a prepared face.
    folder: The cache folder of the faces, where arrays computed from them are kept as well.
    """

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]
    alignment_source: npt.NDArray[np.object_]
    split: npt.NDArray[np.object_]
    folder: Path


def load_data(folder: Path, runs: Path = CACHE, names: tuple[str, ...] = FIRST_DATASETS) -> PreparedData:
    """Loads data sets, aligns their faces, and splits them so that near-duplicates stay together.

    Args:
        folder: Contains a folder for each data set.
        runs: Cache for the aligned faces.
        names: The data sets; those of `FIRST_DATASETS` come first. Copies of their pictures in later sets follow them.

    Returns:
        The faces of all data sets, in the order of `names`.

    Raises:
        ValueError: A data set cannot be read or prepared.
        OSError: A folder is missing, or the cache cannot be written.
    """
    table = pd.concat([datasets.load(name, folder).table for name in names], ignore_index=True)
    prepared = prepare(table, folder, ALIGNMENT, runs)
    group = cached_array(prepared.folder / "near_duplicates.npy", lambda: near_duplicates(prepared.faces))
    late = ~table["dataset"].isin(FIRST_DATASETS).to_numpy()
    first = duplicates_as_subjects(table[~late], group[~late])
    # A face of a later set takes the split key of its near-duplicates in the first sets, if there are any.
    key_of_group = pd.Series(split_key(first)).groupby(group[~late]).first()
    last = table[late].assign(subject=pd.Series(group[late], table.index[late]).map(key_of_group).astype("string"))
    table = pd.concat([first, duplicates_as_subjects(last, group[late])]) if late.any() else first
    parts = np.where(prepared.reason == "", split(table), "none")
    return PreparedData(table, prepared.faces, prepared.alignment_source, parts, prepared.folder)


def cached_array(file: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in a .npy file, memory-mapped; it is computed and saved first if the file does not exist."""
    if not file.exists():
        values = compute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as new, open(new, "wb") as opened:
            np.save(opened, values)
    return np.load(file, mmap_mode="r")


def predict_with_mirror(model: keras.Model, faces: np.ndarray, rows: np.ndarray) -> npt.NDArray[np.float32]:
    """The mean of the probabilities for each face and for its mirror image.

    Args:
        model: A network with logits of both tasks, as `multitask.add_task_heads` builds it.
        faces: uint8 (n, size, size, 3), RGB.
        rows: Which faces to use, int (m,).

    Returns:
        float32 (m, 103): female and male, then the years 0-100.
    """
    logits = [predict_probabilities(model, some, rows)[:, :LOGITS] for some in (faces, faces[:, :, ::-1])]
    return np.float32(np.mean([np.hstack([softmax(x[:, :2], axis=1), softmax(x[:, 2:], axis=1)]) for x in logits], axis=0))


def log_epoch(history: pd.DataFrame) -> None:
    """Prints the figures of the latest epoch."""
    print(history.round(3).tail(1).to_string(index=False), flush=True)


def extract_task_model(model: keras.Model, task: str, temperature: float = 1.0) -> keras.Model:
    """Builds the classifier of one task from a network for both tasks.

    Args:
        model: A network as `multitask.add_task_heads` builds it.
        task: "gender" or "age".
        temperature: The logits are divided by it, inside the classifier.

    Returns:
        A model from uint8 faces to probabilities (batch, 2) or (batch, 101).
    """
    first, head = model.get_layer("level_one"), model.get_layer(task)
    features = keras.Input((first.output_shape[-1],), name="features")
    last = layers.Dense(head.units, activation="softmax", dtype="float32", name="probability")
    second = keras.Model(features, last(features), name="level_two")
    last.set_weights([weights / temperature for weights in head.get_weights()])
    photo = keras.Input(first.input_shape[1:], dtype="uint8", name="face")
    return keras.Model(photo, second(first(photo)), name="two_level_cnn")


def calibrate(data: PreparedData, model: keras.Model) -> tuple[dict[str, keras.Model], dict[str, Calibration]]:
    """Fits temperatures and age intervals on the validation faces; gives classifiers and calibrations by task."""
    rows = np.flatnonzero(data.split == "validation")
    table = data.table.iloc[rows].reset_index(drop=True)
    logits = predict_probabilities(model, data.faces, rows)
    gender, age = log_softmax(logits[:, :2], axis=1), log_softmax(logits[:, 2:LOGITS], axis=1)
    ranges = AGE_GROUPS["fairface"]
    of_gender, of_age = (task_labels(table, task, ranges).table["label"] for task in ("gender", "age"))
    temperatures = {
        "gender": fit_temperature(gender[of_gender.index], of_gender.to_numpy()),
        "age": fit_temperature(age[of_age.index], of_age.to_numpy(), ranges.index(np.arange(YEARS), np.arange(YEARS))),
    }
    quantiles = fit_conformal_quantiles(softmax(age / temperatures["age"], axis=1), exact_years(table))
    calibration = {
        "gender": Calibration(UNSURE_BELOW["gender"]),
        "age": Calibration(UNSURE_BELOW["age"], INTERVAL_BANDS, quantiles),
    }
    return {task: extract_task_model(model, task, value) for task, value in temperatures.items()}, calibration


def evaluate_test_faces(
    data: PreparedData, folder: Path, models: dict[str, keras.Model], calibration: dict, names: tuple[str, ...]
) -> dict[str, pd.DataFrame]:
    """Evaluates the classifiers on each data set's test faces; gives the result tables by their names."""
    tables: dict[str, list[pd.DataFrame]] = {"results": [], "reliability": [], "coverage": []}
    for name in names:
        rows = np.flatnonzero((data.split == "test") & (data.table["dataset"] == name).to_numpy(bool))
        table = data.table.iloc[rows].reset_index(drop=True)
        gender, age = (predict_probabilities(models[task], data.faces, rows).astype(float) for task in ("gender", "age"))
        tables["results"].append(evaluate_subgroups(table, gender, age, calibration["age"], load_races(table, folder)))
        for task, predicted in (("gender", gender), ("age", age)):
            _, truth, probability, ordered = labelled_predictions(table, task, predicted)
            curve = reliability(probability, truth, CONFIDENCE_BINS, ordered)
            tables["reliability"].append(curve.assign(dataset=name, task=task))
            curve = coverage_curve(prediction_confidence(probability, ordered), exact_match(truth, probability, ordered))
            tables["coverage"].append(curve.assign(dataset=name, task=task))
    return {name: pd.concat(some, ignore_index=True) for name, some in tables.items()}


def save_task_models(
    data: PreparedData, models: dict, calibration: dict, results: pd.DataFrame, trained_on: dict, target: Path
) -> None:
    """Writes the model folders `gender` and `age` in `target`, each with the results of its own task on its card."""
    years = tuple(range(YEARS))
    labels = {
        "gender": Labels("gender", GENDERS),
        "age": Labels("age", tuple(map(str, years)), tuple((year, year) for year in years), years),
    }
    counts = pd.crosstab(data.table["dataset"], data.split)
    trained_on = trained_on | {"faces": counts.to_dict("index"), "test_fold": None}
    for task, model in models.items():
        mine = results[results["measure"].str.contains("gender") == (task == "gender")]
        rows = [row.dropna().to_dict() for _, row in mine.iterrows()]
        save_model(target / task, model, labels[task], ALIGNMENT, trained_on, rows, asdict(calibration[task]))


def parse_arguments(arguments: list[str] | None, description: str | None, names: tuple[str, ...]) -> argparse.Namespace:
    """Reads the command line of a training and loads its data sets into `options.prepared`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that contains the data sets")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--runs", type=Path, default=CACHE, help="folder for intermediate results, about 10 GB")
    parser.add_argument("--release", action="store_true", help="write to models/ and docs/results/ instead of --runs")
    options = parser.parse_args(arguments)
    try:
        options.prepared = load_data(options.data, options.runs, names)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(pd.crosstab(options.prepared.table["dataset"], options.prepared.split))
    return options


def write_release(options: argparse.Namespace, names: tuple[str, ...], model: keras.Model, history: pd.DataFrame) -> None:
    """Calibrates and evaluates a trained network and writes its models and result files.

    Args:
        options: As `parse_arguments` gives them.
        names: The data sets.
        model: The network for both tasks.
        history: One row of figures for each epoch.
    """
    data, target = options.prepared, options.runs / f"released-{options.seed}"
    models, calibration = calibrate(data, model)
    tables = evaluate_test_faces(data, options.data, models, calibration, names) | {"history": history}
    trained_on = {"dataset": f"{', '.join(names[:-1])} and {names[-1]}", "epochs": len(history), "seed": options.seed}
    save_task_models(data, models, calibration, tables["results"], trained_on, MODELS if options.release else target)
    results = RESULTS if options.release else target / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_text(results / f"released_{name}.csv", table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
    overall = tables["results"].query("by == 'all'")
    print(overall.drop(columns=["by", "group", "unit"]).round(4).to_string(index=False))
