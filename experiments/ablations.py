"""Ablations of the released models' training: short trainings that differ in one choice.

    python -m experiments.ablations DATA [--runs FOLDER] [--seeds 1 2] [--only NAME ...] [--csv FILE] [--faces N]

DATA contains UTKFace/ and FairFace/. Aligned faces and predictions of the teacher are shared with `train_residual` in --runs.
Every variant is trained on the same quarter of the training faces and evaluated on the validation faces, which also select
its best epoch; the test part is not used. Results and paired differences to the variant's baseline have 95% bootstrap
intervals over faces. Only several seeds show how much trainings differ by chance. Trainings that are in the CSV file are not
repeated. The teacher always sees faces that are aligned by the eyes.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.special import softmax
from tqdm.auto import tqdm

from experiments.release import ALIGNMENT, METRICS, PreparedData, cached_array, load_data, log_epoch, predict_with_mirror
from experiments.train_residual import FIRST_ROUND, STUDENT_SIZE, teacher_targets
from src.config import CACHE, SEED, YEARS
from src.data import AGE_GROUPS_OF
from src.data.table import exact_years
from src.evaluation import metrics
from src.evaluation.subgroups import GROUP_METRICS, Metric, labelled_predictions
from src.faces import align
from src.faces.image_io import read_photo
from src.files import write_text
from src.keras_setup import keras, ops
from src.models.multitask import (
    LOGITS,
    TEACHER_WEIGHT,
    UNKNOWN,
    add_task_heads,
    distillation_loss,
    multitask_labels,
    multitask_loss,
)
from src.models.residual import residual_level_one
from src.models.train import fast_dtype, fit, predict_probabilities
from src.models.two_level_cnn import level_one

CHILD = 12  # years: the highest age of a child
CHILDREN = "gender accuracy of children"  # a measure
SOFT_EDGE = 1.5  # years: standard deviation of the ends of a softened age range
RELEASED, NO_TEACHER = "as released", "no teacher"
NO_DEGRADING = dict.fromkeys(("grayscale_probability", "downscale_probability", "random_erasing_probability"), 0.0)
NO_MOVING = dict.fromkeys(("rotation", "zoom", "shift", "brightness"), 0.0)
DIFFERENCE = ("difference", "difference_low", "difference_high")  # to the baseline with the same seed
COLUMNS = (
    "variant", "seed", "dataset", "measure", *metrics.Estimate._fields, "seconds", "against", *DIFFERENCE, "faces", "epochs",
)  # fmt: skip


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def probabilities_loss(labels, outputs):
    """`distillation_loss` without the descriptor: labels (n, 234), outputs (n, 103)."""
    return distillation_loss(labels, outputs)


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def descriptor_loss(labels, outputs):
    """`distillation_loss` without the teacher's probabilities: labels (n, 234), outputs (n, 231)."""
    error = ops.mean(ops.square(outputs[:, LOGITS:] - labels[:, 3 + LOGITS :]), axis=1)
    return multitask_loss(labels, outputs) + error


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def soft_ends_loss(labels, outputs):
    """`multitask_loss` with Gaussian ends of age ranges: labels (n, 3 or more), outputs (n, 103)."""
    low, high = labels[:, 1:2], labels[:, 2:3]
    years = ops.arange(YEARS, dtype="float32")[None]
    outside = ops.maximum(ops.maximum(low - years, years - high), 0.0)
    within = ops.log_softmax(outputs[:, 2:LOGITS], axis=1) - 0.5 * ops.square(outside / SOFT_EDGE)
    of_age = ops.where(low > UNKNOWN, -ops.logsumexp(within, axis=1, keepdims=True), 0.0)[:, 0]
    return multitask_loss(_without_age(labels), outputs) + of_age


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def children_loss(labels, outputs):
    """`distillation_loss` with three times the weight on children's gender labels: labels (n, 234), outputs (n, 231)."""
    is_child = ops.logical_and(labels[:, 2] > UNKNOWN, labels[:, 2] <= CHILD)
    of_gender = multitask_loss(_without_age(labels), outputs)
    return distillation_loss(labels, outputs) + 2 * (1 - TEACHER_WEIGHT) * ops.where(is_child, of_gender, 0.0)


def _without_age(labels):
    return ops.concatenate([labels[:, :1], ops.full_like(labels[:, 1:3], UNKNOWN)], axis=1)


