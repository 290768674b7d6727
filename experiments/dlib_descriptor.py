"""dlib's face-recognition network as a Keras model: the start of a teacher that is tuned to other questions.

The network is a ResNet of 29 convolutions, trained by Davis King on three million photos to give one person's photos
descriptors less than 0.6 apart: `anet_type` of https://github.com/davisking/dlib/blob/master/examples/
dnn_face_recognition_ex.cpp. Its weights come with the package face_recognition_models, in dlib's own binary format
(dlib/serialize.h, dlib/dnn/layers.h), which is read here without dlib.

Before it: `landmark_file`, which finds the package's files. After it: `released`, whose teacher starts from it, and `tracks`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.faces.landmark_file import packaged_file
from src.keras_setup import keras, layers

FILE_NAME = "dlib_face_recognition_resnet_model_v1.dat"
SIZE = 150  # pixels: the faces that dlib trained it on
SMALLEST = 103  # pixels: below it nothing is left for the last block
STEM = (32, 7, 2)  # filters, kernel, stride of the first convolution
# filters, stride of the residual blocks, two 3x3 convolutions each; those of stride 2 halve the picture
BLOCKS = (*[(32, 1)] * 3, (64, 2), *[(64, 1)] * 3, (128, 2), *[(128, 1)] * 2, (256, 2), *[(256, 1)] * 2, (256, 2))
VALUES = 128  # in a descriptor
REACH = 512  # bytes: more than dlib's settings of the layers without weights take between two layers with weights
TAIL = 72  # bytes: dlib's settings of the last layer, after its weights


class Parameters(NamedTuple):
    """The numbers in dlib's file, all float32."""

    means: list[float]  # of red, green and blue, 0-255
    convolutions: list[tuple[np.ndarray, np.ndarray]]  # 29 kernels (rows, columns, channels, filters), biases (filters,)
    last: np.ndarray  # (256, 128): from the pooled values to the descriptor


