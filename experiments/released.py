"""The training of the released models, from the pictures of UTKFace and FairFace to `models/gender` and `models/age`.

    python -m experiments.released --data FOLDER [--seed 1] [--runs cache] [--release]

FOLDER holds UTKFace/ and FairFace/; without --release, what is made goes to released-SEED/ below --runs. A teacher, dlib's
face descriptor network refined on the training faces (always with the seed of `config`: other seeds share it), answers for
every face; a small network trained from scratch learns from labels and teacher alike. Each step is kept under --runs and
is not done again.

Before it: `prepare`, `duplicates`, `joint`, `train`, `calibrate`, `assess`. After it: `findings` and `model_card`.
"""

import argparse
import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax

from experiments.dlib_descriptor import descriptor_network
from src import data as datasets
from src.config import AGE_GROUPS, CACHE, GENDERS, MODELS, RESULTS, SEED, YEARS
from src.data import AGE_GROUPS_OF
from src.data.table import exact_years, split, split_key, task_labels
from src.evaluation.calibration import (
    INTERVAL_BANDS,
    Calibration,
    coverage_curve,
    fit_conformal_quantiles,
    fit_temperature,
    reliability,
    sum_to_groups,
)
from src.evaluation.metrics import exact_match, prediction_confidence
from src.evaluation.subgroups import evaluate_subgroups, load_races
from src.faces.align import Alignment
from src.faces.duplicates import duplicates_as_subjects, near_duplicates
from src.faces.prepare import prepare
from src.files import atomic_write, write_text
from src.keras_setup import keras, layers, ops
from src.models.model_folder import Labels, save_model
from src.models.multitask import (
    LOGITS,
    AbsoluteError,
    GenderAccuracy,
    add_task_heads,
    distillation_loss,
    multitask_labels,
    multitask_loss,
)
from src.models.train import TrainingSettings, fast_dtype, fit, predict_probabilities
from src.models.two_level_cnn import residual_level_one, resize_images, with_mirror_image

DATASETS = ("utkface", "fairface")
ALIGNMENT = Alignment(size=128, eye_distance=0.36, eye_height=0.35)
AUGMENTED = TrainingSettings(
    batch_size=64, rotation=12, zoom=0.15, shift=0.05, brightness=0.3, grey=0.1, coarse=0.2, erased=0.25, patience=99
)
TEACHER = replace(AUGMENTED, epochs=12, learning_rate=4e-4, weight_decay=1e-2, grey=0.05, coarse=0.1, erased=0)
STUDENT = replace(AUGMENTED, epochs=20, learning_rate=2e-3, weight_decay=5e-2)
AGAIN = replace(STUDENT, epochs=15, learning_rate=1.5e-3)
INNER = 96  # pixels: what the small network scales faces to; larger ones took longer and were no better
METRICS = (GenderAccuracy, AbsoluteError)
UNSURE_BELOW = {"gender": 0.75, "age": 0.4}
BINS = 20  # of the curves of confidence: both of these are edges between two


class Data(NamedTuple):
    """table: a table of faces, its near-duplicates one subject. faces: uint8 (n, 128, 128, 3), RGB. part: (n,).

    how: as `Prepared.how`. folder: of the prepared faces, where what is made of them is kept too.
    """

    table: pd.DataFrame
    faces: np.ndarray
    how: np.ndarray
    part: np.ndarray
    folder: Path


