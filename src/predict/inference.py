"""From aligned faces to predictions: runs the models and turns their probabilities into the columns of the table."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import AGE_GROUPS, MODELS
from src.evaluation.calibration import prediction_interval, sum_to_groups
from src.evaluation.metrics import decode, expected_years, prediction_confidence
from src.faces.align import Alignment
from src.models.model_folder import Labels, ModelFolderError, TrainedModel, load_model
from src.models.onnx_graph import OnnxGraph, RunModels, compile_graphs

DETECTION_TYPES = {
    "photo": "string", "status": "string",
    "face": "Int64", "left": "Int64", "top": "Int64", "right": "Int64", "bottom": "Int64", "detection_score": "Float64",
}  # fmt: skip
FACE_TYPES = {  # what is predicted for a face in a photo, or for a person in a video
    "gender": "string", "p_male": "Float64",
    "age_group": "string", "age_group_probability": "Float64", "age_years": "Float64",
    "message": "string",
    "age_interval_low": "Int64", "age_interval_high": "Int64", "gender_unsure": "boolean", "age_unsure": "boolean",
}  # fmt: skip
PREDICTION_TYPES = DETECTION_TYPES | FACE_TYPES
PREDICTION_COLUMNS = tuple(PREDICTION_TYPES)
BATCH_FACES = 16  # larger batches need more memory and, in ONNX Runtime, more time per face


class Models(NamedTuple):
    """The loaded models."""

    trained: dict[str, TrainedModel]  # by task, "gender" and "age"
    runners: dict[tuple[str, ...], RunModels]  # the functions that run them, by task(s); see `build_runners`

    @property
    def alignments(self) -> dict[str, Alignment]:
        """How faces are aligned, by task."""
        return {task: trained.alignment for task, trained in self.trained.items()}

    def probabilities(self, faces: list[dict[str, npt.NDArray[np.uint8]]]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs the models.

        Args:
            faces: For each face, the aligned face by task, such as `{"gender": face, "age": face}`: uint8 (size, size, 3),
                RGB, 0-255.

        Returns:
            The class probabilities by task, float32 (n, classes); empty without faces.
        """
        batches: dict[str, list] = {task: [] for task in self.trained}
        for tasks, run in self.runners.items():
            for start in range(0, len(faces), BATCH_FACES):
                batch = np.stack([face[tasks[0]] for face in faces[start : start + BATCH_FACES]])
                for task, probability in run(batch).items():
                    batches[task].append(probability)
        return {task: np.concatenate(parts) for task, parts in batches.items() if parts}

    def to_rows(self, probabilities: dict[str, np.ndarray]) -> list[dict]:
        """Turns class probabilities by task, (n, classes), into the values of `FACE_TYPES` by column, for each face.

        `message` names the tasks with an uncertain prediction; it is None if there are none.
        """
        columns: dict = {}
        for task, probability in probabilities.items():
            columns |= _task_columns(probability, self.trained[task])
        rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
        for row in rows:
            unsure = [task for task in probabilities if row[f"{task}_unsure"]]
            row["message"] = f"unsure of {' and '.join(unsure)}" if unsure else None
        return rows


def load_models(gender_model: str | Path | None = MODELS / "gender", age_model: str | Path | None = MODELS / "age") -> Models:
    """Loads model folders; None leaves a task out.

    Raises:
        ModelFolderError: A folder cannot be used, or contains a model for the other task.
    """
    folders = {"gender": gender_model, "age": age_model}
    trained = {task: load_model(folder) for task, folder in folders.items() if folder is not None}
    for task, model in trained.items():
        if (found := model.labels.task) != task:
            raise ModelFolderError(f"{folders[task]} contains a model for {found}, not for {task}: choose another folder")
    return Models(trained, build_runners(trained))


def build_runners(models: dict[str, TrainedModel]) -> dict[tuple[str, ...], RunModels]:
    """Returns the functions that run models, by the tasks that each predicts, such as ("gender", "age").

    Models with the same alignment run together in ONNX Runtime, and run level one only once if it is the same. A model that
    ONNX Runtime cannot run runs in Keras. `models` are given by task.
    """
    runners: dict[tuple[str, ...], RunModels] = {}
    by_alignment: dict[Alignment, dict[str, OnnxGraph]] = {}
    for task, trained in models.items():
        if trained.graph is None:
            runners[(task,)] = _run_in_keras(task, trained)
        else:
            by_alignment.setdefault(trained.alignment, {})[task] = trained.graph
    return runners | {tuple(graphs): compile_graphs(graphs) for graphs in by_alignment.values()}


def _run_in_keras(task: str, trained: TrainedModel) -> RunModels:
    model = trained.model  # loaded now, so that an error occurs here and not during a prediction
    # Unlike a direct call, this method is compiled; unlike `predict`, it does not start a data pipeline.
    return lambda faces: {task: model.predict_on_batch(faces)}


def predict_faces(rows: list[dict], models: Models) -> pd.DataFrame:
    """Predicts gender and age for detected faces.

    Args:
        rows: The rows of `detect_faces_in_photo`, of any number of photos; those with faces are completed in place.
        models: The loaded models.

    Returns:
        The table of predictions, one row for each of `rows`.
    """
    faces = [row for row in rows if "aligned" in row]
    for row, predicted in zip(faces, models.to_rows(models.probabilities([row["aligned"] for row in faces]))):
        messages = filter(None, (row.get("message"), predicted["message"]))
        row |= predicted | {"message": "; ".join(messages) or None}
    columns = {name: [row.get(name) for row in rows] for name in PREDICTION_TYPES}
    columns["status"] = list(map(str, columns["status"]))  # plain strings, not members of `Status`
    return pd.DataFrame({name: pd.array(values, PREDICTION_TYPES[name]) for name, values in columns.items()})


def to_reported_classes(probability: npt.ArrayLike, labels: Labels) -> tuple[tuple[str, ...], np.ndarray]:
    """Sums single years to the eight age groups in which predictions are reported; other classes stay unchanged.

    Args:
        probability: The probabilities of the model's classes, (n, classes).
        labels: The model's label encoder.

    Returns:
        The names of the reported classes and their probabilities, (n, reported classes).
    """
    if not labels.single_years:
        return labels.classes, np.asarray(probability)
    groups = AGE_GROUPS["adience"]
    return groups.names, sum_to_groups(probability, groups)


def _task_columns(probability: np.ndarray, trained: TrainedModel) -> dict:
    """Returns the values of all faces for one task, by column."""
    labels, calibration, ordered = trained.labels, trained.calibration, trained.labels.task == "age"
    probability = probability / probability.sum(axis=1, keepdims=True, dtype=float)
    names, by_class = to_reported_classes(probability, labels)
    predicted = [names[i] for i in decode(by_class, ordered)]
    confidence = prediction_confidence(by_class, ordered)
    unsure = confidence < (calibration.unsure_below if calibration else 0)
    if labels.task == "gender":
        return {"gender": predicted, "p_male": probability[:, names.index("male")].round(4), "gender_unsure": unsure}
    columns = {"age_group": predicted, "age_group_probability": confidence.round(4), "age_unsure": unsure}
    if not labels.single_years:
        return columns | {"age_years": expected_years(probability, labels.centre_years).round(1)}
    if calibration and calibration.quantiles:
        low, high = prediction_interval(probability, calibration).T
        columns |= {"age_interval_low": low, "age_interval_high": high}
    return columns | {"age_years": decode(probability, ordered=True)}
