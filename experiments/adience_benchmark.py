"""The standard benchmark: pretrain on IMDB-WIKI, fine-tune on Adience, and test on Adience's five folds.

    python -m experiments.adience_benchmark --imdb-wiki FOLDER --adience FOLDER

Without folders, a small version runs on the drawn sample. Adience's folds share no subject (Levi and Hassner 2015). Gender,
eight age groups and four age groups are trained separately. Ages use two readings of Adience's labels: `strict` (only the
eight standard labels) and `mapped` (22 other labels as well). An interrupted run resumes in the cache.
"""

import argparse
import sys
from dataclasses import dataclass, replace
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
READINGS = ("strict", "mapped")
# Name of the experiment: its task, age groups and reading of the labels. Gender labels are the same in both readings.
EXPERIMENTS = {
    "gender": ("gender", "adience", "mapped"),
    "eight groups, strict": ("age", "adience", "strict"),
    "eight groups, mapped": ("age", "adience", "mapped"),
    "four groups, strict": ("age", "four", "strict"),
    "four groups, mapped": ("age", "four", "mapped"),
}
# Column of published.csv: title, experiment without the reading, measure.
COLUMNS = {
    "gender": ("gender", "gender", "accuracy"),
    "eight_exact": ("eight groups", "eight groups", "accuracy"),
    "eight_one_off": ("one off", "eight groups", "one-off accuracy"),
    "four_exact": ("four groups", "four groups", "accuracy"),
}


@dataclass(frozen=True)
class Plan:
    """Where the data sets are, and how to align and train. `is_sample`: the drawn sample stands in for both."""

    imdb_wiki: Path
    adience: Path
    alignment: Alignment
    pretraining: TrainingSettings
    finetuning: TrainingSettings
    cache: Path = CACHE
    is_sample: bool = False


class Faces(NamedTuple):
    """A table of faces with prepared faces, uint8 (n, size, size, 3): row i of the table is faces[rows[i]]."""

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]


def make_plan(imdb_wiki: str = "", adience: str = "", seed: int = SEED, epochs: int = 1, cache: Path = CACHE) -> Plan:
    """Plans the benchmark on both data sets or, without folders, on the drawn sample.

    Args:
        imdb_wiki: Folder of IMDB-WIKI.
        adience: Folder of Adience.
        seed: Seed of all trainings.
        epochs: Epochs on the sample; the real data sets have their own numbers.
        cache: Folder for prepared faces and training states.

    Raises:
        ValueError: Only one of the folders is given.
    """
    if bool(imdb_wiki) != bool(adience):
        raise ValueError("expected the folders of IMDB-WIKI and Adience, got only one: give both, or none for the sample")
    if imdb_wiki:
        pretraining, finetuning = TrainingSettings(epochs=20, seed=seed), TrainingSettings(epochs=12, seed=seed)
        plan = Plan(Path(imdb_wiki), Path(adience), Alignment(), pretraining, finetuning, cache)
    else:
        folder, settings = draw.draw_sample(), TrainingSettings(epochs=epochs, seed=seed)
        plan = Plan(folder / "imdb_wiki", folder / "adience", Alignment(MIN_SIZE), settings, settings, cache, is_sample=True)
    return replace(plan, finetuning=replace(plan.finetuning, learning_rate=3e-4))