def load_data(folder: Path, runs: Path = CACHE, names: tuple[str, ...] = DATASETS) -> Data:
    """Data sets, aligned, with their split.

    Args:
        folder: The folder of the data sets.
        runs: Where aligned faces are kept.
        names: The data sets. The split of those in `DATASETS` does not depend on others, which came later: copies of their
            pictures in other sets follow them.
    """
    table = pd.concat([datasets.load(name, folder).table for name in names], ignore_index=True)
    prepared = prepare(table, folder, ALIGNMENT, runs)
    group = _kept(prepared.folder / "near_duplicates.npy", lambda: near_duplicates(prepared.faces))
    there = prepared.reason == ""
    late = ~table["dataset"].isin(DATASETS).to_numpy()
    first = duplicates_as_subjects(table[~late], group[~late])
    of_group = pd.Series(split_key(first)).groupby(group[~late]).first()
    last = table[late].assign(subject=pd.Series(group[late], table.index[late]).map(of_group).astype("string"))
    table = pd.concat([first, duplicates_as_subjects(last, group[late])]) if late.any() else first
    part = np.where(there, split(table), "none")
    return Data(table, prepared.faces, prepared.how, part, prepared.folder)


def _kept(file: Path, make) -> np.ndarray:
    if not file.exists():
        values = make()  # first, since it takes long and may be killed
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as new, open(new, "wb") as opened:
            np.save(opened, values)
    return np.load(file)


def teacher(dtype: str, seed: int) -> keras.Model:
    """dlib's face descriptor network with fresh heads for both tasks."""
    inside = descriptor_network(144, dtype)
    pooled = keras.Model(inside.input, inside.get_layer("pooled").output, name="pooled")
    return add_task_heads(_at_144(pooled), dropout=0.3, seed=seed)


def _at_144(inside: keras.Model) -> keras.Model:
    # The descriptor network knows faces of about this scale.
    photo = keras.Input((ALIGNMENT.size, ALIGNMENT.size, 3), dtype="uint8", name="face")
    return keras.Model(photo, inside(resize_images(ops.cast(photo, "float32"), 144)), name="level_one")


def teacher_targets(data: Data, seed: int, runs: Path) -> np.ndarray:
    """What the teacher says: float32 (n, 231), 2 + 101 probabilities and dlib's descriptor, standardised."""
    labels, rows = multitask_labels(data.table), np.arange(len(data.table))

    def probabilities():
        model, _ = fit(
            teacher(fast_dtype(), seed), data.faces, rows, labels, data.part, settings,
            log_epoch, runs / "training", multitask_loss, METRICS,
        )  # fmt: skip
        return joint_probabilities(model, data.faces, rows)

    settings = replace(TEACHER, seed=seed)
    name = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    said = _kept(data.folder / f"teacher-{name}.npy", probabilities)
    described = _kept(data.folder / "descriptors.npy", lambda: describe(data.faces))
    learnt = described[data.part == "train"]
    return np.hstack([said, (described - learnt.mean(axis=0)) / learnt.std(axis=0)])


