"""What is known of the released models: their result files, the words and tables drawn from them, and where they fail.

Before it: `assess`, `model_folder`, `released`. Used by: notebook 6, `model_card`.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.result_plots import titled
from src import config
from src import data as datasets
from src.config import AGE_GROUPS, GENDERS
from src.data.table import split, task_labels
from src.evaluation import plots
from src.evaluation.calibration import Calibration, sum_to_groups
from src.evaluation.metrics import Estimate, decode, prediction_confidence
from src.evaluation.subgroups import FEWEST_PER_GROUP, evaluate_subgroups, load_races, worst_group
from src.faces.duplicates import near_duplicates
from src.faces.prepare import prepare
from src.models.model_folder import ModelFolderError, TrainedModel, load_model
from src.models.train import predict_probabilities
from src.models.two_level_cnn import layer_table

_RELEASE = "`python -m experiments.released --data FOLDER --release` makes it"
_KEPT = "it comes with the repository"
_MEASURED_ELSEWHERE = (
    "model", "utkface_gender", "utkface_mae", "utkface_8_exact", "utkface_8_one_off", "fairface_gender", "fairface_9",
)  # fmt: skip
# By name: the columns that a result file must have, and where it comes from.
FILES = {
    "released_results": (("dataset", "measure", "by", "group", "value", "low", "high", "n", "unit"), _RELEASE),
    "released_reliability": (("dataset", "task", "confidence", "accuracy", "n"), _RELEASE),
    "released_coverage": (("dataset", "task", "coverage", "score"), _RELEASE),
    "released_history": (("epoch", "loss", "val_loss", "gender_accuracy", "absolute_error"), _RELEASE),
    "plain": (_MEASURED_ELSEWHERE, _KEPT),
    "others": ((*_MEASURED_ELSEWHERE, "utkface_n", "fairface_n"), _KEPT),
    "speed": (
        ("model", "batch", "way", "ms a face", "lowest", "highest", "MB"),
        "`python benchmarks/speed.py --csv docs/results/speed.csv` makes it",
    ),
}
# What models are compared by: column of plain.csv and others.csv -> title, data set and measure of ours, unit.
COMPARED = {
    "utkface_gender": ("UTKFace\ngender", "utkface", "gender accuracy", "share"),
    "utkface_mae": ("UTKFace\nyears off", "utkface", "absolute error", "years"),
    "utkface_8_exact": ("UTKFace\neight groups", "utkface", "eight groups exact", "share"),
    "utkface_8_one_off": ("UTKFace\none group off", "utkface", "eight groups 1-off", "share"),
    "fairface_gender": ("FairFace\ngender", "fairface", "gender accuracy", "share"),
    "fairface_9": ("FairFace\nnine ranges", "fairface", "nine ranges exact", "share"),
}
OURS = "released models"


class ResultsMissing(ValueError):
    """A result file that is not there or not as it should be; its text says so and the way out."""


def read_results(name: str, folder: str | Path = "", files: dict = FILES) -> pd.DataFrame:
    """The result file `name` of `files`; folder: "" is docs/results. Raises ResultsMissing in one sentence."""
    columns, source = files[name]
    file = Path(folder or config.RESULTS) / f"{name}.csv"
    if not file.is_file():
        raise ResultsMissing(f"{file.name} is missing in {file.parent}: {source}")
    try:
        table = pd.read_csv(file)
    except ValueError as error:  # also pandas's own errors of parsing
        raise ResultsMissing(f"{file} is no table of results ({error}): {source}") from error
    absent = [column for column in columns if column not in table]
    if absent or not len(table):
        lack = f"the column {absent[0]}" if absent else "any row"
        raise ResultsMissing(f"{file} lacks {lack}: {source}")
    return table


def load_released(gender: str | Path = "", age: str | Path = "") -> dict[str, TrainedModel]:
    """Both released models by their tasks; "" is models/gender and models/age.

    Raises ModelFolderError for models that are not of that kind: one alignment, ages in single years, a calibration.
    """
    folders = {"gender": Path(gender or config.MODELS / "gender"), "age": Path(age or config.MODELS / "age")}
    models = {task: load_model(folder) for task, folder in folders.items()}
    for task, trained in models.items():
        if trained.labels.task != task:
            raise ModelFolderError(f"{folders[task]} holds a model for {trained.labels.task}, not for {task}")
        calibration_of(trained)
    if not models["age"].labels.single_years or not calibration_of(models["age"]).quantiles:
        raise ModelFolderError(f"{folders['age']} is no released model: its classes must be the years 0 to 100")
    if models["gender"].alignment != models["age"].alignment:
        raise ModelFolderError("the released models share one alignment, these two do not")
    return models


def calibration_of(trained: TrainedModel) -> Calibration:
    """How far to trust a released model's answers; ModelFolderError for another model, whose card does not say."""
    if trained.calibration is None:
        raise ModelFolderError(f"the {trained.labels.task} model is no released model: its card holds no calibration")
    return trained.calibration


