"""Training a network on prepared faces: augmented, seeded, resumable after a kill at any moment.

Before it: `prepare` (aligned faces) and `network`. After it: `evaluate` and `model_folder`.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from src.config import CACHE, SEED
from src.files import atomic_folder, exclusive_lock, write_text
from src.keras_setup import devices, fused_normalisation, keras, over_all_devices
from src.models.two_level_cnn import copy_model, to_float32


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained. rotation in degrees, zoom and shift as shares of the side, brightness as a share."""

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3  # the highest: a tenth of the steps lead up to it, a cosine leads down from it
    weight_decay: float = 1e-2
    patience: int = 4  # epochs without a lower validation loss before training stops
    rotation: float = 10
    zoom: float = 0.1
    shift: float = 0.04
    brightness: float = 0.2
    grey: float = 0.0  # the share of faces without colour, as on old photos
    coarse: float = 0.0  # the share of faces of a lower resolution, down to a quarter
    erased: float = 0.0  # the share of faces with a patch of noise, up to a third of the side
    seed: int = SEED


class FaceBatches(keras.utils.PyDataset):
    """Batches of faces with their labels: (uint8 (b, size, size, 3), int64 (b,) or float (b, k)).

    faces: uint8 (n, size, size, 3), an array or a memory map. rows: which of them, int (m,). labels: int (m,) or
    float (m, k). With `settings` the faces are shuffled and augmented, differently each epoch but always the same for a seed
    and epoch.

    Where batches are divided among several devices, each is a multiple of their number: in training the few faces left over
    wait for another epoch; otherwise the last batch is filled up, with weights (b,) that are 0 for what is not counted.
    ValueError where batch_size is no such multiple.
    """

    def __init__(self, faces, rows, labels, batch_size: int, settings: TrainingSettings | None = None, epoch: int = 0):
        super().__init__(workers=2, max_queue_size=4)
        self.faces, self.rows, self.labels, self.batch_size = faces, np.asarray(rows), np.asarray(labels), batch_size
        self.settings, self.epoch, self.multiple = settings, epoch, devices()
        if batch_size % self.multiple:
            raise ValueError(f"batch_size must be a multiple of the {self.multiple} devices, got {batch_size}")
        self._shuffle()

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        weights = np.ones(len(chosen), np.float32)
        extra = -len(chosen) % self.multiple
        if extra:
            chosen, weights = np.append(chosen, chosen[:1].repeat(extra)), np.append(weights, np.zeros(extra, np.float32))
        faces = np.asarray(self.faces[self.rows[chosen]])
        if self.settings:
            for i, row in enumerate(chosen):
                rng = np.random.default_rng((self.settings.seed, self.epoch, row))
                faces[i] = augment(faces[i], rng, self.settings)
        batch = faces, self.labels[chosen]
        return batch if self.multiple == 1 else (*batch, weights)

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = np.arange(len(self.rows))
        if self.settings:
            np.random.default_rng((self.settings.seed, self.epoch)).shuffle(self.order)
            self.order = self.order[: len(self.order) - len(self.order) % self.multiple]


