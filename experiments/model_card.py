"""The model card, docs/model_card.md: what the released models are for, how good they are for whom, and where they fail.

    python -m experiments.model_card

It is written from the models' own cards and the result files in docs/results, whole or not at all, with one picture,
docs/figures/failures.png, of drawn faces only.

Before it: `findings`. After it: nothing.
"""

import functools
import sys
import textwrap
from pathlib import Path

import pandas as pd

from experiments import released
from experiments import results as findings
from experiments.result_plots import titled
from src import config
from src.data import NAMES
from src.evaluation.metrics import Estimate
from src.files import atomic_write, write_text
from src.models.model_folder import ModelFolderError, TrainedModel

TARGET = config.ROOT / "docs" / "model_card.md"
PICTURE = config.ROOT / "docs" / "figures" / "failures.png"
OF_GROUPS = {  # the measures that the tables by group show, and their short names there
    "gender accuracy": "gender",
    "eight groups exact": "eight groups",
    "nine ranges exact": "nine ranges",
    "absolute error": "years off",
    "90% interval covers": "interval covers",
}


def write(results: str | Path = "", target: Path = TARGET, picture: Path = PICTURE, **folders) -> Path:
    """Writes the card and its picture; gives the card's path.

    results: the folder of the result files, "" is docs/results. folders: `gender` and `age`, the models' folders. Raises
    ResultsMissing and ModelFolderError, in one sentence each, before anything is written.
    """
    models = findings.load_released(**folders)
    text = card(models, results, Path("figures") / picture.name)
    judged = findings.evaluate_released("sample", "", models)
    picture.parent.mkdir(parents=True, exist_ok=True)
    _save(judged, picture)
    write_text(target, text)
    return target


def _save(judged: findings.Evaluation, picture: Path) -> None:
    with atomic_write(picture) as new:
        findings.failure_gallery(judged).savefig(new, dpi=110, metadata={"Software": None})


def card(models: dict[str, TrainedModel], folder: str | Path = "", picture: Path = Path("figures") / PICTURE.name) -> str:
    """The card's text, in Markdown. Raises ResultsMissing where a result file is missing or not whole."""
    results, curves, history, speed, plain, others = (
        findings.read_results(name, folder)
        for name in ("released_results", "released_reliability", "released_history", "speed", "plain", "others")
    )
    sections = [
        _head(models, results),
        _purpose(),
        _models(models, speed),
        _data(models),
        _training(history),
        _results(results, plain, others),
        *(_groups(results, name) for name in dict.fromkeys(results["dataset"])),
        _trust(models, results, curves),
        _failures(picture),
        _limits(),
    ]
    return _reflowed("\n\n".join(sections)) + "\n"


def _head(models, results) -> str:
    lead = []
    for name in dict.fromkeys(results["dataset"]):
        lead.append(f"{_value(results, name, 'gender accuracy')} of {titled(name)}'s test faces")
    return f"""# Model card: gender and age from a face

Two small networks, `models/gender` and `models/age`, that look at one aligned face and say how it **looks**: female or
male, and how old. They tell gender right for {" and ".join(lead)}, on which they were not trained.

`python -m experiments.model_card` writes this page from the models' own cards and from [docs/results](results/). Every
interval is a 95% bootstrap interval, and n is the number of faces."""


def _value(results: pd.DataFrame, dataset: str, measure: str) -> str:
    row = results[(results["dataset"] == dataset) & (results["measure"] == measure) & (results["by"] == "all")].iloc[0]
    return str(Estimate(*row[list(Estimate._fields)]))


def _purpose() -> str:
    return """## What they are for, and what they are not for

**For** learning and research: to see how such a classifier is built, measured and gets things wrong; to sort one's own
collection of pictures roughly; as a starting point for other models, within the terms below.

**Not for decisions about people**: not for access, identity checks, age limits, hiring, policing, pricing or medicine, and
not for watching people who have not agreed to it. What comes out is not a fact about a person:

- **Gender is apparent gender.** The labels are what annotators, or the names of files, said of a picture. There are only
  two, because the data sets know only two; a person's gender cannot be seen in a face.
- **Age is apparent age**: UTKFace's was estimated by a program and checked by people, FairFace's is an annotator's guess."""


def _models(models, speed: pd.DataFrame) -> str:
    table = findings.parts(models["age"])
    rows = [["level", "part", "output", "parameters"]]
    rows += [
        [level, name, " × ".join(map(str, out)), f"{count:,}"] for level, name, out, count in table.itertuples(index=False)
    ]
    size = models["age"].alignment.size
    count = models["age"].model.count_params()
    return f"""## The models

Each takes a face aligned by dlib's landmarks, {size} × {size} pixels, RGB 0–255, and gives probabilities: `gender` of
female and male, `age` of each year from 0 to 100 (100 stands for all above). Sums over years give any age groups; the
answers are the median group and the median year. Both have two levels: a residual **level
one** that looks at a face and at its mirror image, the same in both, so that `predict` runs it once for both tasks, and a
linear **level two**. The layers of `age`,
{count:,} parameters in all (a block stands for its convolutions):

{_markdown(rows)}

Milliseconds a face, from an aligned face to probabilities, on one core of a CPU (median of `benchmarks/speed.py`), and
the size of each model's file:

{_markdown(_speed(speed))}"""


