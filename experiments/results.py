"""Results of the released models: reads the files in docs/results, formats them, and evaluates the models on any data set.

Notebook 6, the model card and the report use this module.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from experiments.plots import dataset_title
from src import config
from src import data as datasets
from src.config import AGE_GROUPS, GENDERS
from src.data.table import split
from src.evaluation import plots
from src.evaluation.calibration import Calibration
from src.evaluation.metrics import Estimate, Unit, decode, format_number, prediction_confidence
from src.evaluation.subgroups import (
    MIN_GROUP_SIZE,
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
from src.models.model_folder import ModelFolderError, TrainedModel
from src.models.train import predict_probabilities
from src.models.two_level_cnn import layer_table
from src.predict.inference import load_models

# Columns of plain.csv and others.csv: title, data set and metric in our results, unit (shares are in per cent there).
COMPARISON = {
    "utkface_gender": ("UTKFace\ngender", "utkface", Metric.GENDER_ACCURACY, Unit.SHARE),
    "utkface_mae": ("UTKFace\nyears off", "utkface", Metric.ABSOLUTE_ERROR, Unit.YEARS),
    "utkface_8_exact": ("UTKFace\neight groups", "utkface", Metric.EIGHT_GROUPS_EXACT, Unit.SHARE),
    "utkface_8_one_off": ("UTKFace\none group off", "utkface", Metric.EIGHT_GROUPS_ONE_OFF, Unit.SHARE),
    "fairface_gender": ("FairFace\ngender", "fairface", Metric.GENDER_ACCURACY, Unit.SHARE),
    "fairface_9": ("FairFace\nnine ranges", "fairface", Metric.NINE_RANGES_EXACT, Unit.SHARE),
}
_RELEASE_COMMAND = "`python -m experiments.train_released --data FOLDER --release` writes it"
_INCLUDED = "it is part of the repository"
# The required columns and the source of each result file.
FILES = {
    "released_results": (RESULT_COLUMNS, _RELEASE_COMMAND),
    "released_reliability": (("dataset", "task", "confidence", "accuracy", "n"), _RELEASE_COMMAND),
    "released_coverage": (("dataset", "task", "coverage", "score"), _RELEASE_COMMAND),
    "released_history": (("epoch", "loss", "val_loss", "gender_accuracy", "absolute_error"), _RELEASE_COMMAND),
    "plain": (("model", *COMPARISON), _INCLUDED),
    "others": (("model", *COMPARISON, "utkface_n", "fairface_n"), _INCLUDED),
    "speed": (
        ("model", "batch", "runtime", "ms a face", "lowest", "highest", "MB"),
        "`python -m benchmarks.speed --csv docs/results/speed.csv` writes it",
    ),
}
RELEASED_MODELS = "released models"  # their name in comparisons
# Further values of the column `metric`: in held_out.csv, then in label_limits.csv.
NO_FACE_METRIC = "no face found"
OTHER_GENDER, YEARS_APART = "other gender", "years apart"


class ResultsMissingError(ValueError):
    """A result file is missing or incomplete. The message names the file and the command that writes it."""


def read_results(name: str, folder: str | Path = "", files: dict = FILES) -> pd.DataFrame:
    """Reads a result file.

    Args:
        name: Key in `files`: the file's name without its suffix.
        folder: Folder of the file; "" selects docs/results.
        files: By name, the required columns and where the file comes from.

    Raises:
        ResultsMissingError: The file is missing, has no rows, or lacks a column.
    """
    columns, source = files[name]
    file = Path(folder or config.RESULTS) / f"{name}.csv"
    if not file.is_file():
        raise ResultsMissingError(f"{file.name} is missing in {file.parent}: {source}")
    table = pd.read_csv(file) if file.stat().st_size else pd.DataFrame()
    if table.empty or not set(columns) <= set(table):
        found = f"{len(table)} rows of {', '.join(table) or 'no columns'}"
        raise ResultsMissingError(f"{file} must have rows with the columns {', '.join(columns)}, got {found}: {source}")
    return table


def markdown_table(frame: pd.DataFrame) -> str:
    """Returns a table as Markdown without its index. Missing cells are dashes; numeric columns are right-aligned."""
    cells = frame.apply(lambda column: column.map(lambda cell: "–" if pd.isna(cell) else str(cell)))
    rules = ["---:" if pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in frame]
    rows = [[str(name).replace("\n", " ") for name in frame], rules, *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def format_result(row: pd.Series) -> str:
    """Returns a row of results as "95.1% (94.3–95.8)", or "4.60 (4.41–4.79)" for years; without the interval if it is NaN."""
    value, low, high = (format_number(row[name], row["unit"]) for name in ("value", "low", "high"))
    value += "%" if row["unit"] == Unit.SHARE else ""
    return value if pd.isna(row["low"]) else f"{value} ({low}–{high})"


def overall_table(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the results over all faces as text, one row per metric and one column per data set.

    Args:
        results: Rows of `subgroups.evaluate_subgroups`.
    """
    rows = results[results["by"] == Grouping.ALL]
    texts = rows.assign(text=rows.apply(format_result, axis=1) + rows["unit"].map({Unit.YEARS: " years"}).fillna(""))
    table = texts.pivot(index="metric", columns="dataset", values="text").reindex(rows["metric"].unique())
    return table[rows["dataset"].unique()].rename(columns=dataset_title).fillna("").rename_axis(columns=None)


