"""The diagrams of the system and of the networks, drawn from the code and the released models: `make figures`.

    python -m tools.diagrams [--to docs/figures]

Each is written as SVG and as PNG, clear at the width of a README. What is said of layers is read from the Keras models.
"""

import argparse
import math
import re
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon

from experiments import results
from src import config
from src.evaluation.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, styled
from src.faces.align import Alignment, align, find_faces
from src.files import atomic_write
from src.keras_setup import keras, layers
from src.models.model_folder import ModelFolderError
from src.models.two_level_cnn import two_level_cnn
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person

TARGET = config.ROOT / "docs" / "figures"
INK, SOFT = "#222222", "#666666"
WIDTH = 9.0  # inches; a README shows it at about 900 pixels


class Box(NamedTuple):
    """A box of the system diagram. modules: of `src`, named in bold; says: what happens there. x, y: its middle."""

    modules: tuple[str, ...]
    says: str
    x: float
    y: float
    colour: str = BLUE
    width: float = 1.34


DATA, SHARED, PHOTO = 3.4, 2.06, 0.58  # heights of the three rows
COLUMNS = (0.76, 2.26, 3.76, 5.26, 6.76, 8.24)
BETWEEN = ((COLUMNS[2] + COLUMNS[3]) / 2, (COLUMNS[4] + COLUMNS[5]) / 2)
WIDE = 2.8
SYSTEM = {
    "set": Box((), "a data set:\npictures, labels", COLUMNS[0], DATA, GREY),
    "loader": Box(("datasets",), "one loader each,\na reason for every\nrow left out", COLUMNS[1], DATA),
    "table": Box(("tables", "duplicates"), "table of faces;\nno known person in\ntwo parts of the split", COLUMNS[2], DATA),
    "prepare": Box(("prepare",), "aligned once, in\nparallel; goes on\nwhere it stopped", COLUMNS[3], DATA),
    "train": Box(("network", "joint", "train"), "two-level CNN,\ncurves as it learns", COLUMNS[4], DATA),
    "judge": Box(("evaluate", "assess", "calibrate"), "how right, for\nwhom, how sure", COLUMNS[5], DATA),
    "faces": Box(
        ("faces",), "dlib finds each face and its 68 landmarks;\nthe eyes are carried to fixed places",
        BETWEEN[0], SHARED, GREEN, WIDE,
    ),
    "models": Box(
        ("model_folder",), "model.keras, labels.json, card.json:\nchecked against each other",
        BETWEEN[1], SHARED, GREEN, WIDE,
    ),
    "photo": Box((), "your photos\nand videos", COLUMNS[0], PHOTO, GREY),
    "read": Box(("photos",), "any format,\nupright, RGB", COLUMNS[1], PHOTO, ORANGE),
    "look": Box(
        ("looking", "tracks"), "every face is found, followed in a\nvideo, aligned as the model's card says",
        BETWEEN[0], PHOTO, ORANGE, WIDE,
    ),
    "ask": Box(("answers", "calibrate"), "level one once,\nlevel two for\neach task", COLUMNS[4], PHOTO, ORANGE),
    "answer": Box(("predict", "video", "annotate"), "tables, and copies\nwith the answers", COLUMNS[5], PHOTO, ORANGE),
}  # fmt: skip
# From box to box; the way is a line that bends at most once.
FLOWS = (
    ("set", "loader"), ("loader", "table"), ("table", "prepare"), ("prepare", "train"), ("train", "judge"),
    ("photo", "read"), ("read", "look"), ("look", "ask"), ("ask", "answer"),
)  # fmt: skip
# What one box takes from another: dashed. The module of the first imports that of the second, by way of others or itself.
USES = (("prepare", "faces"), ("look", "faces"), ("ask", "models"))
KEPT = (("judge", "models"),)


