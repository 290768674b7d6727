"""The teachers of the next release (`train_released`): two pretrained face networks, fine-tuned for gender and age.

`sface` and `faceres` rebuild the networks in Keras with their original weights, `build_teacher` adds heads for both tasks,
and `teacher_probabilities` fine-tunes one and predicts every face. `requirements-training.txt` says how to get the weights.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.mobilenet import BLOCKS, mobilenet
from experiments.teacher_files import Weights, faceres_file, read_faceres, read_sface, sface_file
from experiments.training_steps import AUGMENTED, PreparedData, cached_array, fit_multitask, predict_with_mirror
from src.config import SEED
from src.keras_setup import keras, layers, ops
from src.models.multitask import add_task_heads, multitask_labels
from src.models.residual import resize_images
from src.models.train import TrainingSettings, fast_dtype

FACE_SIZE = 112  # pixels: height and width of the faces that SFace was trained on
PIXEL_MEANS = (123.68, 116.779, 103.939)  # of red, green and blue, subtracted before FaceRes
SFACE_DESCRIPTOR_SIZE = 128  # values by which SFace compares faces
# Typical standard deviation of a pooled feature over the faces of UTKFace. Features are divided by it, so that the new heads
# of both teachers learn at the same rate.
FEATURE_DEVIATIONS = {"sface": 0.016, "faceres": 0.32}
# Weaker augmentation than for a network that starts from random weights.
FINETUNING = replace(
    AUGMENTED, epochs=6, batch_size=48, learning_rate=2e-4, weight_decay=1e-2,
    grayscale_probability=0.05, downscale_probability=0.1, random_erasing_probability=0,
)  # fmt: skip


def sface(file: Path | None = None, dtype: str = "float32") -> keras.Model:
    """Builds SFace with its original weights, for uint8 faces (batch, 112, 112, 3), RGB, 0-255.

    Args:
        file: The package's ONNX file; None finds it in the installed package.
        dtype: Keras dtype policy, such as "mixed_bfloat16".

    Returns:
        A trainable model with outputs "pooled" (batch, 1024), the mean over the last map, and "descriptor" (batch, 128),
        float32, which equals the output of the original file.

    Raises:
        FileNotFoundError: The package is not installed.
        ValueError: The file holds another network.
    """
    weights = read_sface(file or sface_file())
    model = sface_network(dtype)
    _load(model, weights)
    return model


def sface_network(dtype: str = "float32") -> keras.Model:
    """Builds the network of `sface` with random weights."""
    convolutions = mobilenet(FACE_SIZE, 1, True, 1 / 128, -127.5 / 128, dtype)
    x = Affine(dtype=dtype, name="normalise")(convolutions.output)
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(x)
    flat = layers.Flatten(dtype=dtype)(x)
    descriptor = layers.Dense(SFACE_DESCRIPTOR_SIZE, dtype="float32", name="descriptor")(flat)
    return keras.Model(convolutions.input, {"pooled": pooled, "descriptor": descriptor}, name="sface")


def faceres(file: Path | None = None, size: int = FACE_SIZE, dtype: str = "float32") -> keras.Model:
    """Builds FaceRes with its original weights, for uint8 faces (batch, size, size, 3), RGB, 0-255.

    Args:
        file: The package's `faceres-deep.json`; None takes it from `cache/teachers`.
        size: Height and width of the faces in pixels, at least 32.
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


def faceres_convolutions(size: int, dtype: str = "float32", network_size: int | None = None) -> keras.Model:
    """Builds FaceRes up to its last map, with random weights; the arguments are those of `mobilenet`."""
    return mobilenet(size, 2, False, 1.0, [-mean for mean in PIXEL_MEANS], dtype, network_size)


def faceres_network(size: int = FACE_SIZE, dtype: str = "float32") -> keras.Model:
    """Builds the network of `faceres` with random weights."""
    convolutions = faceres_convolutions(size, dtype)
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(convolutions.output)
    x = layers.Dense(256, activation="relu", dtype=dtype, name="features")(pooled)
    gender = layers.Dense(1, activation="sigmoid", dtype="float32", name="gender")(x)
    age = layers.Dense(100, activation="softmax", dtype="float32", name="age")(x)
    return keras.Model(convolutions.input, {"pooled": pooled, "gender": gender, "age": age}, name="faceres")


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
    """Copies the weights from a file into the layers of the same names."""
    numbers = range(1, len(BLOCKS) + 1)
    names = ["stem", *(f"{kind}_{i}" for i in numbers for kind in ("depthwise", "pointwise"))]
    for name, (kernel, *others) in zip(names, weights.stages, strict=True):
        has_slopes = len(others) == 2  # SFace: bias and slopes are weights of the activation
        model.get_layer(name).set_weights([kernel] if has_slopes else [kernel, *others])
        if has_slopes:
            model.get_layer(f"{name}_activation").set_weights(others)
    for name, values in weights.last.items():
        model.get_layer(name).set_weights(values)


def build_teacher(name: str, size: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """Builds a pretrained face network with new heads for both tasks.

    Args:
        name: "sface" or "faceres".
        size: Height and width of the faces in pixels; the network scales them to 112.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of the heads' initial weights and of dropout.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, to float32 logits (batch, 103), as `multitask_loss` takes them.

    Raises:
        ValueError: There is no teacher of this name.
        FileNotFoundError: Its package is not installed.
    """
    if name not in FEATURE_DEVIATIONS:
        raise ValueError(f"expected a teacher named {' or '.join(FEATURE_DEVIATIONS)}, got {name!r}")
    pretrained = sface(dtype=dtype) if name == "sface" else faceres(dtype=dtype)
    pooled = pretrained.get_layer("pooled").output
    features = layers.Rescaling(1 / FEATURE_DEVIATIONS[name], dtype=dtype, name="features")(pooled)
    trunk = keras.Model(pretrained.input, features, name="trunk")
    face = keras.Input((size, size, 3), dtype="uint8", name="face")
    x = face if size == FACE_SIZE else ops.cast(ops.round(resize_images(ops.cast(face, "float32"), FACE_SIZE)), "uint8")
    return add_task_heads(keras.Model(face, trunk(x), name="level_one"), dropout=0.3, seed=seed)


def teacher_probabilities(name: str, data: PreparedData, settings: TrainingSettings, runs: Path) -> npt.NDArray[np.float32]:
    """Fine-tunes a teacher and predicts every face, as the mean of the face and of its mirror image.

    The predictions are cached in `data.folder`, in one file for each teacher, settings, labels and split.

    Args:
        name: "sface" or "faceres".
        data: The faces, from `load_data`.
        settings: How to train; see `FINETUNING`.
        runs: Folder for the states of the training.

    Returns:
        float32 (n, 103): the probabilities of female and male, then of the years 0-100.

    Raises:
        ValueError: There is no teacher of this name.
        FileNotFoundError: Its package is not installed.
    """

    def compute() -> npt.NDArray[np.float32]:
        model, _ = fit_multitask(build_teacher(name, data.faces.shape[1], fast_dtype(), settings.seed), data, settings, runs)
        return predict_with_mirror(model, data.faces, np.arange(len(data.table)))

    digest = hashlib.sha256(repr((name, settings, data.faces.shape)).encode())
    digest.update(multitask_labels(data.table).tobytes() + "".join(data.split).encode())
    return cached_array(data.folder / f"teacher-{name}-{digest.hexdigest()[:8]}.npy", compute)
