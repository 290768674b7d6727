"""The report, its figures and the README's table of results, from result files: `make report`.

    python -m tools.report [--pdf docs/report.pdf]

The words stand in docs/report.template.md, the figures and numbers in docs/results and in the models' cards. Nothing is
written where a result file is missing, unless it is one of OPTIONAL: then the section says so in one line.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments import release, result_plots, results, train_residual
from experiments.result_plots import titled
from experiments.results import ResultsMissing, format_result, read_results
from src import config, data
from src.data.table import Loaded
from src.evaluation import calibration, plots
from src.faces import duplicates
from src.files import write_text
from src.models import multitask
from src.models.model_folder import ModelFolderError, TrainedModel
from src.models.two_level_cnn import two_level_cnn
from tools import diagrams, pdf

DOCS = config.ROOT / "docs"
TEMPLATE, TARGET, README = DOCS / "report.template.md", DOCS / "report.md", config.ROOT / "README.md"
FIGURES = DOCS / "figures" / "report"
BEGIN, END = "<!-- results: written by make report -->", "<!-- /results -->"
_KEPT = "it comes with the repository"
_HISTORY, _RELEASE = results.FILES["released_history"]
FILES = results.FILES | {
    "released_history": ((*_HISTORY, "seconds"), _RELEASE),
    "funnels": (
        ("dataset", "step", "rows"),
        "`python benchmarks/funnels.py NAME=FOLDER … --csv docs/results/funnels.csv` makes it",
    ),
    "published": (("method", "gender", "eight_exact", "eight_one_off", "four_exact", "labels", "note"), _KEPT),
    "published_utkface": (("method", "gender", "years_off", "note"), _KEPT),
}
# What the report can do without, and the command that makes it.
OPTIONAL = {
    "held_out": "`python benchmarks/held_out.py FOLDER --csv docs/results/held_out.csv`",
    "ablations": "`python -m experiments.ablations DATA --csv docs/results/ablations.csv`",
    "label_limits": "`python -m benchmarks.label_limits FOLDER --csv docs/results/label_limits.csv`",
    "scale": "`python -m benchmarks.scale FOLDER --faces 100000 --csv docs/results/scale.csv --plot docs/figures/scale.png`",
    "other_seed": "`python -m experiments.train_residual --data FOLDER --seed 2`, then copy its `results/released_results.csv`",
    "protocol": "`make protocol IMDB_WIKI=… ADIENCE=…`, whose `runs/protocol/protocol.csv` is put there",
}
ONE_SET = ("only UTKFace", "only FairFace")  # variants of the ablations that learn from one data set
COMPARED = ("gender accuracy", "gender accuracy of children", "absolute error", "nine ranges exact")  # of the variants
# The rows of the table of results: the measure in the files, and how it is called.
HEADLINE = {
    "gender accuracy": "gender",
    "absolute error": "age in years, mean absolute error",
    "within five years": "within five years",
    "eight groups exact": "eight age groups, exact",
    "eight groups 1-off": "eight age groups, at most one off",
    "nine ranges exact": "nine age ranges, exact",
    "nine ranges 1-off": "nine age ranges, at most one off",
    "90% interval covers": "the 90% age interval holds the labelled age",
    "gender calibration error": "calibration error, gender",
    "age group calibration error": "calibration error, age groups",
}
COLUMN_NAMES = {
    "gender": "gender, %", "eight_exact": "eight groups, %", "eight_one_off": "one off, %", "four_exact": "four groups, %",
    "years_off": "years off", "note": "what to know",
}  # fmt: skip


def table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, without its index; what is missing is a dash, columns of numbers stand to the right."""
    texts = frame.apply(lambda column: column.map(lambda cell: "–" if pd.isna(cell) else str(cell)))
    rules = ["---:" if pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in frame]
    rows = [[str(name).replace("\n", " ") for name in frame], rules, *texts.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def agreed_at_best(differ: float) -> float:
    """With how many labels (0-1) a judge who is never wrong agrees, where two labels of one face differ in a share of cases.

    If labels are wrong at random in a share e, they differ in 2 e (1 - e).
    """
    return (1 + np.sqrt(1 - 2 * differ)) / 2


class Words:
    """What the template can call; each method gives Markdown, or values to put into it."""

    def __init__(self, models: dict[str, TrainedModel], folder: str | Path = ""):
        self.models, self.folder = models, Path(folder or config.RESULTS)
        self.files = {name: read_results(name, folder, FILES) for name in FILES}
        self.results = self.files["released_results"]

    def all(self) -> dict[str, Any]:
        """Every public method by its name."""
        names = [name for name in vars(Words) if not name.startswith("_") and name != "all"]
        return {name: getattr(self, name) for name in names}

    def value(self, dataset: str, measure: str) -> str:
        """A measure over all faces of a data set with its interval, in per cent or, without the word, in years."""
        mine = self.results.query("dataset == @dataset and measure == @measure and by == 'all'")
        if mine.empty:
            raise ResultsMissing(f"released_results.csv has no {measure} of {dataset}: {FILES['released_results'][1]}")
        return format_result(mine.iloc[0])

    def headline(self) -> str:
        whole = self.results[self.results["by"] == "all"]
        names = list(dict.fromkeys(whole["dataset"]))
        faces = whole.groupby("dataset")["n"].max()
        rows = []
        for measure, title in HEADLINE.items():
            mine = {row["dataset"]: row for _, row in whole[whole["measure"] == measure].iterrows()}
            rows.append(
                [
                    title,
                    *(re.sub(r"^([\d.%]+)", r"**\1**", format_result(mine[name])) if name in mine else "–" for name in names),
                ]
            )
        head = ["released models, on test faces that they never saw (95% interval)"]
        return table(pd.DataFrame(rows, columns=[*head, *(f"{titled(name)}, n = {faces[name]:,}" for name in names)]))

    def beside(self) -> str:
        compared = results.compare_models(self.results, self.files["plain"], self.files["others"])
        return table(results.comparison_table(compared).rename_axis("model").reset_index())

    def funnels(self) -> list[dict]:
        rows = []
        for name, mine in self.files["funnels"].groupby("dataset", sort=False):
            counts = dict(zip(mine["step"], mine["rows"]))
            read, kept = counts.pop("read"), counts.pop("kept")
            dropped = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
            rows.append({"name": titled(name), "read": f"{read:,}", "dropped": dropped or "–", "kept": f"{kept:,}"})
        return rows

    def faces_of_training(self) -> dict[str, dict[str, str]]:
        faces = self.models["age"].card["trained_on"]["faces"]
        return {titled(name): {part: f"{count:,}" for part, count in parts.items()} for name, parts in faces.items()}

    def all_faces(self, part: str) -> str:
        return f"{sum(parts[part] for parts in self.models['age'].card['trained_on']['faces'].values()):,}"

    def stages(self, which: str) -> list[dict]:
        model = self.models["age"].model if which == "released" else two_level_cnn(len(config.AGE_GROUPS["adience"].names))
        return [
            {
                "level": stage.level.replace("_", " "),
                "says": stage.says.replace("\n", " "),
                "shape": " × ".join(map(str, stage.shape)),
                "parameters": f"{stage.parameters:,}",
            }
            for stage in diagrams.stages(model)
        ]

    def history(self) -> pd.DataFrame:
        return self.files["released_history"]

    def unsure(self, task: str) -> str:
        return f"{results.calibration_of(self.models[task]).unsure_below:.0%}"

    def seeds(self) -> str:
        """The released models' results beside those of a training with another seed."""
        return self.optional("other_seed", lambda other: self._compared(other, ("as released", "another seed")))

    def from_photos(self) -> str:
        """The released models' results from prepared faces beside those from the photo files."""
        return self.optional("held_out", lambda other: self._compared(other, ("prepared faces", "photo files")))

    def faceless(self) -> str:
        """On how many photo files of the test part no face was found."""

        def said(measured: pd.DataFrame) -> str:
            rows = measured[measured["measure"] == "no face found"].set_index("dataset")
            names = [name for name in self.results["dataset"].unique() if name in rows.index]
            shares = ", ".join(f"{titled(name)} {format_result(rows.loc[name])}" for name in names)
            return f"Photos on which no face was found: {shares}."

        return self.optional("held_out", said)

    def _compared(self, other: pd.DataFrame, names: tuple[str, str]) -> str:
        """The released models' results, and others of the same measures, a column each."""
        told = [
            some[some["by"] == "all"].set_index(["dataset", "measure"]).apply(format_result, axis=1)
            for some in (self.results, other)
        ]
        both = pd.concat(told, axis=1, join="inner", keys=names)
        both = both[both.index.isin(HEADLINE, level="measure")].rename(HEADLINE, level="measure").reset_index()
        return table(both.assign(dataset=both["dataset"].map(titled)).rename(columns={"dataset": "data set"}))

    def ablations(self) -> str:
        return self.optional("ablations", lambda trained: self._variants(trained[~trained["variant"].isin(ONE_SET)]))

    def cross(self) -> str:
        return self.optional("ablations", lambda trained: self._variants(trained[trained["variant"].isin(ONE_SET)]))

    def _variants(self, trained: pd.DataFrame) -> str:
        """Each training's values and their differences to what it is compared with; a second seed is a row of its own."""
        trained = trained[trained["measure"].isin(COMPARED)]
        rows: dict[tuple, dict[str, str]] = {}
        for row in trained.to_dict("records"):
            scale, digits = (100, 1) if row["unit"] == "share" else (1, 2)
            text = f"{row['value'] * scale:.{digits}f}"
            if pd.notna(row["difference"]):
                text += f" ({row['difference'] * scale:+.{digits}f})".replace("-", "−")
            against = row["against"] if isinstance(row["against"], str) else "–"
            name = row["variant"] if row["seed"] == config.SEED else f"{row['variant']}, seed {row['seed']}"
            rows.setdefault((name, against), {})[f"{titled(row['dataset'])} {row['measure']}"] = text
        if not rows:
            return self._missing("ablations")
        frame = pd.DataFrame([{"variant": key[0], "against": key[1], **texts} for key, texts in rows.items()])
        return table(frame)

    def optional(self, name: str, shown: Callable[[pd.DataFrame], str] = table) -> str:
        """A result file, as a table unless `shown` in another way, or one line on what is missing."""
        file = self.folder / f"{name}.csv"
        if not file.is_file():
            return self._missing(name)
        return shown(pd.read_csv(file))

    def _missing(self, name: str) -> str:
        return f"*Not measured yet: `docs/results/{name}.csv` is missing; it comes from {OPTIONAL[name]}.*"

    def scale(self) -> str:
        plot = "![the processor's time and the memory of the preparation, face by face](figures/scale.png)"
        return self.optional("scale", lambda rows: f"{table(rows)}\n\n{plot}")

    def label_limits(self) -> str:
        """How far the labels of one picture differ where it stands in a data set twice, a row for each band of ages."""
        return self.optional("label_limits", self._label_limits)

    def _label_limits(self, measured: pd.DataFrame) -> str:
        rows: dict[tuple, dict[str, str]] = {}
        for row in measured.to_dict("records"):
            texts = rows.setdefault((row["dataset"], row["ages"]), {"pairs": f"{row['n']:,}"})
            texts[row["measure"]] = format_result(row)
            if row["measure"] == "other gender":
                texts["gender, at best"] = f"{agreed_at_best(row['value']):.1%}"
        return table(
            pd.DataFrame([{"data set": titled(name), "ages": ages, **texts} for (name, ages), texts in rows.items()])
        )

    def worst(self) -> list[str]:
        measures = {"utkface": ("gender accuracy", "absolute error"), "fairface": ("gender accuracy", "nine ranges exact")}
        asked = [(name, measure, by) for name, some in measures.items() for measure in some for by in ("age", "race")]
        return [results.describe_worst_group(self.results, *one) for one in asked]

    def worst_interval(self) -> str:
        return results.describe_worst_group(self.results, "utkface", "90% interval covers", "age")

    def calibration_errors(self) -> str:
        whole = self.results[(self.results["by"] == "all") & self.results["measure"].str.endswith("calibration error")]
        gaps = ", ".join(
            f"{row['value']:.1%} for {row['measure'][:-18]} on {titled(row['dataset'])}" for _, row in whole.iterrows()
        )
        return f"The expected calibration error, the mean gap between confidence and accuracy, is {gaps}."

    def speed(self, model: str) -> str:
        mine = self.files["speed"].query("model == @model and batch == 1")
        return f"{mine['ms a face'].min():.1f}" if len(mine) else "–"

    def speed_table(self) -> str:
        frame = self.files["speed"].assign(column=lambda some: some["model"] + ", " + some["batch"].astype(str) + " at once")
        wide = frame.pivot(index="way", columns="column", values="ms a face")
        wide = wide.reindex(index=list(dict.fromkeys(frame["way"])), columns=list(dict.fromkeys(frame["column"])))
        wide["file, MB"] = frame.groupby("way")["MB"].min()
        return table(wide.map(lambda cell: "" if pd.isna(cell) else f"{cell:.1f}").rename_axis("run by").reset_index())

    def published(self, name: str) -> str:
        """A table of others' figures, with no more digits than they wrote down."""
        frame = pd.read_csv(self.folder / f"{name}.csv", dtype=str)
        return table(frame.assign(note=frame["note"].fillna("")).rename(columns=COLUMN_NAMES))


def rendered(words: Words, template: Path = TEMPLATE) -> str:
    """The report in Markdown."""
    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    modules = {
        module.__name__.split(".")[-1]: module
        for module in (calibration, config, duplicates, results, multitask, release, train_residual)
    }
    text = jinja.from_string(template.read_text(encoding="utf-8")).render(modules | words.all())
    return re.sub(r"\n{3,}", "\n\n", text).lstrip()


def with_results(readme: str, headline: str) -> str:
    """The README's text with the table of results anew; ValueError where its marks are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md needs the lines {BEGIN} and {END} about its table of results")
    return f"{before}{BEGIN}\n{headline}\n{END}{after}"


def figures(words: Words) -> dict[str, Callable[[], Figure]]:
    """The report's figures by their file names, drawn when called."""
    files = words.files
    compared = results.compare_models(words.results, files["plain"], files["others"])
    titles = {column: title for column, (title, *_) in results.COMPARISON.items()}
    return {
        "funnel.svg": lambda: plots.funnel(_loaded(files["funnels"], "imdb_wiki")),
        "sample.jpg": drawn_sample,
        "curves.svg": lambda: plots.curves(files["released_history"]),
        "models.svg": lambda: result_plots.model_comparison(compared, titles),
        "groups.svg": lambda: result_plots.by_group(words.results, "gender accuracy"),
        "calibration.svg": lambda: result_plots.reliability(_by_task(files["released_reliability"])),
    }


def _loaded(funnels: pd.DataFrame, name: str) -> Loaded:
    """As many rows as the funnel counts, for `plots.funnel`, which asks for no more."""
    counts = funnels[funnels["dataset"] == name].set_index("step")["rows"]
    if counts.empty:
        raise results.ResultsMissing(f"docs/results/funnels.csv lacks {name}: benchmarks/funnels.py counts it")
    reasons = counts.drop(["read", "kept"])
    return Loaded(pd.DataFrame(index=range(counts["kept"])), pd.DataFrame({"reason": np.repeat(reasons.index, reasons)}))


def _by_task(curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {f"{titled(name)}, {task}": mine for (name, task), mine in curves.groupby(["dataset", "task"], sort=False)}


def drawn_sample() -> Figure:
    """One drawn face of each gender and age group."""
    folder = data.resolve_folder("sample")
    faces = data.load("sample", folder).table.dropna(subset=["gender", "age_low"])
    shown = faces.groupby(["gender", "age_low"], sort=True).head(1).sort_values(["gender", "age_low"])
    pictures = [matplotlib.image.imread(folder / path) for path in shown["path"]]
    titles = [f"{row.gender}, {row.age_low}–{row.age_high}" for row in shown.itertuples()]
    return plots.gallery(pictures, titles)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.report", description="Writes the report from result files.")
    parser.add_argument("--pdf", type=Path, metavar="FILE", help="the report as a PDF too")
    options = parser.parse_args(arguments)
    try:
        words = Words(results.load_released())
        text, readme = rendered(words), with_results(README.read_text(encoding="utf-8"), words.headline())
        for name, draw in figures(words).items():
            diagrams.save(draw(), FIGURES / name)
        if options.pdf:
            pdf.write(text, DOCS, options.pdf)
        write_text(TARGET, text)
        write_text(README, readme)
    except (ModelFolderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*(str(path.relative_to(config.ROOT)) for path in (TARGET, README, FIGURES)), options.pdf or "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