@dataclass(frozen=True)
class Variant:
    """How a training differs from the released one."""

    baseline: str = RELEASED  # the variant that it differs from in one choice
    loss: Callable = distillation_loss
    hidden_labels: str = ""  # labels that are hidden: "gender", "age", or "ranges" of age
    only_dataset: str = ""  # the only data set to train on
    settings: dict = field(default_factory=dict)  # fields of `TrainingSettings`
    is_plain: bool = False  # the level one of notebooks 1 and 2 instead of the residual one
    alignment: str = "eyes"  # see `aligned_faces`
    with_mirror: bool = False  # average the predictions for each face and its mirror image; no training of its own


# Baselines come before the variants that are compared with them.
VARIANTS = {
    RELEASED: Variant(baseline=""),
    NO_TEACHER: Variant(loss=multitask_loss),
    "answers with mirror image": Variant(with_mirror=True),
    "no alignment": Variant(alignment="whole"),
    "alignment on 68 landmarks": Variant(alignment="shape"),
    "adaptive gamma": Variant(alignment="gamma"),
    "denoised": Variant(alignment="denoised"),
    "teacher without descriptor": Variant(loss=probabilities_loss),
    "teacher without probabilities": Variant(loss=descriptor_loss),
    "children weighted": Variant(loss=children_loss),
    "no grey, coarse, erased": Variant(settings=NO_DEGRADING),
    "no augmentation but mirror": Variant(settings=NO_DEGRADING | NO_MOVING),
    "gender alone": Variant(NO_TEACHER, multitask_loss, hidden_labels="age"),
    "age alone": Variant(NO_TEACHER, multitask_loss, hidden_labels="gender"),
    "only UTKFace": Variant(NO_TEACHER, multitask_loss, only_dataset="utkface"),
    "only FairFace": Variant(NO_TEACHER, multitask_loss, only_dataset="fairface"),
    "exact ages only": Variant(NO_TEACHER, multitask_loss, hidden_labels="ranges"),
    "ranges with soft ends": Variant(NO_TEACHER, soft_ends_loss),
    "plain level one": Variant(is_plain=True),
}


class Setup(NamedTuple):
    """What all variants share. table, labels, split and paths belong to data.faces[rows]."""

    data: PreparedData
    rows: np.ndarray
    table: pd.DataFrame
    labels: np.ndarray
    split: np.ndarray
    paths: list[Path]
    folder: Path  # for states, faces and scores
    epochs: int


def prepare_setup(folder: Path, runs: Path, count: int | None, epochs: int) -> Setup:
    """Chooses the faces at random and loads them with their labels and the teacher's predictions."""
    data = load_data(folder, runs)
    targets = teacher_targets(data, SEED, runs)
    rng = np.random.default_rng(SEED)
    training, validation = (rng.permutation(np.flatnonzero(data.split == name)) for name in ("train", "validation"))
    count = count or len(training) // 4
    rows = np.sort(np.concatenate([training[:count], validation[:count]]))
    table = data.table.iloc[rows].reset_index(drop=True)
    kept = runs / "ablations" / hashlib.sha256("\n".join(table["path"]).encode()).hexdigest()[:12]
    kept.mkdir(parents=True, exist_ok=True)
    labels, paths = multitask_labels(table, targets[rows]), [folder / path for path in table["path"]]
    return Setup(data, rows, table, labels, data.split[rows], paths, kept, epochs)


def evaluate_variant(name: str, seed: int, setup: Setup) -> pd.DataFrame:
    """Trains a variant and evaluates it: a row for each measure of each data set. The scores of all faces are kept."""
    variant = VARIANTS[name]
    model, seconds, faces, rows = train_variant(RELEASED if variant.with_mirror else name, seed, setup)
    validation = setup.split == "validation"
    if variant.with_mirror:
        probability, seconds = predict_with_mirror(model, faces, rows[validation]), 0.0
    else:
        logits = predict_probabilities(model, faces, rows[validation])
        probability = np.hstack([softmax(logits[:, :2], axis=1), softmax(logits[:, 2:LOGITS], axis=1)])
    table = setup.table[validation].reset_index(drop=True)
    scores = score_faces(table, probability[:, :2], probability[:, 2:])
    scores = scores[[column for column in scores if variant.hidden_labels != ("gender" if "gender" in column else "age")]]
    file, baseline = (setup.folder / f"scores-{setup.epochs}-{seed}-{each}.csv" for each in (name, variant.baseline))
    scores.to_csv(file, index=False)
    theirs = pd.read_csv(baseline) if variant.baseline and baseline.exists() else None
    rows_of_results = summarize_scores(scores, theirs, table["subject"].to_numpy(object))
    return rows_of_results.assign(variant=name, seed=seed, seconds=seconds, against=variant.baseline)


