"""Figures of the notebooks, and their style. Each function gives a closed matplotlib Figure, a cell's value or to be saved.

Colours are Okabe and Ito's, which people with any colour vision can tell apart (https://jfly.uni-koeln.de/color/).

Before it: the tables that the other modules give.
"""

import functools
import io
import itertools
import textwrap

import numpy as np
import pandas as pd
from IPython.display import Image, display
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

from src.config import FACE_COLOURS, AgeGroups
from src.data.table import SPLITS, Loaded
from src.evaluation.metrics import mean_over_folds

BLUE, ORANGE, GREEN, SKY, PURPLE, GREY = ["#0072B2", "#E69F00", "#009E73", "#56B4E9", "#CC79A7", "#999999"]
GENDER_COLOURS = {"female": ORANGE, "male": BLUE, "unknown": GREY}
LINES = (BLUE, ORANGE, GREEN, PURPLE)  # one a task, in turn
WIDTH = 9  # inches, of a notebook's output
PHOTO_WIDTH = 6.8  # inches: large enough to read the labels, small enough for a notebook of many photos
STYLE = {
    "figure.constrained_layout.use": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


def styled(draw):
    """Draws in the project's style, and closes the figure so that a notebook neither shows it twice nor piles it up."""

    @functools.wraps(draw)
    def in_style(*args, **kwargs):
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return in_style


def as_photo(figure: plt.Figure) -> Image:
    """A figure of photographs for a notebook, as JPEG: a fifth of the size that it has as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="jpeg", pil_kwargs={"quality": 85})
    return Image(content.getvalue(), format="jpeg")


@styled
def funnel(loaded: Loaded) -> plt.Figure:
    """Rows read, rows dropped for each reason (the commonest first), faces kept."""
    dropped = loaded.ledger["reason"].value_counts()
    read, kept = len(loaded.table) + len(loaded.ledger), len(loaded.table)
    names = ["read", *(textwrap.fill(reason, 36) for reason in dropped.index), "kept"]
    counts = [read, *dropped, kept]
    starts = [0, *(read - dropped.cumsum()), 0]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.42 * len(names)))
    colours = [GREY, *[ORANGE] * len(dropped), GREEN]
    axes.barh(range(len(names)), counts, left=starts, height=0.65, color=colours, edgecolor=colours)
    for row, (count, start) in enumerate(zip(counts, starts)):
        sign = "−" if 0 < row < len(names) - 1 else ""
        share = f" ({count / read:.1%})" if row and read else ""
        text = f"{sign}{count:,}{share}".replace("(0.0%)", "(<0.1%)" if count else "(0%)")
        axes.annotate(text, (start + count, row), (5, 0), textcoords="offset points", va="center")
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(0, max(read, 1) * 1.2), xticks=[])
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.set_title("From rows read to faces kept")
    return figure


@styled
def distribution(table: pd.DataFrame, groups: AgeGroups) -> plt.Figure:
    """Faces by age group and gender, with a bar for unknown ages and one for ranges that touch several groups."""
    low, high = (table[name].to_numpy(float, na_value=np.nan) for name in ("age_low", "age_high"))
    names = np.array([*groups.names, "several\ngroups", "unknown"], object)
    index = np.where(np.isnan(low), len(names) - 1, groups.index(low, high))
    age = names[np.where(index < 0, len(names) - 2, index)]
    counts = pd.crosstab(age, table["gender"].fillna("unknown").to_numpy(object))
    shown = [name for name in names if name in groups.names or name in counts.index]
    counts = counts.reindex(index=shown, columns=list(GENDER_COLOURS), fill_value=0)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    bottom = np.zeros(len(counts))
    for gender in counts.columns[counts.sum() > 0]:
        label = f"{gender} ({counts[gender].sum():,})"
        axes.bar(range(len(counts)), counts[gender], bottom=bottom, color=GENDER_COLOURS[gender], label=label)
        bottom += counts[gender].to_numpy()
    for place, total in enumerate(bottom):
        axes.annotate(f"{total:,.0f}", (place, total), (0, 3), textcoords="offset points", ha="center")
    axes.set(xticks=range(len(counts)), xticklabels=counts.index, xlim=(-0.6, len(counts) - 0.4), ylabel="faces")
    axes.set_ylim(0, max(bottom.max(), 1) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"{len(table):,} faces")
    if len(table):
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)
    return figure


@styled
def split_counts(table: pd.DataFrame, part, names) -> plt.Figure:
    """Faces of each class in each part.

    table: with the class index in `label`; part: "train", "validation" or "test" (n,); names: of the classes, in order.
    """
    part, label = np.asarray(part, object), table["label"].to_numpy()
    figure, panels = plt.subplots(1, len(SPLITS), figsize=(WIDTH, 0.9 + 0.32 * len(names)), sharey=True)
    for axes, split, colour in zip(panels, SPLITS, (BLUE, SKY, ORANGE)):
        counts = np.bincount(label[part == split], minlength=len(names))
        axes.barh(range(len(names)), counts, color=colour, height=0.7)
        for row, count in enumerate(counts):
            share = f" ({count / counts.sum():.0%})" if count else ""
            text = f"{count:,}{share}"
            axes.annotate(text, (count, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set(xlim=(0, max(counts.max(), 1) * 1.55), xticks=[], yticks=range(len(names)), yticklabels=names)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(f"{split}: {counts.sum():,} faces")
    panels[0].invert_yaxis()
    return figure


@styled
def gallery(pictures, titles=None, columns: int = 8) -> plt.Figure:
    """Faces in a grid, with a small caption over each: uint8 RGB (n, h, w, 3), or a list of (h, w, 3). n may be 0."""
    titles = [""] * len(pictures) if titles is None else list(titles)
    if len(titles) != len(pictures):
        raise ValueError(f"titles must be as many as pictures, {len(pictures)}, got {len(titles)}")
    side = WIDTH / columns
    letters = int(side * 72 / 4.4)  # what one line of a caption holds at 7 points
    titles = ["\n".join(textwrap.fill(line, letters) for line in str(title).split("\n")) for title in titles]
    lines = max((title.count("\n") + 1 for title in titles if title), default=0)
    rows = max(1, -(-len(pictures) // columns))
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, rows * (side + lines * 0.13)), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, title in zip(grid.flat, pictures, titles):
        axes.imshow(picture)
        axes.set_title(title, fontsize=7, loc="center", pad=2)
    if not len(pictures):
        figure.text(0.5, 0.5, "no pictures to show", ha="center", va="center", color=GREY)
    return figure


@styled
def curves(history: pd.DataFrame, epochs: int | None = None) -> plt.Figure:
    """Loss and accuracy of training and validation, with the epoch of the lowest validation loss marked.

    history: one row an epoch, with epoch, loss, val_loss, accuracy, val_accuracy. epochs: how many there will be, so
    that the axis stands still while a history grows; otherwise as many as there are.
    """
    epoch = history["epoch"]
    best = history.loc[history["val_loss"].fillna(np.inf).idxmin()]
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for axes, name in zip(panels, ("loss", "accuracy")):
        axes.axvline(best["epoch"], color=GREY, linestyle=":", label=f"best epoch: {best['epoch']:.0f}")
        axes.plot(epoch, history[name], color=GREY, marker="o", markersize=4, label="training")
        axes.plot(epoch, history[f"val_{name}"], color=BLUE, marker="o", markersize=4, label="validation")
        axes.plot(best["epoch"], best[f"val_{name}"], color=BLUE, marker="o", markersize=9, fillstyle="none")
        axes.set(xlabel="epoch", xlim=(0.5, max(epochs or 0, epoch.max()) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    panels[0].set_title(f"loss: {best['val_loss']:.3f} on validation at best")
    panels[1].set_title(f"accuracy: {best['val_accuracy']:.1%} on validation then")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].legend()
    return figure


def live_curves(epochs: int):
    """A figure in the notebook that grows while a network trains: hand what this gives to `train.fit` as `on_epoch`."""
    handle = display(display_id=True)
    return lambda history: handle.update(curves(history, epochs)) if handle else None


@styled
def confusion(matrix, names) -> plt.Figure:
    """Counts of faces (classes, classes), rows the truth: each cell's count, and its share of the row as its colour."""
    matrix = np.asarray(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(min(WIDTH, 2.6 + 0.75 * len(names)), 1.6 + 0.56 * len(names)))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(matrix.shape):
        colour = "white" if share[row, column] > 0.55 else "#222222"
        text = f"{share[row, column]:.0%}\n{matrix[row, column]:,}" if matrix[row, column] else "0"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="answer", ylabel="truth")
    tilt = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 8 else {}
    axes.set_xticklabels(names, **tilt)
    axes.set_yticklabels(names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, format=PercentFormatter(1), label="share of the row").outline.set_visible(False)
    axes.set_title(f"{np.trace(matrix):,} of {matrix.sum():,} faces right")
    return figure


