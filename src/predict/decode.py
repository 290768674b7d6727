"""Aligned faces to answers: asks the models, and puts what they say into the columns of the table of predictions.

After it: `predict` for photos, `video` for moving pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.config import AGE_GROUPS, MODELS
from src.evaluation.calibration import prediction_interval, sum_to_groups
from src.evaluation.metrics import decode, expected_years, prediction_confidence
from src.faces.align import Alignment
from src.models.model_folder import Labels, ModelFolderError, TrainedModel, load_model
from src.models.onnx_graph import OnnxGraph, Predict, compile_graphs

PREDICTION_COLUMNS = (
    "photo", "status", "face", "left", "top", "right", "bottom", "detection_score", "gender", "p_male",
    "age_group", "age_group_probability", "age_years", "message",
    "age_interval_low", "age_interval_high", "gender_unsure", "age_unsure",
)  # fmt: skip
BATCH = 16  # faces; larger batches take more memory and, in ONNX Runtime, more time for each face


class Models(NamedTuple):
    """The loaded models.

    Attributes:
        trained: The models by task.
        networks: What runs them, by the tasks that each function predicts (see `build_networks`).
    """

    trained: dict[str, TrainedModel]
    networks: dict[tuple[str, ...], Predict]

    @property
    def alignments(self) -> dict[str, Alignment]:
        return {task: some.alignment for task, some in self.trained.items()}

    def probabilities(self, faces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Runs the models.

        Args:
            faces: For each face, by task, the aligned face: uint8 (size, size, 3), RGB, 0-255.

        Returns:
            The probability of each class by task, float32 (n, classes). Empty if there are no faces.
        """
        said: dict[str, list] = {task: [] for task in self.trained}
        for tasks, network in self.networks.items():
            for start in range(0, len(faces), BATCH):
                batch = np.stack([face[tasks[0]] for face in faces[start : start + BATCH]])
                for task, probability in network(batch).items():
                    said[task].append(probability)
        return {task: np.concatenate(parts) for task, parts in said.items() if parts}

    def columns(self, probabilities: dict[str, np.ndarray]) -> list[dict]:
        """The columns of the table of predictions for each face.

        `gender_unsure` and `age_unsure` are booleans. `message` says the same to people; it is None where no model is unsure.
        """
        rows: list[dict] = []
        for task, probability in probabilities.items():
            said = _say(probability, self.trained[task])
            rows = rows or [{} for _ in said]
            for row, answers in zip(rows, said, strict=True):
                row.update(answers)
        for row in rows:
            doubted = [task for task in probabilities if row[f"{task}_unsure"]]
            row["message"] = f"unsure of {' and '.join(doubted)}" if doubted else None
        return rows


def load_models(gender_model: str | Path | None = MODELS / "gender", age_model: str | Path | None = MODELS / "age") -> Models:
    """Reads model folders; None leaves a task out. ModelFolderError for a folder that can't be used."""
    trained = {task: load_model(place) for task, place in (("gender", gender_model), ("age", age_model)) if place is not None}
    for task, some in trained.items():
        if some.labels.task != task:
            raise ModelFolderError(f"the {task} model's folder holds a model for {some.labels.task}")
    return Models(trained, build_networks(trained))


def add_predictions(rows: list[dict], models: Models) -> list[dict]:
    """Rows of `looking` with each model's answer in place of the aligned faces."""
    seen = [row for row in rows if "aligned" in row]
    for row, answers in zip(seen, models.columns(models.probabilities([row["aligned"] for row in seen]))):
        add_message(row, answers.pop("message"))
        row.update(answers)
    return [{name: value for name, value in row.items() if name != "aligned"} for row in rows]


def build_networks(models: dict[str, TrainedModel]) -> dict[tuple[str, ...], Predict]:
    """Returns functions that run models: in ONNX Runtime, or in Keras if a model has layers that only Keras knows.

    Models with the same alignment run together in ONNX Runtime, and what they share, such as a level one, runs once.

    Args:
        models: The models by task.

    Returns:
        Functions from aligned faces to probabilities, by the tasks that they predict.
    """
    together: dict[Alignment, dict[str, OnnxGraph]] = {}
    networks: dict[tuple[str, ...], Predict] = {}
    for task, trained in models.items():
        if trained.graph is None:
            networks[(task,)] = _keras_network(task, trained)
        else:
            together.setdefault(trained.alignment, {})[task] = trained.graph
    return {tuple(graphs): compile_graphs(graphs) for graphs in together.values()} | networks


def _keras_network(task: str, trained: TrainedModel) -> Predict:
    from src.keras_setup import keras

    # `predict_on_batch` is compiled, unlike a direct call, and does not start a data pipeline, unlike `predict`.
    return keras.Model(trained.model.inputs, {task: trained.model.output}).predict_on_batch


def _say(probability: np.ndarray, trained: TrainedModel) -> list[dict]:
    """One task's columns for each face, from the model's probabilities (n, classes)."""
    labels, calibration = trained.labels, trained.calibration
    probability = probability / probability.sum(axis=1, keepdims=True, dtype=float)
    names, of_names = sum_to_classes(probability, labels)
    best = decode(of_names, ordered=labels.task == "age")
    confidence = prediction_confidence(of_names, ordered=labels.task == "age")
    said = {f"{labels.task}_unsure": confidence < (calibration.unsure_below if calibration else 0)}
    if labels.task == "gender":
        said |= {"gender": [names[i] for i in best], "p_male": probability[:, names.index("male")].round(4)}
    else:
        said |= {
            "age_group": [names[i] for i in best],
            "age_group_probability": confidence.round(4),
            "age_years": _years(probability, labels).round(1),
        }
    if labels.single_years and calibration and calibration.quantiles:
        low, high = prediction_interval(probability, calibration.quantiles, calibration.bands).T
        said |= {"age_interval_low": low, "age_interval_high": high}
    return [dict(zip(said, values)) for values in zip(*said.values())]


def _years(probability: np.ndarray, labels: Labels) -> np.ndarray:
    """The age answered: the median year or, of a model that knows only groups, the expected one; floats (n,)."""
    if labels.single_years:
        return decode(probability, ordered=True).astype(float)
    return expected_years(probability, labels.centre_years)


def sum_to_classes(probability, labels: Labels) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes that answers are given in, and their probabilities, floats (n, classes).

    They are a model's own classes; where these are single years, the eight age groups, each the sum of its years.
    """
    if not labels.single_years:
        return labels.classes, np.asarray(probability)
    groups = AGE_GROUPS["adience"]
    return groups.names, sum_to_groups(probability, groups)


def add_message(row: dict, text: str | None) -> None:
    """Adds to what a row's message says already."""
    row["message"] = "; ".join(filter(None, (row.get("message"), text))) or None


def to_table(rows: Iterable[dict]) -> pd.DataFrame:
    """The rows as a table of predictions, with the columns and types that `predict` promises."""
    table = pd.DataFrame(list(rows)).reindex(columns=list(PREDICTION_COLUMNS))
    table["detection_score"] = table["detection_score"].astype(float).round(3)
    whole = dict.fromkeys(("face", "left", "top", "right", "bottom", "age_interval_low", "age_interval_high"), "Int64")
    words = dict.fromkeys(("photo", "status", "gender", "age_group", "message"), "string")
    numbers = dict.fromkeys(("detection_score", "p_male", "age_group_probability", "age_years"), "Float64")
    booleans = dict.fromkeys(("gender_unsure", "age_unsure"), "boolean")
    return table.astype(whole | words | numbers | booleans)