def augment(face: np.ndarray, rng: np.random.Generator, settings: TrainingSettings) -> np.ndarray:
    """A slightly turned, zoomed, shifted, brightened and perhaps mirrored copy of a uint8 (size, size, 3) face.

    It is never turned upside down: no one's photo is.
    """
    size = face.shape[0]
    turn = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    scale = 1 + rng.uniform(-settings.zoom, settings.zoom)
    mirror = rng.choice((-1, 1))
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag((mirror, 1))
    centre = np.full(2, (size - 1) / 2)
    shift = size * rng.uniform(-settings.shift, settings.shift, 2)
    matrix = np.column_stack([linear, centre - linear @ centre + shift])
    face = cv2.warpAffine(face, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    face = cv2.convertScaleAbs(face, alpha=1 + rng.uniform(-settings.brightness, settings.brightness))
    if rng.random() < settings.grey:
        face = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < settings.coarse:
        small = cv2.resize(face, (int(size * rng.uniform(0.25, 0.8)),) * 2, interpolation=cv2.INTER_AREA)
        face = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < settings.erased:
        height, width = rng.integers(size // 8, size // 3, 2)
        top, left = rng.integers(0, size - height), rng.integers(0, size - width)
        face[top : top + height, left : left + width] = rng.integers(0, 256, (height, width, 3), np.uint8)
    return face


def fast_dtype() -> str:
    """The quicker of Keras's dtype policies on this machine.

    "mixed_bfloat16" on an accelerator and on processors that multiply bfloat16 (AMX or AVX-512), "float32" elsewhere,
    where bfloat16 is emulated and slow.
    """
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    accelerator = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    return "mixed_bfloat16" if accelerator or "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


def fit(
    model: keras.Model,
    faces: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    part: np.ndarray,
    settings: TrainingSettings = TrainingSettings(),
    on_epoch: Callable[[pd.DataFrame], None] = lambda history: None,
    states: Path = CACHE / "training",
    loss: Callable | str = "sparse_categorical_crossentropy",
    metrics: tuple = ("accuracy",),
) -> tuple[keras.Model, pd.DataFrame]:
    """Trains a copy of a network and gives it in float32 with its best weights, and the history of its epochs.

    faces: uint8 (n, size, size, 3), RGB, an array or a memory map. rows: which of them to use, int (m,). labels: their
    class indices (m,), or for a `loss` of another kind float (m, k). part: (m,) of "train", "validation" and "test", which is
    not looked at. on_epoch is called with the history so far: one row an epoch with loss, val_loss, the metrics (accuracy
    and val_accuracy), seconds. loss, metrics: as Keras takes them; metrics also as classes, made anew here.

    After each epoch the state is saved in a folder under `states` named by a hash of the network, its weights, the
    settings and the data; the same call finds it there and goes on, or gives at once what was trained to the end. A second
    run of the same training waits for the first. With the JAX backend, all devices of this machine share the work.
    """
    with over_all_devices():
        model, rows, labels, part = copy_model(model), np.asarray(rows), np.asarray(labels), np.asarray(part)
        folder = states / _state_name(model, faces, rows, labels, part, settings, loss)
        with exclusive_lock(folder / ".lock"):
            return _fit(model, faces, rows, labels, part, settings, on_epoch, folder, loss, metrics)


def _fit(model, faces, rows, labels, part, settings, on_epoch, folder, loss, metrics) -> tuple[keras.Model, pd.DataFrame]:
    training, validation = (np.flatnonzero(part == name) for name in ("train", "validation"))
    keeper = _Keeper(folder, settings.patience, on_epoch)
    keras.utils.set_random_seed(settings.seed)
    if keeper.history:
        model = keras.models.load_model(folder / _name(len(keeper.history)) / "state.keras")
        on_epoch(pd.DataFrame(keeper.history))
    else:
        compile_model(model, len(training), settings, loss, metrics)
    start = len(keeper.history)
    if not keeper.finished and start < settings.epochs:
        batches = FaceBatches(faces, rows[training], labels[training], settings.batch_size, settings, epoch=start)
        held = FaceBatches(faces, rows[validation], labels[validation], settings.batch_size)
        with fused_normalisation():
            model.fit(
                batches, validation_data=held, initial_epoch=start, epochs=settings.epochs,
                shuffle=False, callbacks=[keeper], verbose=0,
            )  # fmt: skip
    model.load_weights(folder / _name(keeper.best) / "state.keras")
    return to_float32(model), pd.DataFrame(keeper.history)


def centre_years(table: pd.DataFrame, classes: int) -> np.ndarray:
    """The mean age, in years, of each class's faces; float64 (classes,). table: with `age_low`, `age_high`, `label`.

    An age range counts as its middle. ValueError names a class that no face is in.
    """
    middle = (table["age_low"] + table["age_high"]).astype(float) / 2
    centre = middle.groupby(table["label"]).mean().reindex(range(classes))
    if centre.isna().any():
        raise ValueError(f"each of the {classes} classes needs a training face, class {int(centre.isna().argmax())} has none")
    return centre.to_numpy()


def predict_probabilities(model: keras.Model, faces: np.ndarray, rows: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Probabilities, float32 (m, classes), for the given rows of uint8 faces (n, size, size, 3)."""
    return model.predict(FaceBatches(faces, rows, np.zeros(len(rows), int), batch_size), verbose=0)[: len(rows)]


def _state_name(model, faces, rows, labels, part, settings: TrainingSettings, loss) -> str:
    looked_at = np.flatnonzero(part != "test")
    rows, labels, part = rows[looked_at], labels[looked_at], part[looked_at]
    # Keras numbers unnamed layers by what was built before in the process.
    digest = hashlib.sha256(re.sub(r"_\d+\b", "", model.to_json()).encode())
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights))
    digest.update(json.dumps([asdict(settings), getattr(loss, "__name__", loss)]).encode())
    digest.update(rows.astype(np.int64).tobytes() + np.ascontiguousarray(labels).tobytes() + "".join(part).encode())
    # A few faces stand for all: enough to tell another alignment or data set.
    digest.update(np.ascontiguousarray(faces[rows[:: max(1, len(rows) // 64)]]).tobytes())
    return digest.hexdigest()[:16]


def compile_model(
    model: keras.Model,
    count: int,
    settings: TrainingSettings,
    loss: Callable | str = "sparse_categorical_crossentropy",
    metrics: tuple = ("accuracy",),
) -> None:
    """Sets a model up for training on `count` faces: AdamW, warm-up and cosine schedule; loss and metrics as of `fit`."""
    steps = settings.epochs * -(-count // settings.batch_size)
    warm = max(1, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 20, max(1, steps - warm), warmup_target=settings.learning_rate, warmup_steps=warm
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay),
        loss=loss,
        # As plain metrics, but for faces that only fill up a batch: see FaceBatches.
        weighted_metrics=[metric if isinstance(metric, str) else metric() for metric in metrics],
        jit_compile=keras.backend.backend() == "jax",  # TensorFlow's XLA is slower than its own kernels on a CPU
    )


class _Keeper(keras.callbacks.Callback):
    """Saves the whole state after each epoch, keeps the best one, and stops when patience is out.

    A state is a folder `epoch-007` with the model, its optimiser, and the history so far, renamed into place when it is
    whole. Only the newest and the best are kept.
    """

    def __init__(self, folder: Path, patience: int, on_epoch: Callable[[pd.DataFrame], None]):
        super().__init__()
        self.folder, self.patience, self.on_epoch = folder, patience, on_epoch
        saved = sorted(folder.glob("epoch-*/history.json"))
        self.history = json.loads(saved[-1].read_text()) if saved else []

    @property
    def best(self) -> int:
        return min(self.history, key=lambda row: row["val_loss"])["epoch"]

    @property
    def finished(self) -> bool:
        return bool(self.history) and len(self.history) - self.best >= self.patience

    def on_epoch_begin(self, epoch, logs=None):
        # Keras saves no dropout's place in its random numbers: each epoch has its own, in a resumed training too.
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                variable.assign([int(keras.ops.convert_to_numpy(variable)[0]), epoch << 20])
        self.began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        figures = {name: float(value) for name, value in logs.items()}
        self.history.append({"epoch": epoch + 1, **figures, "seconds": round(time.monotonic() - self.began, 1)})
        with atomic_folder(self.folder / _name(epoch + 1)) as state:
            self.model.save(state / "state.keras")
            write_text(state / "history.json", json.dumps(self.history, indent=1))
        for old in self.folder.glob("epoch-*"):
            if old.name not in (_name(epoch + 1), _name(self.best)):
                shutil.rmtree(old)
        self.on_epoch(pd.DataFrame(self.history))
        self.model.stop_training = self.finished


def _name(epoch: int) -> str:
    return f"epoch-{epoch:03d}"