@styled
def system() -> Figure:
    """The way of a data set (above), the way of a photo (below), and what both share."""
    height = 4.24
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    for y, text, colour in ((DATA, "The way of a data set", BLUE), (PHOTO, "The way of a photo", ORANGE)):
        band = FancyBboxPatch((0, y - 0.55), WIDTH, 1.36, "round,pad=0,rounding_size=0.1", fc=_tint(colour, 0.07), ec="none")
        axes.add_patch(band)
        axes.text(0.14, y + 0.62, text, color=_shade(colour), weight="bold", fontsize=10.5, va="center")
    axes.text(
        0.14,
        SHARED,
        "Shared by both:\na new photo is treated\nas the training faces were",
        color=_shade(GREEN),
        fontsize=9,
        va="center",
    )
    for box in SYSTEM.values():
        _box(axes, box)
    for start, end in FLOWS:
        one, other = SYSTEM[start], SYSTEM[end]
        _arrow(axes, (one.x + one.width / 2, one.y), (other.x - other.width / 2, other.y))
    for start, end in USES:
        _vertical(axes, SYSTEM[end], SYSTEM[start], dashed=True)
    for start, end in KEPT:
        _vertical(axes, SYSTEM[start], SYSTEM[end], dashed=False)
    return figure


def _box(axes: Axes, box: Box) -> None:
    low = box.x - box.width / 2, box.y - 0.44
    shape = FancyBboxPatch(low, box.width, 0.88, "round,pad=0,rounding_size=0.07", fc="white", ec=box.colour, lw=1.4)
    axes.add_patch(shape)
    says = box.says.count("\n") + 1
    names = _filled(box.modules)
    lines = names.count("\n") + 1 if names else 0
    top = box.y + 0.155 * (says + lines - 1) / 2
    if names:
        axes.text(
            box.x,
            top + 0.075,
            names,
            ha="center",
            va="top",
            fontsize=8.2,
            family="monospace",
            weight="bold",
            color=INK,
            linespacing=1.1,
        )
    axes.text(box.x, top + 0.075 - 0.158 * lines, box.says, ha="center", va="top", fontsize=8.2, color=INK, linespacing=1.18)


def _filled(names: tuple[str, ...]) -> str:
    """Module names in one line, or in two where they are too long for a box."""
    text = ", ".join(names)
    return text if len(text) <= 18 else ", ".join(names[:-1]) + ",\n" + names[-1]


def _vertical(axes: Axes, start: Box, end: Box, dashed: bool) -> None:
    left, right = max(start.x - start.width / 2, end.x - end.width / 2), min(start.x + start.width / 2, end.x + end.width / 2)
    x, sign = (left + right) / 2, math.copysign(0.44, end.y - start.y)
    _arrow(axes, (x, start.y + sign), (x, end.y - sign), dashed)


def _arrow(axes: Axes, start: tuple, end: tuple, dashed: bool = False) -> None:
    if dashed:  # the line alone, so that the head stays whole
        axes.plot(*zip(start, end), color=SOFT, lw=1.3, linestyle=(0, (2.5, 2)))
        start = tuple(e + 0.02 * np.sign(s - e) for s, e in zip(start, end))
    head = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, shrinkA=0, shrinkB=1, color=SOFT, lw=1.3)
    axes.add_patch(head)


# The names of the layers that end a stage.
LAST = re.compile(r"face|resize(_\d+)?|pooling.*|block_\d+|features|mean_of_both|dropout_\d+|probability")


class Stage(NamedTuple):
    """Layers that are drawn as one. level: level_one or level_two; says: its operations; shape: what comes out."""

    level: str
    says: str
    shape: tuple[int, ...]
    parameters: int


def stages(model: keras.Model) -> list[Stage]:
    """What a two-level network does, step by step, read from its layers; the input is the first stage."""
    found: list[Stage] = []
    for level in (model.get_layer("level_one"), model.get_layer("level_two")):
        waiting: list[keras.Operation] = []
        for step in _flat(level):
            waiting.append(step)
            if LAST.fullmatch(step.name):
                parameters = sum(one.count_params() for one in waiting if isinstance(one, keras.Layer))
                shape = tuple(step.output.shape[1:])
                if parameters or not found or shape != found[-1].shape:
                    found.append(Stage(level.name, _says(waiting), shape, parameters))
                waiting = []
    return found


def _flat(model: keras.Model) -> list[keras.Operation]:
    # Operations, not layers: scaling is none.
    inside = [_flat(layer)[1:] if isinstance(layer, keras.Model) else [layer] for layer in model.operations]
    return sum(inside, [])


