"""The report, its figures and the README's table of results, from result files: `make report`.

    python -m tools.report [--pdf docs/report.pdf]

The text is in docs/report.template.md, the numbers are in docs/results and in the models' cards. If a result file is missing,
the command writes nothing, unless the file is one of OPTIONAL_FILES. Then its section says so.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import ablations, multitask, results, teachers, train_released, training_steps
from experiments import plots as result_plots
from experiments.plots import dataset_title
from experiments.results import ResultsMissingError, format_result, markdown_table, read_results
from src import config, data
from src.data.table import TableAndLedger
from src.evaluation import calibration, plots, subgroups
from src.evaluation.metrics import format_number
from src.evaluation.subgroups import CALIBRATION_ERRORS, Grouping, Metric
from src.faces import duplicates
from src.files import write_text
from src.models.model_folder import TrainedModel
from src.models.two_level_cnn import two_level_cnn
from src.processes import run_command
from tools import diagrams, pdf

TEMPLATE, TARGET, README = config.DOCS / "report.template.md", config.DOCS / "report.md", config.ROOT / "README.md"
FIGURES = config.DOCS / "figures" / "report"
BEGIN, END = "<!-- results: written by make report -->", "<!-- /results -->"
_INCLUDED = "it is part of the repository"
_HISTORY, _RELEASE = results.FILES["released_history"]
FILES = results.FILES | {
    "released_history": ((*_HISTORY, "seconds"), _RELEASE),
    "funnels": (
        ("dataset", "step", "rows"),
        "`python -m benchmarks.funnels NAME=FOLDER … --csv docs/results/funnels.csv` writes it",
    ),
    "published": (("method", "gender", "eight_exact", "eight_one_off", "four_exact", "labels", "note"), _INCLUDED),
    "published_utkface": (("method", "gender", "years_off", "note"), _INCLUDED),
}
OPTIONAL_FILES = {  # with the command that writes each of them
    "held_out": "`python -m benchmarks.held_out FOLDER --csv docs/results/held_out.csv`",
    "ablations": "`python -m experiments.ablations DATA --csv docs/results/ablations.csv`",
    "label_limits": "`python -m benchmarks.label_limits FOLDER --csv docs/results/label_limits.csv`",
    "scale": "`python -m benchmarks.scale FOLDER --faces 100000 --csv docs/results/scale.csv --plot docs/figures/scale.png`",
    "other_seed": "`python -m experiments.train_released --data FOLDER --seed 2`, as its `results/released_results.csv`",
    "protocol": "`make protocol IMDB_WIKI=… ADIENCE=…`, as `runs/protocol/protocol.csv`",
}
# Variants of the ablations for the table of transfer between data sets, and their baseline.
_ONE_SET_LESS = tuple(name for name, variant in ablations.VARIANTS.items() if variant.without)
_ALL_SETS = ablations.VARIANTS[_ONE_SET_LESS[0]].baseline
_ABLATION_METRICS = {  # with their short titles
    Metric.GENDER_ACCURACY: "gender",
    ablations.CHILDREN: "children",
    Metric.ABSOLUTE_ERROR: "years off",
    Metric.NINE_RANGES_EXACT: "nine ranges",
}
_BEST_GENDER = "gender, at best"  # column of the table of label limits
HEADLINE = {  # the rows of the table of results
    Metric.GENDER_ACCURACY: "gender",
    Metric.ABSOLUTE_ERROR: "age in years, mean absolute error",
    Metric.WITHIN_FIVE_YEARS: "within five years",
    Metric.EIGHT_GROUPS_EXACT: "eight age groups, exact",
    Metric.EIGHT_GROUPS_ONE_OFF: "eight age groups, at most one off",
    Metric.NINE_RANGES_EXACT: "nine age ranges, exact",
    Metric.NINE_RANGES_ONE_OFF: "nine age ranges, at most one off",
    Metric.INTERVAL_COVERAGE: "labelled age within the 90% interval",
    Metric.GENDER_CALIBRATION: "calibration error, gender",
    Metric.AGE_CALIBRATION: "calibration error, age groups",
}
_COLUMN_TITLES = {
    "gender": "gender, %", "eight_exact": "eight groups, %", "eight_one_off": "one off, %", "four_exact": "four groups, %",
    "years_off": "years off", "note": "what to know", "dataset": "data set", "metric": "metric", "faces": "n",
}  # fmt: skip


def best_agreement(difference):
    """Returns the share of labels (0-1) that an error-free judge agrees with.

    If a share e of the labels is wrong at random, two labels of a face differ in a share 2 e (1 - e) of the cases.

    Args:
        difference: The share of pairs of labels that differ, 0-0.5.
    """
    return (1 + np.sqrt(1 - 2 * difference)) / 2


class Sections:
    """The functions that the template calls. Each returns Markdown, or values for it.

    Args:
        models: The released models by task.
        folder: The folder of the result files; "" is docs/results.
    """

    def __init__(self, models: dict[str, TrainedModel], folder: str | Path = ""):
        self.models, self.folder = models, Path(folder or config.RESULTS)
        self.files = {name: read_results(name, folder, FILES) for name in FILES}
        self.results = self.files["released_results"]
        self._overall = self.results[self.results["by"] == Grouping.ALL]

    def functions(self) -> dict[str, Any]:
        """Returns the public methods by name."""
        return {name: getattr(self, name) for name in vars(Sections) if not name.startswith("_")}

    def value(self, dataset: str, metric: str, by: str = Grouping.ALL, group: str = Grouping.ALL) -> str:
        """Returns a metric over a group of a data set with its interval, in per cent, or in years without the unit."""
        rows = self.results.query("dataset == @dataset and metric == @metric and by == @by and group == @group")
        if rows.empty:
            raise ResultsMissingError(f"released_results.csv has no {metric} of {dataset}: {_RELEASE}")
        return format_result(rows.iloc[0])

    def headline(self) -> str:
        """Returns the table of results: a row for each metric, a column for each data set."""
        rows = self._overall[self._overall["metric"].isin(HEADLINE)]
        bold = rows.apply(format_result, axis=1).str.replace(r"^([\d.%]+)", r"**\1**", regex=True)
        wide = rows.assign(text=bold).pivot(index="metric", columns="dataset", values="text")
        wide = wide.reindex(index=list(HEADLINE), columns=rows["dataset"].unique()).rename(index=HEADLINE)
        faces = rows.groupby("dataset")["n"].max()
        wide = wide.rename(columns=lambda name: f"{dataset_title(name)}, n = {faces[name]:,}")
        return markdown_table(wide.rename_axis("released models, on unseen test faces (95% interval)").reset_index())

    def comparison(self) -> str:
        """Returns the released models beside other models."""
        compared = results.join_comparisons(self.results, self.files["plain"], self.files["others"])
        return markdown_table(results.comparison_table(compared).rename_axis("model").reset_index())

    def funnels(self) -> list[dict[str, str]]:
        """For each data set: its name, and the numbers of rows read, dropped by reason, and kept."""
        rows = []
        for name, steps in self.files["funnels"].groupby("dataset", sort=False):
            counts = dict(zip(steps["step"], steps["rows"].map("{:,}".format)))
            row = {"name": dataset_title(name), "read": counts.pop("read"), "kept": counts.pop("kept")}
            rows.append(row | {"dropped": ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "–"})
        return rows

    def faces_of_training(self) -> dict[str, dict[str, str]]:
        """Returns the number of faces by data set and split."""
        faces = self.models["age"].card["trained_on"]["faces"]
        return {dataset_title(name): {split: f"{n:,}" for split, n in counts.items()} for name, counts in faces.items()}

    def all_faces(self, split: str) -> str:
        """Returns the number of faces in a split."""
        return f"{sum(counts[split] for counts in self.models['age'].card['trained_on']['faces'].values()):,}"

    def stages(self, which: str) -> list[dict[str, str]]:
        """Returns the steps of the "released" or the "plain" network: level, operations, shape, parameters."""
        model = self.models["age"].model if which == "released" else two_level_cnn(len(config.AGE_GROUPS["adience"].names))
        return [
            {
                "level": stage.level.replace("_", " "),
                "operations": stage.text.replace("\n", " "),
                "shape": " × ".join(map(str, stage.shape)),
                "parameters": f"{stage.parameters:,}",
            }
            for stage in diagrams.stages(model)
        ]

    def history(self) -> pd.DataFrame:
        """Returns the training history, one row per epoch."""
        return self.files["released_history"]

    def unsure(self, task: str) -> str:
        """Returns the probability below which a prediction is unsure."""
        return f"{results.calibration_of(self.models[task]).unsure_below:.0%}"

    def other_seed(self) -> str:
        """Returns the released models' results beside those of a training with another seed."""
        return self._fitting("other_seed", lambda other: self._compare(other, ("as released", "another seed")))

    def from_photos(self) -> str:
        """Returns the released models' results from prepared faces beside those from photo files."""
        return self._fitting("held_out", lambda other: self._compare(other, ("prepared faces", "photo files")))

    def undetected_photos(self) -> str:
        """Returns a sentence with the share of photo files in which no face was detected."""

        def sentence(measured: pd.DataFrame) -> str:
            rows = measured[measured["metric"] == results.NO_FACE_METRIC].set_index("dataset")
            names = [name for name in self.results["dataset"].unique() if name in rows.index]
            shares = ", ".join(f"{dataset_title(name)} {format_result(rows.loc[name])}" for name in names)
            return f"Photos on which no face was found: {shares}."

        return self._fitting("held_out", sentence)

    def fits(self, name: str) -> bool:
        """Whether a file of OPTIONAL_FILES is there and has results on each data set of the released models."""
        file = self.folder / f"{name}.csv"
        return file.is_file() and set(self.results["dataset"]) <= set(pd.read_csv(file)["dataset"])

    def ablation_size(self) -> str:
        """Returns the number of training faces and of epochs of the ablations."""
        first = pd.read_csv(self.folder / "ablations.csv").iloc[0]
        return f"{first['faces']:,} training faces for {first['epochs']} epochs"

    def ablations(self) -> str:
        """Returns the variants of the training, except those without a data set."""
        return self._fitting("ablations", lambda rows: self._variants(rows[~rows["variant"].isin(_ONE_SET_LESS)]))

    def without_one_data_set(self) -> str:
        """Returns the variants that were trained without a data set, and their baseline."""
        shown = (_ALL_SETS, *_ONE_SET_LESS)
        return self._fitting("ablations", lambda rows: self._variants(rows[rows["variant"].isin(shown)]))

    def scale(self) -> str:
        """Returns the measurements of a large preparation, with their figure."""
        plot = "![the processor's time and the memory of the preparation, face by face](figures/scale.png)"
        return self.optional("scale", lambda rows: f"{markdown_table(rows)}\n\n{plot}")

    def label_limits(self) -> str:
        """Returns the differences between two labels of the same image, a row for each age band."""

        def by_band(rows: pd.DataFrame) -> str:
            rows = rows.assign(text=rows.apply(format_result, axis=1), pairs=rows["n"].map("{:,}".format))
            gender = rows[rows["metric"] == results.OTHER_GENDER]
            best = gender.assign(metric=_BEST_GENDER, text=best_agreement(gender["value"]).map("{:.1%}".format))
            order = [results.OTHER_GENDER, _BEST_GENDER, results.YEARS_APART]
            index = ["dataset", "ages", "pairs"]
            wide = pd.concat([rows, best]).pivot(index=index, columns="metric", values="text").reindex(columns=order)
            wide = wide.reindex(pd.MultiIndex.from_frame(rows[index].drop_duplicates())).reset_index()
            return markdown_table(wide.assign(dataset=wide["dataset"].map(dataset_title)).rename(columns=_COLUMN_TITLES))

        return self.optional("label_limits", by_band)

    def worst(self) -> list[str]:
        """Returns a sentence about the worst age band and race for each data set and important metric."""
        found = []
        for name, rows in self.results.groupby("dataset", sort=False):
            age = Metric.ABSOLUTE_ERROR if (rows["metric"] == Metric.ABSOLUTE_ERROR).any() else Metric.NINE_RANGES_EXACT
            groupings = [by for by in (Grouping.AGE, Grouping.RACE) if (rows["by"] == by).any()]
            metrics = (Metric.GENDER_ACCURACY, age)
            found += [results.describe_worst_group(rows, name, metric, by) for metric in metrics for by in groupings]
        return found

    def worst_interval(self, dataset: str) -> str:
        """Returns a sentence about the age band with the worst coverage."""
        return results.describe_worst_group(self.results, dataset, Metric.INTERVAL_COVERAGE, Grouping.AGE)

    def worst_band(self, dataset: str, metric: str) -> str:
        """Returns the age band with the worst value of a metric, such as "0–6 years, with 72.7% (66.1–79.5)"."""
        row = subgroups.worst_group(self.results[self.results["dataset"] == dataset], metric, Grouping.AGE)
        return f"{row['group'].replace('-', '–')} years, with {format_result(row)}"

    def young_and_old(self) -> str:
        """Returns the results of the two youngest and the two oldest age bands of each data set."""
        exact = (Metric.EIGHT_GROUPS_EXACT, Metric.NINE_RANGES_EXACT)
        titles = {Metric.GENDER_ACCURACY: "gender", **dict.fromkeys(exact, "age group"), Metric.ABSOLUTE_ERROR: "years off"}
        rows = self.results[(self.results["by"] == Grouping.AGE) & self.results["metric"].isin(titles)]
        table = []
        for dataset, of_dataset in rows.groupby("dataset", sort=False):
            bands = list(dict.fromkeys(of_dataset["group"]))
            for band in dict.fromkeys([*bands[:2], *bands[-2:]]):
                in_band = of_dataset[of_dataset["group"] == band]
                cells = {titles[row["metric"]]: format_result(row) for _, row in in_band.iterrows()}
                ages = band.replace("-", "–")
                table.append({"data set": dataset_title(dataset), "ages": ages, "n": f"{in_band['n'].max():,}", **cells})
        return markdown_table(pd.DataFrame(table))

    def calibration_errors(self) -> str:
        """Returns a sentence with the calibration error of each task and data set."""
        names = {metric: "age group" if task == "age" else task for task, metric in CALIBRATION_ERRORS.items()}
        rows = self._overall[self._overall["metric"].isin(names)].to_dict("records")
        errors = ", ".join(
            f"{row['value']:.1%} for {names[row['metric']]} on {dataset_title(row['dataset'])}" for row in rows
        )
        return f"The expected calibration error, the mean gap between confidence and accuracy, is {errors}."

    def speed(self, model: str) -> str:
        """Returns the shortest time of a model for one face, in milliseconds."""
        return f"{self.files['speed'].query('model == @model and batch == 1')['ms a face'].min():.1f}".replace("nan", "–")

    def speed_table(self) -> str:
        """Returns the time for a face by model, batch size and runtime."""
        return markdown_table(results.speed_table(self.files["speed"]))

    def published(self, name: str) -> str:
        """Returns a table of published results, with as many digits as were published."""
        frame = pd.read_csv(self.folder / f"{name}.csv", dtype=str)
        return markdown_table(frame.assign(note=frame["note"].fillna("")).rename(columns=_COLUMN_TITLES))

    def optional(self, name: str, show: Callable[[pd.DataFrame], str] = markdown_table) -> str:
        """Returns a file of OPTIONAL_FILES as text, or a sentence that it is missing."""
        file = self.folder / f"{name}.csv"
        return show(pd.read_csv(file)) if file.is_file() else _not_measured(name, "is missing")

    def _fitting(self, name: str, show: Callable[[pd.DataFrame], str]) -> str:
        """Returns a file as `optional` does, or a sentence that it has no results on a data set of the released models."""
        if (self.folder / f"{name}.csv").is_file() and not self.fits(name):
            return _not_measured(name, "belongs to models that were trained on other data sets")
        return self.optional(name, show)

    def _compare(self, other: pd.DataFrame, names: tuple[str, str]) -> str:
        """Returns the released models' results and others, one column each."""
        overall = (self._overall, other[other["by"] == Grouping.ALL])
        texts = [rows.set_index(["dataset", "metric"]).apply(format_result, axis=1) for rows in overall]
        both = pd.concat(texts, axis=1, join="inner", keys=names).reset_index()
        both = both[both["metric"].isin(HEADLINE)].replace({"metric": dict(HEADLINE)})
        return markdown_table(both.assign(dataset=both["dataset"].map(dataset_title)).rename(columns=_COLUMN_TITLES))

    def _variants(self, rows: pd.DataFrame) -> str:
        """Each variant's values and, in brackets, their differences to its baseline if this is one of the rows.

        The name of a variant is followed by that of its baseline, unless it is the first row.
        """
        if rows.empty:
            return _not_measured("ablations", "has none of these variants")
        first, known = rows["variant"].iloc[0], set(rows["variant"])
        table: dict[str, dict[str, str]] = {}
        for row in rows[rows["metric"].isin(_ABLATION_METRICS)].to_dict("records"):
            text = format_number(row["value"], row["unit"])
            variant = row["variant"] if row["seed"] == config.SEED else f"{row['variant']}, seed {row['seed']}"
            if row["against"] in known:
                text += f" ({format_number(row['difference'], row['unit'], '+')})".replace("-", "−")
                variant += f" *(against {row['against']})*" if row["against"] != first else ""
            title = f"{dataset_title(row['dataset'])} {_ABLATION_METRICS[row['metric']]}"
            table.setdefault(variant, {"variant": variant})[title] = text
        return markdown_table(pd.DataFrame(list(table.values())))


