"""The steps that `train_residual` and `train_released` share: from data sets to model folders and result files.

`run_training` is their command. It calls `load_data`, which aligns and splits the data sets, then the training itself, and
`write_release`, which calibrates the network on validation faces and evaluates it on test faces.
"""

import argparse
from collections.abc import Callable
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
from src.evaluation.subgroups import Grouping, Metric, evaluate_subgroups, labelled_predictions, load_races
from src.faces.align import Alignment
from src.faces.duplicates import duplicates_as_subjects, near_duplicates
from src.faces.prepare import prepare
from src.files import atomic_write, write_text
from src.keras_setup import keras, layers
from src.models import multitask
from src.models.model_folder import Labels, save_model
from src.models.residual import average_with_mirror_image
from src.models.train import TrainingSettings, fit, predict_probabilities

FIRST_DATASETS = ("utkface", "fairface")  # their split does not depend on data sets that are added later
ALIGNMENT = Alignment(size=128, eye_distance=0.36, eye_height=0.35)
AUGMENTED = TrainingSettings(
    batch_size=64, rotation=12, zoom=0.15, shift=0.05, brightness=0.3,
    grayscale_probability=0.1, downscale_probability=0.2, random_erasing_probability=0.25, patience=99,
)  # fmt: skip
METRICS = (multitask.GenderAccuracy, multitask.AbsoluteError)
UNSURE_BELOW = {"gender": 0.75, "age": 0.4}
CONFIDENCE_BINS = 20  # of the reliability curves; both limits of UNSURE_BELOW are edges between two bins


class PreparedData(NamedTuple):
    """Aligned faces with their labels and their split.

    Attributes:
        table: A table of faces; near-duplicates share one subject.
        faces: uint8 (n, 128, 128, 3), RGB.
        alignment_source: As in `prepare.Prepared`.
        split: "train", "validation" or "test", and "none" for an image without an aligned face (n,).
        folder: The cache folder of the faces, which also holds arrays that are computed from them.
    """

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]
    alignment_source: npt.NDArray[np.object_]
    split: npt.NDArray[np.object_]
    folder: Path


def load_data(folder: Path, runs: Path = CACHE, names: tuple[str, ...] = FIRST_DATASETS) -> PreparedData:
    """Loads data sets, aligns their faces, and splits them so that near-duplicates stay together.

    Args:
        folder: Contains a folder for each data set, with the names UTKFace, FairFace and AllAgeFaces.
        runs: Cache for the aligned faces.
        names: The data sets; those of `FIRST_DATASETS` come first. A near-duplicate in a later data set takes their split.

    Returns:
        The faces of all data sets, in the order of `names`.

    Raises:
        ValueError: A data set cannot be read or prepared.
        OSError: A folder is missing, or the cache cannot be written.
    """
    table = pd.concat([datasets.load(name, folder).table for name in names], ignore_index=True)
    prepared = prepare(table, folder, ALIGNMENT, runs)
    group = cached_array(prepared.folder / "near_duplicates.npy", lambda: near_duplicates(prepared.faces))
    is_later = ~table["dataset"].isin(FIRST_DATASETS).to_numpy()
    first = duplicates_as_subjects(table[~is_later], group[~is_later])
    # A face of a later data set takes the split key of its near-duplicates in the first data sets, if there are any.
    key_by_group = pd.Series(split_key(first)).groupby(group[~is_later]).first()
    later_groups = pd.Series(group[is_later], table.index[is_later])
    later = table[is_later].assign(subject=later_groups.map(key_by_group).astype("string"))
    table = pd.concat([first, duplicates_as_subjects(later, group[is_later])]) if is_later.any() else first
    splits = np.where(prepared.reason == "", split(table), "none")
    return PreparedData(table, prepared.faces, prepared.alignment_source, splits, prepared.folder)


