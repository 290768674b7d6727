"""Saving and loading a trained model: a folder with `model.keras`, `labels.json` and `card.json`.

The three are written together or not at all, and checked against each other on loading. Nothing in them can run code:
JSON, and Keras's format in its safe mode.

Before it: `train`. After it: `answers`, `export`, `findings`.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import dlib
import numpy as np

from src.config import GENDERS, MODELS, YEARS
from src.evaluation.calibration import Calibration
from src.faces.align import Alignment
from src.faces.detect import DEFAULT_DETECTOR
from src.files import atomic_folder, write_text
from src.models.onnx_graph import Network, UnsupportedModel, read_network

if TYPE_CHECKING:  # importing Keras takes seconds, and most models run without it
    from src.keras_setup import keras

FILES = ("model.keras", "labels.json", "card.json")


class ModelFolderError(ValueError):
    """A model folder that is not whole or not consistent; its text says what does not fit and the way out."""


@dataclass(frozen=True)
class Labels:
    """The label encoder: a class's index is its place in `classes`.

    task: "gender" or "age". For age, years: each class's (first, last) year, inclusive, and centre_years: the mean age
    of its training faces, from which an age in years is estimated.
    """

    task: str
    classes: tuple[str, ...]
    years: tuple[tuple[int, int], ...] = ()
    centre_years: tuple[float, ...] = ()

    def __post_init__(self):
        if self.task not in ("gender", "age"):
            raise ValueError(f"task must be gender or age, got {self.task!r}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be at least two different names, got {list(self.classes)}")
        if self.task == "gender" and set(self.classes) != set(GENDERS):
            raise ValueError(f"gender classes must be {' and '.join(GENDERS)}, got {list(self.classes)}")
        expected = len(self.classes) if self.task == "age" else 0
        if not len(self.years) == len(self.centre_years) == expected:
            raise ValueError(f"{self.task} labels need years and centre_years for {expected} classes")
        edges = [year for pair in self.years for year in pair]
        if any(len(pair) != 2 for pair in self.years) or sorted(edges) != edges or sum(edges) != sum(map(int, edges)):
            raise ValueError(f"years must be whole (first, last) pairs in order, got {list(self.years)}")
        if not np.isfinite(np.array(self.centre_years, float)).all() or sorted(self.centre_years) != list(self.centre_years):
            raise ValueError(f"centre_years must be finite and in order, got {list(self.centre_years)}")

    @property
    def single_years(self) -> bool:
        """Whether the classes are the years of age from 0 to 100, one each."""
        return self.years == tuple((year, year) for year in range(YEARS))


@dataclass(frozen=True)
class TrainedModel:
    """A loaded model folder.

    Attributes:
        load_model: Loads the Keras model; raises ModelFolderError if this Keras cannot.
        labels: The classes.
        alignment: How faces are aligned for this model.
        card: The content of `card.json`.
        calibration: The calibration in the card, if there is one.
        network: The model for ONNX Runtime; None if it has layers that only Keras can run.
    """

    load_model: Callable[[], keras.Model]
    labels: Labels
    alignment: Alignment
    card: dict
    calibration: Calibration | None = None
    network: Network | None = None

    @cached_property
    def model(self) -> keras.Model:
        """The Keras model, loaded on first use.

        It takes uint8 (batch, size, size, 3), RGB, 0-255, and gives probabilities (batch, classes).
        """
        return self.load_model()


def save_model(
    folder: Path,
    model: keras.Model,
    labels: Labels,
    alignment: Alignment,
    trained_on: dict,
    results: list,
    calibration: dict | None = None,
    detector: str = DEFAULT_DETECTOR,
) -> Path:
    """Writes a model folder, replacing an existing one.

    Args:
        folder: The folder to write.
        model: From uint8 faces (batch, size, size, 3), RGB, 0-255, to probabilities (batch, classes).
        labels: The label encoder.
        alignment: How the faces were aligned.
        trained_on: Data set, counts and settings.
        results: Measured figures, each with its interval and n.
        calibration: The fields of `Calibration`.
        detector: What found the training faces; see `detect.detect`.

    Returns:
        The folder.
    """
    from src.keras_setup import keras

    _check_model(model, labels, alignment)
    if calibration is not None:
        calibration = asdict(Calibration(**calibration))
    with atomic_folder(Path(folder)) as new:
        model.save(new / "model.keras")
        write_text(new / "labels.json", _json(asdict(labels)))
        card = {
            "task": labels.task,
            "classes": labels.classes,
            "detector": detector,
            "alignment": {**asdict(alignment), "eyes": alignment.eyes.tolist(), "colour_order": "RGB"},
            "trained_on": trained_on,
            "results": results,
            "versions": {"python": platform.python_version(), "keras": keras.__version__, "dlib": dlib.__version__},
            "model_sha256": _sha256(new / "model.keras"),
        }
        if calibration is not None:
            card["calibration"] = calibration
        write_text(new / "card.json", _json(card))
    return Path(folder)


def load_model(folder: str | Path) -> TrainedModel:
    """Reads a model folder and checks its three files against each other.

    Keras is imported only for a model that ONNX Runtime cannot run (see `onnx_graph`).

    Args:
        folder: A model folder.

    Raises:
        ModelFolderError: Something is missing, damaged or does not fit; the message says what, in one sentence.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"{folder} is no model folder: it needs {', '.join(FILES)}, missing: {', '.join(missing)}; "
            "notebooks 1 and 2 make such folders as models/sample-gender and models/sample-age"
        )
    card, labels = _read_json(folder / "card.json"), _read_json(folder / "labels.json")
    try:
        labels = Labels(**{name: _tuples(value) for name, value in labels.items()})
        alignment = Alignment(**{name: card["alignment"][name] for name in Alignment.__dataclass_fields__})
        promised, classes, task = card["model_sha256"], tuple(card["classes"]), card["task"]
        colours = card["alignment"]["colour_order"]
        eyes = np.array(card["alignment"]["eyes"], float).reshape(2, 2).tolist()
        calibration = _calibration(card.get("calibration"))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{folder}: labels.json or card.json is not as this version writes it ({error})") from error
    content = _read_model_file(folder, promised)
    if classes != labels.classes or task != labels.task:
        raise ModelFolderError(
            f"{folder}: labels.json names {labels.task} classes {list(labels.classes)}, "
            f"card.json {task} classes {list(classes)}"
        )
    if colours != "RGB":
        raise ModelFolderError(f"{folder}: the colour order must be RGB, card.json says {colours!r}")
    try:
        network = read_network(content)
        _check_shapes((None, *network.size, 3), "uint8", network.classes, labels, alignment)
    except UnsupportedModel:
        network = None
    except ValueError as error:
        raise ModelFolderError(f"{folder}/model.keras can't be used: {error}") from error
    trained = TrainedModel(
        partial(_load_keras_model, folder, card, labels, alignment), labels, alignment, card, calibration, network
    )
    if network is None:
        trained.model  # noqa: B018  # loads it, which checks that it can be used
    if not np.allclose(eyes, alignment.eyes):
        raise ModelFolderError(f"{folder}: card.json's eyes {eyes} are not those of its alignment, {alignment.eyes.tolist()}")
    return trained


