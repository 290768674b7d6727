"""The steps of `train_released` before and after the training: from data sets to model folders and result files.

`load_data` aligns and splits the data sets, and `fit_multitask` trains a network for both tasks. `write_release` calibrates
it on the validation faces, evaluates it on the test faces, and writes the models and the result files. `data` is always the
result of `load_data`, `folder` contains a folder for each data set, and `runs` is the folder for intermediate results.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import log_softmax, softmax

from experiments import multitask
from src import data as datasets
from src.config import AGE_GROUPS, CACHE, GENDERS, YEAR_COUNT
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
from src.evaluation.subgroups import Grouping, Metric, evaluate_subgroups, labelled_predictions, load_races
from src.faces.align import Alignment
from src.faces.duplicates import duplicates_as_subjects, near_duplicates
from src.faces.prepare import prepare
from src.files import atomic_write, write_text
from src.keras_setup import keras, layers, ops
from src.models.model_folder import Labels, save_model
from src.models.train import TrainingSettings, fit, predict_probabilities

TRAINING_DATASETS = ("utkface", "fairface", "allagefaces")
# The data sets of release 1.0. The third does not change their split, so all releases are tested on the same faces of them.
_FIRST_DATASETS = TRAINING_DATASETS[:2]
ALIGNMENT = Alignment(size=128, eye_distance=0.36, eye_height=0.35)
BASE_SETTINGS = TrainingSettings(
    batch_size=64, rotation=12, zoom=0.15, shift=0.05, brightness=0.3,
    grayscale_probability=0.1, downscale_probability=0.2, random_erasing_probability=0.25, patience=99,
)  # fmt: skip
METRICS = (multitask.GenderAccuracy, multitask.AbsoluteError)
UNSURE_BELOW = {"gender": 0.75, "age": 0.4}
CONFIDENCE_BINS = 20  # bins of the reliability curves; both limits of UNSURE_BELOW are edges between two bins


class PreparedData(NamedTuple):
    """Aligned faces with their labels and their split.

    Attributes:
        table: A table of faces; near-duplicates share one subject.
        faces: uint8 (n, 128, 128, 3), RGB.
        alignment_source: See `prepare.AlignedFaces`.
        split: "train", "validation" or "test" (n,); "none", which is never used, for an image without an aligned face.
        folder: The cache folder of the faces, which also contains arrays computed from them.
    """

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]
    alignment_source: npt.NDArray[np.object_]
    split: npt.NDArray[np.object_]
    folder: Path


def load_data(folder: Path, runs: Path = CACHE) -> PreparedData:
    """Loads `TRAINING_DATASETS`, aligns their faces, and splits them so that near-duplicates stay together.

    Args:
        folder: Contains the folders UTKFace, FairFace and AllAgeFaces.
        runs: Cache for the aligned faces.

    Raises:
        ValueError: A data set cannot be read or prepared.
        OSError: A folder is missing, or the cache cannot be written.
    """
    table = pd.concat([datasets.load(name, folder).table for name in TRAINING_DATASETS], ignore_index=True)
    prepared = prepare(table, folder, ALIGNMENT, runs)
    group = cached_array(prepared.folder / "near_duplicates.npy", lambda: near_duplicates(prepared.faces))
    is_first = table["dataset"].isin(_FIRST_DATASETS).to_numpy()
    first = duplicates_as_subjects(table[is_first], group[is_first])
    # A face of the third data set that has near-duplicates in the first two gets their split key as its subject, and thus
    # their split.
    key_by_group = pd.Series(split_key(first)).groupby(group[is_first]).first()
    third_groups = pd.Series(group[~is_first], table.index[~is_first])
    third = table[~is_first].assign(subject=third_groups.map(key_by_group).astype("string"))
    table = pd.concat([first, duplicates_as_subjects(third, group[~is_first])])
    splits = np.where(prepared.usable, split(table), "none")
    return PreparedData(table, prepared.faces, prepared.alignment_source, splits, prepared.folder)


def cached_array(file: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array in a .npy file, memory-mapped; it is computed and saved first if the file does not exist."""
    if not file.exists():
        values = compute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as new:
            np.save(new, values)
    return np.load(file, mmap_mode="r")