def parts(trained: TrainedModel) -> pd.DataFrame:
    """The model's layers, those of a residual block as one: level, part, output, parameters."""
    rows, waiting = [], 0
    for level, layer, output, parameters in layer_table(trained.model):
        waiting += parameters
        # Keras's own names are of the layers within a block or a step; the last one's name is ours.
        if not re.fullmatch(r"(conv2d|batch_normalization|re_lu|average_pooling2d|add)(_\d+)?", layer):
            rows.append((level, layer, output, waiting))
            waiting = 0
    return pd.DataFrame(rows, columns=["level", "part", "output", "parameters"])


def megabytes(folder: str | Path) -> float:
    """The size of a model folder's network on disk, in MB."""
    return (Path(folder) / "model.keras").stat().st_size / 1e6


def format_result(row) -> str:
    """A row of results as "95.1% (94.3–95.8)" or "4.60 (4.41–4.79)" years; without an interval where there is none."""
    scale, digits, sign = (100, 1, "%") if row["unit"] == "share" else (1, 2, "")
    value = f"{row['value'] * scale:.{digits}f}{sign}"
    return value if pd.isna(row["low"]) else f"{value} ({row['low'] * scale:.{digits}f}–{row['high'] * scale:.{digits}f})"


def overall(results: pd.DataFrame) -> pd.DataFrame:
    """Every measure over all faces of each data set, as text with interval: measures down, data sets across."""
    rows = results[results["by"] == "all"]
    texts = rows.assign(text=rows.apply(format_result, axis=1) + rows["unit"].map({"years": " years"}).fillna(""))
    order = list(dict.fromkeys(rows["measure"]))
    table = texts.pivot(index="measure", columns="dataset", values="text").reindex(order)
    return table[list(dict.fromkeys(rows["dataset"]))].rename(columns=titled).fillna("").rename_axis(columns=None)


