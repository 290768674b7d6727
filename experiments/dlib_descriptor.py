"""dlib's face recognition network as a Keras model, from which the teacher of `train_residual` starts.

The network is a ResNet with 29 convolutions, trained by Davis King on three million photos so that the descriptors of one
person are less than 0.6 apart: `anet_type` of https://github.com/davisking/dlib/blob/master/examples/
dnn_face_recognition_ex.cpp. Its weights are in the package face_recognition_models, in dlib's own binary format
(dlib/serialize.h, dlib/dnn/layers.h). This module reads the file without dlib.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from src.faces.landmark_file import packaged_file
from src.keras_setup import keras, layers

FILE_NAME = "dlib_face_recognition_resnet_model_v1.dat"
DLIB_INPUT_SIZE = 150  # pixels: side of the faces it was trained on
MIN_SIZE = 103  # pixels: smaller faces leave nothing for the last block
_STEM = (32, 7, 2)  # number of filters, kernel size and stride of the first convolution
# Filters and stride of each residual block, which has two 3x3 convolutions; stride 2 halves the map.
_BLOCKS = (*[(32, 1)] * 3, (64, 2), *[(64, 1)] * 3, (128, 2), *[(128, 1)] * 2, (256, 2), *[(256, 1)] * 2, (256, 2))
_DESCRIPTOR_SIZE = 128  # values in a descriptor
_MAX_GAP = 512  # bytes: upper limit of the settings between the weights of two layers


class Parameters(NamedTuple):
    """The numbers in dlib's file.

    Attributes:
        means: Of red, green and blue, 0-255.
        convolutions: 29 kernels (rows, columns, channels, filters) with their biases (filters,), float32.
        last: Weights of the last layer, from the pooled features to the descriptor, float32 (256, 128).
    """

    means: list[float]
    convolutions: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
    last: npt.NDArray[np.float32]


def descriptor_network(size: int = DLIB_INPUT_SIZE, dtype: str = "float32") -> keras.Model:
    """Builds the network with dlib's weights.

    At size 150 it returns dlib's own descriptors, and from 135 to 160 close ones. Below 135, the last map has 3x3 values
    instead of 4x4, and the network must be fine-tuned first.

    Args:
        size: Side of the faces in pixels, at least 103.
        dtype: Keras dtype policy, such as "mixed_bfloat16".

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, to float32 descriptors (batch, 128). Its layer "pooled" returns
        the 256 features before the last layer.

    Raises:
        ValueError: The size is too small, or the file is damaged.
        FileNotFoundError: The package is not installed.
    """
    if size < MIN_SIZE:
        raise ValueError(f"expected faces of at least {MIN_SIZE} x {MIN_SIZE} pixels, got size {size}")
    found = read_parameters(packaged_file(FILE_NAME))
    weights = iter(enumerate(found.convolutions, start=1))

    def convolution(x, filters: int, kernel: int, stride: int, activation: str | None = None):
        """Adds the next convolution of the file to a map (batch, height, width, channels)."""
        number, values = next(weights)
        padding = "valid" if stride > 1 else "same"
        layer = layers.Conv2D(
            filters, kernel, stride, padding, activation=activation, dtype=dtype, name=f"convolution_{number}"
        )
        x = layer(x)
        layer.set_weights(values)
        return x

    face = keras.Input((size, size, 3), dtype="uint8", name="face")
    offset = [-mean / 256 for mean in found.means]
    x = layers.Rescaling(1 / 256, offset=offset, dtype=dtype, name="scale")(face)
    x = convolution(x, *_STEM, activation="relu")
    x = layers.MaxPooling2D(3, 2, dtype=dtype)(x)
    for i, (filters, stride) in enumerate(_BLOCKS, start=1):
        skip = layers.AveragePooling2D(2, 2, dtype=dtype)(x) if stride > 1 else x
        x = convolution(x, filters, 3, stride, activation="relu")
        x = convolution(x, filters, 3, 1)
        x = layers.Add(dtype=dtype)(_pad_to_match(x, skip, dtype))
        x = layers.ReLU(dtype=dtype, name=f"block_{i}")(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype, name="pooled")(x)
    last = layers.Dense(_DESCRIPTOR_SIZE, use_bias=False, dtype="float32", name="descriptor")  # always in full precision
    model = keras.Model(face, last(x), name="descriptor_network")
    last.set_weights([found.last])
    return model


def _pad_to_match(x, skip, dtype: str) -> list:
    """Pads two maps with zeros to one shape: x in rows and columns (by at most 1), skip in channels, as dlib does to add."""
    rows, columns, channels = skip.shape[1:]
    missing, more = rows - x.shape[1], x.shape[-1] - channels
    if missing:
        x = layers.ZeroPadding2D(((0, missing), (0, missing)), dtype=dtype)(x)
    if more:
        # Keras pads only rows and columns, so the channels are reshaped to columns and back.
        skip = layers.Reshape((rows * columns, channels, 1), dtype=dtype)(skip)
        skip = layers.ZeroPadding2D(((0, 0), (0, more)), dtype=dtype)(skip)
        skip = layers.Reshape((rows, columns, channels + more), dtype=dtype)(skip)
    return [x, skip]


def read_parameters(file: Path) -> Parameters:
    """Reads the weights in dlib's file, with each affine layer folded into the convolution before it.

    Raises:
        ValueError: The file contains another network or is truncated.
    """
    reader = _Reader(file)
    reader.enter("input_rgb_image_sized")
    means = [reader.real() for _ in range(3)]
    reader.expect([DLIB_INPUT_SIZE, DLIB_INPUT_SIZE], "the size of its input")
    filters, kernel, stride = _STEM
    convolutions = [_folded(reader, 3, filters, kernel, stride)]
    before = filters
    for filters, stride in _BLOCKS:
        convolutions += [_folded(reader, before, filters, 3, stride), _folded(reader, filters, filters, 3, 1)]
        before = filters
    reader.enter("fc_2")
    reader.expect([_DESCRIPTOR_SIZE, before], "the size of its last layer")
    last = reader.tensor(before, _DESCRIPTOR_SIZE).reshape(before, _DESCRIPTOR_SIZE)
    return Parameters(means, convolutions, last)


def _folded(reader: "_Reader", channels: int, filters: int, kernel: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a convolution and the affine layer after it; kernel (rows, columns, channels, filters), bias (filters,)."""
    reader.enter("con_4")
    area = channels * kernel * kernel
    weights, bias = np.split(reader.tensor(filters * (area + 1)), [filters * area])
    padding = kernel // 2 if stride == 1 else 0
    reader.expect([filters, kernel, kernel, stride, stride, padding, padding], "a convolution's settings")
    reader.enter("affine_")
    gamma, beta = np.split(reader.tensor(2 * filters), 2)
    weights = weights.reshape(filters, channels, kernel, kernel).transpose(2, 3, 1, 0)
    return weights * gamma, bias * gamma + beta


