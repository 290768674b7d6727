"""Trains the released models of today: a residual network, with a fine-tuned dlib descriptor network as its teacher.

    python -m experiments.train_residual --data FOLDER [--seed 1] [--runs cache] [--release]

FOLDER contains UTKFace/ and FairFace/. Intermediate results are kept in --runs, and the same command resumes there. Without
--release, the models go to released-SEED/ in --runs. The teacher is always trained with the seed of `config`, so that
trainings with other seeds share it. `train_released` trains the models of the next release.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.dlib_descriptor import descriptor_network
from experiments.training_steps import (
    ALIGNMENT,
    AUGMENTED,
    FIRST_DATASETS,
    PreparedData,
    cached_array,
    fit_multitask,
    predict_with_mirror,
    run_training,
    with_mirror_image,
)
from src.config import SEED
from src.keras_setup import keras, ops
from src.models.multitask import LOGIT_COUNT, add_task_heads
from src.models.residual import residual_level_one, resize_images
from src.models.train import fast_dtype, predict_probabilities

TEACHER = replace(
    AUGMENTED, epochs=12, learning_rate=4e-4, weight_decay=1e-2,
    grayscale_probability=0.05, downscale_probability=0.1, random_erasing_probability=0,
)  # fmt: skip
FIRST_ROUND = replace(AUGMENTED, epochs=20, learning_rate=2e-3, weight_decay=5e-2)
SECOND_ROUND = replace(FIRST_ROUND, epochs=15, learning_rate=1.5e-3)
TEACHER_SIZE = 144  # pixels: dlib's network was trained on faces of 150 pixels
STUDENT_SIZE = 96  # pixels, to which the student scales the faces; larger sizes took longer and were not more accurate


def teacher(dtype: str, seed: int) -> keras.Model:
    """Builds dlib's descriptor network with new heads: uint8 faces (batch, 128, 128, 3) to float32 logits (batch, 103)."""
    pretrained = descriptor_network(TEACHER_SIZE, dtype)
    pooled = keras.Model(pretrained.input, pretrained.get_layer("pooled").output, name="pooled")
    return add_task_heads(_resized(pooled), dropout=0.3, seed=seed)


def _resized(network: keras.Model) -> keras.Model:
    """Builds a model that scales aligned faces (batch, 128, 128, 3) to `TEACHER_SIZE` and applies the network."""
    face = keras.Input((ALIGNMENT.size, ALIGNMENT.size, 3), dtype="uint8", name="face")
    return keras.Model(face, network(resize_images(ops.cast(face, "float32"), TEACHER_SIZE)), name="level_one")


def teacher_targets(data: PreparedData, seed: int, runs: Path) -> npt.NDArray[np.float32]:
    """Fine-tunes the teacher and predicts every face. Both results are cached.

    Args:
        data: The faces, from `load_data`.
        seed: Seed of the teacher's training.
        runs: Folder for the states of the training.

    Returns:
        float32 (n, 231): the teacher's probabilities of 2 genders and 101 years, then dlib's own descriptor (128 values),
        standardised over the training faces.
    """
    rows, settings = np.arange(len(data.table)), replace(TEACHER, seed=seed)

    def probabilities() -> npt.NDArray[np.float32]:
        model, _ = fit_multitask(teacher(fast_dtype(), seed), data, settings, runs)
        return predict_with_mirror(model, data.faces, rows)

    def descriptors() -> npt.NDArray[np.float32]:
        return predict_probabilities(_resized(descriptor_network(TEACHER_SIZE, fast_dtype())), data.faces, rows)

    name = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    predicted = cached_array(data.folder / f"teacher-{name}.npy", probabilities)
    described = cached_array(data.folder / "descriptors.npy", descriptors)
    training = described[data.split == "train"]
    return np.hstack([predicted, (described - training.mean(axis=0)) / training.std(axis=0)])


def student(seed: int) -> keras.Model:
    """Builds the residual network: uint8 faces (batch, 128, 128, 3) to float32 logits and descriptor (batch, 231)."""
    level_one = residual_level_one(ALIGNMENT.size, network_size=STUDENT_SIZE, dtype=fast_dtype(), seed=seed)
    return add_task_heads(level_one, descriptor=True, seed=seed)


def train_student(data: PreparedData, targets: np.ndarray, seed: int, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the student from random weights, in two rounds.

    In the second round, the learning rate rises again and the targets are the mean of the teacher's predictions and of the
    student's own predictions after the first round.
    Sources: Furlanello et al., "Born-again neural networks", ICML 2018; Loshchilov and Hutter, "SGDR", ICLR 2017.

    Args:
        data: The faces, from `load_data`.
        targets: float32 (n, 231), from `teacher_targets`.
        seed: Seed of both rounds.
        runs: Folder for the states of the training.

    Returns:
        The model, which averages the features of each face and of its mirror image, and one row of figures per epoch.
    """
    model, first_history = fit_multitask(student(seed), data, replace(FIRST_ROUND, seed=seed), runs, targets)
    own = predict_with_mirror(model, data.faces, np.arange(len(data.table)))
    targets = np.hstack([(targets[:, :LOGIT_COUNT] + own) / 2, targets[:, LOGIT_COUNT:]])
    second = student(seed)
    second.set_weights(model.get_weights())
    model, history = fit_multitask(second, data, replace(SECOND_ROUND, seed=seed), runs, targets)
    history["epoch"] += len(first_history)
    return with_mirror_image(model, descriptor=True), pd.concat([first_history, history], ignore_index=True)


def train(data: PreparedData, seed: int, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the teacher and the student; see `run_training`."""
    return train_student(data, teacher_targets(data, SEED, runs), seed, runs)


def main(arguments: list[str] | None = None) -> None:
    run_training(arguments, __doc__, FIRST_DATASETS, train)


if __name__ == "__main__":
    main()