def _read_model_file(folder: Path, promised: str) -> bytes:
    content = (folder / "model.keras").read_bytes()
    if hashlib.sha256(content).hexdigest() != promised:
        raise ModelFolderError(
            f"{folder}/model.keras is damaged or was changed: its SHA-256 is not the one in card.json; get the folder anew"
        )
    return content


def _load_keras_model(folder: Path, card: dict, labels: Labels, alignment: Alignment) -> keras.Model:
    from src.keras_setup import keras

    _read_model_file(folder, card["model_sha256"])  # it may have changed since the folder was read
    versions = card.get("versions")
    saved_by = versions.get("keras") if isinstance(versions, dict) else None
    other = saved_by != keras.__version__
    try:
        model = keras.models.load_model(folder / "model.keras", compile=False, safe_mode=True)
        _check_model(model, labels, alignment)
        if other:  # models of another version may load and then fail at the first prediction
            model(np.zeros((1, alignment.size, alignment.size, 3), np.uint8), training=False)
    except Exception as error:  # Keras raises many kinds; each means that this file can't be used
        said = " ".join(str(error).split()).split(". ")[0]  # Keras's further sentences are advice to programmers
        if other:
            said = f"Keras {saved_by} saved it and this is Keras {keras.__version__}, which reports: {said}"
        raise ModelFolderError(f"{folder}/model.keras can't be used: {said}") from error
    return model


def find_model(task: str, dataset: str) -> Path:
    """The folder of the released model for a task, or of the one that a notebook made from a data set.

    ModelFolderError where there is neither.
    """
    for folder in (MODELS / task, MODELS / f"{dataset}-{task}"):
        if (folder / "card.json").exists():
            return folder
    raise ModelFolderError(
        f"there is no {task} model yet: models/{task}/ and models/{dataset}-{task}/ are missing; "
        "notebooks 1 (gender) and 2 (age) make one"
    )


def _check_model(model: keras.Model, labels: Labels, alignment: Alignment) -> None:
    _check_shapes(tuple(model.input_shape), model.inputs[0].dtype, model.output_shape[-1], labels, alignment)


def _check_shapes(shape: tuple, dtype: str, outputs: int, labels: Labels, alignment: Alignment) -> None:
    wanted = (None, alignment.size, alignment.size, 3)
    if shape != wanted or dtype != "uint8":
        raise ValueError(f"the model takes {dtype} {shape}, the alignment gives uint8 {wanted}")
    if outputs != len(labels.classes):
        raise ValueError(f"the model has {outputs} outputs, labels.json names {len(labels.classes)} classes")


def _calibration(entry: dict | None) -> Calibration | None:
    if entry is not None and not isinstance(entry, dict):
        raise ValueError(f"calibration must be an object, got {entry!r}")
    return None if entry is None else Calibration(**{name: _tuples(value) for name, value in entry.items()})


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelFolderError(f"{path} is no readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _json(content: dict) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, default=_plain) + "\n"


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a card")


def _tuples(value):
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