def _not_measured(name: str, reason: str) -> str:
    return f"*Not measured yet: `docs/results/{name}.csv` {reason}; it comes from {OPTIONAL_FILES[name]}.*"


def render(sections: Sections, template: Path = TEMPLATE) -> str:
    """Returns the report in Markdown."""
    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    modules = (calibration, config, duplicates, multitask, subgroups, teachers, train_released, training_steps)
    names = {module.__name__.split(".")[-1]: module for module in modules} | sections.functions()
    text = jinja.from_string(template.read_text(encoding="utf-8")).render(names)
    return re.sub(r"\n{3,}", "\n\n", text).lstrip()


def replace_results(readme: str, headline: str) -> str:
    """Replaces the table of results in the README's text; ValueError if the lines around it are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md must have the lines {BEGIN} and {END} around its table of results; add them")
    return f"{before}{BEGIN}\n{headline}\n{END}{after}"


def figures(sections: Sections) -> dict[str, Callable[[], Figure]]:
    """Returns functions that draw the report's figures, by file name."""
    files = sections.files
    compared = results.join_comparisons(sections.results, files["plain"], files["others"])
    titles = {column: title for column, (title, *_) in results.COMPARISON.items()}
    reliability = files["released_reliability"].groupby(["dataset", "task"], sort=False)
    tasks = {f"{dataset_title(name)}, {task}": rows for (name, task), rows in reliability}
    return {
        "funnel.svg": lambda: plots.funnel(_as_loaded(files["funnels"], "imdb_wiki")),
        "sample.jpg": sample_faces,
        "curves.svg": lambda: plots.curves(files["released_history"]),
        "models.svg": lambda: result_plots.model_comparison(compared, titles),
        "groups.svg": lambda: result_plots.by_group(sections.results, Metric.GENDER_ACCURACY),
        "calibration.svg": lambda: result_plots.reliability(tasks),
    }


