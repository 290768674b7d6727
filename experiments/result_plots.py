"""Figures of what models are worth: by group, beside others, calibration, and the curves of the released training.

They belong to notebook 6 and to the report; those of the other notebooks, and the style, are in `plots`.

Before it: `plots`, `assess` and `calibrate`, whose tables it draws.
"""

import itertools
import textwrap

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

from src.evaluation.plots import BLUE, GREEN, GREY, LINES, ORANGE, PURPLE, WIDTH, styled


def titled(dataset: str) -> str:
    """A data set's name as it is written in text."""
    names = {
        "utkface": "UTKFace",
        "fairface": "FairFace",
        "adience": "Adience",
        "imdb_wiki": "IMDB-WIKI",
        "allagefaces": "All-Age-Faces",
    }
    return names.get(dataset, "drawn sample" if dataset == "sample" else dataset)


@styled
def by_group(results: pd.DataFrame, measures, aims: dict[str, float] | None = None) -> plt.Figure:
    """Measures of each group as dots with their 95% intervals and n: a panel for each data set and measure there is.

    results: rows as `assess.assess` gives them. measures: one name or several. aims: by measure, the value that is wanted;
    a dotted line stands there, otherwise at the value over all faces where that is among the rows.
    """
    measures, aims = [measures] if isinstance(measures, str) else list(measures), aims or {}
    chosen = results[results["measure"].isin(measures)]
    wanted = [(name, measure) for measure in measures for name in dict.fromkeys(chosen["dataset"])]
    panels = [chosen[(chosen["dataset"] == name) & (chosen["measure"] == measure)] for name, measure in wanted]
    panels = [rows for rows in panels if len(rows)]
    if not panels:
        raise ValueError(f"results must hold one of {', '.join(measures)}, got {', '.join(results['measure'].unique())}")
    tallest = max(len(rows) + 0.6 * (rows["by"].nunique() - 1) for rows in panels)
    size = (WIDTH * (1 if len(panels) > 1 else 0.65), 0.9 + 0.21 * tallest)
    figure, grid = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axes, rows in zip(grid.flat, panels):
        _group_panel(axes, rows, aims.get(rows["measure"].iloc[0]))
        axes.set_ylim(tallest - 0.4, -0.8)
    return figure


