"""The diagrams of the pipelines and of the networks, drawn from the code and the released models: `make figures`.

    python -m tools.diagrams [--to docs/figures]

Each diagram is written as SVG and PNG. The layers, shapes and parameter counts are read from the Keras models.
"""

import argparse
import math
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from experiments import results
from src import config
from src.evaluation.plots import BLUE, GREEN, GREY, ORANGE, styled
from src.faces.align import Alignment, align_face, find_faces
from src.files import atomic_write
from src.keras_setup import keras, layers
from src.models.two_level_cnn import two_level_cnn
from src.processes import run_command
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person

TARGET = config.DOCS / "figures"
_WIDTH = 9.0  # inches; about 900 pixels in a README
_BOX_HEIGHT = 0.88
_TRAINING, _SHARED, _INFERENCE = 3.4, 2.06, 0.58  # heights of the three rows
_COLUMNS = (0.76, 2.26, 3.76, 5.26, 6.76, 8.24)


class Box(NamedTuple):
    """A box of the pipeline diagram."""

    modules: tuple[str, ...]  # names of modules in `src`, "room" or "room.module"
    text: str
    x: float  # the middle, in inches
    y: float
    colour: str = BLUE
    width: float = 1.38


_left, _right = (_COLUMNS[2] + _COLUMNS[3]) / 2, (_COLUMNS[4] + _COLUMNS[5]) / 2
PIPELINES = {
    "data set": Box((), "data set:\nphotos and labels", _COLUMNS[0], _TRAINING, GREY),
    "load": Box(("data",), "one loader for each\ndata set; a reason for\neach dropped row", _COLUMNS[1], _TRAINING),
    "table": Box(("data.table",), "table of faces;\nno person in two\nparts of the split", _COLUMNS[2], _TRAINING),
    "prepare": Box(("faces.prepare",), "faces aligned once,\nin parallel, resumable", _COLUMNS[3], _TRAINING),
    "train": Box(("models.train",), "two-level CNN,\nlive curves", _COLUMNS[4], _TRAINING),
    "evaluate": Box(("evaluation",), "accuracy, subgroups,\ncalibration", _COLUMNS[5], _TRAINING),
    "faces": Box(
        ("faces.detect", "faces.align"), "YuNet detects faces, dlib finds 68 landmarks,\nthe eyes move to fixed positions",
        _left, _SHARED, GREEN, 2.88,
    ),
    "model folder": Box(
        ("models.model_folder",), "model.keras, labels.json, card.json,\nchecked against each other",
        _right, _SHARED, GREEN, 2.88,
    ),
    "photo": Box((), "your photos\nand videos", _COLUMNS[0], _INFERENCE, GREY),
    "read": Box(("faces.image_io",), "any format,\nupright, RGB", _COLUMNS[1], _INFERENCE, ORANGE),
    "detect": Box(
        ("predict.extract_faces",), "every face is detected, and aligned\nas the model's card says; videos: tracked",
        _left, _INFERENCE, ORANGE, 2.88,
    ),
    "predict": Box(("predict.inference",), "level one once,\nlevel two for\neach task", _COLUMNS[4], _INFERENCE, ORANGE),
    "output": Box(("predict",), "tables and\nannotated copies", _COLUMNS[5], _INFERENCE, ORANGE),
}  # fmt: skip
_FLOWS = (("data set", "load", "table", "prepare", "train", "evaluate"), ("photo", "read", "detect", "predict", "output"))
_SAVED = ("evaluate", "model folder")
USES = (("prepare", "faces"), ("detect", "faces"), ("predict", "model folder"))  # the first box's modules import the second's


