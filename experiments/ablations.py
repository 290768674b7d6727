"""Ablations of the released models' training: short trainings that differ in one choice.

    python -m experiments.ablations DATA [--runs FOLDER] [--seeds 1 2] [--only NAME ...] [--csv FILE] [--faces N]

DATA contains UTKFace/ and FairFace/. Aligned faces and predictions of the teacher are shared with `train_residual` in --runs.
Every variant is trained on the same quarter of the training faces and evaluated on validation faces, which also select its
best epoch. Test faces are not used. Results and paired differences to the variant's baseline have 95% bootstrap intervals
over faces. Only several seeds show how much trainings differ by chance. Trainings that are in the CSV file are not repeated.
The teacher always uses faces that are aligned by the eyes.
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

from experiments.train_residual import FIRST_ROUND, STUDENT_SIZE, teacher_targets
from experiments.training_steps import (
    ALIGNMENT,
    METRICS,
    PreparedData,
    cached_array,
    load_data,
    log_epoch,
    predict_with_mirror,
)
from src.config import CACHE, SEED, YEARS
from src.evaluation import metrics
from src.evaluation.subgroups import Metric, face_scores
from src.faces import align
from src.faces.image_io import read_photo
from src.files import write_text
from src.keras_setup import keras, ops
from src.models.multitask import (
    LABEL_COUNT,
    LOGIT_COUNT,
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
CHILDREN = "gender accuracy of children"  # a metric of this module only
SOFT_EDGE = 1.5  # years: standard deviation of the ends of a softened age range
RELEASED, NO_TEACHER = "as released", "no teacher"
NO_DEGRADATION = dict.fromkeys(("grayscale_probability", "downscale_probability", "random_erasing_probability"), 0.0)
NO_GEOMETRY_OR_BRIGHTNESS = dict.fromkeys(("rotation", "zoom", "shift", "brightness"), 0.0)
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high")  # to the baseline with the same seed
COLUMNS = (
    "variant", "seed", "dataset", "measure", *metrics.Estimate._fields, "seconds", "against", *DIFFERENCE_COLUMNS,
    "faces", "epochs",
)  # fmt: skip


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def probabilities_loss(labels, outputs):
    """`distillation_loss` without the descriptor: labels (n, 234), outputs (n, 103)."""
    return distillation_loss(labels, outputs)


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def descriptor_loss(labels, outputs):
    """`distillation_loss` without the teacher's probabilities: labels (n, 234), outputs (n, 231)."""
    error = ops.mean(ops.square(outputs[:, LOGIT_COUNT:] - labels[:, LABEL_COUNT + LOGIT_COUNT :]), axis=1)
    return multitask_loss(labels, outputs) + error


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def soft_ends_loss(labels, outputs):
    """`multitask_loss` with Gaussian ends of age ranges: labels (n, 3 or more), outputs (n, 103)."""
    low, high = labels[:, 1:2], labels[:, 2:3]
    years = ops.arange(YEARS, dtype="float32")[None]
    outside = ops.maximum(ops.maximum(low - years, years - high), 0.0)
    within = ops.log_softmax(outputs[:, 2:LOGIT_COUNT], axis=1) - 0.5 * ops.square(outside / SOFT_EDGE)
    age_loss = ops.where(low > UNKNOWN, -ops.logsumexp(within, axis=1, keepdims=True), 0.0)[:, 0]
    return multitask_loss(_without_age(labels), outputs) + age_loss


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def children_loss(labels, outputs):
    """`distillation_loss` with three times the weight on children's gender labels: labels (n, 234), outputs (n, 231)."""
    is_child = ops.logical_and(labels[:, 2] > UNKNOWN, labels[:, 2] <= CHILD)
    gender_loss = multitask_loss(_without_age(labels), outputs)
    return distillation_loss(labels, outputs) + 2 * (1 - TEACHER_WEIGHT) * ops.where(is_child, gender_loss, 0.0)


def _without_age(labels):
    """Returns gender labels with unknown ages, tensor (n, 3)."""
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
    with_mirror: bool = False  # the baseline's network, averaged over each face and its mirror image


