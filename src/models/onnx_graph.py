"""Saved models as ONNX graphs, read from `model.keras` without Keras and run by ONNX Runtime.

Importing TensorFlow takes several seconds, which nobody who only predicts has to wait for. This module reads the
network's description (JSON) and its weights (HDF5) from `model.keras` and builds the ONNX graph itself, in a few
milliseconds. It knows the layers that this repository's networks consist of. Any other layer, or any other setting of
these layers, raises `UnsupportedModel`; such models run in Keras.

Before it: nothing. After it: `model_folder`, `answers`.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import h5py
import joblib
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

OPSET = 18  # of the operators; the first with Resize along named axes
FACES = "faces"  # the name of the graph's input
# From uint8 faces (n, height, width, 3), RGB, 0-255, to the probabilities by task, float32 (n, classes).
Predict = Callable[[npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.float32]]]


class UnsupportedModel(ValueError):
    """A `model.keras` that this module cannot read, or whose layers it does not know."""


class Tensor(NamedTuple):
    """A value within the graph. Pictures have their channels first, unlike in Keras.

    Attributes:
        name: The name in the graph.
        shape: The shape without the batch: (channels, height, width) or (features,).
        pixels: Whether the values are unscaled pixels, which Keras holds as uint8 and the graph as float32.
    """

    name: str
    shape: tuple[int, ...]
    pixels: bool = False


@dataclass
class Network:
    """A saved model as an ONNX graph.

    The name of each node and constant is a hash of all that it is computed from. Networks that share a level one
    therefore share its names, and a graph that holds several networks runs the shared part once.

    Attributes:
        size: Height and width of the input: uint8 (batch, height, width, 3), RGB, 0-255.
        classes: The number of probabilities that the network gives for each face.
        output: The name of the output, float32 (batch, classes).
        nodes: The operations by name, each after those that it depends on.
        constants: The weights by name.
    """

    size: tuple[int, int] = (0, 0)
    classes: int = 0
    output: str = ""
    nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation, unless it is there already, and returns the name of its output."""
        name = _hash(repr((operator, inputs, sorted(attributes.items()))).encode())
        if name not in self.nodes:
            self.nodes[name] = helper.make_node(operator, inputs, [name], name, **attributes)
        return name

    def constant(self, values: np.ndarray) -> str:
        """Adds a constant, unless it is there already, and returns its name."""
        values = np.asarray(values, order="C")
        name = _hash(repr((values.dtype.str, values.shape)).encode(), values.data)
        self.constants[name] = values
        return name