@styled
def pipelines() -> Figure:
    """Draws the training pipeline (above), the inference pipeline (below), and what both share."""
    figure, axes = plt.subplots(figsize=(_WIDTH, 4.24))
    axes.set(xlim=(0, _WIDTH), ylim=(0, 4.24))
    axes.axis("off")
    for y, title, colour in ((_TRAINING, "Training pipeline", BLUE), (_INFERENCE, "Inference pipeline", ORANGE)):
        style = "round,pad=0,rounding_size=0.1"
        axes.add_patch(FancyBboxPatch((0, y - 0.55), _WIDTH, 1.36, style, facecolor=colour, alpha=0.08, edgecolor="none"))
        axes.text(0.14, y + 0.62, title, color=colour, weight="bold", va="center")
    shared = "Shared: a new photo\nis treated like the\ntraining photos"
    axes.text(0.14, _SHARED, shared, color=GREEN, weight="bold", fontsize=9, va="center")
    for box in PIPELINES.values():
        corner = box.x - box.width / 2, box.y - _BOX_HEIGHT / 2
        style = "round,pad=0,rounding_size=0.07"
        axes.add_patch(FancyBboxPatch(corner, box.width, _BOX_HEIGHT, style, facecolor="white", edgecolor=box.colour, lw=1.4))
        names = ", ".join(box.modules)
        half = 0.08 * (box.text.count("\n") + 1 + bool(names))
        axes.text(box.x, box.y + half, names, ha="center", va="top", fontsize=8, family="monospace", weight="bold")
        axes.text(box.x, box.y - half, box.text, ha="center", va="bottom", fontsize=8)
    for flow in _FLOWS:
        boxes = [PIPELINES[name] for name in flow]
        for start, end in zip(boxes, boxes[1:]):
            _arrow(axes, (start.x + start.width / 2, start.y), (end.x - end.width / 2, end.y))
    for names in [*(pair[::-1] for pair in USES), _SAVED]:
        start, end = (PIPELINES[name] for name in names)
        # A vertical arrow, at the middle of the narrower box.
        x, sign = min(start, end, key=lambda box: box.width).x, math.copysign(_BOX_HEIGHT / 2, end.y - start.y)
        _arrow(axes, (x, start.y + sign), (x, end.y - sign), linestyle="-" if names == _SAVED else "--")
    return figure


def _arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float], linestyle: str = "-") -> None:
    style = {"arrowstyle": "-|>", "color": "#666666", "lw": 1.3, "linestyle": linestyle, "shrinkA": 0, "shrinkB": 1}
    axes.annotate("", end, start, arrowprops=style)


_STAGE_ENDS = re.compile(r"face|pool.*|(stem|pointwise_\d+)_activation|features|mean_of_both|dropout_\d+|probability")
_FACE = "face"  # the stage of the input


class Stage(NamedTuple):
    """Layers that are drawn together."""

    level: str  # level_one or level_two
    text: str  # the operations
    shape: tuple[int, ...]  # shape of the output, without the batch
    parameters: int


def stages(model: keras.Model) -> list[Stage]:
    """Returns the steps of a two-level network, read from its layers. The first one is the input."""
    found: list[Stage] = []
    for level in (model.get_layer("level_one"), model.get_layer("level_two")):
        groups: list[list[keras.Operation]] = [[]]
        for operation in _flatten(level):
            groups[-1].append(operation)
            if _STAGE_ENDS.fullmatch(operation.name):
                if len(groups) > 1 and _is_separable(groups[-1]) and groups[-2][-1].output.shape == operation.output.shape:
                    block = groups.pop()
                    groups[-1] += block  # blocks with maps of one size are one stage
                groups.append([])
        for operations in filter(None, groups):
            parameters = sum(layer.count_params() for layer in operations if isinstance(layer, keras.Layer))
            shape = tuple(operations[-1].output.shape[1:])
            if parameters or not found or shape != found[-1].shape:
                found.append(Stage(level.name, _describe(operations), shape, parameters))
    return found


def _is_separable(operations: list[keras.Operation]) -> bool:
    return any(isinstance(layer, layers.DepthwiseConv2D) for layer in operations)


def _flatten(model: keras.Model) -> list[keras.Operation]:
    """Returns all operations of a model and of the models in it. Mirroring is an operation, not a layer."""
    inside = [_flatten(layer)[1:] if isinstance(layer, keras.Model) else [layer] for layer in model.operations]
    return sum(inside, [])


def _describe(operations: list[keras.Operation]) -> str:
    last = operations[-1]
    if _is_separable(operations):
        count = sum(isinstance(layer, layers.DepthwiseConv2D) for layer in operations)
        return f"{count} separable\nconv" if count > 1 else "separable\nconv"
    convolutions = [layer for layer in operations if isinstance(layer, layers.Conv2D)]
    if convolutions:
        side = convolutions[0].kernel_size[0]
        return f"conv {side}×{side}" + ("\n+ pooling" if isinstance(last, layers.MaxPooling2D) else "")
    if any(isinstance(layer, layers.Dense) for layer in operations):
        return "softmax" if last.name == "probability" else "dense"
    if isinstance(last, layers.InputLayer):
        return _FACE
    return "averaged" if isinstance(last, layers.GlobalAveragePooling2D) else "flat"


@styled
def networks(models: dict[str, keras.Model], face: npt.NDArray[np.uint8]) -> Figure:
    """Draws two-level networks by title, with a face (RGB) as input; the size of a block grows with its maps and channels."""
    figure, panels = plt.subplots(len(models), 1, figsize=(_WIDTH, 2.75 * len(models)), squeeze=False)
    for axes, (title, model) in zip(panels.flat, models.items(), strict=True):
        _draw_network(axes, title, model, face)
    return figure