# Baselines come before the variants that are compared with them.
VARIANTS = {
    RELEASED: Variant(baseline=""),
    NO_TEACHER: Variant(loss=multitask_loss),
    "mirrored predictions averaged": Variant(with_mirror=True),
    "no alignment": Variant(alignment="whole"),
    "alignment on 68 landmarks": Variant(alignment="shape"),
    "adaptive gamma": Variant(alignment="gamma"),
    "denoised": Variant(alignment="denoised"),
    "teacher without descriptor": Variant(loss=probabilities_loss),
    "teacher without probabilities": Variant(loss=descriptor_loss),
    "children's gender weighted": Variant(loss=children_loss),
    "no grayscale, downscaling, erasing": Variant(settings=NO_DEGRADATION),
    "no augmentation but mirror": Variant(settings=NO_DEGRADATION | NO_GEOMETRY_OR_BRIGHTNESS),
    "gender alone": Variant(NO_TEACHER, multitask_loss, hidden_labels="age"),
    "age alone": Variant(NO_TEACHER, multitask_loss, hidden_labels="gender"),
    "only UTKFace": Variant(NO_TEACHER, multitask_loss, only_dataset="utkface"),
    "only FairFace": Variant(NO_TEACHER, multitask_loss, only_dataset="fairface"),
    "exact ages only": Variant(NO_TEACHER, multitask_loss, hidden_labels="ranges"),
    "ranges with soft ends": Variant(NO_TEACHER, soft_ends_loss),
    "plain level one": Variant(is_plain=True),
}


class Setup(NamedTuple):
    """The faces that all variants use. Row i of table, labels, split and paths belongs to data.faces[rows[i]]."""

    data: PreparedData
    rows: np.ndarray  # int (m,)
    table: pd.DataFrame
    labels: np.ndarray  # float32 (m, 234), from `multitask_labels`
    split: np.ndarray  # "train" or "validation" (m,)
    paths: list[Path]
    folder: Path  # holds training states, faces and scores
    epochs: int


def prepare_setup(folder: Path, runs: Path, count: int | None, epochs: int) -> Setup:
    """Chooses the faces at random and loads them with their labels and the teacher's predictions.

    Args:
        folder: Contains UTKFace/ and FairFace/.
        runs: Folder for intermediate results.
        count: Number of training faces, and largest number of validation faces; None takes a quarter of the training faces.
        epochs: Number of epochs of each training.
    """
    data = load_data(folder, runs)
    targets = teacher_targets(data, SEED, runs)
    rng = np.random.default_rng(SEED)
    training, validation = (rng.permutation(np.flatnonzero(data.split == name)) for name in ("train", "validation"))
    count = count or len(training) // 4
    rows = np.sort(np.concatenate([training[:count], validation[:count]]))
    table = data.table.iloc[rows].reset_index(drop=True)
    cache = runs / "ablations" / hashlib.sha256("\n".join(table["path"]).encode()).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    labels, paths = multitask_labels(table, targets[rows]), [folder / path for path in table["path"]]
    return Setup(data, rows, table, labels, data.split[rows], paths, cache, epochs)


def evaluate_variant(name: str, seed: int, setup: Setup) -> pd.DataFrame:
    """Trains a variant and evaluates it on the validation faces, whose scores are saved for later comparisons.

    Args:
        name: Key of `VARIANTS`.
        seed: Seed of the training.
        setup: The faces.

    Returns:
        One row per data set and metric, with the columns of `summarise_scores` and variant, seed, seconds and against.
    """
    variant = VARIANTS[name]
    model, seconds, faces, rows = train_variant(RELEASED if variant.with_mirror else name, seed, setup)
    validation = setup.split == "validation"
    if variant.with_mirror:
        probability, seconds = predict_with_mirror(model, faces, rows[validation]), 0.0
    else:
        logits = predict_probabilities(model, faces, rows[validation])
        probability = np.hstack([softmax(logits[:, :2], axis=1), softmax(logits[:, 2:LOGIT_COUNT], axis=1)])
    table = setup.table[validation].reset_index(drop=True)
    scores = score_faces(table, probability[:, :2], probability[:, 2:])
    is_gender = [metric == CHILDREN or Metric(metric).task == "gender" for _, metric in scores]
    scores = scores.loc[:, [variant.hidden_labels != ("gender" if gender else "age") for gender in is_gender]]
    file, baseline = (setup.folder / f"face-scores-{setup.epochs}-{seed}-{title}.csv" for title in (name, variant.baseline))
    scores.to_csv(file, index=False)
    baseline_scores = pd.read_csv(baseline, header=[0, 1]) if variant.baseline and baseline.exists() else None
    results = summarise_scores(scores, baseline_scores, table["subject"].to_numpy(object))
    return results.assign(variant=name, seed=seed, seconds=seconds, against=variant.baseline)


