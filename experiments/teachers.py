"""The teachers of `train_released`: two pretrained face networks, fine-tuned for gender and age.

`sface` and `faceres` rebuild the networks in Keras with their original weights, `build_teacher` adds heads for both tasks,
and `finetune` trains them. `requirements-training.txt` says how to get the weights.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.mobilenet import BLOCKS, mobilenet
from experiments.multitask import add_task_heads, multitask_labels
from experiments.teacher_files import Stages, faceres_file, read_faceres, read_sface, sface_file
from experiments.training_steps import BASE_SETTINGS, PreparedData, cached_array, fit_multitask, predict_both_ways
from src.config import SEED
from src.keras_setup import keras, layers, ops
from src.models.train import TrainingSettings, fast_dtype

# Height and width in pixels to which each teacher scales the faces. SFace was trained on faces of 112 pixels with an eye
# distance of 35 pixels, which aligned faces have at a size of 96 pixels.
TEACHER_INPUT_SIZES = {"sface": 96, "faceres": 112}
PIXEL_MEANS = (123.68, 116.779, 103.939)  # means of red, green and blue, which FaceRes subtracts
# Typical standard deviation of a pooled feature over the faces of UTKFace. Features are divided by it, so that the new heads
# of both teachers learn at the same rate.
FEATURE_DEVIATIONS = {"sface": 0.016, "faceres": 0.32}
# Weaker augmentation than for a network that starts from random weights.
FINETUNING_SETTINGS = replace(
    BASE_SETTINGS, batch_size=48, learning_rate=3e-4,
    grayscale_probability=0.05, downscale_probability=0.1, random_erasing_probability=0,
)  # fmt: skip


def sface(size: int, dtype: str = "float32") -> keras.Model:
    """Builds SFace with its original weights, up to the features that `build_teacher` uses.

    Args:
        size: Height and width of the faces in pixels. The original SFace takes 112.
        dtype: Keras dtype policy, such as "mixed_bfloat16".

    Returns:
        A trainable model from uint8 faces (batch, size, size, 3), RGB, 0-255, to the mean over the last map (batch, 1024).

    Raises:
        FileNotFoundError: The package is not installed.
        ValueError: The file contains another network.
    """
    stages, last = read_sface(sface_file())
    convolutions = mobilenet(size, stem_stride=1, prelu=True, scale=1 / 128, offset=-127.5 / 128, dtype=dtype)
    normalise = Affine(dtype=dtype, name="normalise")
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(normalise(convolutions.output))
    _load(convolutions, stages)
    normalise.set_weights(last)
    return keras.Model(convolutions.input, pooled, name="sface")


def faceres(size: int, dtype: str = "float32") -> keras.Model:
    """Builds FaceRes with its original weights; arguments, result and errors are those of `sface`."""
    convolutions = faceres_convolutions(size, dtype)
    pooled = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(convolutions.output)
    _load(convolutions, read_faceres(faceres_file()))
    return keras.Model(convolutions.input, pooled, name="faceres")


def faceres_convolutions(size: int, dtype: str = "float32") -> keras.Model:
    """Builds FaceRes up to its last map, with random weights; the arguments are those of `mobilenet`."""
    offset = [-mean for mean in PIXEL_MEANS]
    return mobilenet(size, stem_stride=2, prelu=False, scale=1.0, offset=offset, dtype=dtype)


@keras.saving.register_keras_serializable("age_and_gender")
class Affine(layers.Layer):
    """Multiplies each channel by a factor and adds an offset."""

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.factor = self.add_weight(shape=channels, initializer="ones", name="factor")
        self.offset = self.add_weight(shape=channels, initializer="zeros", name="offset")

    def call(self, inputs):
        return inputs * ops.cast(self.factor, self.compute_dtype) + ops.cast(self.offset, self.compute_dtype)


def _load(convolutions: keras.Model, stages: Stages) -> None:
    """Copies the weights from a file into the layers of `mobilenet`."""
    numbers = range(1, len(BLOCKS) + 1)
    names = ["stem", *(f"{kind}_{i}" for i in numbers for kind in ("depthwise", "pointwise"))]
    for name, (kernel, bias, *slopes) in zip(names, stages, strict=True):
        if slopes:  # SFace: bias and slopes are weights of the activation
            convolutions.get_layer(name).set_weights([kernel])
            convolutions.get_layer(f"{name}_activation").set_weights([bias, *slopes])
        else:
            convolutions.get_layer(name).set_weights([kernel, bias])


def build_teacher(name: str, size: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """Builds a pretrained face network with new heads for both tasks.

    Args:
        name: "sface" or "faceres".
        size: Height and width of the faces in pixels; the network scales them to `TEACHER_INPUT_SIZES`.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of the heads' initial weights and of dropout.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, to float32 logits (batch, 103) for `multitask_loss`.

    Raises:
        ValueError: There is no teacher of this name.
        FileNotFoundError: Its package is not installed.
    """
    if name not in FEATURE_DEVIATIONS:
        raise ValueError(f"expected a teacher named {' or '.join(FEATURE_DEVIATIONS)}, got {name!r}")
    network_size = TEACHER_INPUT_SIZES[name]
    pretrained = (sface if name == "sface" else faceres)(network_size, dtype)
    features = layers.Rescaling(1 / FEATURE_DEVIATIONS[name], dtype=dtype, name="features")(pretrained.output)
    trunk = keras.Model(pretrained.input, features, name="trunk")
    x = face = keras.Input((size, size, 3), dtype="uint8", name="face")
    if size != network_size:
        # Not keras.layers.Resizing: a model with it runs in training mode unless it is called with `training=False`.
        resized = ops.image.resize(ops.cast(face, "float32"), (network_size, network_size))
        x = ops.cast(ops.round(resized), "uint8")  # the type that the pretrained network takes
    return add_task_heads(keras.Model(face, trunk(x), name="level_one"), dropout=0.3, seed=seed)


def finetune(name: str, data: PreparedData, settings: TrainingSettings, runs: Path) -> keras.Model:
    """Fine-tunes the network of `build_teacher` on the training faces. A complete training in `runs` is only loaded."""
    model = build_teacher(name, data.faces.shape[1], fast_dtype(), settings.seed)
    return fit_multitask(model, data, settings, runs)[0]


def teacher_probabilities(name: str, data: PreparedData, settings: TrainingSettings, runs: Path) -> npt.NDArray[np.float32]:
    """Predicts every face with a fine-tuned teacher, as the mean of the face and of its mirror image.

    The predictions are cached in `data.folder`, in one file for each teacher, settings, labels and split.

    Args:
        name: "sface" or "faceres".
        data: The faces.
        settings: How to fine-tune the teacher; see `FINETUNING_SETTINGS`.
        runs: Folder for the states of the training.

    Returns:
        float32 (n, 103): the probabilities of female and male, then of the years 0-100.

    Raises:
        ValueError, FileNotFoundError: See `build_teacher`.
    """
    digest = hashlib.sha256(repr((name, settings, data.faces.shape)).encode())
    digest.update(multitask_labels(data.table).tobytes() + "".join(data.split).encode())
    return cached_array(
        data.folder / f"teacher-{name}-{digest.hexdigest()[:8]}.npy",
        lambda: predict_both_ways(finetune(name, data, settings, runs), data.faces, np.arange(len(data.table))),
    )