def group_table(results: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Returns the results of one data set by group as text, with the columns by, group, faces, then one per metric."""
    rows = results[(results["dataset"] == dataset) & (results["by"] != Grouping.ALL)]
    rows = rows.assign(text=rows.apply(format_result, axis=1), faces=rows.groupby(["by", "group"])["n"].transform("max"))
    index = ["by", "group", "faces"]
    table = rows.pivot(index=index, columns="metric", values="text")[rows["metric"].unique()].fillna("")
    table = table.reindex(pd.MultiIndex.from_frame(rows[index].drop_duplicates())).reset_index()
    return table.assign(faces=table["faces"].map("{:,}".format)).rename_axis(columns=None)


def describe_worst_group(results: pd.DataFrame, dataset: str, metric: str, by: str) -> str:
    """Returns a sentence on the group with the worst value of a metric and the value over all faces.

    Args:
        results: Rows of `subgroups.evaluate_subgroups`.
        dataset: Name of the data set.
        metric: A `Metric`.
        by: The `Grouping` of the group, not ALL.
    """
    rows = results[results["dataset"] == dataset]
    subject = f"{dataset_title(dataset)}, {metric}"
    try:
        row = worst_group(rows, metric, by)
    except ValueError:
        return f"{subject}: no {'age band' if by == 'age' else by} has {MIN_GROUP_SIZE} faces, so no worst group is named."
    overall = rows[(rows["metric"] == metric) & (rows["by"] == Grouping.ALL)].iloc[0]
    name = row["group"].replace("_", " ")
    name = {"age": f"ages {name.replace('-', '–')}", "gender": f"{name} faces", "race": f"faces labelled {name}"}[by]
    unit = " years" if overall["unit"] == Unit.YEARS else ""
    value = Estimate(*row[list(Estimate._fields)])
    return f"{subject}: worst for {name}, {value}, against {format_result(overall)}{unit} over all faces."


def join_comparisons(results: pd.DataFrame, plain: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Joins released_results.csv, plain.csv and others.csv for a comparison.

    Returns:
        Columns model, kind ("ours", "plain" or "others"), column (a key of `COMPARISON`), value (a share 0-1 or years),
        low, high (only for ours, else NaN) and unit.
    """
    columns = pd.DataFrame(COMPARISON, ["title", "dataset", "metric", "unit"]).T.rename_axis("column").reset_index()
    ours = columns.merge(results[results["by"] == Grouping.ALL].drop(columns="unit"), on=["dataset", "metric"])
    theirs = pd.concat([plain.assign(kind="plain"), others.assign(kind="others")])
    theirs = theirs.melt(["model", "kind"], list(COMPARISON), "column").merge(columns, on="column")
    theirs["value"] /= theirs["unit"].map({Unit.SHARE: 100, Unit.YEARS: 1})
    compared = pd.concat([ours.assign(model=RELEASED_MODELS, kind="ours"), theirs], ignore_index=True)
    return compared[["model", "kind", "column", "value", "low", "high", "unit"]]


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Returns the table of `join_comparisons` as text, one row per model and one column per entry of `COMPARISON`."""

    def text(row) -> str:
        if pd.isna(row["value"]):
            return "–"
        # The years of other models keep the number of published digits.
        return f"{row['value']:g}" if row["unit"] == Unit.YEARS and row["kind"] != "ours" else format_result(row)

    table = compared.assign(text=compared.apply(text, axis=1)).pivot(index="model", columns="column", values="text")
    table = table.reindex(index=compared["model"].unique(), columns=list(COMPARISON)).fillna("–")
    titles = {column: title.replace("\n", " ") for column, (title, *_) in COMPARISON.items()}
    return table.rename(columns=titles).rename_axis(index=None, columns=None)


def speed_table(speed: pd.DataFrame) -> pd.DataFrame:
    """Returns speed.csv as text, one row per runtime, one column per model and batch size, and the file size."""
    frame = speed.assign(column=speed["model"] + ", " + speed["batch"].astype(str) + " at once")
    table = frame.pivot(index="runtime", columns="column", values="ms a face")
    table = table.reindex(index=frame["runtime"].unique(), columns=frame["column"].unique())
    table["file, MB"] = frame.groupby("runtime")["MB"].min()
    table = table.map("{:.1f}".format, na_action="ignore").fillna("")
    return table.rename_axis("run by").rename_axis(columns=None).reset_index()


def unsure_accuracy(curve: pd.DataFrame, below: float) -> tuple[float, float, float]:
    """Returns how many predictions are unsure, and how accurate they are.

    Args:
        curve: One row per range of confidence, from `calibration.reliability`.
        below: Predictions with a lower confidence are unsure; it must be the edge of a range.

    Returns:
        Shares 0-1: of unsure predictions, of correct ones among these, and of correct ones among the others (NaN if none).
    """
    unsure, n = curve["confidence"] < below, curve["n"]
    accuracies = [(curve["accuracy"] * n)[mask].sum() / n[mask].sum() if mask.any() else np.nan for mask in (unsure, ~unsure)]
    return float(n[unsure].sum() / n.sum()), float(accuracies[0]), float(accuracies[1])


def load_released(gender: str | Path = "", age: str | Path = "") -> dict[str, TrainedModel]:
    """Loads both released models, by task.

    Args:
        gender: Model folder; "" selects models/gender.
        age: Model folder; "" selects models/age.

    Raises:
        ModelFolderError: A folder cannot be used, or its model is not of the released kind: single years of age, a
            calibration, the same alignment for both.
    """
    models = load_models(gender or config.MODELS / "gender", age or config.MODELS / "age").trained
    calibrations = {task: calibration_of(trained) for task, trained in models.items()}
    if not models["age"].labels.single_years or not calibrations["age"].quantiles:
        raise ModelFolderError("the age model is not a released model: its classes must be the years 0 to 100")
    if models["gender"].alignment != models["age"].alignment:
        raise ModelFolderError("the gender model and the age model must have the same alignment on their cards")
    return models


def calibration_of(trained: TrainedModel) -> Calibration:
    """Returns the calibration on a released model's card; ModelFolderError if the card has none."""
    if trained.calibration is None:
        raise ModelFolderError(f"the {trained.labels.task} model is not a released model: its card has no calibration")
    return trained.calibration


def layer_summary(trained: TrainedModel) -> pd.DataFrame:
    """Returns the model's layers with the columns level, layer, output (shape) and parameters; one row per block."""
    table = pd.DataFrame(layer_table(trained.model), columns=["level", "layer", "output", "parameters"])
    # Each hidden row, a depthwise convolution or an activation of MobileNet, is added to the next shown row.
    is_shown = ~table["layer"].str.fullmatch(r"depthwise_\d+|\w+_activation")
    step = is_shown[::-1].cumsum()[::-1]
    table["parameters"] = table.groupby(step)["parameters"].transform("sum")
    table["layer"] = table["layer"].str.replace("pointwise_", "block_")
    return table[is_shown].reset_index(drop=True)


class Evaluation(NamedTuple):
    """Test faces with the predictions of the released models.

    Attributes:
        table: A table of n faces.
        faces: uint8 (n, size, size, 3), RGB.
        probabilities: By task, floats (n, 2) and (n, 101).
        results: Rows of `subgroups.evaluate_subgroups`.
    """

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]
    probabilities: dict[str, npt.NDArray[np.float64]]
    results: pd.DataFrame


