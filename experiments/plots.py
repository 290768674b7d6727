"""Draws evaluation results for notebook 6 and the report: by group, next to other models, and calibration."""

import itertools
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

from src.data import TITLES
from src.evaluation.metrics import Unit, format_number
from src.evaluation.plots import (
    BLACK,
    BLUE,
    GENDER_COLOURS,
    GREEN,
    GREY,
    MODEL_COLOURS,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    draw_estimates,
    styled,
)
from src.evaluation.subgroups import Grouping

_GROUPING_COLOURS = {Grouping.ALL: BLACK, Grouping.AGE: GREEN, Grouping.RACE: PURPLE}  # genders have their own colours
_MODEL_COLOURS = {"ours": MODEL_COLOURS["released"], "plain": GREEN, "others": GREY}
_LINE_COLOURS = (BLACK, GREEN, VERMILLION, SKY, PURPLE, BLUE)


def dataset_title(dataset: str) -> str:
    """Returns the name of a data set as it is written in text."""
    return TITLES.get(dataset, dataset)


def group_titles(rows: pd.DataFrame) -> pd.Series:
    """Returns the column `group` of results as text, such as "0–6 years" and "East Asian"."""
    ages = rows["group"].str.replace("-", "–") + " years"
    return rows["group"].str.replace("_", " ").mask(rows["by"] == Grouping.AGE, ages)


@styled
def by_group(
    results: pd.DataFrame, metrics: str | Sequence[str], target_values: dict[str, float] | None = None
) -> plt.Figure:
    """Draws one panel for each data set and metric: the value of each group with its 95% interval and n.

    Args:
        results: Rows of `subgroups.evaluate_subgroups`.
        metrics: One metric or several.
        target_values: The desired value of metrics, shown as a dotted line; by default the value over all faces.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    by_panel = results.groupby(["metric", "dataset"], sort=False)
    panels = [rows for wanted in metrics for (metric, _), rows in by_panel if metric == wanted]
    if not panels:
        raise ValueError(f"results must contain one of {', '.join(metrics)}, got {', '.join(results['metric'].unique())}")
    tallest = max(len(rows) + 0.6 * (rows["by"].nunique() - 1) for rows in panels)
    size = (WIDTH * (1 if len(panels) > 1 else 0.65), 0.9 + 0.21 * tallest)
    figure, grid = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axes, rows in zip(grid.flat, panels):
        _draw_groups(axes, rows, (target_values or {}).get(rows["metric"].iloc[0]), is_narrow=len(panels) > 2)
        axes.set_ylim(tallest - 0.4, -0.8)
    return figure


def _draw_groups(axes: plt.Axes, rows: pd.DataFrame, target_value: float | None, is_narrow: bool) -> None:
    first = rows.iloc[0]
    places = np.arange(len(rows)) + 0.6 * (rows["by"] != rows["by"].shift()).cumsum().sub(1)  # a gap before each grouping
    for value in rows["value"][rows["by"] == Grouping.ALL] if target_value is None else [target_value]:
        axes.axvline(value, color=GREY, linestyle=":")
    draw_estimates(axes, rows, places, rows["group"].map(GENDER_COLOURS).fillna(rows["by"].map(_GROUPING_COLOURS)))
    for place, text in [(-0.9, "n"), *zip(places, rows["n"].map("{:,}".format))]:
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#444444")
    axes.set_yticks(places, group_titles(rows).mask(rows["by"] == Grouping.ALL, "all faces"), fontsize=9)
    axes.spines["left"].set_visible(False)
    gap = "\n" if is_narrow else " "
    axes.set_title(f"{dataset_title(first['dataset'])}:{gap}{first['metric']}", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(4 if is_narrow else 5, steps=[1, 2, 5, 10]))
    if first["unit"] == Unit.SHARE:
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        axes.set_xlabel(first["unit"])
        axes.set_xlim(left=0)


@styled
def model_comparison(compared: pd.DataFrame, titles: dict[str, str]) -> plt.Figure:
    """Draws models side by side, from `results.join_comparisons`: one panel per column, with the titles given."""
    models = list(dict.fromkeys(compared["model"]))
    names = [textwrap.fill(model, 30) for model in models]
    height = 0.9 + 0.17 * sum(name.count("\n") + 2 for name in names)
    figure, panels = plt.subplots(1, len(titles), figsize=(WIDTH, height), sharey=True, squeeze=False)
    for axes, (column, title) in zip(panels.flat, titles.items()):
        rows = compared[(compared["column"] == column) & compared["value"].notna()]
        places = rows["model"].map(models.index)
        draw_estimates(axes, rows, places, rows["kind"].map(_MODEL_COLOURS))
        for place, value, unit in zip(places, rows["value"], rows["unit"]):
            axes.annotate(format_number(value, unit), (value, place), (0, 6), textcoords="offset points", ha="center", size=8)
        in_years = (rows["unit"] == Unit.YEARS).all()
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("years" if in_years else "per cent", fontsize=9)
        axes.xaxis.set_major_formatter("{x:.0f}" if in_years else lambda share, _: f"{share * 100:.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.margins(x=0.25)
    panels[0, 0].set_yticks(range(len(models)), names, fontsize=8)
    panels[0, 0].set_ylim(len(models) - 0.5, -0.7)
    return figure


@styled
def reliability(tables: dict[str, pd.DataFrame], fewest: int = 30) -> plt.Figure:
    """Draws accuracy against confidence, one line per task; larger dots stand for more faces.

    Args:
        tables: Tables of `calibration.reliability` by title.
        fewest: Dots of fewer faces are left out, because they depend on chance.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH * 0.55))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect calibration")
    for (task, table), colour in zip(tables.items(), itertools.cycle(_LINE_COLOURS)):
        count, table = table["n"].sum(), table[table["n"] >= fewest]
        axes.plot(table["confidence"], table["accuracy"], color=colour, label=f"{task} (n = {count:,})")
        axes.scatter(table["confidence"], table["accuracy"], 10 + 150 * table["n"] / count, colour)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return _finish_shares(figure, axes, "Accuracy by confidence")


@styled
def accuracy_coverage(curves: dict[str, pd.DataFrame]) -> plt.Figure:
    """Draws the accuracy of the most confident predictions against their share, from `calibration.coverage_curve`."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for (task, curve), colour in zip(curves.items(), itertools.cycle(_LINE_COLOURS)):
        axes.plot(curve["coverage"], curve["score"], color=colour, label=f"{task}: {curve['score'].iloc[-1]:.1%} of all")
    axes.set(xlabel="share of faces with a prediction, the most confident first", ylabel="accuracy", xlim=(0, 1.02))
    return _finish_shares(figure, axes, "Accuracy if only confident predictions are given")


def _finish_shares(figure: plt.Figure, axes: plt.Axes, title: str) -> plt.Figure:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(title)
    return figure