def predict_both_ways(model: keras.Model, faces: np.ndarray, rows: np.ndarray) -> npt.NDArray[np.float32]:
    """Returns the mean of the probabilities for each face and for its mirror image.

    Args:
        model: A network for both tasks, from `multitask.add_task_heads`.
        faces: uint8 (n, size, size, 3), RGB.
        rows: Indices of the faces to use, int (m,).

    Returns:
        float32 (m, 103): female and male, then the years 0-100.
    """
    both = [predict_tasks(model, images, rows) for images in (faces, faces[:, :, ::-1])]
    return np.float32(np.mean(both, axis=0))


def predict_tasks(model: keras.Model, faces: np.ndarray, rows: np.ndarray) -> npt.NDArray[np.float32]:
    """Returns the probabilities for each face as `predict_both_ways` does, but without the mirror image."""
    logits = predict_probabilities(model, faces, rows)
    return np.hstack([softmax(logits[:, :2], axis=1), softmax(logits[:, 2:], axis=1)])


def log_epoch(history: pd.DataFrame) -> None:
    """Prints the losses and metrics of the latest epoch."""
    print(history.round(3).tail(1).to_string(index=False), flush=True)


def fit_multitask(
    model: keras.Model, data: PreparedData, settings: TrainingSettings, runs: Path, targets: np.ndarray | None = None
) -> tuple[keras.Model, pd.DataFrame]:
    """Trains a network for both tasks. An interrupted training resumes, and a complete one is only loaded.

    Args:
        model: The network, from `multitask.add_task_heads`.
        data: Its training and validation faces are used.
        settings: How to train.
        runs: The states of the training are kept in its folder `training`.
        targets: A teacher's targets, float32 (n, 103); see `multitask_labels`. None trains on the labels alone.

    Returns:
        The model of the epoch with the lowest validation loss, in float32, and the history, one row per epoch.
    """
    return fit(
        model, data.faces, np.arange(len(data.table)), multitask.multitask_labels(data.table, targets), data.split, settings,
        on_epoch=log_epoch, checkpoint_folder=runs / "training", metrics=METRICS,
        loss=multitask.multitask_loss if targets is None else multitask.distillation_loss,
    )  # fmt: skip


def mirrored_network(model: keras.Model) -> keras.Model:
    """Returns a copy of a network for both tasks that averages the features of each face and of its mirror image."""
    averaged = multitask.add_task_heads(mirrored_level_one(model.get_layer("level_one")))
    averaged.set_weights(model.get_weights())
    return averaged


def mirrored_level_one(level_one: keras.Model) -> keras.Model:
    """Builds a level one that averages the features of a face and of its mirror image.

    Args:
        level_one: The feature extractor to apply to both; its weights are copied.

    Returns:
        A model with the same inputs and outputs, whose layer `trunk` is the copy.
    """
    trunk = keras.Model.from_config(level_one.get_config() | {"name": "trunk"})
    trunk.set_weights(level_one.get_weights())
    face = keras.Input(level_one.input_shape[1:], dtype="uint8", name="face")
    features = layers.Average(name="mean_of_both")([trunk(face), trunk(ops.flip(face, axis=2))])
    return keras.Model(face, features, name="level_one")


def extract_task_model(model: keras.Model, task: str, temperature: float = 1.0) -> keras.Model:
    """Builds the classifier of one task from a network for both tasks.

    Args:
        model: A network from `multitask.add_task_heads`.
        task: "gender" or "age".
        temperature: The classifier divides the logits by it.

    Returns:
        A model from uint8 faces to probabilities (batch, 2) or (batch, 101).
    """
    level_one, head = model.get_layer("level_one"), model.get_layer(task)
    features = keras.Input((level_one.output_shape[-1],), name="features")
    last = layers.Dense(head.units, activation="softmax", dtype="float32", name="probability")
    level_two = keras.Model(features, last(features), name="level_two")
    last.set_weights([weights / temperature for weights in head.get_weights()])
    face = keras.Input(level_one.input_shape[1:], dtype="uint8", name="face")
    return keras.Model(face, level_two(level_one(face)), name="two_level_cnn")