def run(
    plan: Plan, experiments: tuple[str, ...] = tuple(EXPERIMENTS), folds: tuple[int, ...] = FOLDS
) -> dict[str, dict[int, pd.DataFrame]]:
    """Runs experiments and prints a line for each fold.

    Args:
        plan: As `make_plan` gives it.
        experiments: Keys of `EXPERIMENTS`.
        folds: The folds of Adience to test on, one after the other.

    Returns:
        For each experiment and fold, the frame of `metrics.headline_metrics`.

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
        task, groups, reading = EXPERIMENTS[name]
        for fold in folds:
            results[name][fold] = evaluate_fold(plan, adience[reading], pretrained[task], task, groups, fold)
            print(f"{name}, fold {fold}: {results[name][fold]['value'].iloc[0]:.1%}", flush=True)
    return results


def load_imdb_wiki(plan: Plan) -> Faces:
    """IMDB-WIKI, cleaned by its metadata and by its images as in notebook 5, and prepared."""
    loaded = image_quality.load_clean("imdb_wiki", plan.imdb_wiki, cache=plan.cache)
    return _prepared(loaded.table, plan.imdb_wiki, plan)


def load_adience(plan: Plan) -> dict[str, Faces]:
    """Adience by both readings of its labels; they share the prepared faces."""
    tables = {reading: datasets.load("adience", plan.adience, labels=reading).table for reading in READINGS}
    mapped = _prepared(tables["mapped"], plan.adience, plan)  # has every row of the strict reading, and more
    places = pd.Index(tables["mapped"]["path"]).get_indexer(tables["strict"]["path"])
    usable = np.isin(places, mapped.rows)
    strict = Faces(tables["strict"][usable].reset_index(drop=True), mapped.faces, places[usable])
    return {"strict": strict, "mapped": mapped}


def _prepared(table: pd.DataFrame, folder: Path, plan: Plan) -> Faces:
    prepared = prepare(table, folder, plan.alignment, plan.cache)
    rows = np.flatnonzero(prepared.reason == "")
    return Faces(table.iloc[rows].reset_index(drop=True), prepared.faces, rows)


def pretrain(plan: Plan, data: Faces, task: str) -> keras.Model:
    """Trains the network on IMDB-WIKI for a task, ages in eight groups: 90% of people for training, 10% for validation."""
    table, rows, labels, classes = _labelled(data, task, "adience")
    parts = split(table)
    parts[parts == "test"] = "train"  # Adience is the test set
    model = two_level_cnn(classes, plan.alignment.size, dtype=fast_dtype(), seed=plan.pretraining.seed)
    return fit(model, data.faces, rows, labels, parts, plan.pretraining, states=plan.cache / "training")[0]


def evaluate_fold(plan: Plan, data: Faces, start: keras.Model, task: str, groups: str, fold: int) -> pd.DataFrame:
    """Fine-tunes level one of the pretrained network on the other folds, with a new level two, and tests on this fold."""
    table, rows, labels, classes = _labelled(data, task, groups)
    parts, size, dtype = split(table, fold), plan.alignment.size, fast_dtype()
    first = level_one(size, dtype)
    first.set_weights(start.get_layer("level_one").get_weights())
    model = two_level_cnn(classes, size, first, dtype, plan.finetuning.seed)
    model, _ = fit(model, data.faces, rows, labels, parts, plan.finetuning, states=plan.cache / "training")
    test = parts == "test"
    probability = predict_probabilities(model, data.faces, rows[test])
    return headline_metrics(task, labels[test], probability, subjects=table["subject"][test])


def _labelled(data: Faces, task: str, groups: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, int]:
    """The faces with a label for the task: their table, rows and labels; then the number of classes."""
    table = task_labels(data.table, task, AGE_GROUPS[groups]).table
    names = GENDERS if task == "gender" else AGE_GROUPS[groups].names
    return table, data.rows[table.index], table["label"].to_numpy(), len(names)


def compare_with_published(results: dict[str, dict[int, pd.DataFrame]], is_sample: bool = False) -> pd.DataFrame:
    """Published results and ours in per cent, a row for each method; ours as mean ± standard deviation over the folds."""
    rows = []
    for reading in READINGS:
        row = {
            "method": "this repository" + (", drawn sample (not comparable)" if is_sample else ""),
            "labels": reading,
        }
        for column, (_, experiment, measure) in COLUMNS.items():
            name = experiment if experiment == "gender" else f"{experiment}, {reading}"
            if name in results:
                row[column] = mean_over_folds(results[name]).loc[measure, "text"].removesuffix("%")
        rows.append(row)
    published = pd.read_csv(RESULTS / "published.csv", dtype=str)
    table = pd.concat([published, pd.DataFrame(rows)], ignore_index=True).reindex(columns=["method", "labels", *COLUMNS])
    return table.fillna("–").rename(columns={column: title for column, (title, *_) in COLUMNS.items()})


def save_table(table: pd.DataFrame, is_sample: bool) -> Path:
    """Writes the frame of `compare_with_published` to protocol.csv in runs/protocol or, for the sample, runs/sample."""
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
        return 1
    table = compare_with_published(results, plan.is_sample)
    print(table.to_string(index=False))
    print(f"wrote {save_table(table, plan.is_sample)}")
    if plan.is_sample:
        print("these figures of the drawn sample show that the code works; they say nothing about people")
    return 0


if __name__ == "__main__":
    sys.exit(main())
