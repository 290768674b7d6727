"""The figures of the notebooks, and the style of all figures. Decorated functions return a closed matplotlib figure.

The colours are those of Okabe and Ito, which people with any colour vision can distinguish (https://jfly.uni-koeln.de/color/).
In the notebooks, a thing has the same colour in every figure.
"""

import functools
import io
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from IPython.display import Image, display
from matplotlib.ticker import MaxNLocator, PercentFormatter

from src.config import AgeGroups
from src.data.table import SPLITS, TableAndLedger, age_bounds
from src.evaluation.metrics import Unit, format_number, mean_over_folds

BLACK, GREY, LIGHT_GREY = "#222222", "#888888", "#bbbbbb"
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
GENDER_COLOURS = {"female": ORANGE, "male": BLUE, "unknown": GREY}
SPLIT_COLOURS = {"train": SKY, "validation": VERMILLION, "test": PURPLE}
MODEL_COLOURS = {"mine": VERMILLION, "released": BLACK}  # the model trained in notebook 1 or 2, and the released one
DROPPED_COLOUR, KEPT_COLOUR = LIGHT_GREY, GREEN  # rows that a loader drops and keeps
WIDTH = 9  # inches, of a notebook's output
STYLE = {
    "figure.constrained_layout.use": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}
# The columns of a training history that have a panel, with their titles and units.
_CURVES = {
    "loss": ("Loss", ""),
    "accuracy": ("Accuracy", Unit.SHARE),
    "gender_accuracy": ("Gender accuracy", Unit.SHARE),
    "absolute_error": ("Absolute error of the age, years", Unit.YEARS),
}


def styled(draw: Callable[..., plt.Figure]) -> Callable[..., plt.Figure]:
    """Decorator: draws in the project's style and closes the figure, so that a notebook does not show it twice."""

    @functools.wraps(draw)
    def draw_in_style(*args, **kwargs):
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return draw_in_style