def read_network(content: bytes) -> Network:
    """Reads a model as an ONNX graph.

    Args:
        content: The content of a `model.keras`.

    Returns:
        The graph, with the same probabilities as Keras's to about 1e-6.

    Raises:
        UnsupportedModel: The content is damaged, or holds a layer that this module does not know.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # checks each file's CRC-32
            config = json.loads(archive.read("config.json"))
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "r") as file:
            return _read_model(config, file)
    except UnsupportedModel:
        raise
    # Damaged files, and descriptions that another version of Keras writes, raise these.
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedModel(f"model.keras cannot be read without Keras: {type(error).__name__}: {error}") from error


def run_together(networks: dict[str, Network], threads: int | None = None) -> Predict:
    """Returns a function that runs networks on the same faces.

    Args:
        networks: The networks by task. All take faces of the same size.
        threads: The number of threads; None for one per core that this process may use.

    Returns:
        A function that takes 1 or more faces and raises ValueError for faces of another size or type.
    """
    (size,) = {network.size for network in networks.values()}
    nodes = {name: node for network in networks.values() for name, node in network.nodes.items()}
    constants = {name: values for network in networks.values() for name, values in network.constants.items()}
    graph = helper.make_graph(
        list(nodes.values()),
        "networks",
        [helper.make_tensor_value_info(FACES, onnx.TensorProto.UINT8, ["n", *size, 3])],
        [
            helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", classes])
            for output, classes in {network.output: network.classes for network in networks.values()}.items()
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    options = onnxruntime.SessionOptions()
    # A number, always: ONNX Runtime's own choice ignores the limits of a container.
    options.intra_op_num_threads = threads or joblib.cpu_count()
    options.log_severity_level = 3
    # Waiting threads would else keep a core busy that another process detects faces on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = list(dict.fromkeys(network.output for network in networks.values()))

    def run(faces: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        if faces.dtype != np.uint8 or faces.shape[1:] != (*size, 3) or not len(faces):
            raise ValueError(f"faces must be uint8 (1 or more, {size[0]}, {size[1]}, 3), got {faces.dtype} {faces.shape}")
        values = dict(zip(outputs, session.run(outputs, {FACES: faces})))
        return {task: values[network.output] for task, network in networks.items()}

    return run


def _hash(*parts: Any) -> str:
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(part)
    return made.hexdigest()


# --- models -----------------------------------------------------------------------------------------------------------


def _read_model(config: dict, file: h5py.File) -> Network:
    network = Network()
    first = _input_layer(config)
    if first["dtype"] != "uint8" or first["batch_shape"][0] is not None or len(first["batch_shape"]) != 4:
        raise UnsupportedModel(f"the input must be uint8 (None, height, width, 3), got {first}")
    _, height, width, channels = first["batch_shape"]
    if channels != 3:
        raise UnsupportedModel(f"the input must have 3 channels, got {channels}")
    network.size = (height, width)
    moved = network.node("Transpose", FACES, perm=[0, 3, 1, 2])
    faces = Tensor(network.node("Cast", moved, to=onnx.TensorProto.FLOAT), (3, height, width), True)
    answer = _apply_layer(network, config, [faces], file)
    if len(answer.shape) != 1 or answer.pixels:
        raise UnsupportedModel(f"the output must be (batch, classes), got (batch, {answer.shape})")
    network.classes, network.output = answer.shape[0], answer.name
    return network


def _input_layer(model: dict) -> dict:
    inputs = [layer["config"] for layer in model["config"]["layers"] if layer["class_name"] == "InputLayer"]
    if len(inputs) != 1:
        raise UnsupportedModel(f"a model must have one input, got {len(inputs)}")
    return inputs[0]


def _functional(network: Network, config: dict, given: list[Tensor], group: h5py.Group) -> Tensor:
    """A model of named layers, each with the calls (`inbound_nodes`) that say what it is applied to."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    groups = _groups(group)
    values: dict[tuple[str, int], Tensor] = {}

    def value(name: str, call: int) -> Tensor:
        layer = layers[name]
        if layer["class_name"] == "InputLayer":
            return _checked_input(layer["config"], given)
        if (name, call) not in values:
            # All calls of a nested model are made at once, of any other layer only this one.
            calls = range(len(layer["inbound_nodes"])) if layer["class_name"] in _MODELS else [call]
            inputs = [arguments(name, layer["inbound_nodes"][i]) for i in calls]
            for i, output in zip(calls, _apply_at_once(network, layer, inputs, groups.get(name))):
                values[name, i] = output
        return values[name, call]

    def arguments(name: str, node: dict) -> list[Tensor]:
        if any(node["kwargs"].values()):
            raise UnsupportedModel(f"the layer {name} is called with {node['kwargs']}")
        return [value(*history[:2]) for history in _histories(node["args"])]

    output = config["output_layers"]
    name, call, _ = output if isinstance(output[0], str) else output[0]
    if not isinstance(output[0], str) and len(output) > 1:
        raise UnsupportedModel(f"a model must have one output, got {len(output)}")
    # In this place, and only here, Keras counts the call by which a nested model was made.
    return value(name, call - (layers[name]["class_name"] == "Functional"))


def _apply_at_once(network: Network, layer: dict, calls: list[list[Tensor]], group: h5py.Group | None) -> list[Tensor]:
    """Applies a layer to the inputs of each call, in one batch if there are several calls with one input each.

    The level one of the released models is called with a face and with its mirror image. In one batch, its weights are
    read from memory once, which saves about 10% of the time for a single face.
    """
    inputs = [given[0] for given in calls if len(given) == 1]
    if len(calls) == 1 or len(inputs) < len(calls) or len({(x.shape, x.pixels) for x in inputs}) > 1:
        return [_apply_layer(network, layer, given, group) for given in calls]
    batch = inputs[0]._replace(name=network.node("Concat", *(x.name for x in inputs), axis=0))
    output = _apply_layer(network, layer, [batch], group)
    apart = network.constant(np.array([len(calls), -1, *output.shape], np.int64))
    parts = network.node("Reshape", output.name, apart)
    names = [network.node("Gather", parts, network.constant(np.array(i)), axis=0) for i in range(len(calls))]
    return [output._replace(name=name) for name in names]