def evaluate_released(
    dataset: str, folder: str | Path, models: dict[str, TrainedModel], cache: Path = config.CACHE, **options
) -> Evaluation:
    """Evaluates the released models on the test faces of a data set.

    Args:
        dataset: Name of the data set.
        folder: Its folder; see `src.data.resolve_folder`.
        models: From `load_released`.
        cache: Folder for the aligned faces.
        **options: Options of the data set's loader; see `src.data.load`.
    """
    folder = datasets.resolve_folder(dataset, folder)
    table = datasets.load(dataset, folder, **options).table
    prepared = prepare(table, folder, models["gender"].alignment, cache)
    rows = np.flatnonzero(test_mask(table, prepared.faces) & prepared.usable)
    table, faces = table.iloc[rows].reset_index(drop=True), np.asarray(prepared.faces[rows])
    probabilities = {}
    for task in ("gender", "age"):
        predicted = predict_probabilities(models[task].model, faces, np.arange(len(faces))).astype(float)
        probabilities[task] = predicted / predicted.sum(axis=1, keepdims=True)  # sums of float32 differ a little from 1
    race = load_races(table, folder)
    results = evaluate_subgroups(table, probabilities["gender"], probabilities["age"], calibration_of(models["age"]), race)
    return Evaluation(table, faces, probabilities, results)


