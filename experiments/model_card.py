"""Writes the model card: the use, the accuracy by group, and the failures of the released models.

    python -m experiments.model_card

The text is docs/model_card.template.md, and the numbers come from the models' own cards and from docs/results. The command
writes docs/model_card.md and a figure of synthetic faces, docs/figures/failures.png.
"""

import re
from pathlib import Path

import jinja2
import pandas as pd

from experiments import multitask, results, train_released
from experiments.plots import dataset_title, group_titles
from experiments.results import describe_worst_group, format_result, markdown_table, read_results
from src import config
from src.data import DATASETS
from src.evaluation.metrics import Estimate
from src.evaluation.subgroups import CALIBRATION_ERRORS, MIN_GROUP_SIZE, Grouping, Metric
from src.files import atomic_write, write_text
from src.models.model_folder import TrainedModel
from src.processes import run_command

TEMPLATE, TARGET = config.DOCS / "model_card.template.md", config.DOCS / "model_card.md"
FIGURE = config.DOCS / "figures" / "failures.png"
TRAINING_COMMIT = "9ffbeca"  # the version of the code that trained the released models
GROUP_COLUMNS = {  # metrics in the tables by group, and their short titles
    Metric.GENDER_ACCURACY: "gender",
    Metric.EIGHT_GROUPS_EXACT: "eight groups",
    Metric.NINE_RANGES_EXACT: "nine ranges",
    Metric.ABSOLUTE_ERROR: "years off",
    Metric.INTERVAL_COVERAGE: "interval covers",
}
# Metrics whose worst groups are named.
WORST_GROUPS = (Metric.GENDER_ACCURACY, Metric.ABSOLUTE_ERROR, Metric.NINE_RANGES_EXACT)


def write(folder: str | Path = "", target: Path = TARGET, figure: Path = FIGURE, **models: str | Path) -> None:
    """Writes the card and its figure.

    Args:
        folder: Folder of the result files; "" selects docs/results.
        target: The Markdown file to write.
        figure: The PNG file to write.
        **models: `gender` and `age`, the model folders; see `results.load_released`.

    Raises:
        ResultsMissingError: A result file is missing or incomplete. Nothing is written.
        ModelFolderError: A model folder is missing or damaged. Nothing is written.
    """
    released = results.load_released(**models)
    text = render(released, folder, Path("figures") / figure.name)
    evaluation = results.evaluate_released("sample", "", released)
    figure.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(figure) as new:
        results.failure_gallery(evaluation).savefig(new, dpi=110, metadata={"Software": None})
    write_text(target, text)


def render(models: dict[str, TrainedModel], folder: str | Path = "", figure: Path = Path("figures", FIGURE.name)) -> str:
    """Returns the card in Markdown. Raises ResultsMissingError if a result file is missing or incomplete."""
    rows, curves, history, speed, plain, others = (
        read_results(name, folder)
        for name in ("released_results", "released_reliability", "released_history", "speed", "plain", "others")
    )
    overall = rows[rows["by"] == Grouping.ALL]
    counts = pd.DataFrame(models["age"].card["trained_on"]["faces"]).T.rename(
        index=dataset_title, columns={"train": "training"}
    )
    layers = results.layer_summary(models["age"])
    layers["output"] = layers["output"].map(lambda shape: " × ".join(map(str, shape)))

    def measured(dataset: str, metric: str) -> pd.DataFrame:
        return overall[(overall["dataset"] == dataset) & (overall["metric"] == metric)]

    def groups(dataset: str) -> pd.DataFrame:
        table = results.group_table(rows, dataset)
        table["group"] = group_titles(table)
        return table.reindex(columns=["group", "faces", *GROUP_COLUMNS]).dropna(axis="columns").rename(columns=GROUP_COLUMNS)

    def worst_groups(dataset: str) -> list[str]:
        found = rows[(rows["dataset"] == dataset) & (rows["by"] != Grouping.ALL)]
        pairs = [(metric, by) for metric in WORST_GROUPS for by in found[found["metric"] == metric]["by"].unique()]
        return [describe_worst_group(rows, dataset, metric, by) for metric, by in pairs]

    calibration_errors = [
        f"{dataset_title(name)}, {task} {format_result(found.iloc[0])}"
        for name in rows["dataset"].unique()
        for task, metric in CALIBRATION_ERRORS.items()
        if len(found := measured(name, metric))
    ]
    compared = results.comparison_table(results.join_comparisons(rows, plain, others))
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(
        results=results, train_released=train_released, multitask=multitask, config=config,
        training_commit=TRAINING_COMMIT, data_sets=DATASETS[1:], fewest=MIN_GROUP_SIZE,
        size=models["age"].alignment.size, history=history, others=others, speed=speed, rows=rows, layers=layers,
        counts=counts[["training", "validation", "test"]].map("{:,}".format).rename_axis("data set").reset_index(),
        comparison=compared.rename_axis("model").reset_index(), calibration_errors=calibration_errors,
        unsure_predictions=_unsure_predictions(models, curves), figure=figure.as_posix(),
        table=markdown_table, dataset_title=dataset_title, measured=measured, groups=groups, worst_groups=worst_groups,
        value=lambda *which: str(Estimate(*measured(*which)[list(Estimate._fields)].iloc[0])),
        worst=lambda *which: describe_worst_group(rows, *which),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _unsure_predictions(models: dict[str, TrainedModel], curves: pd.DataFrame) -> list[str]:
    lines = []
    for (dataset, task), curve in curves.groupby(["dataset", "task"], sort=False):
        below = results.calibration_of(models[task]).unsure_below
        if task == "age" and dataset == "fairface":
            continue  # FairFace's curve is for nine groups; `age_unsure` refers to eight
        share, accuracy, others = results.unsure_accuracy(curve, below)
        found = f"{share:.1%} of the predictions, {accuracy:.0%} of them correct" if share else "no predictions"
        lines.append(f"{dataset_title(dataset)}, {task} below {below:.0%}: {found}; {others:.1%} of the others are correct.")
    return lines


def main() -> None:
    write()
    print(f"wrote {TARGET.relative_to(config.ROOT)} and {FIGURE.relative_to(config.ROOT)}")


if __name__ == "__main__":
    run_command(main)