def _calibrate(data: PreparedData, model: keras.Model) -> tuple[dict[str, keras.Model], dict[str, Calibration]]:
    """Fits temperatures and age intervals on the validation faces; returns classifiers and calibrations by task."""
    rows = np.flatnonzero(data.split == "validation")
    table = data.table.iloc[rows].reset_index(drop=True)
    logits = predict_probabilities(model, data.faces, rows)
    gender, age = log_softmax(logits[:, :2], axis=1), log_softmax(logits[:, 2:], axis=1)
    ranges = AGE_GROUPS["fairface"]
    years = np.arange(YEAR_COUNT)
    gender_labels = task_labels(table, "gender").table["label"]
    age_labels = task_labels(table, "age", ranges).table["label"]
    temperatures = {
        "gender": fit_temperature(gender[gender_labels.index], gender_labels.to_numpy()),
        "age": fit_temperature(age[age_labels.index], age_labels.to_numpy(), ranges.index(years, years)),
    }
    quantiles = fit_conformal_quantiles(softmax(age / temperatures["age"], axis=1), exact_years(table))
    calibration = {
        "gender": Calibration(UNSURE_BELOW["gender"]),
        "age": Calibration(UNSURE_BELOW["age"], INTERVAL_BANDS, quantiles),
    }
    return {task: extract_task_model(model, task, value) for task, value in temperatures.items()}, calibration


def _evaluate_test_faces(
    data: PreparedData, folder: Path, models: dict[str, keras.Model], calibration: dict[str, Calibration]
) -> dict[str, pd.DataFrame]:
    """Evaluates the classifiers on each data set's test faces; returns the tables results, reliability and coverage."""
    tables: dict[str, list[pd.DataFrame]] = {"results": [], "reliability": [], "coverage": []}
    for name in data.table["dataset"].unique():
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
    return {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}


def save_task_models(
    data: PreparedData, models: dict, calibration: dict, results: pd.DataFrame, trained_on: dict, target: Path
) -> None:
    """Writes the model folders `gender` and `age` in `target`, each with the results of its own task on its card."""
    years = tuple(range(YEAR_COUNT))
    labels = {
        "gender": Labels("gender", GENDERS),
        "age": Labels("age", tuple(map(str, years)), tuple((year, year) for year in years), years),
    }
    counts = pd.crosstab(data.table["dataset"], data.split)
    trained_on = trained_on | {"faces": counts.to_dict("index"), "test_fold": None}
    for task, model in models.items():
        of_task = results[[Metric(name).task == task for name in results["metric"]]]
        rows = [row.dropna().to_dict() for _, row in of_task.iterrows()]
        save_model(target / task, model, labels[task], ALIGNMENT, trained_on, rows, calibration[task])


def write_release(
    data: PreparedData, folder: Path, model: keras.Model, history: pd.DataFrame, seed: int, models: Path, results: Path
) -> None:
    """Calibrates and evaluates a trained network, and writes the models and the result files.

    Args:
        data: Its validation faces calibrate, its test faces evaluate.
        folder: Contains the data sets, with their labels of race.
        model: A network for both tasks, from `multitask.add_task_heads`.
        history: One row per epoch of its training.
        seed: Seed of its training.
        models: Gets the folders `gender` and `age`.
        results: Gets the files `released_*.csv`.
    """
    classifiers, calibration = _calibrate(data, model)
    tables = _evaluate_test_faces(data, folder, classifiers, calibration) | {"history": history}
    *names, last = data.table["dataset"].unique()
    trained_on = {"dataset": f"{', '.join(names)} and {last}", "epochs": len(history), "seed": seed}
    save_task_models(data, classifiers, calibration, tables["results"], trained_on, models)
    results.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_text(results / f"released_{name}.csv", table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
    overall = tables["results"][tables["results"]["by"] == Grouping.ALL]
    print(overall.drop(columns=["by", "group", "unit"]).round(4).to_string(index=False))
