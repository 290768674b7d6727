"""Trains the present released models: a residual network, taught by a refined dlib descriptor network.

    python -m experiments.train_residual --data FOLDER [--seed 1] [--runs cache] [--release]

FOLDER contains UTKFace/ and FairFace/. Intermediate results are kept in --runs, and the same command resumes there. Without
--release, the models go to released-SEED/ in --runs. The teacher is always trained with the seed of `config`, so that
trainings with other seeds share it.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.dlib_descriptor import descriptor_network
from experiments.release import (
    ALIGNMENT,
    AUGMENTED,
    FIRST_DATASETS,
    METRICS,
    PreparedData,
    cached_array,
    log_epoch,
    parse_arguments,
    predict_with_mirror,
    write_release,
)
from src.config import SEED
from src.keras_setup import keras, ops
from src.models.multitask import LOGITS, add_task_heads, distillation_loss, multitask_labels, multitask_loss
from src.models.residual import average_with_mirror_image, residual_level_one, resize_images
from src.models.train import TrainingSettings, fast_dtype, fit, predict_probabilities

TEACHER = replace(
    AUGMENTED, epochs=12, learning_rate=4e-4, weight_decay=1e-2,
    grayscale_probability=0.05, downscale_probability=0.1, random_erasing_probability=0,
)  # fmt: skip
FIRST_ROUND = replace(AUGMENTED, epochs=20, learning_rate=2e-3, weight_decay=5e-2)
SECOND_ROUND = replace(FIRST_ROUND, epochs=15, learning_rate=1.5e-3)
TEACHER_SIZE = 144  # pixels: close to the scale of the faces that dlib's network was trained on
STUDENT_SIZE = 96  # pixels: the student scales faces to it; larger sizes took longer and were no better


def teacher(dtype: str, seed: int) -> keras.Model:
    """dlib's descriptor network with new heads: uint8 faces (batch, 128, 128, 3) to float32 logits (batch, 103)."""
    inside = descriptor_network(TEACHER_SIZE, dtype)
    pooled = keras.Model(inside.input, inside.get_layer("pooled").output, name="pooled")
    return add_task_heads(_resized(pooled), dropout=0.3, seed=seed)


def _resized(inside: keras.Model) -> keras.Model:
    """The model with a scaling of aligned faces to `TEACHER_SIZE` before it."""
    photo = keras.Input((ALIGNMENT.size, ALIGNMENT.size, 3), dtype="uint8", name="face")
    return keras.Model(photo, inside(resize_images(ops.cast(photo, "float32"), TEACHER_SIZE)), name="level_one")


def teacher_targets(data: PreparedData, seed: int, runs: Path) -> npt.NDArray[np.float32]:
    """Refines the teacher and predicts every face; both are kept and not repeated.

    Args:
        data: The faces, as `load_data` gives them.
        seed: Seed of the teacher's training.
        runs: Folder for the state of the training.

    Returns:
        float32 (n, 231): the teacher's probabilities of 2 genders and 101 years, then dlib's own descriptor (128 values),
        standardised over the training faces.
    """
    rows, settings = np.arange(len(data.table)), replace(TEACHER, seed=seed)

    def probabilities() -> npt.NDArray[np.float32]:
        model, _ = fit(
            teacher(fast_dtype(), seed), data.faces, rows, multitask_labels(data.table), data.split, settings,
            log_epoch, runs / "training", multitask_loss, METRICS,
        )  # fmt: skip
        return predict_with_mirror(model, data.faces, rows)

    def descriptors() -> npt.NDArray[np.float32]:
        return predict_probabilities(_resized(descriptor_network(TEACHER_SIZE, fast_dtype())), data.faces, rows)

    name = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    predicted = cached_array(data.folder / f"teacher-{name}.npy", probabilities)
    described = cached_array(data.folder / "descriptors.npy", descriptors)
    training = described[data.split == "train"]
    return np.hstack([predicted, (described - training.mean(axis=0)) / training.std(axis=0)])


def student(seed: int) -> keras.Model:
    """The residual network with random weights: uint8 faces to float32 logits and imitated descriptor (batch, 231)."""
    first = residual_level_one(ALIGNMENT.size, inner=STUDENT_SIZE, dtype=fast_dtype(), seed=seed)
    return add_task_heads(first, descriptor=True, seed=seed)


def train_student(data: PreparedData, targets: np.ndarray, seed: int, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the student from random weights, in two rounds.

    In the second round the learning rate rises once more, and the student's own predictions count as much as the teacher's.
    Sources: Furlanello et al., "Born-again neural networks", ICML 2018; Loshchilov and Hutter, "SGDR", ICLR 2017.

    Args:
        data: The faces, as `load_data` gives them.
        targets: float32 (n, 231), as `teacher_targets` gives them.
        seed: Seed of both rounds.
        runs: Folder for the state of the training.

    Returns:
        The model, which averages the features of each face and of its mirror image, and one row of figures for each epoch.
    """
    model, first = _train_round(student(seed), data, targets, replace(FIRST_ROUND, seed=seed), runs)
    own = predict_with_mirror(model, data.faces, np.arange(len(data.table)))
    targets = np.hstack([(targets[:, :LOGITS] + own) / 2, targets[:, LOGITS:]])
    again = student(seed)
    again.set_weights(model.get_weights())
    model, second = _train_round(again, data, targets, replace(SECOND_ROUND, seed=seed), runs)
    second["epoch"] += len(first)
    both = add_task_heads(average_with_mirror_image(model.get_layer("level_one")), descriptor=True)
    both.set_weights(model.get_weights())
    return both, pd.concat([first, second], ignore_index=True)


def _train_round(
    model: keras.Model, data: PreparedData, targets: np.ndarray, settings: TrainingSettings, runs: Path
) -> tuple[keras.Model, pd.DataFrame]:
    labels, rows, states = multitask_labels(data.table, targets), np.arange(len(data.table)), runs / "training"
    return fit(model, data.faces, rows, labels, data.split, settings, log_epoch, states, distillation_loss, METRICS)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments, __doc__, FIRST_DATASETS)
    targets = teacher_targets(options.prepared, SEED, options.runs)
    write_release(options, FIRST_DATASETS, *train_student(options.prepared, targets, options.seed, options.runs))


if __name__ == "__main__":
    main()
