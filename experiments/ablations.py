"""Ablations of the released models' training: short trainings that differ in one choice.

A random start differs in the learning rate too.

    python -m experiments.ablations DATA [--runs FOLDER] [--seeds 1 2] [--only NAME ...] [--csv FILE] [--faces N] [--epochs N]

DATA contains UTKFace/, FairFace/ and AllAgeFaces/. Aligned faces, fine-tuned teachers and their predictions are shared with
`train_released` in --runs. Every variant is trained on the same quarter of the training faces and evaluated on validation
faces, which also select its best epoch. Test faces are not used. Results and paired differences to the variant's baseline
have 95% bootstrap intervals over faces. Several seeds show how much trainings differ by chance. Trainings that are in the
CSV file are not repeated. The teachers always use faces that are aligned by the eyes.
"""

import argparse
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from experiments import train_released, training_steps
from experiments.multitask import add_task_heads, distillation_loss, label_columns, multitask_labels, multitask_loss
from experiments.teachers import build_teacher, finetune
from src.config import CACHE, GENDERS, SEED, YEAR_COUNT
from src.evaluation import metrics
from src.evaluation.subgroups import Metric, face_scores
from src.faces import align
from src.faces.image_io import read_photo
from src.files import write_text
from src.keras_setup import keras, layers, ops
from src.models.residual import BLOCKS, residual_level_one
from src.models.train import fast_dtype, fit, predict_probabilities
from src.models.two_level_cnn import level_one
from src.processes import run_command

