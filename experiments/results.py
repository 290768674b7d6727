"""The figures of the released models: result files, tables and sentences made from them, and evaluation on any data set.

The result files are in docs/results. Notebook 6, the model card and the report read them here.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from experiments.result_plots import titled
from src import config
from src import data as datasets
from src.config import AGE_GROUPS, GENDERS
from src.data.table import split
from src.evaluation import plots
from src.evaluation.calibration import Calibration
from src.evaluation.metrics import Estimate, Unit, decode, format_number, prediction_confidence
from src.evaluation.subgroups import (
    FEWEST_PER_GROUP,
    RESULT_COLUMNS,
    Grouping,
    Metric,
    evaluate_subgroups,
    labelled_predictions,
    load_races,
    worst_group,
)
from src.faces.duplicates import near_duplicates
from src.faces.prepare import prepare
from src.models.model_folder import ModelFolderError, TrainedModel, load_model
from src.models.train import predict_probabilities
from src.models.two_level_cnn import layer_table

_RELEASE = "`python -m experiments.train_residual --data FOLDER --release` writes it"
_INCLUDED = "it is part of the repository"
_MEASURED_ELSEWHERE = (
    "model", "utkface_gender", "utkface_mae", "utkface_8_exact", "utkface_8_one_off", "fairface_gender", "fairface_9",
)  # fmt: skip
# By name: the columns that a result file must have, and where it comes from.
FILES = {
    "released_results": (RESULT_COLUMNS, _RELEASE),
    "released_reliability": (("dataset", "task", "confidence", "accuracy", "n"), _RELEASE),
    "released_coverage": (("dataset", "task", "coverage", "score"), _RELEASE),
    "released_history": (("epoch", "loss", "val_loss", "gender_accuracy", "absolute_error"), _RELEASE),
    "plain": (_MEASURED_ELSEWHERE, _INCLUDED),
    "others": ((*_MEASURED_ELSEWHERE, "utkface_n", "fairface_n"), _INCLUDED),
    "speed": (
        ("model", "batch", "way", "ms a face", "lowest", "highest", "MB"),
        "`python -m benchmarks.speed --csv docs/results/speed.csv` writes it",
    ),
}
# Columns of plain.csv and others.csv: title, our data set and measure to compare with, unit (shares are in per cent there).
COMPARISON = {
    "utkface_gender": ("UTKFace\ngender", "utkface", Metric.GENDER_ACCURACY, Unit.SHARE),
    "utkface_mae": ("UTKFace\nyears off", "utkface", Metric.ABSOLUTE_ERROR, Unit.YEARS),
    "utkface_8_exact": ("UTKFace\neight groups", "utkface", Metric.EIGHT_GROUPS_EXACT, Unit.SHARE),
    "utkface_8_one_off": ("UTKFace\none group off", "utkface", Metric.EIGHT_GROUPS_ONE_OFF, Unit.SHARE),
    "fairface_gender": ("FairFace\ngender", "fairface", Metric.GENDER_ACCURACY, Unit.SHARE),
    "fairface_9": ("FairFace\nnine ranges", "fairface", Metric.NINE_RANGES_EXACT, Unit.SHARE),
}
RELEASED_MODELS = "released models"  # their name in comparisons


class ResultsMissing(ValueError):
    """A result file is missing or incomplete. The message names the file and the command that writes it."""


def read_results(name: str, folder: str | Path = "", files: dict = FILES) -> pd.DataFrame:
    """Reads a result file.

    Args:
        name: Key in `files`: the file's name without its suffix.
        folder: Folder of the file; "" is docs/results.
        files: By name, the required columns and where the file comes from.

    Raises:
        ResultsMissing: The file is missing, has no rows, or lacks a column.
    """
    columns, source = files[name]
    file = Path(folder or config.RESULTS) / f"{name}.csv"
    if not file.is_file():
        raise ResultsMissing(f"{file.name} is missing in {file.parent}: {source}")
    table = pd.read_csv(file) if file.stat().st_size else pd.DataFrame()
    if table.empty or not set(columns) <= set(table):
        found = f"{len(table)} rows of {', '.join(table) or 'no columns'}"
        raise ResultsMissing(f"{file} must have rows with the columns {', '.join(columns)}, got {found}: {source}")
    return table


def markdown_table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table without its index. Missing cells are dashes; columns of numbers are right-aligned."""
    cells = frame.apply(lambda column: column.map(lambda cell: "–" if pd.isna(cell) else str(cell)))
    rules = ["---:" if pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in frame]
    rows = [[str(name).replace("\n", " ") for name in frame], rules, *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def format_result(row: pd.Series) -> str:
    """A row of results as "95.1% (94.3–95.8)", or "4.60 (4.41–4.79)" for years; without a missing interval."""
    value, low, high = (format_number(row[name], row["unit"]) for name in ("value", "low", "high"))
    value += "%" if row["unit"] == Unit.SHARE else ""
    return value if pd.isna(row["low"]) else f"{value} ({low}–{high})"


def overall_table(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of `subgroups.evaluate_subgroups` over all faces, as text: a row for each measure, a column for each data set."""
    rows = results[results["by"] == Grouping.ALL]
    texts = rows.assign(text=rows.apply(format_result, axis=1) + rows["unit"].map({Unit.YEARS: " years"}).fillna(""))
    table = texts.pivot(index="measure", columns="dataset", values="text").reindex(rows["measure"].unique())
    return table[rows["dataset"].unique()].rename(columns=titled).fillna("").rename_axis(columns=None)


def group_table(results: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The measures of one data set by group, as text: columns by, group, faces, then one for each measure."""
    rows = results[(results["dataset"] == dataset) & (results["by"] != Grouping.ALL)]
    rows = rows.assign(text=rows.apply(format_result, axis=1), faces=rows.groupby(["by", "group"])["n"].transform("max"))
    index = ["by", "group", "faces"]
    table = rows.pivot(index=index, columns="measure", values="text")[rows["measure"].unique()].fillna("")
    table = table.reindex(pd.MultiIndex.from_frame(rows[index].drop_duplicates())).reset_index()
    return table.assign(faces=table["faces"].map("{:,}".format)).rename_axis(columns=None)


def describe_worst_group(results: pd.DataFrame, dataset: str, measure: str, by: str) -> str:
    """One sentence that names the group with the worst value of a measure, beside the value over all faces."""
    rows = results[results["dataset"] == dataset]
    subject = f"{titled(dataset)}, {measure}"
    if not ((rows["measure"] == measure) & (rows["by"] == by) & (rows["n"] >= FEWEST_PER_GROUP)).any():
        return f"{subject}: no {'age band' if by == 'age' else by} has {FEWEST_PER_GROUP} faces, so no worst group is named."
    row = worst_group(rows, measure, by)
    overall = rows[(rows["measure"] == measure) & (rows["by"] == Grouping.ALL)].iloc[0]
    name = row["group"].replace("_", " ")
    name = {"age": f"ages {name.replace('-', '–')}", "gender": f"{name} faces", "race": f"faces labelled {name}"}[by]
    unit = " years" if overall["unit"] == Unit.YEARS else ""
    value = Estimate(*row[list(Estimate._fields)])
    return f"{subject}: worst for {name}, {value}, against {format_result(overall)}{unit} over all faces."


def compare_models(results: pd.DataFrame, plain: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The figures of released_results.csv, plain.csv and others.csv side by side.

    Returns:
        Columns model, kind ("ours", "plain" or "others"), column (a key of `COMPARISON`), value (a share 0-1 or years),
        low, high (only for ours, else NaN) and unit.
    """
    columns = pd.DataFrame(COMPARISON, ["title", "dataset", "measure", "unit"]).T.rename_axis("column").reset_index()
    ours = columns.merge(results[results["by"] == Grouping.ALL].drop(columns="unit"), on=["dataset", "measure"])
    theirs = pd.concat([plain.assign(kind="plain"), others.assign(kind="others")])
    theirs = theirs.melt(["model", "kind"], list(COMPARISON), "column").merge(columns, on="column")
    theirs["value"] /= theirs["unit"].map({Unit.SHARE: 100, Unit.YEARS: 1})
    compared = pd.concat([ours.assign(model=RELEASED_MODELS, kind="ours"), theirs], ignore_index=True)
    return compared[["model", "kind", "column", "value", "low", "high", "unit"]]


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """The frame of `compare_models` as text: a row for each model, a column for each entry of `COMPARISON`."""

    def text(row) -> str:
        if pd.isna(row["value"]):
            return "–"
        # Other models' years have only as many digits as were published.
        return f"{row['value']:g}" if row["unit"] == Unit.YEARS and row["kind"] != "ours" else format_result(row)

    table = compared.assign(text=compared.apply(text, axis=1)).pivot(index="model", columns="column", values="text")
    table = table.reindex(index=compared["model"].unique(), columns=list(COMPARISON)).fillna("–")
    titles = {column: title.replace("\n", " ") for column, (title, *_) in COMPARISON.items()}
    return table.rename(columns=titles).rename_axis(index=None, columns=None)


def speed_table(speed: pd.DataFrame) -> pd.DataFrame:
    """The frame of speed.csv as text: a row for each runtime, a column for each model and batch size, and the file size."""
    frame = speed.assign(column=speed["model"] + ", " + speed["batch"].astype(str) + " at once")
    table = frame.pivot(index="way", columns="column", values="ms a face")
    table = table.reindex(index=frame["way"].unique(), columns=frame["column"].unique())
    table["file, MB"] = frame.groupby("way")["MB"].min()
    table = table.map("{:.1f}".format, na_action="ignore").fillna("")
    return table.rename_axis("run by").rename_axis(columns=None).reset_index()


def unsure_accuracy(curve: pd.DataFrame, below: float) -> tuple[float, float, float]:
    """How many predictions are unsure, and how accurate they are.

    Args:
        curve: A row for each range of confidence, as `calibration.reliability` gives them.
        below: Predictions with a lower confidence are unsure; the edge of a range, as in the released curves.

    Returns:
        Shares 0-1: the unsure predictions, the correct ones among these, and among the others (NaN of none).
    """
    unsure, n = curve["confidence"] < below, curve["n"]
    accuracies = [(curve["accuracy"] * n)[mask].sum() / n[mask].sum() if mask.any() else np.nan for mask in (unsure, ~unsure)]
    return float(n[unsure].sum() / n.sum()), float(accuracies[0]), float(accuracies[1])


def load_released(gender: str | Path = "", age: str | Path = "") -> dict[str, TrainedModel]:
    """Loads both released models, by task.

    Args:
        gender: Model folder; "" is models/gender.
        age: Model folder; "" is models/age.

    Raises:
        ModelFolderError: A folder holds no model of the released kind: single years of age, a calibration, one alignment.
    """
    folders = {"gender": Path(gender or config.MODELS / "gender"), "age": Path(age or config.MODELS / "age")}
    models = {task: load_model(folder) for task, folder in folders.items()}
    for task, trained in models.items():
        if trained.labels.task != task:
            raise ModelFolderError(f"{folders[task]} must hold a {task} model, got a model for {trained.labels.task}")
        calibration_of(trained)
    if not models["age"].labels.single_years or not calibration_of(models["age"]).quantiles:
        raise ModelFolderError(f"{folders['age']} is not a released model: its classes must be the years 0 to 100")
    if models["gender"].alignment != models["age"].alignment:
        raise ModelFolderError("the gender model and the age model must have the same alignment on their cards")
    return models


def calibration_of(trained: TrainedModel) -> Calibration:
    """The calibration on a released model's card; ModelFolderError if the card has none."""
    if trained.calibration is None:
        raise ModelFolderError(f"the {trained.labels.task} model is not a released model: its card has no calibration")
    return trained.calibration


def layer_summary(trained: TrainedModel) -> pd.DataFrame:
    """The model's layers, each residual block as one row: level, layer, output (shape), parameters."""
    table = pd.DataFrame(layer_table(trained.model), columns=["level", "layer", "output", "parameters"])
    # Layers without a name of ours lead up to the next named layer and belong to its row.
    named = ~table["layer"].str.fullmatch(r"(conv2d|batch_normalization|re_lu|average_pooling2d|add)(_\d+)?")
    step = named[::-1].cumsum()[::-1]
    table["parameters"] = table.groupby(step)["parameters"].transform("sum")
    return table[named].reset_index(drop=True)


class Evaluation(NamedTuple):
    """Test faces with the predictions of the released models.

    table: A table of n faces.
    faces: uint8 (n, size, size, 3), RGB.
    probabilities: By task, floats (n, 2) and (n, 101).
    results: Rows as `subgroups.evaluate_subgroups` gives them.
    """

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]
    probabilities: dict[str, npt.NDArray[np.float64]]
    results: pd.DataFrame


def evaluate_released(
    dataset: str, data: str | Path, models: dict[str, TrainedModel], cache: Path = config.CACHE, **options
) -> Evaluation:
    """Evaluates the released models on the test part of a data set.

    Args:
        dataset, data, **options: As `src.data.resolve_folder` and `src.data.load` take them; they raise the same errors.
        models: As `load_released` gives them.
        cache: Folder for the aligned faces.
    """
    folder = datasets.resolve_folder(dataset, data)
    table = datasets.load(dataset, folder, **options).table
    prepared = prepare(table, folder, models["gender"].alignment, cache)
    rows = np.flatnonzero(is_unseen(table, prepared.faces) & (prepared.reason == ""))
    table, faces = table.iloc[rows].reset_index(drop=True), np.asarray(prepared.faces[rows])
    probabilities = {}
    for task in ("gender", "age"):
        found = predict_probabilities(models[task].model, faces, np.arange(len(faces))).astype(float)
        probabilities[task] = found / found.sum(axis=1, keepdims=True)  # float32 sums to one only roughly
    race = load_races(table, folder)
    results = evaluate_subgroups(table, probabilities["gender"], probabilities["age"], calibration_of(models["age"]), race)
    return Evaluation(table, faces, probabilities, results)


def is_unseen(table: pd.DataFrame, faces: np.ndarray) -> npt.NDArray[np.bool_]:
    """Which faces are in the test part: the first fold or, in a data set without folds, the part chosen by the hash.

    In a data set without identities, faces with a near-duplicate are left out: the released models may have been trained on
    the duplicate.
    """
    test = split(table, 0 if table["fold"].notna().any() else None) == "test"
    if table["subject"].isna().all():
        test &= ~pd.Series(near_duplicates(faces)).duplicated(keep=False).to_numpy()
    return test


def most_confident_errors(evaluation: Evaluation, task: str, count: int = 8) -> pd.DataFrame:
    """The wrong predictions with the highest confidence, highest first, at most one for each known subject.

    Returns:
        Up to `count` rows: row (in the table of faces), truth, prediction (names of classes) and confidence (0-1).
    """
    rows, truth, probability, ordered = labelled_predictions(evaluation.table, task, evaluation.probabilities[task])
    groups = AGE_GROUPS[datasets.AGE_GROUPS_OF[evaluation.table["dataset"].iloc[0]]]
    names = np.array(GENDERS if task == "gender" else groups.names)
    best, confidence = decode(probability, ordered), prediction_confidence(probability, ordered)
    table = pd.DataFrame({"row": rows, "truth": names[truth], "prediction": names[best], "confidence": confidence})
    table = table[best != truth].sort_values("confidence", ascending=False, kind="stable")
    subject = evaluation.table["subject"].iloc[table["row"]]
    return table[(subject.isna() | ~subject.duplicated()).to_numpy()].head(count).reset_index(drop=True)


def failure_gallery(evaluation: Evaluation, count: int = 8) -> Figure:
    """The drawn faces of `most_confident_errors`, gender first. ValueError for real photos, which are never shown."""
    others = set(evaluation.table["dataset"]) - {"sample"}
    if others:
        raise ValueError(f"only faces of the drawn sample are shown, got {min(others)}")
    wrong = pd.concat([most_confident_errors(evaluation, task, count) for task in ("gender", "age")])
    captions = [f"drawn {row.truth}\npredicted {row.prediction}\n{row.confidence:.0%}" for row in wrong.itertuples()]
    return plots.gallery(evaluation.faces[wrong["row"].to_numpy(int)], captions)