def _says(some: list[keras.Operation]) -> str:
    convolutions = [layer for layer in some if isinstance(layer, layers.Conv2D) and layer.kernel_size != (1, 1)]
    if isinstance(some[-1], layers.InputLayer):
        return "face"
    if convolutions:
        side = convolutions[0].kernel_size[0]
        pooled = (
            "\n+ pooling" if isinstance(some[-1], layers.MaxPooling2D) else "\n+ shortcut" if len(convolutions) > 1 else ""
        )
        return f"{'2 ' * (len(convolutions) > 1)}conv {side}×{side}{pooled}"
    if some[-1].name.startswith("resize"):
        return "scaled"
    if any(isinstance(layer, layers.Dense) for layer in some):
        return "softmax" if some[-1].name == "probability" else "dense"
    return "averaged" if isinstance(some[-1], layers.GlobalAveragePooling2D) else "flat"


@styled
def networks(drawn: dict[str, keras.Model], face: np.ndarray) -> Figure:
    """Networks one above the other, each as blocks as high as its pictures and as deep as its channels.

    drawn: title -> two-level network. face: uint8 (h, w, 3), RGB, the picture that goes in.
    """
    figure, panels = plt.subplots(len(drawn), 1, figsize=(WIDTH, 2.75 * len(drawn)), squeeze=False)
    for axes, (title, model) in zip(panels.flat, drawn.items(), strict=True):
        _network(axes, title, model, face)
    return figure


def _network(axes: Axes, title: str, model: keras.Model, face: np.ndarray) -> None:
    axes.set(xlim=(0, WIDTH), ylim=(-0.62, 2.13), aspect="equal")
    axes.axis("off")
    steps, mirrored = stages(model), any(layer.name == "mean_of_both" for layer in model.get_layer("level_one").layers)
    axes.text(0, 2.06, title, weight="bold", fontsize=10.5, color=INK, va="center")
    axes.text(WIDTH, 2.06, f"{model.count_params():,} parameters", fontsize=9, color=SOFT, ha="right", va="center")
    spaces = [max(_width(stage), 0.5) for stage in steps]
    gap = (WIDTH - 0.1 - sum(spaces)) / (len(steps) - 1)
    places, x = [], 0.0
    for space in spaces:
        places.append(x + space / 2)
        x += space + gap
    for stage, place in zip(steps, places, strict=True):
        _stage(axes, stage, place, face, mirrored)
    for level, colour in (("level_one", BLUE), ("level_two", GREEN)):
        mine = [i for i, stage in enumerate(steps) if stage.level == level and stage.says != "face"]
        left, right = places[mine[0]] - spaces[mine[0]] / 2, places[mine[-1]] + spaces[mine[-1]] / 2
        axes.plot([left, right], [1.72, 1.72], color=colour, lw=2.2, solid_capstyle="butt")
        count = sum(steps[i].parameters for i in mine)
        text = f"{level.replace('_', ' ')}  ·  {count:,}"
        style: dict = {"va": "bottom", "fontsize": 8.6, "color": _shade(colour), "weight": "bold"}
        short = right - left < 1.2  # than its words, which then end where the line does
        axes.text(right if short else (left + right) / 2, 1.77, text, ha="right" if short else "center", **style)


def _width(stage: Stage) -> float:
    return 0.95 if stage.says == "face" else 0.022 * math.sqrt(stage.shape[-1]) if len(stage.shape) == 3 else 0.13