def train_variant(name: str, seed: int, setup: Setup) -> tuple[keras.Model, float, np.ndarray, np.ndarray]:
    """Trains a variant; returns the network, the training time in seconds, an array of faces, and the setup's rows of it."""
    variant, faces, rows = VARIANTS[name], setup.data.faces, setup.rows
    if variant.alignment != "eyes":
        faces, rows = aligned_faces(variant.alignment, setup), np.arange(len(setup.rows))
    build = level_one if variant.is_plain else partial(residual_level_one, network_size=STUDENT_SIZE)
    has_descriptor = variant.loss in (distillation_loss, descriptor_loss, children_loss)
    model = add_task_heads(build(ALIGNMENT.size, dtype=fast_dtype(), seed=seed), has_descriptor, seed=seed)
    settings = replace(FIRST_ROUND, epochs=setup.epochs, seed=seed, **variant.settings)
    is_used = setup.table["dataset"].eq(variant.only_dataset or setup.table["dataset"]).to_numpy(bool)
    model, history = fit(
        model, faces, rows, hide_labels(setup.labels, variant.hidden_labels), np.where(is_used, setup.split, "test"),
        settings, on_epoch=log_epoch, checkpoint_folder=setup.folder / "training", loss=variant.loss, metrics=METRICS,
    )  # fmt: skip
    return model, float(history["seconds"].sum()), faces, rows


def hide_labels(labels: np.ndarray, what: str) -> np.ndarray:
    """Returns a copy of the labels in which those of "gender", "age" or "ranges" of age are unknown; "" hides none."""
    labels = labels.copy()
    if what == "gender":
        labels[:, 0] = UNKNOWN
    elif what:
        labels[(labels[:, 1] < labels[:, 2]) | (what == "age"), 1:3] = UNKNOWN
    return labels


def score_faces(table: pd.DataFrame, gender: np.ndarray, age: np.ndarray) -> pd.DataFrame:
    """Scores each face by each metric.

    Args:
        table: A table of faces (n rows).
        gender: Probabilities of female and male, floats (n, 2).
        age: Probabilities of the years 0-100, floats (n, 101).

    Returns:
        One row per face, one column (dataset, metric) for each; NaN where the face has no label for the metric.
    """
    scores: dict[tuple[str, str], pd.Series] = {}
    for name, faces in table.groupby("dataset", sort=False):
        for metric, rows, values, _ in face_scores(faces, gender[faces.index], age[faces.index]):
            if len(rows) and metric != Metric.WITHIN_FIVE_YEARS:
                scores[name, metric.value] = pd.Series(values, faces.index[rows])
        correct = scores[name, Metric.GENDER_ACCURACY.value]
        scores[name, CHILDREN] = correct.where(faces["age_high"].le(CHILD).fillna(False))
    return pd.DataFrame(scores, index=table.index)


def summarise_scores(scores: pd.DataFrame, baseline: pd.DataFrame | None, subjects: np.ndarray) -> pd.DataFrame:
    """Returns the mean of each column of `score_faces` and the mean difference to the baseline, with their intervals.

    Args:
        scores: The scores of a variant.
        baseline: The scores of the same faces by the baseline; None leaves the differences out (NaN).
        subjects: The person in each image (n,).

    Returns:
        One row per column, with dataset, measure, the fields of `Estimate` and `DIFFERENCE_COLUMNS`.
    """
    rows = []
    for dataset, measure in scores:
        column = scores[dataset, measure]
        known = column.notna().to_numpy()
        unit = metrics.Unit.YEARS if measure == Metric.ABSOLUTE_ERROR else metrics.Unit.SHARE
        mean = metrics.bootstrap_mean(column[known], subjects[known], unit)
        difference: tuple = (np.nan,) * 3
        if baseline is not None:
            # A difference of shares is not a share, so the exact binomial interval must not be used for it.
            paired = (column - baseline[dataset, measure])[known]
            difference = metrics.bootstrap_mean(paired, subjects[known], "difference")
        differences = dict(zip(DIFFERENCE_COLUMNS, difference))
        rows.append({"dataset": dataset, "measure": measure, **mean._asdict(), **differences})
    return pd.DataFrame(rows)


