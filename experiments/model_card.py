"""Writes the model card: the use, the accuracy by group, and the failures of the released models.

    python -m experiments.model_card

The text is docs/model_card.template.md, and the numbers come from the models' own cards and from docs/results. The command
writes docs/model_card.md and a figure of drawn faces, docs/figures/failures.png.
"""

import re
import sys
from pathlib import Path

import jinja2
import pandas as pd

from experiments import results, train_residual
from experiments.result_plots import group_titles, titled
from experiments.results import describe_worst_group, format_result, markdown_table, read_results
from src import config
from src.data import DATASETS
from src.evaluation.metrics import Estimate
from src.evaluation.subgroups import CALIBRATION_ERRORS, FEWEST_PER_GROUP, Grouping, Metric
from src.files import atomic_write, write_text
from src.models.model_folder import ModelFolderError, TrainedModel

DOCS = config.ROOT / "docs"
TEMPLATE, TARGET, PICTURE = DOCS / "model_card.template.md", DOCS / "model_card.md", DOCS / "figures" / "failures.png"
GROUP_COLUMNS = {  # metrics in the tables by group, and their short titles
    Metric.GENDER_ACCURACY: "gender",
    Metric.EIGHT_GROUPS_EXACT: "eight groups",
    Metric.NINE_RANGES_EXACT: "nine ranges",
    Metric.ABSOLUTE_ERROR: "years off",
    Metric.INTERVAL_COVERAGE: "interval covers",
}
# Metrics whose worst groups are named.
WORST_GROUPS = (Metric.GENDER_ACCURACY, Metric.ABSOLUTE_ERROR, Metric.NINE_RANGES_EXACT)


def write(folder: str | Path = "", target: Path = TARGET, picture: Path = PICTURE, **models: str | Path) -> None:
    """Writes the card and its picture.

    Args:
        folder: Folder of the result files; "" is docs/results.
        target: The Markdown file to write.
        picture: The PNG file to write.
        **models: `gender` and `age`, the model folders; see `results.load_released`.

    Raises:
        ResultsMissingError: A result file is missing or incomplete. Nothing is written.
        ModelFolderError: A model folder is missing or damaged. Nothing is written.
    """
    released = results.load_released(**models)
    text = render(released, folder, Path("figures") / picture.name)
    evaluation = results.evaluate_released("sample", "", released)
    picture.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(picture) as new:
        results.failure_gallery(evaluation).savefig(new, dpi=110, metadata={"Software": None})
    write_text(target, text)


def render(models: dict[str, TrainedModel], folder: str | Path = "", picture: Path = Path("figures", PICTURE.name)) -> str:
    """Returns the card in Markdown. Raises ResultsMissingError if a result file is missing or incomplete."""
    rows, curves, history, speed, plain, others = (
        read_results(name, folder)
        for name in ("released_results", "released_reliability", "released_history", "speed", "plain", "others")
    )
    overall = rows[rows["by"] == Grouping.ALL]
    counts = pd.DataFrame(models["age"].card["trained_on"]["faces"]).T.rename(index=titled, columns={"train": "training"})
    layers = results.layer_summary(models["age"])
    layers["output"] = layers["output"].map(lambda shape: " × ".join(map(str, shape)))

    def measured(dataset: str, measure: str) -> pd.DataFrame:
        return overall[(overall["dataset"] == dataset) & (overall["measure"] == measure)]

    def groups(dataset: str) -> pd.DataFrame:
        table = results.group_table(rows, dataset)
        table["group"] = group_titles(table)
        return table.reindex(columns=["group", "faces", *GROUP_COLUMNS]).dropna(axis="columns").rename(columns=GROUP_COLUMNS)

    def worst_groups(dataset: str) -> list[str]:
        found = rows[(rows["dataset"] == dataset) & (rows["by"] != Grouping.ALL)]
        pairs = [(metric, by) for metric in WORST_GROUPS for by in found[found["measure"] == metric]["by"].unique()]
        return [describe_worst_group(rows, dataset, metric, by) for metric, by in pairs]

    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(
        results=results, train_residual=train_residual, config=config, data_sets=DATASETS[1:], fewest=FEWEST_PER_GROUP,
        size=models["age"].alignment.size, history=history, others=others, speed=speed, rows=rows, layers=layers,
        counts=counts[["training", "validation", "test"]].map("{:,}".format).rename_axis("data set").reset_index(),
        comparison=results.comparison_table(results.compare_models(rows, plain, others)).rename_axis("model").reset_index(),
        calibration_errors=[
            f"{titled(name)}, {task} {format_result(found.iloc[0])}"
            for name in rows["dataset"].unique()
            for task, metric in CALIBRATION_ERRORS.items()
            if len(found := measured(name, metric))
        ],
        unsure_predictions=_unsure_predictions(models, curves), picture=picture.as_posix(),
        table=markdown_table, titled=titled, measured=measured, groups=groups, worst_groups=worst_groups,
        value=lambda *which: str(Estimate(*measured(*which)[list(Estimate._fields)].iloc[0])),
        worst=lambda *which: describe_worst_group(rows, *which),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _unsure_predictions(models: dict[str, TrainedModel], curves: pd.DataFrame) -> list[str]:
    lines = []
    for (dataset, task), curve in curves.groupby(["dataset", "task"], sort=False):
        below = results.calibration_of(models[task]).unsure_below
        if task == "age" and dataset == "fairface":
            continue  # this curve is of nine ranges, but `predict` marks predictions among eight groups
        share, accuracy, others = results.unsure_accuracy(curve, below)
        found = f"{share:.1%} of the predictions, {accuracy:.0%} of them correct" if share else "no predictions"
        lines.append(f"{titled(dataset)}, {task} below {below:.0%}: {found}; {others:.1%} of the others are correct.")
    return lines


def main() -> int:
    try:
        write()
    except (ModelFolderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {TARGET.relative_to(config.ROOT)} and {PICTURE.relative_to(config.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
