"""The Adience benchmark: pretrains on IMDB-WIKI, fine-tunes on Adience, and tests on Adience's five folds.

    python -m experiments.adience_benchmark --imdb-wiki FOLDER --adience FOLDER

Without folders, a small version runs on the drawn sample. Adience's folds share no subject (Levi and Hassner 2015). Gender,
eight age groups and four age groups are trained separately. Ages use two label sets of Adience: `strict` (only the eight
standard labels) and `mapped` (22 other labels as well). An interrupted run resumes.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src import data as datasets
from src.config import AGE_GROUPS, CACHE, GENDERS, RESULTS, RUNS, SEED
from src.data.table import split, task_labels
from src.evaluation.metrics import headline_metrics, mean_over_folds
from src.faces import image_quality
from src.faces.align import Alignment
from src.faces.prepare import prepare
from src.files import write_text
from src.keras_setup import keras
from src.models.train import TrainingSettings, fast_dtype, fit, predict_probabilities
from src.models.two_level_cnn import MIN_SIZE, level_one, two_level_cnn
from src.sample import draw

FOLDS = (0, 1, 2, 3, 4)
LABEL_SETS = ("strict", "mapped")  # values of the option `labels` of the loader
# Task, age groups and label set of each experiment. Genders are tested on "mapped", which has the same labels on more rows.
EXPERIMENTS = {
    "gender": ("gender", "adience", "mapped"),
    "eight groups, strict": ("age", "adience", "strict"),
    "eight groups, mapped": ("age", "adience", "mapped"),
    "four groups, strict": ("age", "four", "strict"),
    "four groups, mapped": ("age", "four", "mapped"),
}
# Columns of published.csv: title, experiment without its label set, metric.
COLUMNS = {
    "gender": ("gender", "gender", "accuracy"),
    "eight_exact": ("eight groups", "eight groups", "accuracy"),
    "eight_one_off": ("one off", "eight groups", "one-off accuracy"),
    "four_exact": ("four groups", "four groups", "accuracy"),
}


@dataclass(frozen=True)
class Plan:
    """Where the data sets are, and how to align and train; `is_sample` if the drawn sample replaces both data sets."""

    imdb_wiki: Path
    adience: Path
    alignment: Alignment
    pretraining: TrainingSettings
    finetuning: TrainingSettings
    cache: Path = CACHE
    is_sample: bool = False


class Faces(NamedTuple):
    """A table of m faces with their aligned faces: row i of the table belongs to faces[rows[i]]."""

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]  # (n, size, size, 3), RGB
    rows: npt.NDArray[np.int64]  # (m,)


def make_plan(imdb_wiki: str = "", adience: str = "", seed: int = SEED, epochs: int = 1, cache: Path = CACHE) -> Plan:
    """Returns the plan for both data sets or, without folders, for the drawn sample.

    Args:
        imdb_wiki: Folder of IMDB-WIKI.
        adience: Folder of Adience.
        seed: Seed of all trainings.
        epochs: Epochs on the sample; the real data sets have their own numbers.
        cache: Folder for aligned faces and training states.

    Raises:
        ValueError: Only one of the folders is given.
    """
    if bool(imdb_wiki) != bool(adience):
        raise ValueError("expected the folders of IMDB-WIKI and Adience, got only one: give both, or none for the sample")
    if imdb_wiki:
        pretraining = TrainingSettings(epochs=20, seed=seed)
        finetuning = TrainingSettings(epochs=12, seed=seed, learning_rate=3e-4)
        return Plan(Path(imdb_wiki), Path(adience), Alignment(), pretraining, finetuning, cache)
    pretraining = TrainingSettings(epochs=epochs, seed=seed)
    finetuning = TrainingSettings(epochs=epochs, seed=seed, learning_rate=3e-4)
    folder = draw.draw_sample()
    paths = folder / "imdb_wiki", folder / "adience"
    return Plan(*paths, Alignment(MIN_SIZE), pretraining, finetuning, cache, is_sample=True)


def run(
    plan: Plan, experiments: tuple[str, ...] = tuple(EXPERIMENTS), folds: tuple[int, ...] = FOLDS
) -> dict[str, dict[int, pd.DataFrame]]:
    """Runs experiments and prints a line for each fold.

    Args:
        plan: From `make_plan`.
        experiments: Keys of `EXPERIMENTS`.
        folds: The folds of Adience to test on, one at a time.

    Returns:
        For each experiment and fold, the table of `metrics.headline_metrics`.

    Raises:
        ValueError: An experiment is unknown, or a data set cannot be loaded or prepared.
        OSError: A folder is missing, or the cache cannot be written.
    """
    unknown = set(experiments) - set(EXPERIMENTS)
    if unknown:
        raise ValueError(f"experiments must be among {'; '.join(EXPERIMENTS)}, got {min(unknown)!r}")
    celebrities, adience = load_imdb_wiki(plan), load_adience(plan)
    tasks = dict.fromkeys(EXPERIMENTS[name][0] for name in experiments)
    pretrained = {task: pretrain(plan, celebrities, task) for task in tasks}
    results: dict[str, dict[int, pd.DataFrame]] = {name: {} for name in experiments}
    for name in experiments:
        task, groups, label_set = EXPERIMENTS[name]
        for fold in folds:
            results[name][fold] = evaluate_fold(plan, adience[label_set], pretrained[task], task, groups, fold)
            print(f"{name}, fold {fold}: {results[name][fold]['value'].iloc[0]:.1%}", flush=True)
    return results


def load_imdb_wiki(plan: Plan) -> Faces:
    """Loads IMDB-WIKI, cleaned by its metadata and by its images as in notebook 5, and aligns its faces."""
    loaded = image_quality.load_clean("imdb_wiki", plan.imdb_wiki, cache=plan.cache)
    return _prepared(loaded.table, plan.imdb_wiki, plan)


def load_adience(plan: Plan) -> dict[str, Faces]:
    """Loads Adience with each of `LABEL_SETS`; both share the aligned faces."""
    tables = {name: datasets.load("adience", plan.adience, labels=name).table for name in LABEL_SETS}
    mapped = _prepared(tables["mapped"], plan.adience, plan)  # has every row of "strict", and more
    rows = pd.Index(tables["mapped"]["path"]).get_indexer(tables["strict"]["path"])
    usable = np.isin(rows, mapped.rows)
    strict = Faces(tables["strict"][usable].reset_index(drop=True), mapped.faces, rows[usable])
    return {"strict": strict, "mapped": mapped}


def _prepared(table: pd.DataFrame, folder: Path, plan: Plan) -> Faces:
    """Aligns the faces of a table and drops the rows without one."""
    prepared = prepare(table, folder, plan.alignment, plan.cache)
    rows = np.flatnonzero(prepared.reason == "")
    return Faces(table.iloc[rows].reset_index(drop=True), prepared.faces, rows)


def pretrain(plan: Plan, data: Faces, task: str) -> keras.Model:
    """Trains the network for a task on IMDB-WIKI (eight age groups): 90% of people for training, 10% for validation."""
    table, rows, labels, classes = _labelled(data, task, "adience")
    splits = split(table)
    splits[splits == "test"] = "train"  # Adience is the test set
    model = two_level_cnn(classes, plan.alignment.size, dtype=fast_dtype(), seed=plan.pretraining.seed)
    return fit(model, data.faces, rows, labels, splits, plan.pretraining, checkpoint_folder=plan.cache / "training")[0]


def evaluate_fold(plan: Plan, data: Faces, pretrained: keras.Model, task: str, groups: str, fold: int) -> pd.DataFrame:
    """Fine-tunes a pretrained network on the other folds, with a new level two, and tests it on this fold.

    Args:
        plan: From `make_plan`.
        data: Adience with one of `LABEL_SETS`.
        pretrained: From `pretrain`; only its level one is used.
        task: "gender" or "age".
        groups: Key of `AGE_GROUPS`.
        fold: The test fold.

    Returns:
        The table of `metrics.headline_metrics`.
    """
    table, rows, labels, classes = _labelled(data, task, groups)
    splits, size, dtype = split(table, fold), plan.alignment.size, fast_dtype()
    first = level_one(size, dtype)
    first.set_weights(pretrained.get_layer("level_one").get_weights())
    model = two_level_cnn(classes, size, first, dtype, plan.finetuning.seed)
    model, _ = fit(model, data.faces, rows, labels, splits, plan.finetuning, checkpoint_folder=plan.cache / "training")
    test = splits == "test"
    probability = predict_probabilities(model, data.faces, rows[test])
    return headline_metrics(task, labels[test], probability, subjects=table["subject"][test])


def _labelled(data: Faces, task: str, groups: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, int]:
    """Returns the table, rows and labels of the faces with a label for the task, and the number of classes."""
    table = task_labels(data.table, task, AGE_GROUPS[groups]).table
    names = GENDERS if task == "gender" else AGE_GROUPS[groups].names
    return table, data.rows[table.index], table["label"].to_numpy(), len(names)


def compare_with_published(results: dict[str, dict[int, pd.DataFrame]], is_sample: bool = False) -> pd.DataFrame:
    """Returns published results and ours in per cent, one row per method; ours as mean ± standard deviation over folds.

    Args:
        results: From `run`.
        is_sample: Whether they are of the drawn sample.
    """
    rows = []
    method = "this repository" + (", drawn sample (not comparable)" if is_sample else "")
    for label_set in LABEL_SETS:
        row = {"method": method, "labels": label_set}
        for column, (_, experiment, measure) in COLUMNS.items():
            name = experiment if experiment == "gender" else f"{experiment}, {label_set}"
            if name in results:
                row[column] = mean_over_folds(results[name]).loc[measure, "text"].removesuffix("%")
        rows.append(row)
    published = pd.read_csv(RESULTS / "published.csv", dtype=str)
    table = pd.concat([published, pd.DataFrame(rows)], ignore_index=True).reindex(columns=["method", "labels", *COLUMNS])
    return table.fillna("–").rename(columns={column: title for column, (title, *_) in COLUMNS.items()})


def save_table(table: pd.DataFrame, is_sample: bool) -> Path:
    """Writes the table of `compare_with_published` to protocol.csv in runs/protocol or, for the sample, runs/sample."""
    file = RUNS / ("sample" if is_sample else "protocol") / "protocol.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, table.to_csv(index=False, lineterminator="\n"))
    return file


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb-wiki", default="", help="folder of IMDB-WIKI")
    parser.add_argument("--adience", default="", help="folder of Adience")
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS), choices=FOLDS)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    try:
        plan = make_plan(options.imdb_wiki, options.adience, options.seed)
        results = run(plan, tuple(options.experiments), tuple(options.folds))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = compare_with_published(results, plan.is_sample)
    print(table.to_string(index=False))
    print(f"wrote {save_table(table, plan.is_sample)}")
    if plan.is_sample:
        print("these results of the drawn sample only show that the code works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
