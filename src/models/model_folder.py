"""Saves and loads trained models: folders with `model.keras`, `labels.json` and `card.json`.

The three files are written together or not at all, and checked against each other on loading. None of them can run code.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import dlib
import numpy as np
import pandas as pd

from src.config import GENDERS, MODELS, YEAR_COUNT
from src.evaluation.calibration import Calibration
from src.faces.align import Alignment
from src.faces.detect import DEFAULT_DETECTOR
from src.files import atomic_folder, write_text
from src.models.onnx_graph import OnnxGraph, UnsupportedModelError, read_graph

if TYPE_CHECKING:  # importing Keras takes seconds, and ONNX Runtime runs most models without it
    from src.keras_setup import keras

FILES = ("model.keras", "labels.json", "card.json")


class ModelFolderError(ValueError):
    """A model folder is incomplete, damaged or inconsistent. The message says what is wrong and what to do."""


@dataclass(frozen=True)
class Labels:
    """The label encoder.

    Attributes:
        task: "gender" or "age".
        classes: Names of the classes, in the order of the model's outputs.
        years: For age, the first and the last year of each class, inclusive.
        centre_years: For age, the mean age of each class's training faces; `metrics.expected_years` uses it.
    """

    task: str
    classes: tuple[str, ...]
    years: tuple[tuple[int, int], ...] = ()
    centre_years: tuple[float, ...] = ()

    def __post_init__(self):
        if self.task != "age" and (self.task != "gender" or sorted(self.classes) != sorted(GENDERS)):
            raise ValueError(f"task must be age, or gender with the classes {' and '.join(GENDERS)}, got {self}")
        if {len(self.years), len(self.centre_years)} != {len(self.classes) if self.task == "age" else 0}:
            raise ValueError("age labels must have years and centre_years for each class, gender labels must have neither")
        if (np.diff(np.ravel(self.years)) < 0).any() or (np.diff(self.centre_years) < 0).any():
            raise ValueError(f"years and centre_years must be in order, got {self.years} and {self.centre_years}")

    @property
    def single_years(self) -> bool:
        """Whether the classes are the years of age from 0 to 100, one each."""
        return self.years == tuple((year, year) for year in range(YEAR_COUNT))


@dataclass(frozen=True)
class TrainedModel:
    """A loaded model folder.

    Attributes:
        keras_loader: Loads the Keras model; raises ModelFolderError if this version of Keras cannot.
        labels: The classes.
        alignment: How faces are aligned for this model.
        card: Content of `card.json`.
        calibration: The calibration in the card, if any.
        graph: The model for ONNX Runtime; None if only Keras can run it.
    """

    keras_loader: Callable[[], keras.Model]
    labels: Labels
    alignment: Alignment
    card: dict
    calibration: Calibration | None = None
    graph: OnnxGraph | None = None

    @cached_property
    def model(self) -> keras.Model:
        """The Keras model, from uint8 (batch, size, size, 3), RGB, 0-255, to probabilities; loaded when first used."""
        return self.keras_loader()


def save_model(
    folder: Path,
    model: keras.Model,
    labels: Labels,
    alignment: Alignment,
    trained_on: dict,
    results: list,
    calibration: Calibration | None = None,
) -> Path:
    """Writes a model folder and replaces an existing one. The card names the default detector.

    Args:
        folder: The folder to write.
        model: From uint8 faces (batch, size, size, 3), RGB, 0-255, to probabilities (batch, classes).
        labels: The label encoder.
        alignment: How the faces were aligned.
        trained_on: Data set, counts and settings, as JSON types.
        results: Dicts of measured metrics, for example with the fields of `Estimate`; the first is the model's accuracy.
        calibration: Thresholds and intervals for predictions; None if there are none.

    Returns:
        The folder.

    Raises:
        ValueError: The model does not fit the labels or the alignment.
    """
    from src.keras_setup import keras

    _check_shapes(tuple(model.input_shape), model.inputs[0].dtype, model.output_shape[-1], labels, alignment)
    card = {
        "task": labels.task,
        "classes": labels.classes,
        "detector": DEFAULT_DETECTOR,  # finds the training faces in `prepare` and the faces in `Predictor`
        "alignment": {**asdict(alignment), "eyes": alignment.eyes.tolist(), "colour_order": "RGB"},
        "trained_on": trained_on,
        "results": results,
        "versions": {"python": platform.python_version(), "keras": keras.__version__, "dlib": dlib.__version__},
    }
    if calibration is not None:
        card["calibration"] = asdict(calibration)
    with atomic_folder(Path(folder)) as new:
        model.save(new / "model.keras")
        card["model_sha256"] = hashlib.sha256((new / "model.keras").read_bytes()).hexdigest()
        for name, content in (("labels.json", asdict(labels)), ("card.json", card)):
            # The default turns NumPy's numbers into Python's and raises TypeError for anything else.
            write_text(new / name, json.dumps(content, indent=1, ensure_ascii=False, default=np.generic.item) + "\n")
    return Path(folder)


def load_model(folder: str | Path) -> TrainedModel:
    """Reads a model folder and checks its three files against each other.

    A model that ONNX Runtime can run is loaded without Keras, whose import takes seconds; see `onnx_graph`.

    Args:
        folder: A model folder.

    Returns:
        The model.

    Raises:
        ModelFolderError: A file is missing, damaged or does not fit the others.
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        problem = f"it requires {', '.join(FILES)}, missing: {', '.join(missing)}" if folder.is_dir() else "no such folder"
        raise ModelFolderError(
            f"{folder} is not a model folder: {problem}; models/gender and models/age are the released models, and "
            "notebooks 1 and 2 write others beside them"
        )
    content = (folder / "model.keras").read_bytes()
    try:
        card, labels_json = (json.loads((folder / name).read_bytes()) for name in ("card.json", "labels.json"))
        if hashlib.sha256(content).hexdigest() != card["model_sha256"]:
            raise ValueError("model.keras is damaged or was changed, card.json has another SHA-256; copy the folder again")
        labels, alignment_json = Labels(**_to_tuples(labels_json)), card["alignment"]
        alignment = Alignment(**{name: alignment_json[name] for name in Alignment.__dataclass_fields__})
        calibration = Calibration(**_to_tuples(card["calibration"])) if "calibration" in card else None
        for name, expected, found in (
            ("task", labels.task, card["task"]),
            ("classes", list(labels.classes), card["classes"]),
            ("colour_order", "RGB", alignment_json["colour_order"]),
            ("eyes", alignment.eyes.round(6).tolist(), np.array(alignment_json["eyes"], float).round(6).tolist()),
        ):
            if expected != found:
                raise ValueError(f"labels.json and the alignment require {name} {expected}, card.json has {found}")
        graph = None
        with suppress(UnsupportedModelError):
            graph = read_graph(content)
            _check_shapes((None, *graph.size, 3), "uint8", graph.classes, labels, alignment)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"labels.json or card.json lacks {error}" if isinstance(error, KeyError) else error
        raise ModelFolderError(f"{folder} cannot be used: {reason}") from error
    loader = partial(_load_keras_model, folder, card, labels, alignment)
    trained = TrainedModel(loader, labels, alignment, card, calibration, graph)
    if graph is None:
        trained.model  # noqa: B018  # a model that only Keras can run is loaded now, which checks it
    return trained


