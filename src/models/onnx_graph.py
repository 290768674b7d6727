"""Translates saved Keras models to ONNX graphs and runs them in ONNX Runtime, without importing Keras.

TensorFlow alone takes about 3.4 seconds to import (docs/log_book.md, 2026-11-25). With ONNX Runtime, the released models are
ready in one to two seconds. ONNX Runtime is faster for a single face, and about as fast as Keras for batches of 32 faces
(docs/results/speed.csv). The translation covers the layers of this repository's networks. Any other model raises
`UnsupportedModelError` and runs in Keras.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import h5py
import joblib
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

# From uint8 faces (n, height, width, 3), RGB, 0-255, to float32 probabilities (n, classes) by task.
RunModels = Callable[[npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.float32]]]

OPSET = 18  # version of the ONNX operators
INPUT_NAME = "faces"  # name of the input of all graphs


class UnsupportedModelError(ValueError):
    """A `model.keras` that is damaged, or has a layer or a setting that this module does not translate."""


@dataclass
class OnnxGraph:
    """A model as an ONNX graph.

    The name of each node and weight is a hash of everything that it is computed from. Equal parts of two graphs therefore
    have equal names, and `compile_graphs` keeps one of them: models that share a level one run it once.

    Attributes:
        size: Height and width of the input, uint8 (n, height, width, 3), RGB, 0-255.
        classes: Number of probabilities for each face.
        output: Name of the output, float32 (n, classes).
        nodes: Operations by name, each after those that it depends on.
        weights: Constants by name.
    """

    size: tuple[int, int]
    classes: int
    output: str = ""
    nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str | npt.ArrayLike, **attributes: Any) -> str:
        """Adds an operation, unless the graph has it already. Example: `y = graph.add("Relu", x)`.

        Args:
            operator: ONNX operator.
            *inputs: Names of earlier outputs, "" for an input that is left out, or arrays of weights.
            **attributes: Attributes of the operator.

        Returns:
            Name of the output; further outputs have ".1", ".2" and so on appended.
        """
        names = [value if isinstance(value, str) else self._add_weights(np.asarray(value)) for value in inputs]
        name = hashlib.sha256(repr((operator, names, attributes)).encode()).hexdigest()
        outputs = [name] + [f"{name}.{i}" for i in range(1, attributes.get("num_outputs", 1))]
        self.nodes.setdefault(name, helper.make_node(operator, names, outputs, name, **attributes))
        return name

    def _add_weights(self, values: np.ndarray) -> str:
        name = hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()
        self.weights[name] = numpy_helper.from_array(values, name)
        return name


def read_graph(content: bytes) -> OnnxGraph:
    """Translates a saved model.

    Args:
        content: Content of a `model.keras`, whose input is uint8 (batch, height, width, 3) and whose last layer is dense.

    Returns:
        The graph. Its probabilities equal those of Keras to 1e-5.

    Raises:
        UnsupportedModelError: The model can only run in Keras.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # verifies each file's checksum
            config = json.loads(archive.read("config.json"))["config"]
            weights = io.BytesIO(archive.read("model.weights.h5"))
        face = _input_layer(config)
        _, height, width, channels = face["batch_shape"]
        _require((face["dtype"], channels) == ("uint8", 3), f"an input {face['dtype']} {face['batch_shape']}")
        graph = OnnxGraph((height, width), _count_classes(config))
        pixels = graph.add("Cast", graph.add("Transpose", INPUT_NAME, perm=[0, 3, 1, 2]), to=onnx.TensorProto.FLOAT)
        with h5py.File(weights, "r") as file:
            graph.output = _translate_functional(graph, config, pixels, file)
        return graph
    # Damaged files and unexpected descriptions raise these.
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedModelError(f"model.keras cannot be translated to ONNX: {type(error).__name__}: {error}") from error


