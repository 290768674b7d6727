"""Trains the models of the next release on UTKFace, FairFace and All-Age-Faces.

    python -m experiments.train_released --data FOLDER [--seed 1] [--runs cache] [--release]

FOLDER contains UTKFace/, FairFace/ and AllAgeFaces/. `train_residual` trained the models that are in `models/` now.

1. Two teachers, pretrained face networks, are fine-tuned for both tasks, always with the seed of `config`.
2. The student, a small network with the weights of the fine-tuned FaceRes, learns from the labels and the teachers' mean.

Intermediate results are kept in --runs, and the same command resumes there. Without --release, the models go to
released-SEED/ in --runs. `requirements-training.txt` says how to get the pretrained networks.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.teachers import (
    FACE_SIZE,
    FEATURE_DEVIATIONS,
    FINETUNING,
    build_teacher,
    faceres_convolutions,
    teacher_probabilities,
)
from experiments.training_steps import AUGMENTED, PreparedData, fit_multitask, run_training, with_mirror_image
from src.config import SEED
from src.keras_setup import keras, layers
from src.models.multitask import add_task_heads
from src.models.train import TrainingSettings, fast_dtype

DATASETS = ("utkface", "fairface", "allagefaces")
TEACHERS = {
    "faceres": replace(FINETUNING, epochs=10, learning_rate=3e-4),
    "sface": replace(FINETUNING, epochs=5, learning_rate=3e-4),
}
STUDENT = replace(AUGMENTED, epochs=20, batch_size=48, learning_rate=3e-4, weight_decay=1e-2)


def teacher_targets(data: PreparedData, runs: Path) -> npt.NDArray[np.float32]:
    """Returns the mean of the fine-tuned teachers' predictions for each face.

    Args:
        data: The faces, from `load_data`.
        runs: Folder for the states of the trainings.

    Returns:
        float32 (n, 103): the probabilities of female and male, then of the years 0-100.
    """
    return np.mean(
        [teacher_probabilities(name, data, settings, runs) for name, settings in TEACHERS.items()], axis=0, dtype=np.float32
    )


def student(finetuned: keras.Model, size: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """Builds the network to release, which starts with the weights of the fine-tuned FaceRes.

    It has the layers of the teacher, but without nested models, and scales the faces itself.

    Args:
        finetuned: The teacher FaceRes after its training.
        size: Height and width of the aligned faces in pixels.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of dropout.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, to float32 logits (batch, 103).
    """
    convolutions = faceres_convolutions(size, dtype, network_size=FACE_SIZE)
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(convolutions.output)
    features = layers.Rescaling(1 / FEATURE_DEVIATIONS["faceres"], dtype=dtype, name="features")(pooled)
    model = add_task_heads(keras.Model(convolutions.input, features, name="level_one"), seed=seed)
    model.set_weights(finetuned.get_weights())
    return model


def train_student(
    data: PreparedData, targets: npt.NDArray[np.float32], settings: TrainingSettings, runs: Path
) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the student; labels and targets have the same weight.

    Args:
        data: The faces, from `load_data`.
        targets: float32 (n, 103), from `teacher_targets`.
        settings: How to train; see `STUDENT`.
        runs: Folder for the states of the trainings.

    Returns:
        The model, which averages the features of each face and of its mirror image, and one row of figures per epoch.
    """
    size, teacher_settings = data.faces.shape[1], TEACHERS["faceres"]
    teacher = build_teacher("faceres", size, fast_dtype(), teacher_settings.seed)
    teacher, _ = fit_multitask(teacher, data, teacher_settings, runs)  # it was trained for the targets; this loads it
    model = student(teacher, size, fast_dtype(), settings.seed)
    model, history = fit_multitask(model, data, settings, runs, targets)
    return with_mirror_image(model), history


def train(data: PreparedData, seed: int, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the teachers and the student; see `run_training`."""
    return train_student(data, teacher_targets(data, runs), replace(STUDENT, seed=seed), runs)


def main(arguments: list[str] | None = None) -> None:
    run_training(arguments, __doc__, DATASETS, train)


if __name__ == "__main__":
    main()