def aligned_faces(alignment: str, setup: Setup) -> np.ndarray:
    """Returns the setup's faces in another alignment, uint8 (m, 128, 128, 3); they are cached.

    Args:
        alignment: "whole" (the whole photo), "shape" (the similarity that fits all 68 landmarks best), or "gamma" and
            "denoised" (filters of faces that are aligned by the eyes).
        setup: The faces.
    """

    def compute() -> np.ndarray:
        eyes = (np.asarray(setup.data.faces[row]) for row in setup.rows)
        if alignment == "whole":
            found = _parallel(_whole, alignment, setup.paths)
        elif alignment == "shape":
            points = np.array(list(_parallel(_landmarks, "landmarks", setup.paths, setup.data.alignment_source[setup.rows])))
            shape = _mean_shape(points[setup.split == "train"])
            found = _parallel(_align_to_shape, alignment, setup.paths, points, [shape] * len(points), eyes)
        else:
            filter_face = {"gamma": align.adaptive_gamma, "denoised": align.denoise}[alignment]
            found = _parallel(filter_face, alignment, eyes)
        return np.stack(list(found))

    return cached_array(setup.folder / f"{alignment}.npy", compute)


def _parallel(function: Callable, title: str, *columns) -> Iterator:
    """Yields the function's results for each row of the columns, in their order."""
    results = Parallel(n_jobs=-1, return_as="generator")(delayed(function)(*row) for row in zip(*columns))
    return iter(tqdm(results, title, mininterval=5, unit=" faces"))


def _whole(path: Path) -> np.ndarray:
    return align.whole_photo(read_photo(path), ALIGNMENT)


def _landmarks(path: Path, alignment_source: str) -> np.ndarray:
    """Returns the 68 landmarks in the photo as complex numbers x + iy, NaN where the face was aligned without them."""
    if alignment_source != "landmarks":
        return np.full(68, np.nan, complex)
    photo = read_photo(path)
    face = align.choose_face(align.find_faces(photo), None, photo.shape)
    assert face is not None, f"{path} has landmarks in the cache"
    return face.landmarks @ (1, 1j)


def _mean_shape(points: np.ndarray) -> np.ndarray:
    """Returns the mean of complex landmarks (m, 68) after alignment by the eyes, in the aligned face: complex (68,)."""
    points = points[np.isfinite(points).all(axis=1)]
    left_eye, right_eye = (points[:, eye].mean(axis=1, keepdims=True) for eye in align.EYES)
    left_target, right_target = ALIGNMENT.eyes @ (1, 1j)
    scale = (right_target - left_target) / (right_eye - left_eye)
    return (left_target + (points - left_eye) * scale).mean(axis=0)


def _align_to_shape(path: Path, points: np.ndarray, shape: np.ndarray, by_eyes: np.ndarray) -> np.ndarray:
    """Aligns a face by the similarity from its landmarks (68,) to the mean shape (68,); without landmarks, by the eyes."""
    if not np.isfinite(points).all():
        return by_eyes
    centred = points - points.mean()
    rotation = np.vdot(centred, shape - shape.mean()) / np.vdot(centred, centred)
    # The eyes of the mean shape lie where the alignment puts eyes, so aligning by the fitted shape applies the fit.
    fitted = points.mean() + (shape - shape.mean()) / rotation
    return align.align(read_photo(path), np.column_stack([fitted.real, fitted.imag]), ALIGNMENT)


def summary_table(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the results as text: one row per variant and seed, one column per metric, with the difference in brackets."""

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
    parser.add_argument("--csv", type=Path, help="file of results, which is extended (default: in --runs)")
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