def draw_estimates(axes: plt.Axes, rows: pd.DataFrame, heights, colours) -> None:
    """Draws a dot for each `value` and a line for its interval from `low` to `high`, at `heights`."""
    axes.hlines(heights, rows["low"], rows["high"], color=colours, alpha=0.45, linewidth=3)
    axes.scatter(rows["value"], heights, 24, colours)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def as_jpeg(figure: plt.Figure) -> Image:
    """Converts a figure of photos to JPEG for a notebook, a fifth of its size as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="jpeg", pil_kwargs={"quality": 85})
    return Image(content.getvalue(), format="jpeg")


@styled
def funnel(loaded: TableAndLedger) -> plt.Figure:
    """Draws the number of rows read, of rows dropped for each reason, the most frequent first, and of faces kept."""
    dropped, kept = loaded.ledger["reason"].value_counts(), len(loaded.table)
    read = kept + dropped.sum()
    counts = np.array([read, *dropped, kept])
    figure, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.42 * len(counts)))
    colours = [GREY, *[DROPPED_COLOUR] * len(dropped), KEPT_COLOUR]
    bars = axes.barh(range(len(counts)), counts, left=[0, *(read - dropped.cumsum()), 0], color=colours, edgecolor=colours)
    shares = [f" ({count / read:.1%})".replace("(0.0%)", "(<0.1%)") if count else "" for count in counts[1:]]
    axes.bar_label(bars, [f"{count:,}{share}" for count, share in zip(counts, ["", *shares])], padding=5)
    _rows_of_bars(axes, ["read", *(textwrap.fill(reason, 36) for reason in dropped.index), "kept"], max(read, 1) * 1.2)
    axes.set_title("From rows read to faces kept")
    return figure


@styled
def distribution(table: pd.DataFrame, groups: AgeGroups) -> plt.Figure:
    """Draws the number of faces by age group and gender, with bars for unknown ages and for ranges over several groups."""
    low, high = age_bounds(table)
    names = np.array([*groups.names, "unknown", "several\ngroups"], object)
    age = names[np.where(np.isnan(low), len(groups.names), groups.index(low, high))]
    counts = pd.crosstab(age, table["gender"].fillna("unknown").to_numpy(object))
    counts = counts.reindex(index=[name for name in names if name in groups.names or name in counts.index], fill_value=0)
    counts = counts.reindex(columns=[gender for gender in GENDER_COLOURS if gender in counts] or ["unknown"], fill_value=0)
    labelled = counts.rename(columns=lambda gender: f"{gender} ({counts[gender].sum():,})")
    colours = [GENDER_COLOURS[gender] for gender in counts]
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    labelled.plot.bar(ax=axes, stacked=True, color=colours, width=0.8, rot=0, xlabel="age group, years", ylabel="faces")
    axes.bar_label(axes.containers[-1], [f"{total:,}" for total in counts.sum(axis=1)], padding=3)
    axes.set_ylim(0, max(counts.sum(axis=1).max(), 1) * 1.12)
    _count_axis(axes)
    axes.set_title(f"Age and gender of {len(table):,} faces")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)
    return figure


@styled
def split_counts(table: pd.DataFrame, split: npt.NDArray[np.object_], names: Sequence[str]) -> plt.Figure:
    """Draws the number of faces of each class in each split.

    Args:
        table: The n labelled faces, with the class index in the column `label`.
        split: "train", "validation" or "test" for each face, shape (n,).
        names: The names of the classes.
    """
    figure, panels = plt.subplots(1, len(SPLITS), figsize=(WIDTH, 0.9 + 0.32 * len(names)), sharey=True)
    for axes, name in zip(panels, SPLITS):
        counts = np.bincount(table["label"].to_numpy()[np.asarray(split) == name], minlength=len(names))
        bars = axes.barh(range(len(names)), counts, color=SPLIT_COLOURS[name])
        axes.bar_label(bars, [f"{n:,} ({n / max(counts.sum(), 1):.0%})" for n in counts], padding=4, fontsize=9)
        _rows_of_bars(axes, names, max(counts.max(), 1) * 1.6)
        axes.set_title(f"{name}: {counts.sum():,} faces")
    return figure


@styled
def gallery(images, titles: Sequence[str] | None = None, columns: int = 8, heading: str = "") -> plt.Figure:
    """Draws images of one aspect ratio in a grid, under a heading.

    Args:
        images: uint8 RGB (n, h, w, 3) or a list of (h, w, 3), or grey images (h, w) from 0 (black) to 1; n may be 0.
        titles: A small title for each image.
        columns: Number of images in a row.
        heading: The title of the figure.
    """
    titles = [""] * len(images) if titles is None else list(titles)
    if len(titles) != len(images):
        raise ValueError(f"titles must be as many as images, {len(images)}, got {len(titles)}")
    width = WIDTH / columns
    height = width * images[0].shape[0] / images[0].shape[1] if len(images) else width
    letters = int(width * 72 / 4.4)  # of a title of 7 points in one line
    titles = ["\n".join(textwrap.fill(line, letters) for line in str(title).split("\n")) for title in titles]
    lines = max((title.count("\n") + 1 for title in titles if title), default=0)
    rows = max(1, -(-len(images) // columns))
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH, rows * (height + lines * 0.13) + 0.3 * bool(heading)), squeeze=False
    )
    _heading(figure, heading)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles):
        axes.imshow(image, "gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=7, loc="center", pad=2)
    if not len(images):
        figure.text(0.5, 0.5, "no images to show", ha="center", va="center", color=GREY)
    return figure


def feature_maps(maps: Mapping[str, npt.NDArray], columns: int = 6, heading: str = "") -> plt.Figure:
    """Draws maps (h, w) by name, each with its size, in grey from its 1st percentile (black) to its 99th (white)."""
    images = [plt.Normalize(*np.percentile(values, [1, 99]), clip=True)(values) for values in maps.values()]
    titles = [f"{name}\n{values.shape[0]} × {values.shape[1]}" for name, values in maps.items()]
    return gallery(images, titles, min(columns, len(maps)), heading)


@styled
def curves(history: pd.DataFrame, epochs: int | None = None, heading: str = "") -> plt.Figure:
    """Draws training and validation curves, and marks the epoch with the lowest validation loss.

    Args:
        history: One row per epoch, with `epoch`, `loss`, `val_loss` and other metrics, each also as `val_METRIC`.
        epochs: The number of epochs on the axis; by default those in the history.
        heading: The title of the figure.
    """
    best = history.loc[history["val_loss"].fillna(np.inf).idxmin()]
    shown = {name: curve for name, curve in _CURVES.items() if name in history}
    figure, panels = plt.subplots(1, len(shown), figsize=(WIDTH, 3.4 + 0.3 * bool(heading)))
    _heading(figure, heading)
    for axes, (name, (title, unit)) in zip(panels, shown.items()):
        for column, split in ((name, "train"), (f"val_{name}", "validation")):
            axes.plot(history["epoch"], history[column], color=SPLIT_COLOURS[split], marker="o", markersize=3, label=split)
        axes.plot(best["epoch"], best[f"val_{name}"], "o", color=SPLIT_COLOURS["validation"], markersize=9, fillstyle="none")
        axes.axvline(best["epoch"], color=GREY, linestyle=":", label=f"best epoch: {best['epoch']:.0f}")
        value = format_number(best[f"val_{name}"], unit) + "%" * (unit == Unit.SHARE)
        axes.set_title(f"{title}\nbest epoch: {value} in validation", fontsize=10)
        axes.set(xlabel="epoch", xlim=(0.5, max(epochs or 0, history["epoch"].max()) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        if unit == Unit.SHARE:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].legend(frameon=True, facecolor="white", edgecolor="none", framealpha=1)  # hides the line of the best epoch
    return figure


def live_curves(epochs: int, heading: str = "") -> Callable[[pd.DataFrame], None]:
    """Shows a figure in the notebook that grows during training; pass the result to `train.fit` as `on_epoch`."""
    handle = display(display_id=True)
    return lambda history: handle.update(curves(history, epochs, heading)) if handle else None


@styled
def compare_runs(histories: Mapping[str, pd.DataFrame], column: str = "val_loss", heading: str = "") -> plt.Figure:
    """Draws one column of several training histories (see `curves`), a line for each run with its name."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 3.2))
    line_styles = itertools.cycle(zip((BLACK, GREEN, PURPLE, BLUE), ("-", "--", ":", "-."), "osD^"))
    for (name, history), (colour, style, marker) in zip(histories.items(), line_styles):
        axes.plot(history["epoch"], history[column], style, color=colour, marker=marker, markersize=5, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    metric = _CURVES[column.removeprefix("val_")][0].lower()
    axes.set(xlabel="epoch", ylabel=f"{'validation' if column.startswith('val_') else 'training'} {metric}", title=heading)
    axes.grid(axis="y")
    axes.legend()
    return figure


@styled
def confusion(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> plt.Figure:
    """Draws a confusion matrix (classes, classes) with counts, coloured by the share of each true class (row)."""
    matrix = np.asarray(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(min(WIDTH, 2.6 + 0.75 * len(names)), 1.6 + 0.56 * len(names)))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(matrix.shape):
        text = f"{share[row, column]:.0%}\n{matrix[row, column]:,}" if matrix[row, column] else "0"
        colour = "white" if share[row, column] > 0.55 else BLACK
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(names)), names, rotation=35 if max(map(len, names)) > 8 else 0)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, format=PercentFormatter(1), label="share of the true class").outline.set_visible(False)
    axes.set_title(f"{np.trace(matrix):,} of {matrix.sum():,} faces correct")
    return figure