def _speed(speed: pd.DataFrame) -> list[list[str]]:
    columns = list(dict.fromkeys(zip(speed["model"], speed["batch"], strict=True)))
    rows = [["run by", *(f"{model}, {batch} at once" for model, batch in columns), "file, MB"]]
    for way, mine in speed.groupby("way", sort=False):
        taken = {(row["model"], row["batch"]): f"{row['ms a face']:.1f}" for row in mine.to_dict("records")}
        rows.append([way, *(taken.get(column, "") for column in columns), f"{mine['MB'].min():.1f}"])
    return rows


def _data(models) -> str:
    rows = [["data set", "training", "validation", "test"]]
    for name, counts in models["age"].card["trained_on"]["faces"].items():
        rows.append([titled(name), *(f"{counts.get(part, 0):,}" for part in ("train", "validation", "test"))])
    return f"""## The data, and its terms

{_markdown(rows)}

Pictures are split by a hash of their file name, which does not change with anything else; pictures that are nearly the
same, within a set or across the two, are first found and put on one side together. Nothing was trained,
stopped or calibrated on the test part; two rules were changed after a look at it: that of age intervals where few faces
calibrate was made more careful, and the ends of age ranges in the loss were made sharp. All pictures stay with their owners
and none is part of this repository.

- **UTKFace** (age in years, gender, race of five kinds): for **non-commercial research** only.
- **FairFace** (nine age ranges, gender, race of seven kinds, balanced over those): CC BY 4.0.
- **dlib's 68-point landmark model**, which aligns the faces: trained on iBUG 300-W, whose licence **excludes commercial
  use**.
- **dlib's face recognition network**, the teacher's starting point: public domain.

Together: the released models are for non-commercial research."""


def _training(history: pd.DataFrame) -> str:
    return f"""## How they were trained

One network for both tasks, from random weights, {len(history)} epochs in two rounds on faces scaled to {released.INNER}
pixels, mirrored, turned, zoomed, brightened, greyed, coarsened and partly covered at random. It learns half from the
labels, half from the answers of a **teacher**, dlib's face recognition network refined for both tasks on the same training
faces for {released.TEACHER.epochs} epochs; it also learns to imitate that network's own description of a face. In the
second round, {released.AGAIN.epochs} epochs, what the network itself said after the first counts as much as the teacher.
An age range on a label counts as "somewhere in here". The weights kept are those of the lowest loss on the validation
part; its two heads are then cut out as two models. `python -m experiments.released --data FOLDER --release` does it all
again; but the first round of the present weights was made on another machine, taught by a teacher of 8 epochs."""


def _results(results, plain, others) -> str:
    table = findings.overall(results).reset_index()
    models = findings.comparison_table(findings.compare_models(results, plain, others)).rename_axis("model").reset_index()
    faces = ", ".join(f"{titled(name)} n = {others[f'{name}_n'].max():,}" for name in ("utkface", "fairface"))
    return f"""## How good they are

On the test part ({_counts(results)}). "1-off": at most one group away; "absolute error": of the age in years.

{_markdown([list(table.columns), *table.to_numpy().tolist()])}

Beside other models, in per cent and years. The plain network was measured on UTKFace's held-out tenth, drawn the same
way; when its ages were, about one in fifteen of those pictures had a copy among its training pictures, which flatters it
([log book](log_book.md)). **The freely available models were measured on other test pictures
of the same data sets**, once, by us and without a script here ({faces} unless said otherwise; cut by dlib's boxes with each
model's own margin), so a difference of a point or so means little; those trained on UTKFace may have seen some of its
pictures.

{_markdown([list(models.columns), *models.to_numpy().tolist()])}"""


def _counts(results: pd.DataFrame) -> str:
    faces = results[results["by"] == "all"].groupby("dataset", sort=False)["n"].max()
    return ", ".join(f"{titled(name)}: {n:,} faces" for name, n in faces.items())


