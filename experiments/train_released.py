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
import pandas as pd

from experiments.teachers import (
    FEATURE_DEVIATIONS,
    FINETUNING_SETTINGS,
    TEACHER_INPUT_SIZES,
    faceres_convolutions,
    finetune,
    teacher_probabilities,
)
from experiments.training_steps import BASE_SETTINGS, PreparedData, fit_multitask, run_training, with_mirror_image
from src.config import SEED
from src.keras_setup import keras, layers
from src.models.multitask import add_task_heads
from src.models.train import fast_dtype
from src.processes import run_command

DATASETS = ("utkface", "fairface", "allagefaces")
TEACHERS = {
    "faceres": replace(FINETUNING_SETTINGS, epochs=10, learning_rate=3e-4),
    "sface": replace(FINETUNING_SETTINGS, epochs=4, learning_rate=3e-4),
}
STUDENT = replace(BASE_SETTINGS, epochs=14, batch_size=48, learning_rate=3e-4, weight_decay=1e-2)


def train(data: PreparedData, seed: int, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the teachers and the student; see `run_training`.

    Labels and teachers have the same weight. The result averages the features of each face and of its mirror image.
    """
    each = [teacher_probabilities(name, data, settings, runs) for name, settings in TEACHERS.items()]
    targets = np.mean(each, axis=0, dtype=np.float32)
    finetuned = finetune("faceres", data, TEACHERS["faceres"], runs)  # loads the training of the first step
    model = build_student(finetuned, data.faces.shape[1], fast_dtype(), seed)
    model, history = fit_multitask(model, data, replace(STUDENT, seed=seed), runs, targets)
    return with_mirror_image(model), history


def build_student(finetuned: keras.Model, size: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
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
    convolutions = faceres_convolutions(size, dtype, network_size=TEACHER_INPUT_SIZES["faceres"])
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(convolutions.output)
    features = layers.Rescaling(1 / FEATURE_DEVIATIONS["faceres"], dtype=dtype, name="features")(pooled)
    model = add_task_heads(keras.Model(convolutions.input, features, name="level_one"), seed=seed)
    model.set_weights(finetuned.get_weights())
    return model


def main(arguments: list[str] | None = None) -> None:
    run_training(arguments, __doc__, DATASETS, train)


if __name__ == "__main__":
    run_command(main)