@styled
def accuracy_by_group(frame: pd.DataFrame, heading: str = "Accuracy with its 95% interval") -> plt.Figure:
    """Draws the accuracy of each group with its 95% interval and n, from `metrics.metric_by_group`."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 0.9 + 0.36 * len(frame)))
    draw_estimates(axes, frame, range(len(frame)), [GENDER_COLOURS.get(name, BLACK) for name in frame.index])
    for row, (value, n) in enumerate(zip(frame["value"], frame["n"])):
        text = f"{value:.1%}   n = {n:,}" if n else "n = 0"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center")
    lowest = np.nanmin([0.9, *frame["low"], *frame["value"]])
    axes.set(xlim=(max(0, np.floor(lowest * 10) / 10) - 0.01, 1.01), yticks=range(len(frame)), yticklabels=frame.index)
    axes.set_ylim(len(frame) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(heading)
    return figure


@styled
def fold_scores(headlines: Mapping[object, pd.DataFrame]) -> plt.Figure:
    """Draws `metrics.headline_metrics` of each fold, and their mean ± standard deviation as a line and a band."""
    summary, folds = mean_over_folds(headlines), pd.concat(headlines)
    figure, panels = plt.subplots(1, len(summary), figsize=(WIDTH, 1.4 + 0.3 * len(headlines)), squeeze=False, sharey=True)
    for axes, (name, spread) in zip(panels.flat, summary.iterrows()):
        axes.axvline(spread["mean"], color=GREY)
        axes.axvspan(spread["mean"] - spread["sd"], spread["mean"] + spread["sd"], color=GREY, alpha=0.2, linewidth=0)
        rows = folds.xs(name, level=1)
        draw_estimates(axes, rows, [list(headlines).index(fold) for fold in rows.index], BLACK)
        axes.set(yticks=range(len(headlines)), yticklabels=[f"fold {fold}" for fold in headlines])
        axes.set_title(f"{name}\n{spread['text']}")
        if spread["unit"] == Unit.SHARE:
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        else:
            axes.set_xlabel(spread["unit"])
    panels[0, 0].invert_yaxis()
    return figure


@styled
def probabilities(face: npt.NDArray[np.uint8], probability: npt.NDArray, names: Sequence[str], predicted: int) -> plt.Figure:
    """Draws an aligned face, uint8 RGB (h, w, 3), beside the probability of each class; the class `predicted` stands out."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8), width_ratios=(1, 2.4))
    left.imshow(face)
    left.axis("off")
    colours = [BLACK if row == predicted else LIGHT_GREY for row in range(len(names))]
    right.bar_label(right.barh(range(len(names)), probability, color=colours), fmt="{:.1%}", padding=4)
    _rows_of_bars(right, names, 1.2 * np.max(probability))
    right.set_title(f"Prediction: {names[predicted]}")
    return figure


