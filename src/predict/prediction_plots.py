"""The figures of notebooks 3 and 4, in the style of `evaluation.plots`: photos with faces, and predictions of two models."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from src.config import FACE_COLOURS
from src.evaluation.plots import BLACK, GREY, MODEL_COLOURS, STYLE, WIDTH, styled
from src.faces.align import Alignment, Face, align_face
from src.faces.detect import Photo

PHOTO_WIDTH = 6.8  # inches: large enough to read the labels, small enough for a notebook of many photos


@styled
def photo(pixels: Photo, faces: Sequence[Face] = (), heading: str = "") -> plt.Figure:
    """Shows a photo, uint8 RGB (h, w, 3), with boxes and detection scores of `faces` (see `align.find_faces`)."""
    height, width = pixels.shape[:2]
    scale = min(PHOTO_WIDTH / width, 5.5 / height)
    figure, axes = plt.subplots(figsize=(width * scale, height * scale + 0.3 * bool(heading)))
    axes.imshow(pixels)
    for face, colour in zip(faces, itertools.cycle(FACE_COLOURS)):
        _box(axes, face, colour)
    axes.axis("off")
    axes.set_title(heading)
    return figure


@styled
def alignment_steps(pixels: Photo, face: Face, alignments: Mapping[str, Alignment]) -> plt.Figure:
    """Draws the steps from a photo, uint8 RGB (h, w, 3), and a face in it to each model's input.

    Args:
        pixels: The photo.
        face: The face; see `align.find_faces`.
        alignments: The alignment of each model by its name.
    """
    left, top, right, bottom = face.box
    across, down = face.eyes[1] - face.eyes[0]
    figure, panels = plt.subplots(1, 2 + len(alignments), figsize=(WIDTH, 3.2))
    figure.suptitle("From the photo to the input of each network", x=0.01, ha="left", fontsize=STYLE["axes.titlesize"])
    for axes in panels[:2]:
        axes.imshow(pixels)
        x, y, half = (left + right) / 2, (top + bottom) / 2, 0.85 * max(right - left, bottom - top)
        axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half))
    _box(panels[0], face, FACE_COLOURS[0])
    panels[0].set_title("1 · detected face\nbox and score")
    panels[1].plot(*face.landmarks.T, ".", color=FACE_COLOURS[0], markersize=3)
    panels[1].plot(*face.eyes.T, "o-", color=FACE_COLOURS[1])
    tilt = np.degrees(np.arctan2(down, across))
    panels[1].set_title(f"2 · 68 landmarks\neyes {np.hypot(across, down):.0f} px apart, tilt {tilt:.1f}°")
    for axes, (name, alignment) in zip(panels[2:], alignments.items()):
        axes.imshow(align_face(pixels, face, alignment))
        axes.plot(*alignment.eyes.T, "o-", color=FACE_COLOURS[1])
        distance = alignment.eyes[1, 0] - alignment.eyes[0, 0]
        axes.set_title(f"3 · {name}: {alignment.size} px\neyes {distance:.0f} px apart, level")
    for axes in panels:
        axes.title.set_fontsize(9)
        axes.axis("off")
    return figure


@styled
def probability_bars(shares: pd.DataFrame, heading: str) -> plt.Figure:
    """Draws probabilities side by side: a group of bars for each row and a bar for each column, a key of `MODEL_COLOURS`.

    Args:
        shares: Probabilities 0-1; the index names the groups.
        heading: The title of the figure.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 0.9 + 0.26 * shares.size))
    height = 0.8 / shares.shape[1]
    for i, name in enumerate(shares):
        places = np.arange(len(shares)) - 0.4 + (i + 0.5) * height
        bars = axes.barh(places, shares[name], height * 0.9, color=MODEL_COLOURS[name], label=name)
        axes.bar_label(bars, fmt="{:.0%}", padding=4)
    axes.axvline(0.5, color=GREY, linestyle=":", zorder=0)
    axes.set(yticks=range(len(shares)), yticklabels=shares.index, ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1.1), xticks=[])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(heading)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled
def years_with_intervals(faces: pd.DataFrame, heading: str) -> plt.Figure:
    """Draws the predicted ages of faces, one row each: a dot, and a line for the 90% prediction interval where there is one.

    Args:
        faces: The index names the faces. The columns are age_years, age_interval_low and age_interval_high under each model's
            name, as `pd.concat({"mine": table, "released": table}, axis=1)` makes them.
        heading: The title of the figure.
    """
    models = list(faces.columns.levels[0])
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 1.1 + 0.2 * len(faces)))
    for i, name in enumerate(models):
        years = faces[name][["age_years", "age_interval_low", "age_interval_high"]].astype(float)
        places = np.arange(len(faces)) + (0 if len(models) == 1 else 0.3 * (i - 0.5))
        colour = MODEL_COLOURS[name]
        ends = years["age_interval_low"], years["age_interval_high"]
        label = f"{name}, 90% interval" if ends[0].notna().any() else None
        axes.hlines(places, *ends, color=colour, alpha=0.35, linewidth=3, label=label)
        axes.scatter(years["age_years"], places, 20, colour, label=name, marker="D" if name == "mine" else "o", zorder=3)
    axes.set(yticks=range(len(faces)), yticklabels=faces.index, ylim=(len(faces) - 0.4, -0.6), xlim=(0, 101), xlabel="years")
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.grid(axis="x")
    axes.set_title(heading)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled
def agreement(mine: pd.Series, released: pd.Series, heading: str) -> plt.Figure:
    """Draws the ages in years that two models predict for the same faces against each other."""
    figure, axes = plt.subplots(figsize=(4.6, 4.6))
    axes.plot([0, 100], [0, 100], color=GREY, linestyle=":", label="same age")
    axes.scatter(released.astype(float), mine.astype(float), 24, GREY, alpha=0.9)
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="released model, years", ylabel="my model, years", title=heading)
    axes.grid()
    axes.legend()
    return figure


def _box(axes: plt.Axes, face: Face, colour: str) -> None:
    """Draws a face's box and its detection score."""
    left, top, right, bottom = face.box
    axes.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=2))
    label = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
    axes.text(left, top, f"{face.score:.2f}", color=BLACK, va="bottom", fontsize=9, bbox=label)
