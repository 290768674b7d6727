"""Trains networks on aligned faces, with augmentation and a seed; an interrupted training resumes."""

import hashlib
import inspect
import json
import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import CACHE, SEED
from src.files import atomic_folder, exclusive_lock, write_text
from src.keras_setup import data_parallel, device_count, fused_normalisation, keras

PREDICTION_BATCH = 64  # faces that `predict_probabilities` predicts together


@dataclass(frozen=True)
class TrainingSettings:
    """How to train a network.

    Attributes:
        epochs: Largest number of passes over the training faces.
        batch_size: Number of faces in a batch.
        learning_rate: Peak learning rate, after a linear warm-up over 10% of the steps and before a cosine decay.
        weight_decay: Weight decay of AdamW.
        patience: Number of epochs without a lower validation loss after which training stops.
        rotation: Largest rotation in degrees.
        zoom: Largest relative change of size, 0-1.
        shift: Largest shift in each direction as a share of the side, 0-1.
        brightness: Largest relative change of brightness, 0-1.
        grayscale_probability: Share of the faces that become grayscale, as in old photos.
        downscale_probability: Share of the faces that are reduced to 25-80% of their resolution.
        random_erasing_probability: Share of the faces in which noise covers a patch of up to a third of the side. Source:
            Zhong et al., "Random erasing data augmentation", AAAI 2020.
        seed: Seed of the order of the faces and of the augmentation. Dropout has the seed of its layer.
    """

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    patience: int = 4
    rotation: float = 10
    zoom: float = 0.1
    shift: float = 0.04
    brightness: float = 0.2
    grayscale_probability: float = 0.0
    downscale_probability: float = 0.0
    random_erasing_probability: float = 0.0
    seed: int = SEED


class FaceBatches(keras.utils.PyDataset):
    """Batches of faces and labels for Keras: uint8 (b, size, size, 3), RGB, 0-255, and labels (b,) or (b, k).

    If several devices share a batch, there is a third array, weights (b,), and the size of each batch is a multiple of the
    number of devices. Training leaves out the remainder, which differs from epoch to epoch. Prediction fills the last batch
    with copies of a face, whose weight is 0.

    Args:
        faces: uint8 array or memory map (n, size, size, 3).
        rows: Indices of the faces to use (m,).
        labels: Their labels, integers (m,) or floats (m, k).
        batch_size: Number of faces in a batch.
        settings: Shuffles and augments the faces, differently in each epoch; None leaves them as they are.
        epoch: Number of the first epoch.

    Raises:
        ValueError: The batch size is not a multiple of the number of devices.
    """

    def __init__(self, faces, rows, labels, batch_size: int, settings: TrainingSettings | None = None, epoch: int = 0):
        super().__init__(workers=2, max_queue_size=4)
        self.faces, self.rows, self.labels, self.batch_size = faces, np.asarray(rows), np.asarray(labels), batch_size
        self.settings, self.epoch, self.devices = settings, epoch, device_count()
        if batch_size % self.devices:
            raise ValueError(f"batch_size must be a multiple of the {self.devices} devices, got {batch_size}; change it")
        self._shuffle()

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        filling = -len(chosen) % self.devices
        weights = np.repeat(np.float32([1, 0]), [len(chosen), filling])
        chosen = np.append(chosen, chosen[:1].repeat(filling))
        faces = np.asarray(self.faces[self.rows[chosen]])
        if self.settings:
            for i, row in enumerate(chosen):
                rng = np.random.default_rng((self.settings.seed, self.epoch, row))
                faces[i] = augment(faces[i], rng, self.settings)
        return (faces, self.labels[chosen]) if self.devices == 1 else (faces, self.labels[chosen], weights)

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = np.arange(len(self.rows))
        if self.settings:
            np.random.default_rng((self.settings.seed, self.epoch)).shuffle(self.order)
            self.order = self.order[: len(self.order) - len(self.order) % self.devices]