class _Reader:
    """Reads one of dlib's files from start to end. All methods raise ValueError for unexpected content."""

    def __init__(self, file: Path):
        self.name, self.data, self.position = file.name, file.read_bytes(), 0

    def enter(self, layer: str) -> None:
        """Moves to the first value of the next layer of this name, past layers without weights."""
        tag = bytes([1, len(layer)]) + layer.encode()
        start = self.data.find(tag, self.position, self.position + _MAX_GAP)
        if start < 0:
            raise self._error(f"there is no layer {layer} within {_MAX_GAP} bytes")
        self.position = start + len(tag)

    def integer(self) -> int:
        """Reads an integer: a byte with the sign (bit 7) and the number of bytes (bits 0-3), then the bytes, lowest first."""
        (control,) = self._take(1)
        size = int.from_bytes(self._take(control & 0x0F), "little")
        return -size if control & 0x80 else size

    def real(self) -> float:
        """Reads a real number: the mantissa, then the exponent of 2, both integers."""
        mantissa, exponent = self.integer(), self.integer()
        return mantissa * 2.0**exponent

    def tensor(self, samples: int, channels: int = 1) -> np.ndarray:
        """Reads a tensor, float32 (samples * channels,): the format's version (2), four sizes, then little-endian numbers."""
        self.expect([2, samples, channels, 1, 1], "a tensor's version and sizes")
        return np.frombuffer(self._take(4 * samples * channels), "<f4").astype(np.float32)

    def expect(self, numbers: list[int], what: str) -> None:
        """Reads integers and checks that they are these; `what` describes them in the error message."""
        found = [self.integer() for _ in numbers]
        if found != numbers:
            raise self._error(f"{what} must be {numbers}, got {found}")

    def _take(self, size: int) -> bytes:
        if self.position + size > len(self.data):
            raise self._error("the file is truncated")
        self.position += size
        return self.data[self.position - size : self.position]

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"{self.name} is not dlib's face-recognition network: at byte {self.position}, {reason}")