@styled
def accuracy_by(frame: pd.DataFrame) -> plt.Figure:
    """Accuracy of each group as a dot, with its 95% interval and n; frame: as `evaluate.by` gives it."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 0.9 + 0.36 * len(frame)))
    rows = range(len(frame))
    axes.hlines(rows, frame["low"], frame["high"], color=SKY, linewidth=3)
    axes.plot(frame["value"], rows, "o", color=BLUE)
    for row, (value, n) in enumerate(zip(frame["value"], frame["n"])):
        text = f"n = {n:,}" if n == 0 else f"{value:.1%}   n = {n:,}"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center")
    lowest = np.nanmin([0.9, *frame["low"], *frame["value"]])
    axes.set(xlim=(max(0, np.floor(lowest * 10) / 10) - 0.01, 1.01), yticks=rows, yticklabels=frame.index)
    axes.set_ylim(len(frame) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x")
    axes.set_title("Accuracy with its 95% interval")
    return figure


@styled
def fold_scores(headlines) -> plt.Figure:
    """Each fold's measures with their intervals, and their mean ± standard deviation over folds as a line and a band.

    headlines: one frame of `evaluate.headline` a fold; a list (folds from 0) or a dict (its keys name the folds).
    """
    folds = headlines if isinstance(headlines, dict) else dict(enumerate(headlines))
    summary = mean_over_folds(folds)
    figure, panels = plt.subplots(1, len(summary), figsize=(WIDTH, 3.2), squeeze=False)
    for axes, (name, spread) in zip(panels.flat, summary.iterrows()):
        axes.axhline(spread["mean"], color=GREY)
        low, high = spread["mean"] - spread["sd"], spread["mean"] + spread["sd"]
        axes.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0)
        for place, frame in enumerate(folds.values()):
            if name in frame.index:
                axes.vlines(place, frame.at[name, "low"], frame.at[name, "high"], color=SKY, linewidth=3)
                axes.plot(place, frame.at[name, "value"], "o", color=BLUE)
        axes.set(xlabel="fold", xticks=range(len(folds)), xticklabels=folds, xlim=(-0.6, len(folds) - 0.4))
        axes.set_title(f"{name}\n{spread['text']}")
        if spread["unit"] == "share":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            axes.set_ylabel(spread["unit"])
    return figure


@styled
def ages_before_after(before, after) -> plt.Figure:
    """Ages in years (any shape (n,), NaN left out) before and after cleaning; impossible ones stand at the edges."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for ages, name, colour in ((before, "before", "#bbbbbb"), (after, "after", BLUE)):
        ages = np.asarray(ages, float)
        ages = ages[~np.isnan(ages)]
        edges = np.arange(-10, 122, 2)
        axes.hist(np.clip(ages, -10, 119), edges, color=colour, label=f"{name} cleaning: {len(ages):,} ages")
    ticks = np.arange(0, 101, 20)
    axes.set(xlabel="age in years", ylabel="faces", xticks=[-9, *ticks, 119])
    axes.set_xticklabels(["below −8", *ticks, "above 118"])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend()
    axes.set_title("Ages before and after cleaning")
    return figure