def train_variant(name: str, seed: int, setup: Setup) -> tuple[keras.Model, float, np.ndarray, np.ndarray]:
    """Trains a variant; gives the network, the seconds of its training, an array of faces, and the setup's rows of it."""
    variant, faces, rows = VARIANTS[name], setup.data.faces, setup.rows
    if variant.alignment != "eyes":
        faces, rows = aligned_faces(variant.alignment, setup), np.arange(len(setup.rows))
    make = level_one if variant.is_plain else partial(residual_level_one, inner=STUDENT_SIZE)
    first = make(ALIGNMENT.size, dtype=fast_dtype(), seed=seed)
    model = add_task_heads(first, descriptor=variant.loss in (distillation_loss, descriptor_loss, children_loss), seed=seed)
    settings = replace(FIRST_ROUND, epochs=setup.epochs, seed=seed, **variant.settings)
    is_used = setup.table["dataset"].eq(variant.only_dataset or setup.table["dataset"]).to_numpy(bool)
    model, history = fit(
        model, faces, rows, hide_labels(setup.labels, variant.hidden_labels), np.where(is_used, setup.split, "test"),
        settings, log_epoch, setup.folder / "training", variant.loss, METRICS,
    )  # fmt: skip
    return model, float(history["seconds"].sum()), faces, rows


def hide_labels(labels: np.ndarray, what: str) -> np.ndarray:
    """A copy of the labels in which those of "gender", of "age" or of the "ranges" of age are unknown; "" hides none."""
    labels = labels.copy()
    if what == "gender":
        labels[:, 0] = UNKNOWN
    elif what:
        labels[(labels[:, 1] < labels[:, 2]) | (what == "age"), 1:3] = UNKNOWN
    return labels


def score_faces(table: pd.DataFrame, gender: np.ndarray, age: np.ndarray) -> pd.DataFrame:
    """The score of each face by each measure, in columns named "dataset measure"; NaN where the face has no label for it."""
    scores = {}
    for name, faces in table.groupby("dataset", sort=False):
        rows, truth, probability, _ = labelled_predictions(faces, "gender", gender[faces.index])
        correct = pd.Series(metrics.exact_match(truth, probability), faces.index[rows])
        scores[f"{name} {Metric.GENDER_ACCURACY}"] = correct
        scores[f"{name} {CHILDREN}"] = correct.where(faces["age_high"].le(CHILD).fillna(False))
        years = exact_years(faces)
        if np.isfinite(years).any():
            error = np.abs(metrics.decode(age[faces.index], ordered=True) - years)
            scores[f"{name} {Metric.ABSOLUTE_ERROR}"] = pd.Series(error, faces.index)
        rows, truth, probability, _ = labelled_predictions(faces, "age", age[faces.index])
        exact, at_most_one_off = GROUP_METRICS[AGE_GROUPS_OF[name]]
        scores[f"{name} {exact}"] = pd.Series(metrics.exact_match(truth, probability, ordered=True), faces.index[rows])
        scores[f"{name} {at_most_one_off}"] = pd.Series(metrics.one_off(truth, probability), faces.index[rows])
    return pd.DataFrame(scores, index=table.index)


def summarize_scores(scores: pd.DataFrame, baseline: pd.DataFrame | None, subjects: np.ndarray) -> pd.DataFrame:
    """The mean of each column with its interval, and the mean difference to the same faces' scores of the baseline."""
    rows = []
    for column in scores:
        dataset, measure = column.split(" ", 1)
        known = scores[column].notna().to_numpy()
        unit = metrics.Unit.YEARS if measure == Metric.ABSOLUTE_ERROR else metrics.Unit.SHARE
        mean = metrics.bootstrap_mean(scores[column][known], subjects[known], unit)
        away: tuple = (np.nan,) * 3
        if baseline is not None:
            # The unit is not "share", since a mean difference of zero is no share of zero.
            away = metrics.bootstrap_mean((scores[column] - baseline[column])[known], subjects[known], "difference")
        rows.append({"dataset": dataset, "measure": measure, **mean._asdict(), **dict(zip(DIFFERENCE, away))})
    return pd.DataFrame(rows)


def aligned_faces(how: str, setup: Setup) -> np.ndarray:
    """The setup's faces in another alignment, kept once made: uint8 (m, 128, 128, 3).

    how: "whole" (the photo as it is), "shape" (the similarity that fits all 68 landmarks), "gamma" or "denoised" (filters).
    """

    def compute() -> np.ndarray:
        eyes = (np.asarray(setup.data.faces[row]) for row in setup.rows)
        if how == "whole":
            found = _parallel(_whole, how, setup.paths)
        elif how == "shape":
            points = np.array(list(_parallel(_landmarks, "landmarks", setup.paths, setup.data.alignment_source[setup.rows])))
            shape = _mean_shape(points[setup.split == "train"])
            found = _parallel(_align_to_shape, how, setup.paths, points, [shape] * len(points), eyes)
        else:
            found = _parallel({"gamma": align.adaptive_gamma, "denoised": align.denoise}[how], how, eyes)
        return np.stack(list(found))

    return cached_array(setup.folder / f"{how}.npy", compute)