def test_mask(table: pd.DataFrame, faces: np.ndarray) -> npt.NDArray[np.bool_]:
    """Returns a mask of the test faces (n,): fold 0 or, in a data set without folds, the test split of `table.split`.

    In a data set without identities, faces with a near-duplicate in it are excluded, because the released models may have
    been trained on the duplicate.
    """
    test = split(table, 0 if table["fold"].notna().any() else None) == "test"
    if table["subject"].isna().all():
        test &= ~pd.Series(near_duplicates(faces)).duplicated(keep=False).to_numpy()
    return test


def most_confident_errors(evaluation: Evaluation, task: str) -> pd.DataFrame:
    """Returns the eight wrong predictions with the highest confidence, highest first, at most one per known subject.

    Returns:
        Up to eight rows: row (in the table of faces), truth, prediction (names of classes) and confidence (0-1).
    """
    rows, truth, probability, ordered = labelled_predictions(evaluation.table, task, evaluation.probabilities[task])
    groups = AGE_GROUPS[datasets.AGE_GROUPS_OF[evaluation.table["dataset"].iloc[0]]]
    names = np.array(GENDERS if task == "gender" else groups.names)
    best, confidence = decode(probability, ordered), prediction_confidence(probability, ordered)
    table = pd.DataFrame({"row": rows, "truth": names[truth], "prediction": names[best], "confidence": confidence})
    table = table[best != truth].sort_values("confidence", ascending=False, kind="stable")
    subject = evaluation.table["subject"].iloc[table["row"]]
    return table[(subject.isna() | ~subject.duplicated()).to_numpy()].head(8).reset_index(drop=True)


def failure_gallery(evaluation: Evaluation) -> Figure:
    """Draws the faces of `most_confident_errors`, gender first. ValueError for photos of people, which are never shown."""
    others = set(evaluation.table["dataset"]) - {"sample"}
    if others:
        raise ValueError(f"only faces of the synthetic sample are shown, got {min(others)}")
    wrong = pd.concat([most_confident_errors(evaluation, task) for task in ("gender", "age")])
    captions = [f"labelled {row.truth}\npredicted {row.prediction}\n{row.confidence:.0%}" for row in wrong.itertuples()]
    return plots.gallery(evaluation.faces[wrong["row"].to_numpy(int)], captions)