def _sequential(network: Network, config: dict, given: list[Tensor], group: h5py.Group) -> Tensor:
    groups, (value,) = _groups(group), given
    for layer in config["layers"]:
        if layer["class_name"] == "InputLayer":
            value = _checked_input(layer["config"], given)
        else:
            value = _apply_layer(network, layer, [value], groups.get(layer["config"]["name"]))
    return value


def _groups(group: h5py.Group) -> dict[str, h5py.Group]:
    """By layer name, where the weights are: files name the groups by class and number, each with its layer's name beside."""
    if "layers" not in group:
        return {}
    return {some["vars"].attrs["name"]: some for some in group["layers"].values() if "name" in some["vars"].attrs}


def _checked_input(config: dict, given: list[Tensor]) -> Tensor:
    (value,) = given
    shape = tuple(config["batch_shape"][1:])
    mine = (*value.shape[1:], value.shape[0]) if len(value.shape) == 3 else value.shape
    if shape != mine or config["dtype"] != ("uint8" if value.pixels else "float32"):
        raise UnsupportedModel(f"a model for {config['dtype']} {shape} is given {mine}")
    return value


def _histories(arguments: list) -> list[list]:
    """The (layer, call, output) that each argument of a call comes from."""
    found = []
    for argument in arguments:
        if isinstance(argument, list):
            found += _histories(argument)
        elif isinstance(argument, dict) and argument["class_name"] == "__keras_tensor__":
            found.append(argument["config"]["keras_history"])
        else:
            raise UnsupportedModel(f"a layer is called with {argument}")
    return found


# --- layers -----------------------------------------------------------------------------------------------------------


def _apply_layer(network: Network, layer: dict, inputs: list[Tensor], group: h5py.Group | None) -> Tensor:
    kind, config = layer["class_name"], layer["config"]
    if layer["module"].split(".")[0] != "keras" or layer.get("registered_name") not in (None, kind):
        raise UnsupportedModel(f"the layer {kind} is not one of Keras's own")
    if kind in _MODELS:
        if group is None:
            raise UnsupportedModel(f"the model {config['name']} has no weights of its own in the file")
        return _MODELS[kind](network, config, inputs, group)
    if kind not in _LAYERS:
        raise UnsupportedModel(f"the layer {kind} is unknown")
    handler, defaults = _LAYERS[kind]
    if any(value.pixels for value in inputs) and handler not in (_rescaling, _flip):
        raise UnsupportedModel(f"the layer {kind} is given uint8 pixels")
    dtype = config.get("dtype", "float32")
    if (dtype["config"]["name"] if isinstance(dtype, dict) else dtype) != "float32":
        raise UnsupportedModel(f"the layer {kind} computes in {dtype}")
    known = {name: value for name, value in config.items() if name not in _IGNORED and not name.endswith(_IGNORED_ENDINGS)}
    settings = {name: value for name, value in known.items() if value is not None}
    if unknown := settings.keys() - defaults.keys():
        raise UnsupportedModel(f"the layer {kind} has the unknown settings {sorted(unknown)}")
    for name, value in (defaults | settings).items():
        if isinstance(defaults[name], Only) and value not in (defaults[name], defaults[name].value):
            raise UnsupportedModel(f"the layer {kind} has {name}={value!r}")
    stored = group["vars"] if group is not None else {}
    weights = [np.asarray(stored[str(i)]) for i in range(len(stored))]
    if any(values.dtype != np.float32 for values in weights):
        raise UnsupportedModel(f"the layer {kind} has weights that are not float32")
    return handler(network, SimpleNamespace(**(defaults | settings)), weights, *inputs)


class Only(NamedTuple):
    """The one value of a setting that is supported."""

    value: Any