def _parallel(function: Callable, title: str, *columns) -> Iterator:
    """The function's results for each row of the columns, in their order."""
    results = Parallel(n_jobs=-1, return_as="generator")(delayed(function)(*row) for row in zip(*columns))
    return iter(tqdm(results, title, mininterval=5, unit=" faces"))


def _whole(path: Path) -> np.ndarray:
    return align.whole_photo(read_photo(path), ALIGNMENT)


def _landmarks(path: Path, alignment_source: str) -> np.ndarray:
    """The 68 landmarks in the photo as x + iy, NaN where the face was aligned without them."""
    if alignment_source != "landmarks":
        return np.full(68, np.nan, complex)
    photo = read_photo(path)
    face = align.choose_face(align.find_faces(photo), None, photo.shape)
    assert face is not None, f"{path} has landmarks in the cache"
    return face.landmarks @ (1, 1j)


def _mean_shape(points: np.ndarray) -> np.ndarray:
    """The mean of landmarks (m, 68) after alignment by the eyes, in the aligned face: complex (68,)."""
    points = points[np.isfinite(points).all(axis=1)]
    one, other = (points[:, eye].mean(axis=1, keepdims=True) for eye in align.EYES)
    left, right = ALIGNMENT.eyes @ (1, 1j)
    return (left + (points - one) * (right - left) / (other - one)).mean(axis=0)


def _align_to_shape(path: Path, points: np.ndarray, shape: np.ndarray, by_eyes: np.ndarray) -> np.ndarray:
    """The face moved onto the mean shape by the similarity that fits all landmarks best; without landmarks, by the eyes."""
    if not np.isfinite(points).all():
        return by_eyes
    centred = points - points.mean()
    turn = np.vdot(centred, shape - shape.mean()) / np.vdot(centred, centred)
    # The eyes of the shape are those of the alignment, so aligning by its copy in the photo applies the fitted similarity.
    back = points.mean() + (shape - shape.mean()) / turn
    return align.align(read_photo(path), np.column_stack([back.real, back.imag]), ALIGNMENT)


def summary_table(results: pd.DataFrame) -> pd.DataFrame:
    """The results as text: a row for each variant and seed, a column for each measure, with the difference in brackets."""

    def text(row) -> str:
        difference = "" if pd.isna(row["difference"]) else f" ({metrics.format_number(row['difference'], row['unit'], '+')})"
        return metrics.format_number(row["value"], row["unit"]) + difference

    return results.assign(text=results.apply(text, axis=1)).pivot_table(
        "text", ["variant", "seed"], ["dataset", "measure"], "first", fill_value="", sort=False
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=CACHE, help="folder for intermediate results (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED], help="one training each (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME", help="; ".join(VARIANTS)
    )
    parser.add_argument("--csv", type=Path, help="file of results, which is continued (default: in --runs)")
    parser.add_argument("--faces", type=int, help="training faces, and at most as many to evaluate on (default: a quarter)")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args(arguments)
    setup = prepare_setup(options.data, options.runs, options.faces, options.epochs)
    size = {"faces": int((setup.split == "train").sum()), "epochs": options.epochs}
    csv = options.csv or setup.folder / f"ablations-{options.epochs}.csv"
    results = pd.read_csv(csv) if csv.exists() else pd.DataFrame(columns=list(COLUMNS))
    if (results[list(size)] != list(size.values())).any(axis=None):
        parser.error(f"{csv} must hold trainings of {size}, got another size: choose another file")
    wanted = {*options.only, *(VARIANTS[name].baseline for name in options.only)}
    for seed in options.seeds:
        for name in VARIANTS:
            if name in wanted and not ((results["variant"] == name) & (results["seed"] == seed)).any():
                print(f"{name}, seed {seed}", flush=True)
                rows = evaluate_variant(name, seed, setup).assign(**size)[list(COLUMNS)]
                results = pd.concat([results, rows], ignore_index=True) if len(results) else rows
                write_text(csv, results.round(5).to_csv(index=False, lineterminator="\n"))
                keras.backend.clear_session()
    print(f"values in per cent and years, with the difference to the baseline\n{summary_table(results).to_string()}")


if __name__ == "__main__":
    main()
