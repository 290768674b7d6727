"""The Adience benchmark: pretrains on IMDB-WIKI, fine-tunes on Adience, and tests on Adience's five folds.

    python -m experiments.adience_benchmark --imdb-wiki FOLDER --adience FOLDER

Without folders, a small version runs on the synthetic sample. Adience's folds share no subject (Levi and Hassner 2015).
Gender, eight age groups and four age groups are trained separately. Ages use two label sets of Adience: `strict` (only the
eight standard labels) and `mapped` (22 other labels as well). An interrupted run resumes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src import data as datasets
from src.config import AGE_GROUPS, CACHE, GENDERS, RESULTS, RUNS, SAMPLE_FACE_SIZE, SEED
from src.data.adience import LABEL_SETS
from src.data.table import split, task_labels
from src.evaluation.metrics import headline_metrics, mean_over_folds
from src.faces import image_quality
from src.faces.align import Alignment
from src.faces.prepare import prepare
from src.faces.training_set import TrainingSet
from src.files import write_text
from src.keras_setup import keras
from src.models.train import TrainingSettings, fast_dtype, fit, predict_probabilities
from src.models.two_level_cnn import level_one, two_level_cnn
from src.processes import run_command
from src.sample import draw

FOLDS = (0, 1, 2, 3, 4)
# Task, age groups and label set of each experiment. Genders are tested on "mapped" alone, because both label sets have the
# same genders.
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
    """Where the data sets are, and how to align and train. If `is_sample`, the synthetic sample replaces both data sets."""

    imdb_wiki: Path
    adience: Path
    alignment: Alignment
    pretraining: TrainingSettings
    finetuning: TrainingSettings
    cache: Path = CACHE
    is_sample: bool = False


def make_plan(imdb_wiki: str = "", adience: str = "", seed: int = SEED, epochs: int = 1) -> Plan:
    """Returns the plan for both data sets or, without folders, for the synthetic sample.

    Args:
        imdb_wiki: Folder of IMDB-WIKI.
        adience: Folder of Adience.
        seed: Seed of all trainings.
        epochs: Epochs on the sample; the real data sets have their own numbers.

    Raises:
        ValueError: Only one of the folders is given.
    """
    if bool(imdb_wiki) != bool(adience):
        raise ValueError("expected the folders of IMDB-WIKI and Adience, got only one: give both, or none for the sample")
    is_sample = not imdb_wiki
    if is_sample:
        sample = draw.draw_sample()
        imdb_wiki, adience = str(sample / "imdb_wiki"), str(sample / "adience")
    pretraining = TrainingSettings(epochs=epochs if is_sample else 20, seed=seed)
    finetuning = TrainingSettings(epochs=epochs if is_sample else 12, seed=seed, learning_rate=3e-4)
    alignment = Alignment(SAMPLE_FACE_SIZE) if is_sample else Alignment()
    return Plan(Path(imdb_wiki), Path(adience), alignment, pretraining, finetuning, is_sample=is_sample)


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
    celebrities, adience = _load_imdb_wiki(plan), load_adience(plan)
    tasks = dict.fromkeys(EXPERIMENTS[name][0] for name in experiments)
    pretrained = {task: _pretrain(plan, celebrities, task) for task in tasks}
    results: dict[str, dict[int, pd.DataFrame]] = {name: {} for name in experiments}
    for name in experiments:
        task, groups, label_set = EXPERIMENTS[name]
        for fold in folds:
            results[name][fold] = _evaluate_fold(plan, adience[label_set], pretrained[task], task, groups, fold)
            print(f"{name}, fold {fold}: {results[name][fold]['value'].iloc[0]:.1%}", flush=True)
    return results


def _load_imdb_wiki(plan: Plan) -> TrainingSet:
    """Loads IMDB-WIKI, cleaned by its metadata and by its images as in notebook 5, and aligns its faces."""
    loaded = image_quality.load_clean("imdb_wiki", plan.imdb_wiki, cache=plan.cache)
    return _aligned(loaded.table, plan.imdb_wiki, plan)


def load_adience(plan: Plan) -> dict[str, TrainingSet]:
    """Loads Adience with each of `LABEL_SETS`; both share the aligned faces. The tables have no labels for a task yet."""
    dataset = "sample" if plan.is_sample else "adience"
    strict, mapped = (datasets.load(dataset, plan.adience, labels=name).table for name in LABEL_SETS)
    aligned = _aligned(mapped, plan.adience, plan)
    strict.index = pd.Index(mapped["path"]).get_indexer(strict["path"])  # "mapped" has every row of "strict", and more
    return {"strict": TrainingSet(strict[strict.index.isin(aligned.rows)], aligned.faces), "mapped": aligned}


def _aligned(table: pd.DataFrame, folder: Path, plan: Plan) -> TrainingSet:
    """Aligns the faces of a table and drops the rows without one."""
    prepared = prepare(table, folder, plan.alignment, plan.cache)
    return TrainingSet(table[prepared.usable], prepared.faces)


def _pretrain(plan: Plan, data: TrainingSet, task: str) -> keras.Model:
    """Trains the network for a task on IMDB-WIKI (eight age groups): 90% of people for training, 10% for validation."""
    data = _labelled(data, task, "adience")
    splits = split(data.table)
    splits[splits == "test"] = "train"  # Adience is the test set
    size, settings = plan.alignment.size, plan.pretraining
    model = two_level_cnn(_class_count(task, "adience"), size, dtype=fast_dtype(), seed=settings.seed)
    return fit(model, data.faces, data.rows, data.labels, splits, settings, checkpoint_folder=plan.cache / "training")[0]


def _evaluate_fold(plan: Plan, data: TrainingSet, pretrained: keras.Model, task: str, groups: str, fold: int) -> pd.DataFrame:
    """Fine-tunes a pretrained level one on the other folds, with a new level two; returns `headline_metrics` of this fold."""
    data = _labelled(data, task, groups)
    splits, size, dtype = split(data.table, fold), plan.alignment.size, fast_dtype()
    first = level_one(size, dtype)
    first.set_weights(pretrained.get_layer("level_one").get_weights())
    model = two_level_cnn(_class_count(task, groups), size, first, dtype, plan.finetuning.seed)
    states = plan.cache / "training"
    model, _ = fit(model, data.faces, data.rows, data.labels, splits, plan.finetuning, checkpoint_folder=states)
    test = splits == "test"
    probability = predict_probabilities(model, data.faces, data.rows[test])
    return headline_metrics(task, data.labels[test], probability, subjects=data.table["subject"][test])


def _labelled(data: TrainingSet, task: str, groups: str) -> TrainingSet:
    """Selects the faces with a label for the task."""
    return TrainingSet(task_labels(data.table, task, AGE_GROUPS[groups]).table, data.faces)


def _class_count(task: str, groups: str) -> int:
    return len(GENDERS if task == "gender" else AGE_GROUPS[groups].names)


def compare_with_published(results: dict[str, dict[int, pd.DataFrame]], is_sample: bool = False) -> pd.DataFrame:
    """Returns published results and ours in per cent, one row per method; ours as mean ± standard deviation over folds.

    Args:
        results: From `run`.
        is_sample: Whether they are results of the synthetic sample.
    """
    rows = []
    method = "this repository" + (", synthetic sample (not comparable)" if is_sample else "")
    for label_set in LABEL_SETS:
        row = {"method": method, "labels": label_set}
        for column, (_, experiment, metric) in COLUMNS.items():
            name = experiment if experiment == "gender" else f"{experiment}, {label_set}"
            if name in results:
                row[column] = mean_over_folds(results[name]).loc[metric, "text"].removesuffix("%")
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb-wiki", default="", help="folder of IMDB-WIKI")
    parser.add_argument("--adience", default="", help="folder of Adience")
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS), choices=FOLDS)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    plan = make_plan(options.imdb_wiki, options.adience, options.seed)
    results = run(plan, tuple(options.experiments), tuple(options.folds))
    table = compare_with_published(results, plan.is_sample)
    print(table.to_string(index=False))
    print(f"wrote {save_table(table, plan.is_sample)}")
    if plan.is_sample:
        print("results on the synthetic sample only show that the code works")


if __name__ == "__main__":
    run_command(main)