@styled
def ages_before_after(before: npt.ArrayLike, after: npt.ArrayLike) -> plt.Figure:
    """Draws the ages in years, shape (n,), before and after cleaning; impossible ages are in the outermost bars."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for ages, name, colour in ((before, "before", DROPPED_COLOUR), (after, "after", KEPT_COLOUR)):
        ages = pd.Series(ages, dtype=float).dropna().clip(-10, 119)
        axes.hist(ages, np.arange(-10, 122, 2), color=colour, label=f"{name} cleaning: {len(ages):,} ages")
    axes.set_xticks([-9, 0, 20, 40, 60, 80, 100, 119], ["below −8", 0, 20, 40, 60, 80, 100, "above 118"])
    axes.set(xlabel="age in years", ylabel="faces")
    _count_axis(axes)
    axes.legend()
    axes.set_title("Ages before and after cleaning")
    return figure


def _heading(figure: plt.Figure, text: str) -> None:
    if text:
        figure.suptitle(text, x=0.01, ha="left", fontsize=STYLE["axes.titlesize"])


def _rows_of_bars(axes: plt.Axes, names: Sequence[str], right: float) -> None:
    """Labels horizontal bars from top to bottom and hides the axis of their lengths, which are written beside them."""
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(0, right), ylim=(len(names) - 0.4, -0.6), xticks=[])
    axes.spines["bottom"].set_visible(False)


def _count_axis(axes: plt.Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