@styled
def landmarks(photo, faces) -> plt.Figure:
    """The photo (uint8 RGB) with each face's box and 68 landmarks; faces: of `faces.find_faces`."""
    figure, axes = plt.subplots(figsize=(PHOTO_WIDTH, PHOTO_WIDTH * photo.shape[0] / photo.shape[1]))
    axes.imshow(photo)
    for face, colour in zip(faces, itertools.cycle(FACE_COLOURS)):
        left, top, right, bottom = face.box
        axes.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=2))
        axes.plot(*face.landmarks.T, ".", color=colour, markersize=3)
    axes.axis("off")
    return figure


@styled
def probabilities(face, probability, names, answer: int) -> plt.Figure:
    """One aligned face (uint8 RGB) beside the probability (0-1) of each class, that of index `answer` brought out."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8), width_ratios=(1, 2.4))
    left.imshow(face)
    left.axis("off")
    colours = [ORANGE if row == answer else SKY for row in range(len(names))]
    right.barh(range(len(names)), probability, color=colours, height=0.7)
    for row, share in enumerate(probability):
        right.annotate(f"{share:.1%}", (share, row), (4, 0), textcoords="offset points", va="center")
    right.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1.15), xticks=[])
    right.invert_yaxis()
    right.spines["bottom"].set_visible(False)
    right.set_title("probability of each class")
    return figure


@styled
def photo(pixels) -> plt.Figure:
    """A photo, uint8 RGB (height, width, 3), such as an annotated one, as large as a notebook shows it."""
    height, width = pixels.shape[:2]
    scale = min(PHOTO_WIDTH / width, 5.5 / height)
    figure, axes = plt.subplots(figsize=(width * scale, height * scale))
    axes.imshow(pixels)
    axes.axis("off")
    return figure