def by_groups(results: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """One data set's measures for each group, as text: groups down (by, group, faces), measures across."""
    rows = results[(results["dataset"] == dataset) & (results["by"] != "all")]
    faces = rows.groupby(["by", "group"], sort=False)["n"].max()
    texts = rows.assign(text=rows.apply(format_result, axis=1)).pivot(index=["by", "group"], columns="measure", values="text")
    texts = texts.reindex(index=faces.index, columns=list(dict.fromkeys(rows["measure"]))).fillna("")
    return faces.map("{:,}".format).to_frame("faces").join(texts).reset_index().rename_axis(columns=None)


def worst_words(results: pd.DataFrame, dataset: str, measure: str, by: str) -> str:
    """One sentence: for which group the measure is worst, and how much worse than for all faces."""
    rows = results[results["dataset"] == dataset]
    what = f"{titled(dataset)}, {measure}"
    if not ((rows["measure"] == measure) & (rows["by"] == by) & (rows["n"] >= FEWEST_PER_GROUP)).any():
        return f"{what}: no {'age band' if by == 'age' else by} has {FEWEST_PER_GROUP} faces, so none is named the worst."
    row = worst_group(rows, measure, by)
    whole = rows[(rows["measure"] == measure) & (rows["by"] == "all")].iloc[0]
    group = {"age": f"ages {row['group']}", "gender": f"{row['group']} faces", "race": f"faces labelled {row['group']}"}[by]
    named = group.replace("_", " ").replace("-", "–" if by == "age" else "-")
    measured = Estimate(*(row[name] for name in Estimate._fields))
    unit = " years" if whole["unit"] == "years" else ""
    return f"{what}: worst for {named}, {measured}, against {format_result(whole)}{unit} over all faces."


def compare_models(results: pd.DataFrame, plain: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The released models beside others, in long form: model, kind, column (of COMPARED), value, low, high, unit.

    kind is "ours", "plain" or "others"; values are shares 0-1 or years; only ours have low and high.
    """
    rows = []
    for column, (_, dataset, measure, unit) in COMPARED.items():
        mine = results[(results["dataset"] == dataset) & (results["measure"] == measure) & (results["by"] == "all")]
        rows += [(OURS, "ours", column, *row, unit) for row in mine[["value", "low", "high"]].itertuples(index=False)]
        for kind, table in (("plain", plain), ("others", others)):
            values = table[column] / (100 if unit == "share" else 1)
            rows += [
                (model, kind, column, value, np.nan, np.nan, unit)
                for model, value in zip(table["model"], values, strict=True)
            ]
    long = pd.DataFrame(rows, columns=["model", "kind", "column", "value", "low", "high", "unit"])
    place = {model: i for i, model in enumerate([OURS, *plain["model"], *others["model"]])}
    return long.sort_values("model", key=lambda names: names.map(place), kind="stable").reset_index(drop=True)


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """`beside` as a table of text: models down, COMPARED across."""
    texts = compared.assign(text=compared.apply(_measured, axis=1))
    table = texts.pivot(index="model", columns="column", values="text")
    table = table.reindex(index=list(dict.fromkeys(compared["model"])), columns=list(COMPARED)).fillna("–")
    titles = {column: title.replace("\n", " ") for column, (title, *_) in COMPARED.items()}
    return table.rename(columns=titles).rename_axis(index=None, columns=None)


def _measured(row) -> str:
    if row["unit"] == "share" or row["kind"] == "ours":
        return "–" if pd.isna(row["value"]) else format_result(row)
    return "–" if pd.isna(row["value"]) else f"{row['value']:g}"  # no more digits than were written down


class Unsure(NamedTuple):
    """share: of the answers that are called unsure; accuracy: of those; otherwise: of the others. 0-1, NaN of none."""

    share: float
    accuracy: float
    otherwise: float


def unsure(curve: pd.DataFrame, below: float) -> Unsure:
    """How many answers are less sure than `below`, and how right they are.

    curve: confidence, accuracy, n, as `calibrate.reliability` gives them. A range of confidence counts as a whole, by its
    mean: the figures are exact where `below` is the edge of a range, as in the released curves.
    """
    doubtful = (curve["confidence"] < below).to_numpy()
    n, right = curve["n"].to_numpy(float), (curve["accuracy"] * curve["n"]).to_numpy(float)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        accuracy, otherwise = (right[mask].sum() / n[mask].sum() for mask in (doubtful, ~doubtful))
    return Unsure(float(n[doubtful].sum() / n.sum()), float(accuracy), float(otherwise))


class Evaluation(NamedTuple):
    """Faces that the models were not trained on, and what the models say of them.

    table: a table of faces (n rows). faces: uint8 (n, size, size, 3), RGB. answers: by task, floats (n, 2) and (n, 101).
    results: rows as `assess` gives them.
    """

    table: pd.DataFrame
    faces: np.ndarray
    answers: dict[str, np.ndarray]
    results: pd.DataFrame


def evaluate_released(
    dataset: str, data: str | Path, models: dict[str, TrainedModel], cache: Path = config.CACHE, **options
) -> Evaluation:
    """What the released models say of a data set's test part.

    dataset, data, options: as of `datasets.place` and `datasets.load`. models: as of `load_released`. Raises what those
    raise.
    """
    folder = datasets.resolve_folder(dataset, data)
    table = datasets.load(dataset, folder, **options).table
    prepared = prepare(table, folder, models["gender"].alignment, cache)
    rows = np.flatnonzero(is_unseen(table, prepared.faces) & (prepared.how != ""))
    table, faces = table.iloc[rows].reset_index(drop=True), np.asarray(prepared.faces[rows])
    answers = {
        task: predict_probabilities(models[task].model, faces, np.arange(len(faces))).astype(float)
        for task in ("gender", "age")
    }
    answers = {task: said / said.sum(axis=1, keepdims=True) for task, said in answers.items()}
    results = evaluate_subgroups(
        table, answers["gender"], answers["age"], calibration_of(models["age"]), load_races(table, folder)
    )
    return Evaluation(table, faces, answers, results)


def is_unseen(table: pd.DataFrame, faces: np.ndarray) -> np.ndarray:
    """Which faces are in the test part; bool (n,). The first fold or, where a data set has none, the part that is drawn.

    Where nobody is named, a face with a near-duplicate is left out: its twin may have been trained on, since the released
    models' split puts such twins on one side, whichever that is. Twins in another data set are not looked for: UTKFace and
    FairFace have one pair, and no face of it is drawn here.
    """
    test = split(table, 0 if table["fold"].notna().any() else None) == "test"
    if table["subject"].isna().all():
        group = pd.Series(near_duplicates(faces))
        test &= (group.groupby(group).transform("size") == 1).to_numpy()
    return test


def unsure_share(judged: Evaluation, models: dict[str, TrainedModel]) -> dict[str, float]:
    """By task, the share of faces (0-1) whose answer `predict` would call unsure."""
    shares = {}
    for task, said in judged.answers.items():
        of_names = sum_to_groups(said, AGE_GROUPS["adience"]) if task == "age" else said
        confidence = prediction_confidence(of_names, ordered=task == "age")
        shares[task] = float((confidence < calibration_of(models[task]).unsure_below).mean())
    return shares


def most_confident_errors(judged: Evaluation, task: str, count: int = 8) -> pd.DataFrame:
    """The wrong answers that a model was surest of, surest first: row (in the table), truth, answer, confidence (0-1).

    Of a subject with several pictures the surest one alone; faces of no known subject are taken each.
    """
    groups = AGE_GROUPS[datasets.AGE_GROUPS_OF[judged.table["dataset"].iloc[0]]]
    names = GENDERS if task == "gender" else groups.names
    said = judged.answers[task] if task == "gender" else sum_to_groups(judged.answers[task], groups)
    labelled = task_labels(judged.table, task, groups).table
    rows, truth = labelled.index.to_numpy(), labelled["label"].to_numpy()
    best = decode(said[rows], ordered=task == "age")
    table = pd.DataFrame({"row": rows, "truth": truth, "answer": best, "confidence": said[rows, best]})
    table = table[table["truth"] != table["answer"]].sort_values("confidence", ascending=False, kind="stable")
    subject = judged.table["subject"].iloc[table["row"]]
    table = table[(subject.isna() | ~subject.duplicated()).to_numpy()].head(count)
    to_names = dict(enumerate(names))
    return table.assign(truth=table["truth"].map(to_names), answer=table["answer"].map(to_names)).reset_index(drop=True)


def failure_gallery(judged: Evaluation, count: int = 8) -> Figure:
    """The drawn faces that the models were surest of and wrong about, gender first, each with its truth and the answer.

    Raises ValueError for any other data set than the sample: no picture of a real person is shown.
    """
    others = set(judged.table["dataset"]) - {"sample"}
    if others:
        raise ValueError(f"only faces of the drawn sample are shown, got {min(others)}")
    wrong = pd.concat([most_confident_errors(judged, task, count) for task in ("gender", "age")])
    captions = [f"drawn {row.truth}\nsaid {row.answer}, {row.confidence:.0%}" for row in wrong.itertuples()]
    return plots.gallery(judged.faces[wrong["row"].to_numpy(int)], captions)