def _group_panel(axes, rows: pd.DataFrame, aim: float | None) -> None:
    first, colours = rows.iloc[0], {"all": "#222222", "age": BLUE, "gender": ORANGE, "race": GREEN}
    starts = (rows["by"] != rows["by"].shift()).cumsum() - 1  # a gap before each kind of group
    place = np.arange(len(rows)) + 0.6 * starts.to_numpy()
    colour = rows["by"].map(colours).fillna(PURPLE).to_numpy()
    for value in rows["value"][rows["by"] == "all"] if aim is None else [aim]:
        axes.axvline(value, color=GREY, linestyle=":")
    axes.hlines(place, rows["low"], rows["high"], color=colour, alpha=0.45, linewidth=3)
    axes.scatter(rows["value"], place, 22, colour)
    for y, n in zip(place, rows["n"]):
        axes.text(1.02, y, f"{n:,}", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#444444")
    axes.text(1.02, -0.9, "n", transform=axes.get_yaxis_transform(), va="bottom", fontsize=8, color="#444444")
    names = rows["group"].where(rows["by"] != "all", "all faces").str.replace("_", " ")
    names = names.where(rows["by"] != "age", names.str.replace("-", "–") + " years")
    axes.set_yticks(place, names)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_title(f"{titled(first['dataset'])}: {first['measure']}", fontsize=10)
    if first["unit"] == "share":
        axes.xaxis.set_major_formatter(lambda share, _: f"{share * 100:.4g}%")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axes.set_xlabel(first["unit"])
        axes.set_xlim(left=0)


@styled
def model_comparison(compared: pd.DataFrame, titles: dict[str, str]) -> plt.Figure:
    """Models side by side, a panel for each column of `titles`: dots, with a line where there is an interval.

    compared: model, kind (ours, plain or others), column, value, low, high, unit, as `findings.beside` gives them.
    """
    models = list(dict.fromkeys(compared["model"]))
    names = [textwrap.fill(model, 30) for model in models]
    figure, panels = plt.subplots(
        1, len(titles), figsize=(WIDTH, 0.9 + 0.17 * sum(name.count("\n") + 2 for name in names)), sharey=True, squeeze=False
    )
    colours = {"ours": ORANGE, "plain": GREEN, "others": BLUE}
    for axes, (column, title) in zip(panels.flat, titles.items()):
        rows = compared[(compared["column"] == column) & compared["value"].notna()]
        place = rows["model"].map({model: i for i, model in enumerate(models)})
        colour = rows["kind"].map(colours).to_numpy()
        years, scale = (rows["unit"] == "years").all(), 1 if (rows["unit"] == "years").all() else 100
        axes.hlines(place, rows["low"] * scale, rows["high"] * scale, color=colour, alpha=0.45, linewidth=3)
        axes.scatter(rows["value"] * scale, place, 26, colour)
        for y, value in zip(place, rows["value"] * scale):
            axes.annotate(f"{value:.1f}", (value, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("years" if years else "%", fontsize=9)
        axes.margins(x=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
    panels[0, 0].set_yticks(range(len(models)), names, fontsize=8)
    panels[0, 0].set_ylim(len(models) - 0.5, -0.7)
    return figure


@styled
def joint_curves(history: pd.DataFrame) -> plt.Figure:
    """Loss, gender accuracy and years off of training and validation, epoch by epoch; the weights kept are marked.

    history: as `train.fit` gives it with the metrics of `joint`.
    """
    epoch, best = history["epoch"], history.loc[history["val_loss"].fillna(np.inf).idxmin()]
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 3.2))
    for axes, (name, title) in zip(
        panels, {"loss": "loss", "gender_accuracy": "gender accuracy", "absolute_error": "years off"}.items()
    ):
        axes.plot(epoch, history[name], color=GREY, marker="o", markersize=3, label="training")
        axes.plot(epoch, history[f"val_{name}"], color=BLUE, marker="o", markersize=3, label="validation")
        axes.plot(best["epoch"], best[f"val_{name}"], color=BLUE, marker="o", markersize=9, fillstyle="none")
        text = f"{best[f'val_{name}']:.1%}" if name == "gender_accuracy" else f"{best[f'val_{name}']:.2f}"
        axes.set_title(f"{title}: {text} on validation", fontsize=10)
        axes.set(xlabel="epoch", xlim=(0.5, epoch.max() + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    panels[1].yaxis.set_major_formatter(lambda share, _: f"{share * 100:.4g}%")
    panels[0].legend()
    return figure


@styled
def reliability(tables: dict[str, pd.DataFrame], fewest: int = 30) -> plt.Figure:
    """Accuracy against confidence, one line a task; what is well calibrated lies on the diagonal.

    tables: by task, as `calibrate.reliability` gives them; the more faces a dot stands for, the larger it is. fewest: dots
    of fewer faces are left out, since chance alone decides where they lie.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.6, WIDTH * 0.55))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as right as sure")
    for (task, table), colour in zip(tables.items(), itertools.cycle(LINES)):
        count = table["n"].sum()
        table = table[table["n"] >= fewest]
        axes.plot(table["confidence"], table["accuracy"], color=colour, label=f"{task} (n = {count:,})")
        axes.scatter(table["confidence"], table["accuracy"], 10 + 150 * table["n"] / count, colour)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _percent_grid(axes)
    axes.legend(loc="upper left")
    axes.set_title("How often answers of like confidence are right")
    return figure


@styled
def accuracy_coverage(curves: dict[str, pd.DataFrame]) -> plt.Figure:
    """The accuracy of the most confident answers against their share, one line a task.

    curves: by task, as `calibrate.coverage_curve` gives them of scores 0-1.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.6, 3.4))
    for (task, curve), colour in zip(curves.items(), itertools.cycle(LINES)):
        axes.plot(curve["coverage"], curve["score"], color=colour, label=f"{task}: {curve['score'].iloc[-1]:.1%} of all")
    axes.set(xlabel="share of faces answered, the most confident first", ylabel="accuracy", xlim=(0, 1.02))
    _percent_grid(axes)
    axes.legend(loc="best")
    axes.set_title("Accuracy where only confident answers are given")
    return figure


def _percent_grid(axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid()