def descriptor_network(size: int = SIZE, dtype: str = "float32") -> keras.Model:
    """The network with dlib's weights: uint8 faces (batch, size, size, 3), RGB, 0-255, to descriptors (batch, 128), float32.

    At size 150 these are dlib's own descriptors; from 135 to 160 they stay close to them. Below 135 the last block sees
    3x3 values instead of 4x4, drops a row and a column of them, and its descriptors mean little until they are tuned.
    The 256 values before the last layer are the output of the layer "pooled". dtype: a Keras dtype policy, such as
    "mixed_bfloat16". Raises ValueError for a size too small or a damaged file, and FileNotFoundError where the package
    that carries it is not installed.
    """
    if size < SMALLEST:
        raise ValueError(f"the network needs faces of at least {SMALLEST} x {SMALLEST} pixels, got size {size}")
    found = read_parameters(packaged_file(FILE_NAME))
    weights = iter(enumerate(found.convolutions, start=1))

    def convolution(x, filters: int, kernel: int, stride: int, activation: str | None = None):
        number, values = next(weights)
        padding = "valid" if stride > 1 else "same"
        layer = layers.Conv2D(
            filters, kernel, stride, padding, activation=activation, dtype=dtype, name=f"convolution_{number}"
        )
        x = layer(x)
        layer.set_weights(values)
        return x

    photo = keras.Input((size, size, 3), dtype="uint8", name="face")
    offset = [-mean / 256 for mean in found.means]
    x = layers.Rescaling(1 / 256, offset=offset, dtype=dtype, name="scale")(photo)
    x = convolution(x, *STEM, activation="relu")
    x = layers.MaxPooling2D(3, 2, dtype=dtype)(x)
    for i, (filters, stride) in enumerate(BLOCKS, start=1):
        skip = layers.AveragePooling2D(2, 2, dtype=dtype)(x) if stride > 1 else x
        x = convolution(x, filters, 3, stride, activation="relu")
        x = convolution(x, filters, 3, 1)
        x = layers.Add(dtype=dtype)(_of_one_shape(x, skip, dtype))
        x = layers.ReLU(dtype=dtype, name=f"block_{i}")(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(x)
    # Descriptors stay in full precision also where the rest is computed in bfloat16.
    last = layers.Dense(VALUES, use_bias=False, dtype="float32", name="descriptor")
    model = keras.Model(photo, last(x), name="descriptor_network")
    last.set_weights([found.last])
    return model


def _of_one_shape(x, skip, dtype: str) -> list:
    """Both with zeros where the other is larger, as dlib adds: x in rows and columns (1 at most), skip in channels."""
    rows, columns, channels = skip.shape[1:]
    missing, more = rows - x.shape[1], x.shape[-1] - channels
    if missing:
        x = layers.ZeroPadding2D(((0, missing), (0, missing)), dtype=dtype)(x)
    if more:
        # Keras pads rows and columns only: for a moment the channels are columns.
        skip = layers.Reshape((rows * columns, channels, 1), dtype=dtype)(skip)
        skip = layers.ZeroPadding2D(((0, 0), (0, more)), dtype=dtype)(skip)
        skip = layers.Reshape((rows, columns, channels + more), dtype=dtype)(skip)
    return [x, skip]


def read_parameters(file: Path) -> Parameters:
    """The weights in dlib's file, each affine layer folded into the convolution before it.

    Raises ValueError where the file holds another network, ends early or goes on after its end.
    """
    reader = _Reader(file)
    reader.enter("input_rgb_image_sized")
    means = [reader.real() for _ in range(3)]
    reader.expect([SIZE, SIZE], "the size of its input")
    filters, kernel, stride = STEM
    convolutions = [_folded(reader, 3, filters, kernel, stride)]
    before = filters
    for filters, stride in BLOCKS:
        convolutions += [_folded(reader, before, filters, 3, stride), _folded(reader, filters, filters, 3, 1)]
        before = filters
    reader.enter("fc_2")
    reader.expect([VALUES, before], "the size of its last layer")
    last = reader.tensor(before, VALUES).reshape(before, VALUES)
    reader.end()
    return Parameters(means, convolutions, last)


def _folded(reader: "_Reader", channels: int, filters: int, kernel: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a convolution and the affine layer after it; kernel (rows, columns, channels, filters), bias (filters,)."""
    reader.enter("con_4")
    area = channels * kernel * kernel
    # One after the other: the filters, then the biases.
    weights, bias = np.split(reader.tensor(filters * (area + 1)), [filters * area])
    padding = kernel // 2 if stride == 1 else 0
    reader.expect([filters, kernel, kernel, stride, stride, padding, padding], "a convolution's settings")
    reader.enter("affine_")
    gamma, beta = np.split(reader.tensor(2 * filters), 2)
    weights = weights.reshape(filters, channels, kernel, kernel).transpose(2, 3, 1, 0)
    return weights * gamma, bias * gamma + beta


class _Reader:
    """Goes through a file of dlib's from its beginning; every method raises ValueError where the file is not as expected."""

    def __init__(self, file: Path):
        self.name, self.data, self.position = file.name, file.read_bytes(), 0

    def enter(self, layer: str) -> None:
        """Goes on to the first value of the next layer of this name, past layers that hold no weights."""
        tag = bytes([1, len(layer)]) + layer.encode()
        start = self.data.find(tag, self.position, self.position + REACH)
        if start < 0:
            raise self._error(f"there is no layer {layer} within {REACH} bytes")
        self.position = start + len(tag)

    def integer(self) -> int:
        """A byte with the sign (its highest bit) and the number of bytes (its lowest four), then those, lowest first."""
        (control,) = self._take(1)
        size = int.from_bytes(self._take(control & 0x0F), "little")
        return -size if control & 0x80 else size

    def real(self) -> float:
        """Two integers: the mantissa, then the exponent of 2."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 64:  # none of the network's numbers is so large or small
            raise self._error(f"{exponent} is no exponent of a number expected here")
        return mantissa * 2.0**exponent

    def tensor(self, samples: int, channels: int = 1) -> np.ndarray:
        """float32 (samples * channels,): the version of the format (2), four sizes, then the numbers, lowest byte first."""
        self.expect([2, samples, channels, 1, 1], "a tensor's version and sizes")
        values = np.frombuffer(self._take(4 * samples * channels), "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise self._error("a tensor holds infinite values or none")
        return values

    def expect(self, numbers: list[int], what: str) -> None:
        """Reads integers that must be these."""
        found = [self.integer() for _ in numbers]
        if found != numbers:
            raise self._error(f"{what} must be {numbers}, got {found}")

    def end(self) -> None:
        """Nothing but the last layer's settings may follow."""
        left = len(self.data) - self.position
        if left != TAIL:
            raise self._error(f"{TAIL} bytes must follow the last weights, got {left}")

    def _take(self, size: int) -> bytes:
        if self.position + size > len(self.data):
            raise self._error("it ends early")
        self.position += size
        return self.data[self.position - size : self.position]

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"{self.name} is not dlib's face-recognition network: at byte {self.position}, {reason}")