def _draw_network(axes: plt.Axes, title: str, model: keras.Model, face: npt.NDArray[np.uint8]) -> None:
    axes.set(xlim=(0, _WIDTH), ylim=(-0.62, 2.13), aspect="equal")
    axes.axis("off")
    axes.text(0, 2.06, title, weight="bold", fontsize=10.5, va="center")
    axes.text(_WIDTH, 2.06, f"{model.count_params():,} parameters", fontsize=9, color=GREY, ha="right", va="center")
    steps = stages(model)
    mirrored = any(layer.name == "mean_of_both" for layer in model.get_layer("level_one").layers)
    places = 0.5 + np.arange(len(steps)) * (_WIDTH - 0.8) / (len(steps) - 1)
    for stage, x in zip(steps, places):
        text, top = stage.text, _draw_stage(axes, stage, x, face)
        if text == _FACE and mirrored:
            text = "face and\nmirror image"
        if stage.parameters:
            axes.text(x, top + 0.04, _short(stage.parameters), ha="center", va="bottom", fontsize=7.2, color=GREY)
        axes.text(x, -0.06, "×".join(map(str, stage.shape)), ha="center", va="top", fontsize=7.4, weight="bold")
        axes.text(x, -0.23, text, ha="center", va="top", fontsize=7.2, color="#666666")
    for level, colour in (("level_one", BLUE), ("level_two", GREEN)):
        mine = [i for i, stage in enumerate(steps) if stage.level == level and stage.text != _FACE]
        left, right = places[mine[0]] - 0.25, places[mine[-1]] + 0.25
        axes.plot([left, right], [1.72, 1.72], color=colour, lw=2.2, solid_capstyle="butt")
        text = f"{level.replace('_', ' ')}  ·  {sum(steps[i].parameters for i in mine):,}"
        x, side = (left, "left") if level == "level_one" else (right, "right")
        axes.text(x, 1.77, text, ha=side, va="bottom", fontsize=8.6, color=colour, weight="bold")


def _draw_stage(axes: plt.Axes, stage: Stage, x: float, face: npt.NDArray[np.uint8]) -> float:
    """Draws one block and returns the height of its upper edge."""
    if len(stage.shape) == 3:
        height, width = 0.118 * math.sqrt(stage.shape[0]), 0.022 * math.sqrt(stage.shape[-1])
    else:
        height, width = 0.14 * math.log2(stage.shape[0]) + 0.05, 0.13
    bottom = 0.78 - height / 2
    if stage.text == _FACE:
        height = width = 0.85
        bottom = 0.78 - height / 2
        axes.imshow(face, extent=(x - width / 2, x + width / 2, bottom, bottom + height), zorder=2)
    else:
        colour = ORANGE if stage.text == "softmax" else BLUE if stage.level == "level_one" else GREEN
        axes.add_patch(Rectangle((x - width / 2, bottom), width, height, facecolor=(colour, 0.45), edgecolor=colour))
    return bottom + height


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k" if count >= 1e3 else str(count)


def synthetic_face() -> npt.NDArray[np.uint8]:
    """Returns an aligned face of a synthetic person, uint8 RGB (256, 256, 3)."""
    rng, model = np.random.default_rng(config.SEED), FaceModel.load()
    photo, _ = scene.snapshot(model, [new_person(model, 4, "female", rng)], (480, 480), 300, rng)
    return align_face(photo, find_faces(photo)[0], Alignment(size=256))


def save(figure: Figure, target: Path, dpi: int = 160) -> None:
    """Writes a figure atomically. The same figure gives the same file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {".svg": {"Date": None}, ".png": {"Software": None}}.get(target.suffix)
    with atomic_write(target) as new, matplotlib.rc_context({"svg.hashsalt": target.name}):
        figure.savefig(new, dpi=dpi, facecolor="white", metadata=metadata)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.diagrams", description="Draws the diagrams.")
    parser.add_argument("--to", type=Path, default=TARGET, metavar="FOLDER")
    folder = parser.parse_args(arguments).to
    released = results.load_released()["age"].model
    plain = two_level_cnn(len(config.AGE_GROUPS["adience"].names))
    models = {"Released model (age)": released, "Plain two-level CNN of notebooks 1 and 2 (eight age groups)": plain}
    for name, figure in (("system", pipelines()), ("network", networks(models, synthetic_face()))):
        for suffix in ("svg", "png"):
            save(figure, folder / f"{name}.{suffix}", dpi=200)
            print(folder / f"{name}.{suffix}")


if __name__ == "__main__":
    run_command(main)