def compile_graphs(graphs: dict[str, OnnxGraph]) -> RunModels:
    """Merges graphs and returns a function that runs them on the same faces.

    Args:
        graphs: Graphs by task; all take faces of one size.

    Returns:
        The function. It takes one face or more and raises ValueError for faces of another size or type.
    """
    (size,) = {graph.size for graph in graphs.values()}
    nodes = {name: node for graph in graphs.values() for name, node in graph.nodes.items()}
    weights = {name: values for graph in graphs.values() for name, values in graph.weights.items()}
    outputs = {graph.output: graph.classes for graph in graphs.values()}
    merged = helper.make_graph(
        list(nodes.values()),
        "models",
        [helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, ["n", *size, 3])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", classes]) for name, classes in outputs.items()],
        list(weights.values()),
    )
    model = helper.make_model(merged, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = joblib.cpu_count()  # ONNX Runtime's default ignores a container's limits
    options.log_severity_level = 3
    # Spinning threads would occupy the cores on which other processes detect faces.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def predict(faces: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        if faces.dtype != np.uint8 or faces.shape[1:] != (*size, 3) or not len(faces):
            raise ValueError(f"faces must be uint8 (1 or more, {size[0]}, {size[1]}, 3), got {faces.dtype} {faces.shape}")
        values = dict(zip(outputs, session.run(list(outputs), {INPUT_NAME: faces})))
        return {task: values[graph.output] for task, graph in graphs.items()}

    return predict


class _Tensor(NamedTuple):
    """A layer's input. In the graph, images have their channels first, unlike in Keras, and all values are float32."""

    name: str  # in the graph
    shape: tuple[int | None, ...]  # in Keras, with the batch
    dtype: str  # in Keras


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise UnsupportedModelError(f"this module does not translate {found}")


def _input_layer(config: dict) -> dict:
    (found,) = (layer["config"] for layer in config["layers"] if layer["class_name"] == "InputLayer")
    return found


def _count_classes(config: dict) -> int:
    (last,) = (layer for layer in config["layers"] if layer["name"] == config["output_layers"][0])
    return _count_classes(last["config"]) if last["class_name"] == "Functional" else last["config"]["units"]


def _translate_functional(graph: OnnxGraph, config: dict, face: str, group: h5py.Group) -> str:
    """Adds a functional model: named layers, each with the calls (`inbound_nodes`) that say what it is applied to."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    groups = {stored["vars"].attrs.get("name"): stored for stored in group["layers"].values()}
    outputs = {(_input_layer(config)["name"], 0): face}

    def inputs_of(node: dict) -> list[_Tensor]:
        _require(not any(node["kwargs"].values()), f"a layer called with {node['kwargs']}")
        tensors = [tensor["config"] for tensor in np.ravel(node["args"])]  # some layers get a list of tensors
        return [_Tensor(output(*x["keras_history"][:2]), tuple(x["shape"]), x["dtype"]) for x in tensors]

    def output(name: str, call: int) -> str:
        if (name, call) not in outputs:
            layer, calls = layers[name], layers[name]["inbound_nodes"]
            if layer["class_name"] == "Functional" and len(calls) > 1:
                # A model that is applied several times, such as to a face and to its mirror image, gets one larger batch.
                inputs = [tensor for node in calls for tensor in inputs_of(node)]
                _require(len({x[1:] for x in inputs}) == 1, f"the model {name} of {inputs}")
                batch = inputs[0]._replace(name=graph.add("Concat", *(x.name for x in inputs), axis=0))
                all_calls = _translate_layer(graph, layer, [batch], groups.get(name))
                parts = graph.add("Split", all_calls, axis=0, num_outputs=len(calls))
                outputs.update({(name, i): f"{parts}.{i}" if i else parts for i in range(len(calls))})
            else:
                outputs[name, call] = _translate_layer(graph, layer, inputs_of(calls[call]), groups.get(name))
        return outputs[name, call]

    name, call, _ = config["output_layers"]
    # As the output of a model, Keras numbers the calls of a nested model from 1, because creating it counts as call 0.
    return output(name, call - (layers[name]["class_name"] == "Functional"))


def _translate_layer(graph: OnnxGraph, layer: dict, inputs: list[_Tensor], group: h5py.Group | None) -> str:
    kind, config, dtypes = layer["class_name"], layer["config"], {x.dtype for x in inputs}
    _require(layer["module"].split(".")[0] == "keras", f"the layer {kind} of {layer['module']}")
    if kind == "Functional":
        _require(dtypes == {_input_layer(config)["dtype"]}, f"the model {layer['name']} of {dtypes}")
        return _translate_functional(graph, config, inputs[0].name, group)
    _require(kind in _LAYERS, f"the layer {kind}")
    _require(dtypes == {"float32"} or kind in ("Rescaling", "Flip"), f"the layer {kind} of {dtypes}")
    precision = config["dtype"]["config"]["name"] if "dtype" in config else "float32"
    _require(precision == "float32", f"the layer {kind} in {precision}")
    settings = {key: value for key, value in config.items() if not _IGNORED.fullmatch(key)}
    settings = {key: value for key, value in settings.items() if value not in (None, _FIXED.get(key))}
    stored = group["vars"] if group is not None else {}
    weights = [np.asarray(stored[str(i)], np.float32) for i in range(len(stored))]
    return _LAYERS[kind](graph.add, weights, *inputs, **settings)


# Each function below translates one kind of layer: (add, weights, *inputs, **settings) -> name of the output. `add` is
# `OnnxGraph.add`, `weights` are arrays and each input is a `_Tensor`. A setting without a parameter raises TypeError, which
# `read_graph` turns into UnsupportedModelError.


def _rescaling(add, weights, x, scale=1.0, offset=0.0):
    # Scale and offset are one number, or one for each channel.
    _require({np.shape(scale), np.shape(offset)} <= {(), x.shape[-1:]}, f"Rescaling by {scale} and {offset}")
    scale, offset = (np.reshape(np.float32(value), (-1,) + (1,) * (len(x.shape) - 2)) for value in (scale, offset))
    return add("Add", add("Mul", x.name, scale), offset)


def _convolution(add, weights, x, padding, activation, strides, depthwise=False):
    kernel, *bias = weights
    kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
    groups = x.shape[-1] if depthwise else 1
    y = add("Conv", x.name, kernel, *bias, strides=strides, auto_pad=_PADDING[padding], group=groups)
    return _activation(add, [], x._replace(name=y), activation)


def _dense(add, weights, x, activation):
    _require(len(x.shape) == 2, f"a dense layer of {x.shape}")
    return _activation(add, [], x._replace(name=add("Gemm", x.name, *weights)), activation)


def _activation(add, weights, x, activation):
    if activation == "linear":
        return x.name
    operator = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax"}[activation]
    return add(operator, x.name, **({"axis": 1} if activation == "softmax" else {}))


def _pooling(operator, add, weights, x, padding, pool_size, strides):
    return add(operator, x.name, kernel_shape=pool_size, strides=strides, auto_pad=_PADDING[padding])


def _merge(operator, add, weights, *inputs):
    _require(len(inputs) > 1 and len({x.shape for x in inputs}) == 1, f"{operator} of {inputs}")
    return add(operator, *(x.name for x in inputs))


def _flip(add, weights, x, axis):
    start, end, step = np.array([[-1], [np.iinfo(np.int64).min], [-1]])
    return add("Slice", x.name, start, end, np.array({1: [2], 2: [3]}[axis]), step)  # height or width, in Keras and ONNX


_LAYERS: dict[str, Callable] = {
    "Activation": _activation,
    "Add": partial(_merge, "Sum"),
    "Average": partial(_merge, "Mean"),
    "AveragePooling2D": partial(_pooling, "AveragePool"),
    "BatchNormalization": lambda add, weights, x, epsilon: add("BatchNormalization", x.name, *weights, epsilon=epsilon),
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": partial(_convolution, depthwise=True),
    "Dropout": lambda add, weights, x: x.name,
    "Flatten": lambda add, weights, x: add("Flatten", add("Transpose", x.name, perm=[0, *range(2, len(x.shape)), 1])),
    "Flip": _flip,
    "GlobalAveragePooling2D": lambda add, weights, x: add("Flatten", add("GlobalAveragePool", x.name)),
    "MaxPooling2D": partial(_pooling, "MaxPool"),
    "ReLU": lambda add, weights, x, max_value=np.inf: add("Clip", x.name, np.float32(0), np.float32(max_value)),
    "Rescaling": _rescaling,
}
_PADDING = {"same": "SAME_UPPER", "valid": "VALID"}
# Settings that have no effect on predictions, or that follow from the shapes of the weights.
_IGNORED = re.compile(
    "name|trainable|dtype|momentum|renorm_momentum|synchronized|seed|rate|filters|kernel_size|units|use_bias|fill_mode"
    "|fill_value|.*_(initializer|regularizer|constraint)"
)
# Settings with a single supported value.
_FIXED = {
    "axis": -1, "data_format": "channels_last", "dilation_rate": [1, 1], "groups": 1, "depth_multiplier": 1,
    "keepdims": False, "center": True, "scale": True, "renorm": False, "negative_slope": 0.0, "threshold": 0.0,
}  # fmt: skip