def augment(face: npt.NDArray[np.uint8], rng: np.random.Generator, settings: TrainingSettings) -> npt.NDArray[np.uint8]:
    """Returns a randomly changed copy of a face.

    The steps are rotation, zoom, shift and (for half of the faces) a horizontal flip, brightness, grayscale, lower resolution
    and random erasing.

    Args:
        face: uint8 (size, size, 3), RGB.
        rng: Source of the random numbers.
        settings: Limits and probabilities of the steps.

    Returns:
        uint8 (size, size, 3).
    """
    size = face.shape[0]
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    scale = 1 + rng.uniform(-settings.zoom, settings.zoom)
    mirror = rng.choice((-1, 1))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag((mirror, 1))
    centre = np.full(2, (size - 1) / 2)
    shift = size * rng.uniform(-settings.shift, settings.shift, 2)
    matrix = np.column_stack([linear, centre - linear @ centre + shift])
    face = cv2.warpAffine(face, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    face = cv2.convertScaleAbs(face, alpha=1 + rng.uniform(-settings.brightness, settings.brightness))
    if rng.random() < settings.grayscale_probability:
        face = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < settings.downscale_probability:
        small = cv2.resize(face, (int(size * rng.uniform(0.25, 0.8)),) * 2, interpolation=cv2.INTER_AREA)
        face = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < settings.random_erasing_probability:
        height, width = rng.integers(size // 8, size // 3, 2)
        top, left = rng.integers(0, size - height), rng.integers(0, size - width)
        face[top : top + height, left : left + width] = rng.integers(0, 256, (height, width, 3), np.uint8)
    return face


def fit(
    model: keras.Model,
    faces: npt.NDArray[np.uint8],
    rows: npt.ArrayLike,
    labels: npt.ArrayLike,
    split: npt.ArrayLike,
    settings: TrainingSettings = TrainingSettings(),
    on_epoch: Callable[[pd.DataFrame], None] = lambda history: None,
    checkpoint_folder: Path = CACHE / "training",
    loss: Callable | str = "sparse_categorical_crossentropy",
    metrics: tuple = ("accuracy",),
) -> tuple[keras.Model, pd.DataFrame]:
    """Trains a copy of a network.

    After each epoch, the state is saved in a folder that is named by a hash of the network, its weights, the settings, the
    source code of loss and metrics, and the data. The same call resumes from there, or returns the result of a complete
    training at once. If another process runs the same training, the call waits for it. With the JAX backend, all devices of
    this machine share each batch.

    Args:
        model: The network; it is not changed.
        faces: Array or memory map (n, size, size, 3), RGB, 0-255.
        rows: Indices of the faces to use (m,).
        labels: Their labels: integers (m,), or floats (m, k) for another kind of loss.
        split: "train" or "validation" for each of them (m,); faces of any other split are not used.
        settings: How to train.
        on_epoch: Called with the history after each epoch, and once when a training resumes.
        checkpoint_folder: Folder for the saved states.
        loss: Name or function of a Keras loss.
        metrics: Names or classes of Keras metrics.

    Returns:
        The copy with the weights of the best epoch, computing in float32, and the history: a row for each epoch with
        `epoch`, `loss`, `val_loss`, `seconds` and the metrics (`accuracy`, `val_accuracy`).

    Raises:
        ValueError: The validation loss is not a number in any epoch.
    """
    with data_parallel():
        model, split = _rebuild(model, model.to_json()), np.asarray(split)
        used = np.isin(split, ["train", "validation"])
        rows, labels, split = (np.asarray(values)[used] for values in (rows, labels, split))
        folder = checkpoint_folder / _state_name(model, faces, rows, labels, split, settings, (loss, *metrics))
        with exclusive_lock(folder / ".lock"):
            checkpoints = _Checkpoints(folder, settings.patience, on_epoch)
            start = len(checkpoints.history)
            if start:
                own = {one.__name__: one for one in (loss, *metrics) if hasattr(one, "__name__")}
                model = keras.models.load_model(checkpoints.path(start) / "state.keras", custom_objects=own)
                on_epoch(pd.DataFrame(checkpoints.history))
            else:
                _compile(model, int((split == "train").sum()), settings, loss, metrics)
            if start < settings.epochs and not checkpoints.finished:
                is_training, is_validation = split == "train", split == "validation"
                training = FaceBatches(faces, rows[is_training], labels[is_training], settings.batch_size, settings, start)
                validation = FaceBatches(faces, rows[is_validation], labels[is_validation], settings.batch_size)
                with fused_normalisation():
                    model.fit(
                        training, validation_data=validation, initial_epoch=start, epochs=settings.epochs,
                        shuffle=False, callbacks=[checkpoints], verbose=0,
                    )  # fmt: skip
            if math.isnan(checkpoints.history[checkpoints.best - 1]["val_loss"]):
                raise ValueError(
                    "the validation loss is not a number in any epoch: choose a lower learning rate or another loss"
                )
            model.load_weights(checkpoints.path(checkpoints.best) / "state.keras")
            return to_float32(model), pd.DataFrame(checkpoints.history)


def _state_name(model, faces, rows, labels, split, settings: TrainingSettings, loss_and_metrics: tuple) -> str:
    # Keras numbers unnamed layers by what the process has built before, so the numbers are removed.
    digest = hashlib.sha256(re.sub(r"_\d+\b", "", model.to_json()).encode())
    sources = [one if isinstance(one, str) else _source_code(one) for one in loss_and_metrics]
    digest.update(json.dumps([asdict(settings), sources, split.tolist()]).encode())
    # About 64 faces are hashed to detect another alignment or data set.
    for values in (*model.get_weights(), rows, labels, faces[rows[:: max(1, len(rows) // 64)]]):
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()[:16]


def _source_code(function: Callable) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into an interpreter, or not written in Python
        return repr(getattr(function, "__name__", function))


def _compile(model: keras.Model, count: int, settings: TrainingSettings, loss: Callable | str, metrics: tuple) -> None:
    """Compiles a model for training on `count` faces, with AdamW, warm-up and cosine decay."""
    steps = settings.epochs * -(-count // settings.batch_size)
    warm_up = max(1, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 20, max(1, steps - warm_up), warmup_target=settings.learning_rate, warmup_steps=warm_up
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay),
        loss=loss,
        # Weighted metrics ignore the copies that pad a batch; see FaceBatches.
        weighted_metrics=[metric if isinstance(metric, str) else metric() for metric in metrics],
        jit_compile=keras.backend.backend() == "jax",  # on a CPU, TensorFlow's XLA is slower than its own kernels
    )


class _Checkpoints(keras.callbacks.Callback):
    """Saves the model, its optimiser and the history after each epoch; keeps the newest and the best epoch.

    Keras's BackupAndRestore, ModelCheckpoint and EarlyStopping do not restore the patience of an interrupted training.
    """

    def __init__(self, folder: Path, patience: int, on_epoch: Callable[[pd.DataFrame], None]):
        super().__init__()
        self.folder, self.patience, self.on_epoch = folder, patience, on_epoch
        saved = sorted(folder.glob("epoch-*/history.json"))
        self.history = json.loads(saved[-1].read_text()) if saved else []

    def path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}"

    @property
    def best(self) -> int:
        return min(self.history, key=lambda row: (math.isnan(row["val_loss"]), row["val_loss"]))["epoch"]

    @property
    def finished(self) -> bool:
        return bool(self.history) and len(self.history) - self.best >= self.patience

    def on_epoch_begin(self, epoch, logs=None):
        # Keras does not save the state of dropout's random numbers. Each epoch therefore sets it: the seed stays, and the
        # counter of random draws starts at a multiple of 2**20.
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                variable.assign([int(keras.ops.convert_to_numpy(variable)[0]), epoch * 2**20])
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in logs.items()}
        self.history.append({"epoch": epoch + 1, **values, "seconds": round(time.monotonic() - self.started, 1)})
        with atomic_folder(self.path(epoch + 1)) as state:
            self.model.save(state / "state.keras")
            write_text(state / "history.json", json.dumps(self.history, indent=1))
        for old in set(self.folder.glob("epoch-*")) - {self.path(epoch + 1), self.path(self.best)}:
            shutil.rmtree(old)
        self.on_epoch(pd.DataFrame(self.history))
        self.model.stop_training = self.finished


def predict_probabilities(model: keras.Model, faces: np.ndarray, rows: npt.ArrayLike) -> np.ndarray:
    """Returns a model's outputs for many faces, computed in batches.

    Args:
        model: A model that takes uint8 faces (batch, size, size, 3), RGB, 0-255.
        faces: uint8 array or memory map (n, size, size, 3), RGB.
        rows: Indices of the faces to use (m,).

    Returns:
        float32 (m, classes): probabilities, or logits for a model that returns logits.
    """
    batches = FaceBatches(faces, rows, np.zeros(len(rows), int), PREDICTION_BATCH)
    return model.predict(batches, verbose=0)[: len(rows)]


def centre_years(table: pd.DataFrame, classes: int) -> npt.NDArray[np.float64]:
    """Returns the mean age of each class's faces, in years (classes,).

    Args:
        table: Table of faces with their class in the column `label`; an age range counts as its middle.
        classes: Number of classes.

    Raises:
        ValueError: A class has no face.
    """
    middle = (table["age_low"] + table["age_high"]).astype(float) / 2
    centre = middle.groupby(table["label"]).mean().reindex(range(classes))
    if centre.isna().any():
        raise ValueError(
            f"expected a training face of each of the {classes} classes, class {int(centre.isna().argmax())} has none"
        )
    return centre.to_numpy()


def fast_dtype() -> str:
    """Returns "mixed_bfloat16" on accelerators and on processors that compute in it (AMX, AVX-512), otherwise "float32"."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    accelerator = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    return "mixed_bfloat16" if accelerator or "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


def to_float32(model: keras.Model) -> keras.Model:
    """Returns a copy without loss and optimiser, in which every layer computes in float32, as in released models."""
    return _rebuild(model, model.to_json().replace('"mixed_bfloat16"', '"float32"'))


def _rebuild(model: keras.Model, config: str) -> keras.Model:
    config = json.loads(config)
    config.pop("compile_config", None)
    copy = keras.models.model_from_json(json.dumps(config))
    copy.set_weights(model.get_weights())
    return copy