CHILD = 12  # years: the highest age of a child
CHILDREN = "gender accuracy of children"  # a metric that only this module has
YOUNG, OLD = 10, 60  # years: the faces of people below or above are rare
LABEL_ERROR = 1.5  # years
PIXEL_DEVIATION = 64  # typical standard deviation of a pixel of a face
FEATURE_WEIGHT = 3.0  # weight of the imitated features in `imitation_loss`
# Blocks of residual networks. The larger ones take about as much time for 112 pixels as "residual" for 128.
LEVEL_ONE_BLOCKS = {
    "residual": BLOCKS,
    "wider": ((56, 1), (56, 1), (112, 2), (112, 1), (224, 2), (224, 1), (304, 2)),
    "deeper": ((48, 1), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1), (192, 2), (192, 1), (192, 1), (256, 2)),
}
FROM_SCRATCH = {"learning_rate": 1e-3}  # settings of networks that start from random weights
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high")  # to the baseline with the same seed
COLUMNS = (
    "variant", "seed", "dataset", "metric", *metrics.Estimate._fields, "seconds", "against", *DIFFERENCE_COLUMNS,
    "faces", "epochs",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """How a training differs from the released one."""

    baseline: str = "as released"  # the variant that it differs from in one choice
    teacher: str = "both"  # "both", the name of one, or "" to learn from the labels alone
    start: str = "fine-tuned"  # or "original" or "random" weights of FaceRes, "plain", or a name in `LEVEL_ONE_BLOCKS`
    features: bool = False  # whether the network imitates the features of the original SFace, too
    settings: dict = field(default_factory=dict)  # fields of `TrainingSettings`
    constant_error: bool = False  # whether the error of age labels is `LABEL_ERROR` at every age
    repeat_rare_ages: bool = False  # whether training faces of the young and of the old appear twice in an epoch
    hidden: tuple[str, ...] = ()  # columns of labels that are hidden
    without: str = ""  # the data set that is left out of the training
    alignment: str = "eyes"  # or the whole "photo", or aligned faces that are changed: "gamma", "denoised", "112 pixels"
    with_mirror: bool = False  # averages the baseline's predictions for each face and its mirror image


_NO_AUGMENTATION = dict.fromkeys(
    ("rotation", "zoom", "shift", "brightness", "grayscale_probability", "downscale_probability",
     "random_erasing_probability"), 0.0,
)  # fmt: skip
_ORIGINAL = "original FaceRes, labels only"
_RESIDUAL = "residual level one, labels only"
_ON_LABELS = Variant(_ORIGINAL, teacher="", start="original")
_RESIDUAL_ON_LABELS = Variant(_RESIDUAL, teacher="", start="residual", settings=FROM_SCRATCH)
# Baselines come before the variants that are compared with them. Fine-tuned weights have seen all labels of all data sets, so
# variants without some of these start from the original ones.
VARIANTS = {
    "as released": Variant(baseline=""),
    "no teacher": Variant(teacher=""),
    "teacher FaceRes alone": Variant(teacher="faceres"),
    "teacher SFace alone": Variant(teacher="sface"),
    "random start": Variant(start="random", settings=FROM_SCRATCH),
    "residual level one": Variant("random start", start="residual", settings=FROM_SCRATCH),
    "plain level one": Variant("random start", start="plain", settings=FROM_SCRATCH),
    "label error of 1.5 years at every age": Variant(constant_error=True),
    "young and old faces twice": Variant(repeat_rare_ages=True),
    "mirrored predictions averaged": Variant(with_mirror=True),
    "no alignment": Variant(alignment="photo"),
    "adaptive gamma": Variant(alignment="gamma"),
    "denoised": Variant(alignment="denoised"),
    "no augmentation but mirror": Variant(settings=_NO_AUGMENTATION),
    _ORIGINAL: replace(_ON_LABELS, baseline="no teacher"),
    "SFace's features imitated": replace(_ON_LABELS, features=True),
    _RESIDUAL: replace(_RESIDUAL_ON_LABELS, baseline=_ORIGINAL),
    "wider residual, 112 pixels": replace(_RESIDUAL_ON_LABELS, start="wider", alignment="112 pixels"),
    "deeper residual, 112 pixels": replace(_RESIDUAL_ON_LABELS, start="deeper", alignment="112 pixels"),
    "gender alone": replace(_ON_LABELS, hidden=("age_low", "age_high")),
    "age alone": replace(_ON_LABELS, hidden=("gender",)),
    "without UTKFace": replace(_ON_LABELS, without="utkface"),
    "without FairFace": replace(_ON_LABELS, without="fairface"),
    "without All-Age-Faces": replace(_ON_LABELS, without="allagefaces"),
}


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def constant_error_loss(labels, logits):
    """`distillation_loss` with the same error of age labels at every age."""
    return distillation_loss(labels, logits, LABEL_ERROR)


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def imitation_loss(labels, outputs):
    """Returns `multitask_loss`, plus the mean squared distance between imitated features and those of a teacher.

    Source: Romero et al., "FitNets: hints for thin deep nets", ICLR 2015.

    Args:
        labels: Tensor (n, 3 + features): the labels of `multitask_labels` with a teacher's features as targets.
        outputs: Tensor (n, 103 + features): the logits, then the imitated features.

    Returns:
        Tensor (n,).
    """
    logit_count = len(GENDERS) + YEAR_COUNT
    distance = ops.mean(ops.square(outputs[:, logit_count:] - label_columns(labels).teacher), axis=1)
    return multitask_loss(labels, outputs[:, :logit_count]) + FEATURE_WEIGHT * distance


class _Setup(NamedTuple):
    """The faces that all variants use. Row i of table and split belongs to row rows[i] of data."""

    data: training_steps.PreparedData
    rows: np.ndarray  # int (m,)
    table: pd.DataFrame  # of m faces, with a column `is_child`
    split: np.ndarray  # "train" or "validation" (m,)
    source: Path  # contains the data sets
    runs: Path
    folder: Path  # contains training states, faces and scores
    epochs: int


def _prepare_setup(source: Path, runs: Path, count: int | None, epochs: int) -> _Setup:
    """Chooses `count` training faces (None: a quarter) and at most as many validation faces at random."""
    data, rng = training_steps.load_data(source, runs), np.random.default_rng(SEED)
    training, validation = (rng.permutation(np.flatnonzero(data.split == name)) for name in ("train", "validation"))
    count = count or len(training) // 4
    rows = np.sort(np.concatenate([training[:count], validation[:count]]))
    table = data.table.iloc[rows].reset_index(drop=True)
    table["is_child"] = table["age_high"].le(CHILD).fillna(False)
    folder = runs / "ablations" / hashlib.sha256("\n".join(table["path"]).encode()).hexdigest()[:12]
    return _Setup(data, rows, table, data.split[rows], source, runs, folder, epochs)


def _evaluate_variant(name: str, seed: int, setup: _Setup) -> pd.DataFrame:
    """Trains a variant and evaluates it on the validation faces, whose scores are saved for later comparisons."""
    variant, is_validation = VARIANTS[name], setup.split == "validation"
    table, faces = setup.table.copy(), _aligned_faces(variant.alignment, setup)
    table.loc[:, list(variant.hidden)] = pd.NA
    model, seconds = _train(VARIANTS[variant.baseline] if variant.with_mirror else variant, seed, setup, table, faces)
    predict = training_steps.predict_both_ways if variant.with_mirror else training_steps.predict_tasks
    table = table[is_validation].reset_index(drop=True)
    scores = _score_faces(table, predict(model, faces, np.flatnonzero(is_validation)))
    file, baseline = (setup.folder / f"scores-{setup.epochs}-{seed}-{which}.csv" for which in (name, variant.baseline))
    scores.to_csv(file, index=False)
    baseline_scores = pd.read_csv(baseline, header=[0, 1]) if baseline.exists() else None
    results = summarise_scores(scores, baseline_scores, table["subject"].to_numpy(object))
    return results.assign(variant=name, seed=seed, seconds=seconds, against=variant.baseline)


def _train(variant: Variant, seed: int, setup: _Setup, table: pd.DataFrame, faces: np.ndarray) -> tuple[keras.Model, float]:
    """Trains a variant on faces with the labels in `table`; returns the network and the training time in seconds."""
    model = _build_network(variant.start, seed, setup, faces.shape[1])
    targets, loss, reported = None, multitask_loss, training_steps.METRICS
    if variant.features:
        targets, loss, reported = _sface_features(setup), imitation_loss, ()
        initial = keras.initializers.GlorotUniform(seed)
        imitated = layers.Dense(targets.shape[1], kernel_initializer=initial, dtype="float32", name="imitated")
        outputs = [model.output, imitated(model.get_layer("dropout").input)]
        model = keras.Model(model.input, layers.Concatenate(dtype="float32")(outputs))
    elif variant.teacher:
        names = train_released.TEACHERS if variant.teacher == "both" else [variant.teacher]
        targets = train_released.teacher_targets(setup.data, setup.runs, names)[setup.rows]
        loss = constant_error_loss if variant.constant_error else distillation_loss
    rows = np.flatnonzero(table["dataset"] != variant.without)
    if variant.repeat_rare_ages:
        is_rare = (table["age_high"].lt(YOUNG) | table["age_low"].gt(OLD)).fillna(False).to_numpy(bool)
        rows = np.append(rows, np.flatnonzero(is_rare & (setup.split == "train")))
    settings = replace(train_released.STUDENT, epochs=setup.epochs, seed=seed, **variant.settings)
    model, history = fit(
        model, faces, rows, multitask_labels(table, targets)[rows], setup.split[rows], settings, training_steps.log_epoch,
        setup.folder / "training", loss, reported,
    )  # fmt: skip
    return keras.Model(model.input, model.get_layer("logits").output), float(history["seconds"].sum())


def _build_network(start: str, seed: int, setup: _Setup, size: int) -> keras.Model:
    """Builds a network with the start's weights, for faces of `size` pixels; see `Variant.start`."""
    dtype = fast_dtype()
    if start == "plain":
        return add_task_heads(level_one(size, dtype, seed), seed=seed)
    if start in LEVEL_ONE_BLOCKS:
        return add_task_heads(residual_level_one(size, dtype, seed, LEVEL_ONE_BLOCKS[start]), seed=seed)
    student = train_released.build_student(size, dtype, seed)
    if start == "original":
        student.set_weights(build_teacher("faceres", size, seed=seed).get_weights())
    elif start == "fine-tuned":
        settings = train_released.TEACHERS["faceres"]
        student.set_weights(finetune("faceres", setup.data, settings, setup.runs).get_weights())
    else:
        # Keras's initial depthwise kernels are so small that all features would be constant. Source: He et al., "Delving deep
        # into rectifiers", ICCV 2015; the first layer takes unscaled pixels.
        rng = np.random.default_rng(seed)
        for layer in student.get_layer("level_one").layers:
            if layer.weights:
                kernel, bias = layer.get_weights()
                deviation = np.sqrt(2 * len(bias) / kernel.size) / (PIXEL_DEVIATION if layer.name == "stem" else 1)
                layer.set_weights([rng.normal(0, deviation, kernel.shape), bias])
    return student


def _sface_features(setup: _Setup) -> npt.NDArray[np.float32]:
    """Returns the pooled features of the original SFace, float32 (m, 1024), scaled to mean 0 and variance 1, from a cache."""

    def compute() -> np.ndarray:
        faces = setup.data.faces
        sface = build_teacher("sface", faces.shape[1], fast_dtype()).get_layer("level_one")
        features = predict_probabilities(sface, faces, setup.rows)
        known = features[setup.split == "train"]
        return (features - known.mean(axis=0)) / known.std(axis=0)

    return training_steps.cached_array(setup.folder / "sface_features.npy", compute)


def _aligned_faces(alignment: str, setup: _Setup) -> npt.NDArray[np.uint8]:
    """Returns the setup's faces in an alignment, uint8 (m, size, size, 3), from a cache; see `Variant.alignment`."""

    def compute() -> np.ndarray:
        eyes = setup.data.faces[setup.rows]
        if alignment == "eyes":
            return eyes
        inputs = [setup.source / path for path in setup.table["path"]] if alignment == "photo" else eyes
        step = {
            "photo": _scale_photo, "gamma": align.adaptive_gamma, "denoised": align.denoise, "112 pixels": _shrink,
        }[alignment]  # fmt: skip
        progress = tqdm(inputs, alignment, mininterval=5, unit=" faces")
        return np.stack(Parallel(n_jobs=-1)(delayed(step)(one) for one in progress))

    return training_steps.cached_array(setup.folder / f"{alignment}.npy", compute)


def _scale_photo(path: Path) -> np.ndarray:
    return align.whole_photo(read_photo(path), training_steps.ALIGNMENT)


def _shrink(face: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return cv2.resize(face, (112, 112), interpolation=cv2.INTER_AREA)


def _score_faces(table: pd.DataFrame, probability: np.ndarray) -> pd.DataFrame:
    """Scores faces: one row per face, one column per (dataset, metric); NaN where a face has no label for the metric."""
    scores: dict[tuple[str, str], pd.Series] = {}
    for name, faces in table.groupby("dataset", sort=False):
        for metric, rows, values, _ in face_scores(faces, probability[faces.index, :2], probability[faces.index, 2:]):
            if len(rows) and metric != Metric.WITHIN_FIVE_YEARS:
                scores[name, metric.value] = pd.Series(values, faces.index[rows])
                if metric == Metric.GENDER_ACCURACY:
                    scores[name, CHILDREN] = scores[name, metric.value].where(faces["is_child"])
    return pd.DataFrame(scores, index=table.index)


def summarise_scores(scores: pd.DataFrame, baseline: pd.DataFrame | None, subjects: np.ndarray) -> pd.DataFrame:
    """Returns the mean of each score, and its mean difference to the baseline's score of the same face (NaN without one)."""
    rows = []
    for dataset, metric in scores:
        column = scores[dataset, metric]
        known = column.notna().to_numpy()
        unit = metrics.Unit.YEARS if metric == Metric.ABSOLUTE_ERROR else metrics.Unit.SHARE
        mean = metrics.bootstrap_mean(column[known], subjects[known], unit)
        difference: tuple = (np.nan,) * 3
        if baseline is not None:
            paired = (column - baseline[dataset, metric])[known]
            difference = metrics.bootstrap_mean(paired, subjects[known], metrics.Unit.DIFFERENCE)
        differences = dict(zip(DIFFERENCE_COLUMNS, difference))
        rows.append({"dataset": dataset, "metric": metric, **mean._asdict(), **differences})
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=CACHE, help="folder for intermediate results (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED], help="one training each (default: %(default)s)")
    names = "; ".join(VARIANTS)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME", help=names)
    parser.add_argument("--csv", type=Path, help="file of results, to which rows are added (default: in --runs)")
    parser.add_argument("--faces", type=int, help="training faces, and at most as many to evaluate on (default: a quarter)")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args(arguments)
    setup = _prepare_setup(options.data, options.runs, options.faces, options.epochs)
    size = {"faces": int((setup.split == "train").sum()), "epochs": options.epochs}
    csv = options.csv or setup.folder / f"ablations-{options.epochs}.csv"
    results = pd.read_csv(csv) if csv.exists() else pd.DataFrame(columns=list(COLUMNS))
    if (results[list(size)] != list(size.values())).any(axis=None):
        parser.error(f"{csv} must contain trainings of {size}, got another size: choose another file")
    wanted = set(options.only)
    for name in reversed(VARIANTS):  # baselines come first
        if name in wanted:
            wanted.add(VARIANTS[name].baseline)
    for seed in options.seeds:
        for name in VARIANTS:
            if name in wanted and not ((results["variant"] == name) & (results["seed"] == seed)).any():
                print(f"{name}, seed {seed}", flush=True)
                rows = _evaluate_variant(name, seed, setup).assign(**size)[list(COLUMNS)]
                results = pd.concat([results, rows], ignore_index=True) if len(results) else rows
                write_text(csv, results.round(5).to_csv(index=False, lineterminator="\n"))
                keras.backend.clear_session()
    overall = results.pivot_table(["value", "difference"], ["variant", "seed"], ["dataset", "metric"], sort=False)
    print(overall.round(3).to_string())


if __name__ == "__main__":
    run_command(main)