def find_models(task: str, dataset: str, which: str = "both") -> dict[str, Path]:
    """Finds the model that notebook 1 or 2 trained on a data set, and the released one.

    Args:
        task: "gender" or "age".
        dataset: Data set that the notebook used.
        which: "mine" (trained by the notebook), "released", or "both" for those of the two that exist.

    Returns:
        The folders under "mine" and "released", in this order.

    Raises:
        ModelFolderError: There is no such model.
        ValueError: `which` is none of the three.
    """
    folders = {"mine": MODELS / f"{dataset}-{task}", "released": MODELS / task}
    if which != "both" and which not in folders:
        raise ValueError(f"the model must be mine, released or both, got {which!r}")
    wanted = folders if which == "both" else {which: folders[which]}
    found = {name: folder for name, folder in wanted.items() if (folder / "card.json").exists()}
    if not found:
        missing = " and ".join(f"models/{folder.name}/" for folder in wanted.values())
        raise ModelFolderError(
            f"there is no {task} model in {missing}: notebook {1 if task == 'gender' else 2} trains one on {dataset}; "
            "the released ones come with the repository"
        )
    return found


def summarise_models(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Tabulates model folders by name: folder, training data, input size, and the accuracy, their card's first result."""
    rows = {}
    for name, folder in folders.items():
        card = json.loads((folder / "card.json").read_bytes())
        first = card["results"][0]
        rows[name] = {
            "folder": f"{folder.parent.name}/{folder.name}",
            "trained on": card["trained_on"]["dataset"],
            "input, pixels": card["alignment"]["size"],
            "accuracy on its own test faces": f"{first['value']:.1%} (n = {first['n']:,})",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _load_keras_model(folder: Path, card: dict, labels: Labels, alignment: Alignment) -> keras.Model:
    from src.keras_setup import keras

    try:
        if hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest() != card["model_sha256"]:
            raise ValueError("it was replaced after its card was read; load the folder again")
        model = keras.models.load_model(folder / "model.keras", compile=False, safe_mode=True)
        _check_shapes(tuple(model.input_shape), model.inputs[0].dtype, model.output_shape[-1], labels, alignment)
    except Exception as error:  # Keras raises errors of many types
        reason = " ".join(str(error).split()).split(". ")[0]  # Keras's first sentence
        saved_by = (card.get("versions") or {}).get("keras", "an unknown version")
        raise ModelFolderError(
            f"{folder}/model.keras cannot be used: {reason} (saved by Keras {saved_by}, this is Keras {keras.__version__})"
        ) from error
    return model


def _check_shapes(shape: tuple, dtype: str, outputs: int, labels: Labels, alignment: Alignment) -> None:
    expected = (None, alignment.size, alignment.size, 3)
    if shape != expected or dtype != "uint8":
        raise ValueError(f"the model takes {dtype} {shape}, the alignment produces uint8 {expected}; use the model's size")
    if outputs != len(labels.classes):
        raise ValueError(f"the model must have one output for each of {len(labels.classes)} classes, got {outputs}")


def _to_tuples(value):
    """Converts JSON's lists to tuples."""
    if isinstance(value, dict):
        return {name: _to_tuples(item) for name, item in value.items()}
    return tuple(map(_to_tuples, value)) if isinstance(value, list) else value
