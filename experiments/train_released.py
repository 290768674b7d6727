"""Trains the released models on UTKFace, FairFace and All-Age-Faces.

    python -m experiments.train_released --data FOLDER [--seed 1] [--runs cache] [--release]

FOLDER contains UTKFace/, FairFace/ and AllAgeFaces/.

1. Two teachers, pretrained face networks, are fine-tuned for both tasks, always with the seed of `config`.
2. The student, a small network with the weights of the fine-tuned FaceRes, learns from the labels and, with the same
   weight, from the mean of the teachers' predictions.

Intermediate results are kept in --runs, and the same command resumes there. Without --release, the models go to
released-SEED/ in --runs. `requirements-training.txt` says how to get the pretrained networks.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.multitask import add_task_heads
from experiments.teachers import (
    FEATURE_DEVIATIONS,
    FINETUNING_SETTINGS,
    faceres_convolutions,
    finetune,
    teacher_probabilities,
)
from experiments.training_steps import (
    BASE_SETTINGS,
    PreparedData,
    fit_multitask,
    load_data,
    mirrored_network,
    write_release,
)
from src.config import CACHE, MODELS, RESULTS, SEED
from src.keras_setup import keras, layers
from src.models.train import fast_dtype
from src.processes import run_command

TEACHERS = {
    "faceres": replace(FINETUNING_SETTINGS, epochs=10),
    "sface": replace(FINETUNING_SETTINGS, epochs=4),
}
STUDENT = replace(BASE_SETTINGS, epochs=10, batch_size=48, learning_rate=3e-4)


def train(data: PreparedData, seed: int, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the teachers and the student.

    Args:
        data: The faces.
        seed: Seed of the student's training.
        runs: Folder for the states of the trainings.

    Returns:
        The student, which averages the features of each face and of its mirror image, and the history of its training.
    """
    model = build_student(data.faces.shape[1], fast_dtype(), seed)
    model.set_weights(finetune("faceres", data, TEACHERS["faceres"], runs).get_weights())
    targets = teacher_targets(data, runs, TEACHERS)
    model, history = fit_multitask(model, data, replace(STUDENT, seed=seed), runs, targets)
    return mirrored_network(model), history


def teacher_targets(data: PreparedData, runs: Path, names: Iterable[str]) -> npt.NDArray[np.float32]:
    """Returns the mean of some teachers' predictions for every face, float32 (n, 103); see `teacher_probabilities`."""
    return np.mean([teacher_probabilities(name, data, TEACHERS[name], runs) for name in names], axis=0, dtype=np.float32)


def build_student(size: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """Builds the network to release, with random weights.

    The weights of the fine-tuned FaceRes fit it (`set_weights`). Unlike this teacher, it takes the faces at their full size.

    Args:
        size: Height and width of the aligned faces in pixels.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of the heads' initial weights and of dropout.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, to float32 logits (batch, 103).
    """
    convolutions = faceres_convolutions(size, dtype)
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(convolutions.output)
    features = layers.Rescaling(1 / FEATURE_DEVIATIONS["faceres"], dtype=dtype, name="features")(pooled)
    return add_task_heads(keras.Model(convolutions.input, features, name="level_one"), seed=seed)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that contains the data sets")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--runs", type=Path, default=CACHE, help="folder for intermediate results, about 10 GB")
    parser.add_argument("--release", action="store_true", help="write to models/ and docs/results/ instead of --runs")
    options = parser.parse_args(arguments)
    data = load_data(options.data, options.runs)
    print(pd.crosstab(data.table["dataset"], data.split))
    model, history = train(data, options.seed, options.runs)
    target = options.runs / f"released-{options.seed}"
    models, results = (MODELS, RESULTS) if options.release else (target, target / "results")
    write_release(data, options.data, model, history, options.seed, models, results)


if __name__ == "__main__":
    run_command(main)
