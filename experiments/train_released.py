"""Trains the next released models, from the pictures of three data sets to model folders for gender and age.

    python -m experiments.train_released --data FOLDER [--seed 1] [--runs cache] [--release]

FOLDER holds UTKFace/, FairFace/ and AllAgeFaces/. Two teachers, networks that know faces from elsewhere, are refined for both
tasks on the training faces (always with the seed of `config`, so that other seeds share them). A small network, FaceRes
refined in the same way, then learns from the labels and from the mean of what the teachers predict. Each step is kept below
--runs and is resumed or used again by the same command. Without --release, the models go to released-SEED/ below --runs.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.teachers import REFINED, SIZE, SPREAD, answers, faceres_convolutions, refine
from src.backend import keras, layers
from src.config import SEED
from src.joint import joint_labels, taught_loss, with_heads
from src.network import with_mirror_image
from src.released import AUGMENTED, METRICS, Data, finish, parse, told
from src.train import Settings, fast_dtype, fit

DATASETS = ("utkface", "fairface", "allagefaces")
TEACHERS = {
    "faceres": replace(REFINED, epochs=10, learning_rate=3e-4),
    "sface": replace(REFINED, epochs=4, learning_rate=3e-4),
}
STUDENT = replace(AUGMENTED, epochs=7, batch_size=48, learning_rate=3e-4, weight_decay=1e-2)


def teacher_targets(data: Data, runs: Path) -> npt.NDArray[np.float32]:
    """The mean of what the refined teachers predict for each face.

    Args:
        data: The faces, as `load_data` gives them.
        runs: Where the steps are kept.

    Returns:
        float32 (n, 103): the probabilities of female and male, then of the years 0-100.
    """
    return np.mean([answers(name, data, settings, runs) for name, settings in TEACHERS.items()], axis=0, dtype=np.float32)


def student(refined: keras.Model, size: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """The network to release, starting with the weights of the refined FaceRes.

    It differs from the teacher in form only: one plain model, without nested ones, that scales its input itself.

    Args:
        refined: FaceRes as `teachers.refine` gives it.
        size: Side of the aligned faces in pixels.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of dropout.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, to float32 logits (batch, 103).
    """
    first = faceres_convolutions(size, dtype, inner=SIZE)
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(first.output)
    features = layers.Rescaling(1 / SPREAD["faceres"], dtype=dtype, name="features")(pooled)
    model = with_heads(keras.Model(first.input, features, name="level_one"), seed=seed)
    model.set_weights(refined.get_weights())
    return model


def train_student(
    data: Data, targets: npt.NDArray[np.float32], settings: Settings, runs: Path
) -> tuple[keras.Model, pd.DataFrame]:
    """Trains the student on labels and targets alike.

    Args:
        data: The faces, as `load_data` gives them.
        targets: float32 (n, 103), as `teacher_targets` gives them.
        settings: How to train; see `STUDENT`.
        runs: Where the steps are kept.

    Returns:
        The model, which averages the features of each face and its mirror image, and one row of figures for each epoch.
    """
    refined, _ = refine("faceres", data, TEACHERS["faceres"], runs)
    model = student(refined, data.faces.shape[1], fast_dtype(), settings.seed)
    labels, rows = joint_labels(data.table, targets), np.arange(len(data.table))
    model, history = fit(model, data.faces, rows, labels, data.part, settings, told, runs / "training", taught_loss, METRICS)
    both = with_heads(with_mirror_image(model.get_layer("level_one")))
    both.set_weights(model.get_weights())
    return both, history


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments, __doc__, DATASETS)
    targets = teacher_targets(options.prepared, options.runs)
    settings = replace(STUDENT, seed=options.seed)
    finish(options, DATASETS, *train_student(options.prepared, targets, settings, options.runs))


if __name__ == "__main__":
    main()