def _groups(results: pd.DataFrame, dataset: str) -> str:
    table = findings.by_groups(results, dataset)
    shown = [measure for measure in OF_GROUPS if measure in table]
    rows = [["", "faces", *(OF_GROUPS[measure] for measure in shown)]]
    for row in table.to_dict("records"):
        name = f"{row['group'].replace('-', '–')} years" if row["by"] == "age" else row["group"].replace("_", " ")
        rows.append([name, row["faces"], *(row[measure] for measure in shown)])
    wanted = [measure for measure in ("gender accuracy", "absolute error", "nine ranges exact") if measure in shown]
    kinds = [by for by in ("age", "gender", "race") if by in set(table["by"])]
    worst = [f"- {findings.worst_words(results, dataset, measure, by)}" for measure in wanted for by in kinds]
    lead = f"Groups of fewer than {findings.FEWEST_PER_GROUP} faces are left out where the worst is named."
    return "\n".join([f"### For whom: {titled(dataset)}", "", _markdown(rows), "", lead, "", *worst])


def _trust(models, results: pd.DataFrame, curves: pd.DataFrame) -> str:
    lines = []
    for task, dataset in (("gender", "utkface"), ("gender", "fairface"), ("age", "utkface")):
        curve = curves[(curves["dataset"] == dataset) & (curves["task"] == task)]
        below = models[task].calibration.unsure_below
        if len(curve):
            share, accuracy, otherwise = findings.unsure(curve, below)
            doubted = f"{share:.1%} of the answers, {accuracy:.0%} of them right" if share else "none of the answers"
            lines.append(f"- {titled(dataset)}, {task} below {below:.0%}: {doubted}; of the others {otherwise:.1%}.")
    whole = results[results["by"] == "all"]
    errors = whole[whole["measure"].str.endswith("calibration error")]
    gaps = "; ".join(f"{titled(row.dataset)}, {row.measure[:-18]} {row.value:.1%}" for row in errors.itertuples())
    return "\n".join(
        [
            "## How far to trust a probability",
            "",
            "The probabilities were calibrated on the validation part by one temperature each: of the answers given at 80%,",
            f"about 80% should be right. The mean gap between the two (expected calibration error): {gaps}.",
            "",
            "**Unsure.** `gender_unsure` and `age_unsure` mark answers below a probability (age: among eight groups):",
            "",
            *lines,
            *(_interval(results, name) for name in whole.loc[whole["measure"] == "90% interval covers", "dataset"]),
        ]
    )


def _interval(results: pd.DataFrame, dataset: str) -> str:
    width = results[(results["dataset"] == dataset) & (results["measure"] == "90% interval width") & (results["by"] == "all")]
    covered = _value(results, dataset, "90% interval covers")
    worst = findings.worst_words(results, dataset, "90% interval covers", "age")
    return f"""
**The age interval.** `age_interval_low` to `age_interval_high` is a 90% prediction interval, calibrated *in each age band*
(conformal prediction, on the validation part). On {titled(dataset)}'s test part it held {covered} and was
{width["value"].iloc[0]:.1f} years wide on average. {worst}"""


def _failures(picture: Path) -> str:
    return f"""## Where they fail

![drawn faces that the models were surest of and wrong about]({picture.as_posix()})

Of the sample's test faces, those that the models were surest of and wrong about, one picture a person: gender first, then
age groups. **These are drawn faces of nobody**; no real face is shown. They can show what kind of picture misleads the
models, but not how often real people are misjudged: what a drawn face "is" is only what the drawing was told to be, and
now and then the drawing is what went wrong. The tables above are about real faces: the worst groups are named there."""


def _limits() -> str:
    return f"""## Limits

- **Children**: a small child's gender is often not to be seen in a face at all, and labels of one picture that stands in
  UTKFace twice differ more often there than elsewhere (see the report).
- **Turned, covered, badly lit and very small faces** are rarer in the data than in life, and a face that dlib does not find
  gets no answer at all.
- **Groups**: the data sets' words for race are coarse and were given by annotators. A group with few faces has a long
  interval, and groups within groups (say, old women of one origin) were not measured.
- **Other pictures**: both test parts come from the same sources as the training faces. On other pictures, say from other
  cameras, places or times, expect less, and measure: `make run DATASET=… DATA=… NOTEBOOKS="6"` ({", ".join(NAMES[1:])}).
- **Intervals and calibration** hold for faces like those of the data sets, and are promised by age band, not by any
  other group.

[Notebook 6](../notebooks/6_Model_Comparison.ipynb) shows the same as figures."""


def _markdown(rows: list[list[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    head, *body = [["" if cell is None else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def _reflowed(text: str) -> str:
    """Paragraphs and points of lists filled to even lines; tables, headings and pictures as they are."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith(("|", "#", "!")):
            blocks.append(block)
            continue
        points = block.replace("\n- ", "\n\n- ").split("\n\n")
        indents = ["  " if point.startswith("- ") else "" for point in points]
        fill = functools.partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
        blocks.append(
            "\n".join(
                fill(" ".join(point.split()), subsequent_indent=indent) for point, indent in zip(points, indents, strict=True)
            )
        )
    return "\n\n".join(blocks)


def main() -> int:
    try:
        target = write()
    except (ModelFolderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{target.relative_to(config.ROOT)} and {PICTURE.relative_to(config.ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