def cached_array(file: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array in a .npy file, memory-mapped; it is computed and saved first if the file does not exist."""
    if not file.exists():
        values = compute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as new:
            np.save(new, values)
    return np.load(file, mmap_mode="r")


def predict_with_mirror(model: keras.Model, faces: np.ndarray, rows: np.ndarray) -> npt.NDArray[np.float32]:
    """Returns the mean of the probabilities for each face and for its mirror image.

    Args:
        model: A network with logits of both tasks, as `multitask.add_task_heads` builds it.
        faces: uint8 (n, size, size, 3), RGB.
        rows: Indices of the faces to use, int (m,).

    Returns:
        float32 (m, 103): female and male, then the years 0-100.
    """
    logits = [predict_probabilities(model, images, rows)[:, : multitask.LOGIT_COUNT] for images in (faces, faces[:, :, ::-1])]
    return np.float32(np.mean([np.hstack([softmax(x[:, :2], axis=1), softmax(x[:, 2:], axis=1)]) for x in logits], axis=0))


def log_epoch(history: pd.DataFrame) -> None:
    """Prints the figures of the latest epoch."""
    print(history.round(3).tail(1).to_string(index=False), flush=True)


def fit_multitask(
    model: keras.Model, data: PreparedData, settings: TrainingSettings, runs: Path, targets: np.ndarray | None = None
) -> tuple[keras.Model, pd.DataFrame]:
    """Trains a network for both tasks on the training faces; an interrupted training resumes.

    Args:
        model: A network as `multitask.add_task_heads` builds it.
        data: The faces, from `load_data`.
        settings: How to train.
        runs: The states of the training are kept in its folder `training`.
        targets: A teacher's targets, float32 (n, 103 + m) as for `multitask_labels`; None trains on the labels alone.

    Returns:
        The model of the epoch with the lowest validation loss, in float32, and one row of figures per epoch.
    """
    return fit(
        model, data.faces, np.arange(len(data.table)), multitask.multitask_labels(data.table, targets), data.split, settings,
        on_epoch=log_epoch, checkpoint_folder=runs / "training", metrics=METRICS,
        loss=multitask.multitask_loss if targets is None else multitask.distillation_loss,
    )  # fmt: skip


def with_mirror_image(model: keras.Model, descriptor: bool = False) -> keras.Model:
    """Returns a copy of a network for both tasks that averages the features of each face and of its mirror image.

    Args:
        model: A network as `multitask.add_task_heads` builds it.
        descriptor: Whether it has the output for a descriptor.
    """
    averaged = multitask.add_task_heads(average_with_mirror_image(model.get_layer("level_one")), descriptor=descriptor)
    averaged.set_weights(model.get_weights())
    return averaged


def extract_task_model(model: keras.Model, task: str, temperature: float = 1.0) -> keras.Model:
    """Builds the classifier of one task from a network for both tasks.

    Args:
        model: A network as `multitask.add_task_heads` builds it.
        task: "gender" or "age".
        temperature: The logits are divided by it, inside the classifier.

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


def calibrate(data: PreparedData, model: keras.Model) -> tuple[dict[str, keras.Model], dict[str, Calibration]]:
    """Fits temperatures and age intervals on the validation faces.

    Args:
        data: The faces, from `load_data`.
        model: A network for both tasks, which returns logits.

    Returns:
        The classifiers and the calibrations by task.
    """
    rows = np.flatnonzero(data.split == "validation")
    table = data.table.iloc[rows].reset_index(drop=True)
    logits = predict_probabilities(model, data.faces, rows)
    gender, age = log_softmax(logits[:, :2], axis=1), log_softmax(logits[:, 2 : multitask.LOGIT_COUNT], axis=1)
    ranges = AGE_GROUPS["fairface"]
    years = np.arange(YEARS)
    gender_labels, age_labels = (task_labels(table, task, ranges).table["label"] for task in ("gender", "age"))
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


def evaluate_test_faces(
    data: PreparedData, folder: Path, models: dict[str, keras.Model], calibration: dict[str, Calibration]
) -> dict[str, pd.DataFrame]:
    """Evaluates the classifiers on each data set's test faces.

    Args:
        data: The faces, from `load_data`.
        folder: Contains a folder for each data set.
        models: The classifiers by task.
        calibration: The calibrations by task.

    Returns:
        The tables "results", "reliability" and "coverage".
    """
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
    years = tuple(range(YEARS))
    labels = {
        "gender": Labels("gender", GENDERS),
        "age": Labels("age", tuple(map(str, years)), tuple((year, year) for year in years), years),
    }
    counts = pd.crosstab(data.table["dataset"], data.split)
    trained_on = trained_on | {"faces": counts.to_dict("index"), "test_fold": None}
    for task, model in models.items():
        of_task = results[[Metric(name).task == task for name in results["measure"]]]
        rows = [row.dropna().to_dict() for _, row in of_task.iterrows()]
        save_model(target / task, model, labels[task], ALIGNMENT, trained_on, rows, calibration[task])


def run_training(
    arguments: list[str] | None,
    description: str | None,
    names: tuple[str, ...],
    train: Callable[[PreparedData, int, Path], tuple[keras.Model, pd.DataFrame]],
) -> None:
    """Runs the command of a training, from the data sets to the model folders.

    Args:
        arguments: The command line; None takes the process's own.
        description: Text of --help.
        names: The data sets.
        train: Trains a network for both tasks. It is called with the data, the seed and the folder for intermediate results,
            and returns the network and one row of figures per epoch.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that contains the data sets")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--runs", type=Path, default=CACHE, help="folder for intermediate results, about 10 GB")
    parser.add_argument("--release", action="store_true", help="write to models/ and docs/results/ instead of --runs")
    options = parser.parse_args(arguments)
    try:
        data = load_data(options.data, options.runs, names)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(pd.crosstab(data.table["dataset"], data.split))
    model, history = train(data, options.seed, options.runs)
    target = options.runs / f"released-{options.seed}"
    models, results = (MODELS, RESULTS) if options.release else (target, target / "results")
    write_release(data, options.data, model, history, options.seed, models, results)


def write_release(
    data: PreparedData, folder: Path, model: keras.Model, history: pd.DataFrame, seed: int, models: Path, results: Path
) -> None:
    """Calibrates and evaluates a trained network and writes its models and result files.

    Args:
        data: The faces, from `load_data`.
        folder: Contains a folder for each data set.
        model: The network for both tasks.
        history: One row of figures per epoch.
        seed: Seed of the training, for the models' cards.
        models: Folder for the model folders `gender` and `age`.
        results: Folder for the files `released_*.csv`.
    """
    classifiers, calibration = calibrate(data, model)
    tables = evaluate_test_faces(data, folder, classifiers, calibration) | {"history": history}
    *names, last = data.table["dataset"].unique()
    trained_on = {"dataset": f"{', '.join(names)} and {last}", "epochs": len(history), "seed": seed}
    save_task_models(data, classifiers, calibration, tables["results"], trained_on, models)
    results.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_text(results / f"released_{name}.csv", table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
    overall = tables["results"][tables["results"]["by"] == Grouping.ALL]
    print(overall.drop(columns=["by", "group", "unit"]).round(4).to_string(index=False))