def _stage(axes: Axes, stage: Stage, x: float, face: np.ndarray, mirrored: bool) -> None:
    """One block with its words: what it does and its shape below, its parameters above."""
    middle, colour = 0.78, {"level_one": BLUE, "level_two": GREEN}[stage.level]
    if stage.says == "face":
        top = _pictures(axes, x, middle, face, mirrored)
    elif len(stage.shape) == 3:
        top = _slab(axes, x, middle, _width(stage), 0.118 * math.sqrt(stage.shape[0]), colour)
    else:
        colour = ORANGE if stage.says == "softmax" else PURPLE if stage.level == "level_one" else colour
        height = 0.14 * math.log2(stage.shape[0]) + 0.05
        axes.add_patch(Polygon(_rectangle(x, middle, 0.13, height), fc=_tint(colour, 0.55), ec=_shade(colour), lw=0.8))
        top = middle + height / 2
    if stage.parameters:
        axes.text(x, top + 0.04, _short(stage.parameters), ha="center", va="bottom", fontsize=7.2, color=SOFT)
    what = ("face and\nmirror image" if mirrored else "face") if stage.says == "face" else stage.says
    axes.text(x, -0.06, "×".join(map(str, stage.shape)), ha="center", va="top", fontsize=7.4, color=INK, weight="bold")
    axes.text(x, -0.23, what, ha="center", va="top", fontsize=7.2, color=SOFT, linespacing=1.15)


def _pictures(axes: Axes, x: float, middle: float, face: np.ndarray, mirrored: bool) -> float:
    side = 0.95
    shown = [(face[:, ::-1], 0.12), (face, -0.0)] if mirrored else [(face, 0.0)]
    for picture, shift in shown:
        left, low = x - side / 2 + shift, middle - side / 2 + shift
        axes.imshow(picture, extent=(left, left + side, low, low + side), zorder=2)
        axes.add_patch(
            Polygon(_rectangle(left + side / 2, low + side / 2, side, side), fill=False, ec="white", lw=1.2, zorder=2)
        )
    return middle + side / 2


def _slab(axes: Axes, x: float, middle: float, width: float, side: float, colour: str) -> float:
    """A block seen from the front right; gives the height of its upper edge."""
    slant = np.array([0.16, 0.16]) * side
    front = _rectangle(x - slant[0] / 2, middle - slant[1] / 2, width, side)
    roof = [front[2], front[3], front[3] + slant, front[2] + slant]
    wall = [front[1], front[2], front[2] + slant, front[1] + slant]
    for corners, share in ((front, 0.42), (roof, 0.25), (wall, 0.62)):
        axes.add_patch(Polygon(corners, fc=_tint(colour, share), ec=_shade(colour), lw=0.7, joinstyle="round"))
    return float(middle + side / 2 + slant[1] / 2)


def _rectangle(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2) + (x, y)


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k" if count >= 1e3 else str(count)


def _tint(colour: str, share: float) -> tuple:
    return tuple(1 - share * (1 - part) for part in matplotlib.colors.to_rgb(colour))


def _shade(colour: str) -> tuple:
    return tuple(0.72 * part for part in matplotlib.colors.to_rgb(colour))


def drawn_face(size: int = 256) -> np.ndarray:
    """An aligned face of nobody: uint8 (size, size, 3), RGB."""
    rng, space = np.random.default_rng(config.SEED), FaceModel.load()
    while True:  # until dlib finds what was drawn, which is nearly always at once
        person = new_person(space, 4, "female", rng)
        picture, _ = scene.snapshot(space, [person], (480, 480), 300, rng)
        if found := find_faces(picture):
            return align(picture, found[0].landmarks, Alignment(size=size))


def save(figure: Figure, target: Path, dpi: int = 160) -> None:
    """Writes a figure whole; the same figure gives the same file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    nothing = {".svg": {"Date": None}, ".png": {"Software": None}}.get(target.suffix)
    with atomic_write(target) as new, matplotlib.rc_context({"svg.hashsalt": target.name}):
        figure.savefig(new, dpi=dpi, facecolor="white", metadata=nothing)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.diagrams", description="Draws the diagrams.")
    parser.add_argument("--to", type=Path, default=TARGET, metavar="FOLDER")
    folder = parser.parse_args(arguments).to
    try:
        released = results.load_released()["age"].model
    except (ModelFolderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    plain = two_level_cnn(len(config.AGE_GROUPS["adience"].names))
    drawn = {"Released model (age)": released, "Plain two-level CNN of notebooks 1 and 2 (eight age groups)": plain}
    for name, figure in (("system", system()), ("network", networks(drawn, drawn_face()))):
        for suffix in ("svg", "png"):
            save(figure, folder / f"{name}.{suffix}", dpi=200)
            print(folder / f"{name}.{suffix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