def joint_probabilities(model: keras.Model, faces: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean probabilities of each face and its mirror image: float32 (m, 103)."""
    logits = [
        predict_probabilities(model, faces, rows)[:, :LOGITS],
        predict_probabilities(model, faces[:, :, ::-1], rows)[:, :LOGITS],
    ]
    return np.float32(np.mean([np.hstack([softmax(x[:, :2], axis=1), softmax(x[:, 2:], axis=1)]) for x in logits], axis=0))


def describe(faces: np.ndarray) -> np.ndarray:
    """dlib's face descriptors: float32 (n, 128)."""
    model = _at_144(descriptor_network(144, fast_dtype()))
    return predict_probabilities(model, faces, np.arange(len(faces)))


def log_epoch(history: pd.DataFrame) -> None:
    """Prints an epoch's figures."""
    print(history.round(3).tail(1).to_string(index=False), flush=True)


def train_student(data: Data, taught: np.ndarray, seed: int, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """The small network, trained from scratch in two rounds, and the history of its epochs."""
    model, first = train_round(student(seed), data, taught, replace(STUDENT, seed=seed), runs)
    model, second = second_round(model, data, taught, seed, runs)
    second["epoch"] += len(first)
    return answering_for_both(model), pd.concat([first, second], ignore_index=True)


def student(seed: int) -> keras.Model:
    """The small network with random weights, and heads for both tasks and the descriptor."""
    first = residual_level_one(ALIGNMENT.size, inner=INNER, dtype=fast_dtype(), seed=seed)
    return add_task_heads(first, taught=True, seed=seed)


def second_round(
    model: keras.Model, data: Data, taught: np.ndarray, seed: int, runs: Path
) -> tuple[keras.Model, pd.DataFrame]:
    """The second round: the network goes on, and what it said after the first counts as a second teacher's answers.

    Sources: Furlanello et al., "Born-again neural networks", ICML 2018; for the learning rate that rises once more,
    Loshchilov and Hutter, "SGDR", ICLR 2017.
    """
    settings = replace(AGAIN, seed=seed)
    said = joint_probabilities(model, data.faces, np.arange(len(data.table)))
    taught = np.hstack([(taught[:, :LOGITS] + said) / 2, taught[:, LOGITS:]])
    fresh = student(seed)
    fresh.set_weights(model.get_weights())
    return train_round(fresh, data, taught, settings, runs)


def train_round(
    model: keras.Model, data: Data, taught: np.ndarray, settings: TrainingSettings, runs: Path
) -> tuple[keras.Model, pd.DataFrame]:
    """Trains a copy of the small network on labels and a teacher's answers, float32 (n, 231), as of `train.fit`."""
    labels, rows = multitask_labels(data.table, taught), np.arange(len(data.table))
    return fit(model, data.faces, rows, labels, data.part, settings, log_epoch, runs / "training", distillation_loss, METRICS)


def answering_for_both(model: keras.Model) -> keras.Model:
    """A network that answers for each face and its mirror image together."""
    both = add_task_heads(with_mirror_image(model.get_layer("level_one")), taught=True)
    both.set_weights(model.get_weights())
    return both


def extract_task_model(model: keras.Model, task: str, temperature: float = 1.0) -> keras.Model:
    """One task's classifier, with the temperature inside: uint8 faces to probabilities (batch, 2 or 101)."""
    first, head = model.get_layer("level_one"), model.get_layer(task)
    features = keras.Input((first.output_shape[-1],), name="features")
    last = layers.Dense(head.units, activation="softmax", dtype="float32", name="probability")
    second = keras.Model(features, last(features), name="level_two")
    last.set_weights([weights / temperature for weights in head.get_weights()])
    photo = keras.Input(first.input_shape[1:], dtype="uint8", name="face")
    return keras.Model(photo, second(first(photo)), name="two_level_cnn")


def calibrated(data: Data, model: keras.Model) -> tuple[dict[str, keras.Model], dict[str, Calibration]]:
    """Both tasks' classifiers and how far to trust them, from the validation faces."""
    held = np.flatnonzero(data.part == "validation")
    table = data.table.iloc[held].reset_index(drop=True)
    logits = predict_probabilities(model, data.faces, held)
    gender, age = log_softmax(logits[:, :2], axis=1), log_softmax(logits[:, 2:LOGITS], axis=1)
    ranges = AGE_GROUPS["fairface"]
    of_gender, of_age = (task_labels(table, task, ranges).table["label"] for task in ("gender", "age"))
    warmth = {
        "gender": fit_temperature(gender[of_gender.index], of_gender.to_numpy()),
        "age": fit_temperature(age[of_age.index], of_age.to_numpy(), ranges.index(np.arange(YEARS), np.arange(YEARS))),
    }
    years = softmax(age / warmth["age"], axis=1)
    calibration = {
        "gender": Calibration(UNSURE_BELOW["gender"]),
        "age": Calibration(UNSURE_BELOW["age"], INTERVAL_BANDS, fit_conformal_quantiles(years, exact_years(table))),
    }
    return {task: extract_task_model(model, task, warmth[task]) for task in warmth}, calibration


def with_exact_labels(table: pd.DataFrame, gender: np.ndarray, age: np.ndarray):
    """For each task: its name, the probabilities of the faces that have a label, in the data set's groups, and the labels."""
    groups = AGE_GROUPS[AGE_GROUPS_OF[table["dataset"].iloc[0]]]
    for task, probability in (("gender", gender), ("age", sum_to_groups(age, groups))):
        some = task_labels(table, task, groups).table
        yield task, probability[some.index], some["label"].to_numpy()


def evaluate_test_part(
    data: Data, folder: Path, models: dict, calibration: dict, names: tuple[str, ...] = DATASETS
) -> dict[str, pd.DataFrame]:
    """What the models answer on the test part: the rows of `assess`, and the curves of confidence, by data set."""
    tables = {"results": [], "reliability": [], "coverage": []}
    for name in names:
        rows = np.flatnonzero((data.part == "test") & (data.table["dataset"] == name).to_numpy(bool))
        table = data.table.iloc[rows].reset_index(drop=True)
        answers = [predict_probabilities(models[task], data.faces, rows).astype(float) for task in ("gender", "age")]
        tables["results"].append(
            evaluate_subgroups(table, answers[0], answers[1], calibration["age"], load_races(table, folder))
        )
        for task, probability, truth in with_exact_labels(table, *answers):
            curve = {"dataset": name, "task": task}
            ordered = task == "age"
            confidence = prediction_confidence(probability, ordered)
            tables["reliability"].append(reliability(probability, truth, BINS, ordered).assign(**curve))
            tables["coverage"].append(coverage_curve(confidence, exact_match(truth, probability, ordered)).assign(**curve))
    return {name: pd.concat(some, ignore_index=True) for name, some in tables.items()}


def release(
    data: Data, models: dict, calibration: dict, tables: dict[str, pd.DataFrame], trained_on: dict, target: Path
) -> None:
    """Writes `gender` and `age` below the target folder, each with its card."""
    years = tuple(range(YEARS))
    labels = {
        "gender": Labels("gender", GENDERS),
        "age": Labels("age", tuple(map(str, years)), tuple((year, year) for year in years), years),
    }
    results = tables["results"]
    counts = pd.crosstab(data.table["dataset"], data.part)
    trained_on = trained_on | {"faces": {name: row.to_dict() for name, row in counts.iterrows()}, "test_fold": None}
    for task, model in models.items():
        mine = results[results["measure"].str.contains("gender") == (task == "gender")]
        rows = [row.dropna().to_dict() for _, row in mine.iterrows()]
        save_model(target / task, model, labels[task], ALIGNMENT, trained_on, rows, asdict(calibration[task]))


def parse(arguments: list[str] | None, description: str | None, names: tuple[str, ...]) -> argparse.Namespace:
    """Reads the command line of a training; `options.prepared` holds the data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--runs", type=Path, default=CACHE, help="where steps are kept: 10 GB")
    parser.add_argument("--release", action="store_true", help="write to models/ and docs/results/, not below --runs")
    options = parser.parse_args(arguments)
    try:
        options.prepared = load_data(options.data, options.runs, names)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(pd.crosstab(options.prepared.table["dataset"], options.prepared.part))
    return options


def finish(options: argparse.Namespace, names: tuple[str, ...], model: keras.Model, history: pd.DataFrame) -> None:
    """Calibrates a trained network, judges it on the test part, and writes the models and their results."""
    data = options.prepared
    models, calibration = calibrated(data, model)
    tables = evaluate_test_part(data, options.data, models, calibration, names) | {"history": history}
    target = options.runs / f"released-{options.seed}"
    trained_on = {"dataset": f"{', '.join(names[:-1])} and {names[-1]}", "epochs": len(history), "seed": options.seed}
    release(data, models, calibration, tables, trained_on, MODELS if options.release else target)
    results = RESULTS if options.release else target / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_text(results / f"released_{name}.csv", table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
    whole = tables["results"].query("by == 'all'")
    print(whole.drop(columns=["by", "group", "unit"]).round(4).to_string(index=False))


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments, __doc__, DATASETS)
    data, seed, runs = options.prepared, options.seed, options.runs
    finish(options, DATASETS, *train_student(data, teacher_targets(data, SEED, runs), seed, runs))


if __name__ == "__main__":
    main()