def _as_loaded(funnels: pd.DataFrame, name: str) -> TableAndLedger:
    """Returns a table and a ledger with as many rows as were counted, for `plots.funnel`."""
    counts = funnels[funnels["dataset"] == name].set_index("step")["rows"]
    reasons = counts.drop(["read", "kept"])
    return TableAndLedger(
        pd.DataFrame(index=range(counts["kept"])), pd.DataFrame({"reason": np.repeat(reasons.index, reasons)})
    )


def sample_faces() -> Figure:
    """Draws one face of the sample for each gender and age group."""
    folder = data.resolve_folder("sample")
    faces = data.load("sample", folder).table.dropna(subset=["gender", "age_low"])
    shown = faces.groupby(["gender", "age_low"], sort=True).head(1).sort_values(["gender", "age_low"])
    titles = [f"{row.gender}, {row.age_low}–{row.age_high}" for row in shown.itertuples()]
    return plots.gallery([matplotlib.image.imread(folder / path) for path in shown["path"]], titles)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.report", description="Writes the report from result files.")
    parser.add_argument("--pdf", type=Path, metavar="FILE", help="also write the report as PDF")
    options = parser.parse_args(arguments)
    sections = Sections(results.load_released())
    text = render(sections)
    readme = replace_results(README.read_text(encoding="utf-8"), sections.headline())
    for name, draw in figures(sections).items():
        diagrams.save(draw(), FIGURES / name)
    if options.pdf:
        pdf.write(text, config.DOCS, options.pdf)
    write_text(TARGET, text)
    write_text(README, readme)
    print(*(str(path.relative_to(config.ROOT)) for path in (TARGET, README, FIGURES)), options.pdf or "", sep="\n")


if __name__ == "__main__":
    run_command(main)
