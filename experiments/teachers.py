"""Teachers: networks that know faces, taken from packages and refined for gender and age.

`sface` and `faceres` rebuild both networks in Keras with their original weights; `refine` trains one of them for both
tasks, and `answers` gives its predictions for every face. `requirements-training.txt` says how to get the packages.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.mobilenet import BLOCKS, mobilenet
from experiments.teacher_files import Weights, faceres_file, read_faceres, read_sface, sface_file
from src.backend import keras, layers, ops
from src.config import SEED
from src.files import written_whole
from src.joint import AbsoluteError, GenderAccuracy, joint_labels, joint_loss, with_heads
from src.network import scaled_to
from src.released import AUGMENTED, Data, joint_probabilities, told
from src.train import Settings, fast_dtype, fit

SIZE = 112  # pixels: the faces SFace was trained on
MEANS = (123.68, 116.779, 103.939)  # of red, green and blue, subtracted before FaceRes
DESCRIPTOR = 128  # values SFace compares faces by
# Side to which each teacher scales the aligned faces, in pixels. SFace was trained on faces of 112 pixels whose eyes are 35 pixels
# apart, the distance that an aligned face of 96 pixels has.
INNER = {"sface": 96, "faceres": SIZE}
# Typical standard deviation of a pooled feature over UTKFace's faces. Features are divided by it before the heads, so that
# both teachers' heads learn at the same pace.
SPREAD = {"sface": 0.016, "faceres": 0.32}
# Weaker augmentation than for the small network, which starts from random weights. In a pilot with FaceRes, 3e-4 gave good
# results and a run at 4e-4 was worse after its first epochs.
REFINED = replace(AUGMENTED, epochs=6, batch_size=48, learning_rate=2e-4, weight_decay=1e-2, grey=0.05, coarse=0.1, erased=0)


def sface(file: Path | None = None, dtype: str = "float32") -> keras.Model:
    """SFace: uint8 faces (batch, 112, 112, 3), RGB, to its pooled features and its descriptor.

    Args:
        file: The package's ONNX file; None finds it in the installed package.
        dtype: Keras dtype policy, such as "mixed_bfloat16".

    Returns:
        A trainable model with outputs "pooled" (batch, 1024), a mean over the last map, and "descriptor" (batch, 128),
        float32, equal to the file's own output.

    Raises:
        FileNotFoundError: The package is not installed.
        ValueError: The file holds another network.
    """
    weights = read_sface(file or sface_file())
    model = sface_network(dtype)
    _load(model, weights)
    return model


def sface_network(dtype: str = "float32") -> keras.Model:
    """The network of `sface` with random weights."""
    first, x, pooled = _sface_convolutions(SIZE, dtype)
    flat = layers.Flatten(dtype=dtype)(x)
    descriptor = layers.Dense(DESCRIPTOR, dtype="float32", name="descriptor")(flat)
    return keras.Model(first.input, {"pooled": pooled, "descriptor": descriptor}, name="sface")


def _sface_convolutions(size: int, dtype: str) -> tuple[keras.Model, keras.KerasTensor, keras.KerasTensor]:
    """The convolutions, the normalised last map and its mean, with random weights, for faces of any size."""
    first = mobilenet(size, 1, True, 1 / 128, -127.5 / 128, dtype)
    x = Affine(dtype=dtype, name="normalise")(first.output)
    return first, x, layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(x)


def faceres(file: Path | None = None, size: int = SIZE, dtype: str = "float32") -> keras.Model:
    """FaceRes: uint8 faces (batch, size, size, 3), RGB, to its pooled features and its own predictions.

    Args:
        file: The package's `faceres-deep.json`; None takes it from `cache/teachers`.
        size: Side of the faces in pixels; any from 32 works.
        dtype: Keras dtype policy, such as "mixed_bfloat16".

    Returns:
        A trainable model with outputs "pooled" (batch, 1024), "gender" (batch, 1), the probability of male, and "age"
        (batch, 100), probabilities of years, the last two float32.

    Raises:
        FileNotFoundError: The package is not unpacked there.
        ValueError: The files hold another network.
    """
    weights = read_faceres(file or faceres_file())
    model = faceres_network(size, dtype)
    _load(model, weights)
    return model


def faceres_convolutions(size: int, dtype: str = "float32", inner: int | None = None) -> keras.Model:
    """FaceRes up to its last map, with random weights. inner: see `mobilenet`."""
    return mobilenet(size, 2, False, 1.0, [-mean for mean in MEANS], dtype, inner)


def faceres_network(size: int = SIZE, dtype: str = "float32") -> keras.Model:
    """The network of `faceres` with random weights."""
    first = faceres_convolutions(size, dtype)
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(first.output)
    x = layers.Dense(256, activation="relu", dtype=dtype, name="features")(pooled)
    gender = layers.Dense(1, activation="sigmoid", dtype="float32", name="gender")(x)
    age = layers.Dense(100, activation="softmax", dtype="float32", name="age")(x)
    return keras.Model(first.input, {"pooled": pooled, "gender": gender, "age": age}, name="faceres")


@keras.saving.register_keras_serializable("age_and_gender")
class Affine(layers.Layer):
    """Multiplies each channel by a factor and adds an offset."""

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.factor = self.add_weight(shape=channels, initializer="ones", name="factor")
        self.offset = self.add_weight(shape=channels, initializer="zeros", name="offset")

    def call(self, inputs):
        return inputs * ops.cast(self.factor, self.compute_dtype) + ops.cast(self.offset, self.compute_dtype)


def _load(model: keras.Model, weights: Weights) -> None:
    numbers = range(1, len(BLOCKS) + 1)
    names = ["stem", *(f"{kind}_{i}" for i in numbers for kind in ("depthwise", "pointwise"))]
    for name, (kernel, *others) in zip(names, weights.stages, strict=True):
        separate = len(others) == 2  # SFace: bias and slopes are weights of the activation
        model.get_layer(name).set_weights([kernel] if separate else [kernel, *others])
        if separate:
            model.get_layer(f"{name}_activation").set_weights(others)
    for name, values in weights.last.items():
        model.get_layer(name).set_weights(values)


def teacher(name: str, size: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """A network that knows faces, with new heads for both tasks.

    Args:
        name: "sface" or "faceres".
        size: Side of the faces in pixels; the network scales them to 112.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of the heads' starting weights and of dropout.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, to float32 logits (batch, 103), as `joint_loss` takes them.

    Raises:
        ValueError: There is no teacher of this name.
        FileNotFoundError: Its package is not installed.
    """
    if name not in SPREAD:
        raise ValueError(f"expected a teacher named {' or '.join(SPREAD)}, got {name!r}")
    inside, inner = (sface if name == "sface" else faceres)(dtype=dtype), INNER[name]
    pooled = inside.get_layer("pooled").output
    if inner != SIZE:
        weights = keras.Model(inside.input, pooled).get_weights()
        inside, _, pooled = _sface_convolutions(inner, dtype)
        keras.Model(inside.input, pooled).set_weights(weights)
    features = layers.Rescaling(1 / SPREAD[name], dtype=dtype, name="features")(pooled)
    trunk = keras.Model(inside.input, features, name="trunk")
    face = keras.Input((size, size, 3), dtype="uint8", name="face")
    x = face if size == inner else ops.cast(ops.round(scaled_to(ops.cast(face, "float32"), inner)), "uint8")
    return with_heads(keras.Model(face, trunk(x), name="level_one"), dropout=0.3, seed=seed)


def refine(name: str, data: Data, settings: Settings, runs: Path) -> tuple[keras.Model, pd.DataFrame]:
    """Trains a teacher for both tasks on the training faces; a run that was stopped is resumed.

    Args:
        name: "sface" or "faceres".
        data: Faces uint8 (n, size, size, 3), RGB, with their table and split, as of `released.load_data`.
        settings: How to train; see `REFINED`.
        runs: Folder for the state of the training, which is kept below `training`.

    Returns:
        The model of the epoch with the lowest validation loss, in float32, and one row of figures for each epoch.

    Raises:
        ValueError: There is no teacher of this name.
        FileNotFoundError: Its package is not installed.
    """
    model = teacher(name, data.faces.shape[1], fast_dtype(), settings.seed)
    labels, rows = joint_labels(data.table), np.arange(len(data.table))
    return fit(
        model, data.faces, rows, labels, data.part, settings,
        told, runs / "training", joint_loss, (GenderAccuracy, AbsoluteError),
    )  # fmt: skip


def answers(name: str, data: Data, settings: Settings, runs: Path) -> npt.NDArray[np.float32]:
    """What the refined teacher predicts for every face, as the mean of the face and its mirror image.

    The predictions are kept in `data.folder`, in one file for each teacher, settings, labels and split; where the file
    exists nothing is trained. Args and Raises as of `refine`.

    Returns:
        float32 (n, 103): the probabilities of female and male, then of the years 0-100.
    """
    digest = hashlib.sha256(repr((name, settings, data.faces.shape)).encode())
    digest.update(joint_labels(data.table).tobytes() + "".join(data.part).encode())
    file = data.folder / f"teacher-{name}-{digest.hexdigest()[:8]}.npy"
    if not file.exists():
        model, _ = refine(name, data, settings, runs)
        found = joint_probabilities(model, data.faces, np.arange(len(data.table)))
        with written_whole(file) as new, open(new, "wb") as opened:
            np.save(opened, found)
    return np.load(file)