def _rescaling(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    # One number, or one for each channel.
    numbers = [np.asarray(given, np.float32) for given in (layer.scale, layer.offset)]
    if any(given.shape not in ((), x.shape[:1]) for given in numbers):
        raise UnsupportedModel(f"a tensor of shape {x.shape} is scaled by {layer.scale} with the offset {layer.offset}")
    per_channel = (-1,) + (1,) * (len(x.shape) - 1)
    scale, offset = (network.constant(given.reshape(per_channel) if given.ndim else given) for given in numbers)
    return Tensor(network.node("Add", network.node("Mul", x.name, scale), offset), x.shape)


def _flip(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    axis = {1: 2, 2: 3, -3: 2, -2: 3}[layer.axis]  # with the channels first
    if len(x.shape) != 3:
        raise UnsupportedModel(f"a tensor of shape {x.shape} is flipped")
    start, end, step = (network.constant(np.array([number])) for number in (-1, np.iinfo(np.int64).min, -1))
    return x._replace(name=network.node("Slice", x.name, start, end, network.constant(np.array([axis])), step))


def _resize(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    sizes = network.constant(np.array(layer.size, np.int64))
    name = network.node(
        "Resize", x.name, "", "", sizes, mode="linear", axes=[2, 3], coordinate_transformation_mode="half_pixel"
    )
    return Tensor(name, (x.shape[0], *layer.size))


def _convolution(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    kernel, *bias = weights
    if kernel.shape != (*layer.kernel_size, x.shape[0], layer.filters) or len(bias) != layer.use_bias:
        raise UnsupportedModel(f"a convolution's kernel has the shape {kernel.shape}")
    shape, window = _window(layer, x, layer.kernel_size, layer.strides)
    inputs = [network.constant(values) for values in (kernel.transpose(3, 2, 0, 1), *bias)]
    return _activated(network, layer, Tensor(network.node("Conv", x.name, *inputs, **window), (layer.filters, *shape)))


def _depthwise(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    kernel, *bias = weights
    channels = x.shape[0]
    if kernel.shape != (*layer.kernel_size, channels, 1) or len(bias) != layer.use_bias:
        raise UnsupportedModel(f"a depthwise convolution's kernel has the shape {kernel.shape}")
    shape, window = _window(layer, x, layer.kernel_size, layer.strides)
    inputs = [network.constant(values) for values in (kernel.transpose(2, 3, 0, 1), *bias)]
    return _activated(
        network, layer, Tensor(network.node("Conv", x.name, *inputs, group=channels, **window), (channels, *shape))
    )


def _max_pooling(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    shape, window = _window(layer, x, layer.pool_size, layer.strides or layer.pool_size)
    return Tensor(network.node("MaxPool", x.name, **window), (x.shape[0], *shape))


def _average_pooling(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    shape, window = _window(layer, x, layer.pool_size, layer.strides or layer.pool_size)
    return Tensor(network.node("AveragePool", x.name, count_include_pad=0, **window), (x.shape[0], *shape))


def _window(layer: SimpleNamespace, x: Tensor, kernel: list[int], strides: list[int]) -> tuple[tuple[int, ...], dict]:
    """The height and width after sliding a window over a picture, and the window as ONNX describes it."""
    if layer.padding not in ("same", "valid") or len(x.shape) != 3:
        raise UnsupportedModel(f"a window slides over {x.shape} with padding {layer.padding!r}")
    shape, before, after = [], [], []
    for size, wide, stride in zip(x.shape[1:], kernel, strides, strict=True):
        steps = -(-size // stride) if layer.padding == "same" else (size - wide) // stride + 1
        missing = max((steps - 1) * stride + wide - size, 0) if layer.padding == "same" else 0
        shape.append(steps)
        before.append(missing // 2)
        after.append(missing - missing // 2)
    return tuple(shape), {"kernel_shape": list(kernel), "strides": list(strides), "pads": before + after}


def _normalisation(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    axis = layer.axis[0] if isinstance(layer.axis, list) else layer.axis
    if axis not in (-1, len(x.shape)) or len(weights) != 2 + layer.scale + layer.center:
        raise UnsupportedModel(f"a normalisation is along axis {axis} with {len(weights)} weights")
    *trained, mean, variance = weights
    scale = trained.pop(0) if layer.scale else np.ones_like(mean)
    offset = trained.pop(0) if layer.center else np.zeros_like(mean)
    inputs = [network.constant(values) for values in (scale, offset, mean, variance)]
    return x._replace(name=network.node("BatchNormalization", x.name, *inputs, epsilon=layer.epsilon))


def _dense(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    kernel, *bias = weights
    if (kernel.shape, len(x.shape)) != ((*x.shape, layer.units), 1) or len(bias) != layer.use_bias:
        raise UnsupportedModel(f"a dense layer's kernel has the shape {kernel.shape}")
    inputs = [network.constant(values) for values in (kernel, *bias)]
    return _activated(network, layer, Tensor(network.node("Gemm", x.name, *inputs), (layer.units,)))


def _activated(network: Network, layer: SimpleNamespace, x: Tensor) -> Tensor:
    if layer.activation == "linear":
        return x
    if layer.activation == "softmax" and len(x.shape) == 1:
        return x._replace(name=network.node("Softmax", x.name, axis=-1))
    if layer.activation in _ACTIVATIONS:
        return x._replace(name=network.node(_ACTIVATIONS[layer.activation], x.name))
    raise UnsupportedModel(f"the activation {layer.activation!r} is unknown")


def _activation(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    return _activated(network, layer, x)


def _relu(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    if layer.max_value is None:
        return x._replace(name=network.node("Relu", x.name))
    lowest, highest = (network.constant(np.float32(number)) for number in (0, layer.max_value))
    return x._replace(name=network.node("Clip", x.name, lowest, highest))


def _global_average(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    if len(x.shape) != 3:
        raise UnsupportedModel(f"a tensor of shape {x.shape} is averaged")
    return Tensor(network.node("Flatten", network.node("GlobalAveragePool", x.name)), x.shape[:1])


def _flatten(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    moved = network.node("Transpose", x.name, perm=[0, 2, 3, 1]) if len(x.shape) == 3 else x.name
    return Tensor(network.node("Flatten", moved), (int(np.prod(x.shape)),))


def _merge(operator: str) -> Callable:
    def merged(network: Network, layer: SimpleNamespace, weights: list, *inputs: Tensor) -> Tensor:
        if len(inputs) < 2 or len({x.shape for x in inputs}) != 1:
            raise UnsupportedModel(f"tensors of shapes {[x.shape for x in inputs]} are merged")
        return inputs[0]._replace(name=network.node(operator, *(x.name for x in inputs)))

    return merged


def _unchanged(network: Network, layer: SimpleNamespace, weights: list, x: Tensor) -> Tensor:
    return x


# Settings without an effect on predictions.
_IGNORED = {"name", "trainable", "dtype", "momentum", "renorm_momentum", "synchronized", "seed", "rate"}
_IGNORED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
_MODELS = {"Functional": _functional, "Sequential": _sequential}
_PICTURE = {"data_format": Only("channels_last")}
_POOLING = _PICTURE | {"pool_size": (2, 2), "strides": None, "padding": "valid"}
# By Keras's class: what adds it to the graph, and its settings with their defaults.
_LAYERS: dict[str, tuple[Callable, dict]] = {
    "Rescaling": (_rescaling, {"scale": 1.0, "offset": 0.0}),
    "Flip": (_flip, {"axis": None}),
    "Resize": (
        _resize,
        _PICTURE
        | {
            "size": None, "interpolation": Only("bilinear"), "antialias": Only(False), "crop_to_aspect_ratio": Only(False),
            "pad_to_aspect_ratio": Only(False), "fill_mode": Only("constant"), "fill_value": Only(0.0),
        },
    ),
    "Conv2D": (
        _convolution,
        _PICTURE
        | {
            "filters": None, "kernel_size": None, "strides": (1, 1), "padding": "valid", "dilation_rate": Only([1, 1]),
            "groups": Only(1), "activation": "linear", "use_bias": True,
        },
    ),
    "DepthwiseConv2D": (
        _depthwise,
        _PICTURE
        | {
            "kernel_size": None, "strides": (1, 1), "padding": "valid", "dilation_rate": Only([1, 1]),
            "depth_multiplier": Only(1), "activation": "linear", "use_bias": True,
        },
    ),
    "MaxPooling2D": (_max_pooling, _POOLING),
    "AveragePooling2D": (_average_pooling, _POOLING),
    "GlobalAveragePooling2D": (_global_average, _PICTURE | {"keepdims": Only(False)}),
    "BatchNormalization": (
        _normalisation,
        {"axis": -1, "epsilon": 1e-3, "center": True, "scale": True, "renorm": Only(False)},
    ),
    "Dense": (_dense, {"units": None, "activation": "linear", "use_bias": True}),
    "ReLU": (_relu, {"max_value": None, "negative_slope": Only(0.0), "threshold": Only(0.0)}),
    "Activation": (_activation, {"activation": "linear"}),
    "Flatten": (_flatten, _PICTURE),
    "Dropout": (_unchanged, {}),
    "Add": (_merge("Sum"), {}),
    "Average": (_merge("Mean"), {}),
}  # fmt: skip
