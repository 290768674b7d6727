"""The whole experiment by one command: train on IMDB-WIKI first, then on Adience, tested on its five folds.

    python -m experiments.adience_benchmark --imdb-wiki FOLDER --adience FOLDER

Without folders, the drawn sample is used, at a small size.

Adience's folds share no subject (Levi and Hassner 2015). Gender, eight age groups and four are learnt apart, ages by both
readings of Adience's labels: `strict` (only the eight texts) and `mapped` (the 22 others too). Every training goes on
where it was stopped, a fold that is done is not done again, and other data or settings have other names in the cache.

Before it: `pictures`, `prepare`, `train`, `evaluate`. After it: notebook 7.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src import data as datasets
from src.config import AGE_GROUPS, CACHE, GENDERS, RESULTS, RUNS, SEED
from src.data import imdb_wiki
from src.data.table import split, task_labels
from src.evaluation.metrics import headline_metrics, mean_over_folds
from src.faces import image_quality
from src.faces.align import Alignment
from src.faces.prepare import prepare
from src.files import atomic_write, write_text
from src.keras_setup import keras
from src.models.train import TrainingSettings, fast_dtype, fit, predict_probabilities
from src.models.two_level_cnn import MIN_SIZE, level_one, two_level_cnn
from src.sample import draw

FOLDS = (0, 1, 2, 3, 4)
# Name of the experiment: its task, the age groups, how Adience's labels are read.
EXPERIMENTS = {
    "gender": ("gender", "adience", "mapped"),  # whose gender is known is the same in both readings
    "eight groups, strict": ("age", "adience", "strict"),
    "eight groups, mapped": ("age", "adience", "mapped"),
    "four groups, strict": ("age", "four", "strict"),
    "four groups, mapped": ("age", "four", "mapped"),
}


@dataclass(frozen=True)
class Plan:
    """Where the data lie and how is trained. first: on IMDB-WIKI; then: on Adience, more gently."""

    imdb_wiki: Path
    adience: Path
    alignment: Alignment = Alignment()
    first: TrainingSettings = TrainingSettings(epochs=20)
    then: TrainingSettings = TrainingSettings(epochs=12, learning_rate=3e-4)
    cache: Path = CACHE


class Faces(NamedTuple):
    """A table of faces with its prepared faces: row i of the table is faces[rows[i]]."""

    table: pd.DataFrame
    faces: np.ndarray
    rows: np.ndarray


def on_sample(epochs: int = 1, seed: int = SEED, cache: Path = CACHE) -> Plan:
    """A plan for the drawn sample, small enough for minutes; its figures say that the machinery works, nothing more."""
    folder = draw.draw_sample()
    settings = TrainingSettings(epochs=epochs, seed=seed)
    gentle = replace(settings, learning_rate=3e-4)
    return Plan(folder / "imdb_wiki", folder / "adience", Alignment(size=MIN_SIZE), settings, gentle, cache)


def plan_of(imdb_wiki: str = "", adience: str = "", seed: int = SEED, epochs: int = 1) -> Plan:
    """The plan for both folders or, where neither is named, for the sample with so many epochs; ValueError for one alone."""
    if not imdb_wiki and not adience:
        return on_sample(epochs, seed)
    if not (imdb_wiki and adience):
        raise ValueError("both folders are needed, IMDB-WIKI's and Adience's, or neither: the drawn sample")
    plan = Plan(Path(imdb_wiki), Path(adience))
    return replace(plan, first=replace(plan.first, seed=seed), then=replace(plan.then, seed=seed))


def run(
    plan: Plan,
    experiments: tuple[str, ...] = tuple(EXPERIMENTS),
    folds: tuple[int, ...] = FOLDS,
    told: Callable[[str], None] = print,
) -> dict[str, dict[int, pd.DataFrame]]:
    """The results of each experiment and fold: frames of `evaluate.headline`. told: is given a line for each that is done.

    Raises ValueError for an unknown experiment, and what the loaders raise.
    """
    unknown = [name for name in experiments if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"experiments must be among {'; '.join(EXPERIMENTS)}, got {unknown[0]!r}")
    celebrities, adience = load_imdb_wiki(plan), load_adience(plan)
    results, starts = {}, {}
    for name in experiments:
        task, groups, labels = EXPERIMENTS[name]
        starts[task] = starts.get(task) or pretrain(plan, celebrities, task)
        results[name] = {}
        for fold in folds:
            results[name][fold] = test_on(plan, adience[labels], starts[task], task, groups, fold)
            told(f"{name}, fold {fold}: {results[name][fold]['value'].iloc[0]:.1%}")
    return results


def load_imdb_wiki(plan: Plan) -> Faces:
    """IMDB-WIKI, cleaned by its metadata and by its pictures, and prepared."""
    loaded = imdb_wiki.load(plan.imdb_wiki)
    table = image_quality.drop_bad_images(
        loaded, image_quality.inspect_images(loaded.table, plan.imdb_wiki, plan.cache)
    ).table
    return _prepared(table, plan.imdb_wiki, plan)


def load_adience(plan: Plan) -> dict[str, Faces]:
    """Adience by both readings of its labels; the faces are prepared once."""
    tables = {labels: datasets.load("adience", plan.adience, labels=labels).table for labels in ("strict", "mapped")}
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
    """The network trained on IMDB-WIKI for a task, ages in eight groups; nine people in ten train, the rest validate."""
    table, rows, labels = _labelled(data, task, "adience")
    part = split(table)
    part[part == "test"] = "train"  # nothing is tested here: that is what Adience is for
    model = two_level_cnn(_classes(task, "adience"), plan.alignment.size, dtype=fast_dtype(), seed=plan.first.seed)
    return fit(model, data.faces, rows, labels, part, plan.first, states=plan.cache / "training")[0]


def test_on(plan: Plan, data: Faces, start: keras.Model, task: str, groups: str, fold: int) -> pd.DataFrame:
    """Trains on the other folds from where pretraining ended, and tests on this one; gives `evaluate.headline`'s frame."""
    table, rows, labels = _labelled(data, task, groups)
    part = split(table, fold)
    file = plan.cache / "protocol" / f"{_name(plan, start, table, data.faces[rows[:64]], task, groups, fold)}.csv"
    if not file.exists():
        size, dtype = plan.alignment.size, fast_dtype()
        first = level_one(size, dtype)
        first.set_weights(start.get_layer("level_one").get_weights())
        model = two_level_cnn(_classes(task, groups), size, first, dtype, plan.then.seed)
        model, _ = fit(model, data.faces, rows, labels, part, plan.then, states=plan.cache / "training")
        held = part == "test"
        found = headline_metrics(
            task, labels[held], predict_probabilities(model, data.faces, rows[held]), subjects=table["subject"][held]
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as new:
            found.to_csv(new)
    return pd.read_csv(file, index_col=0)


def _labelled(data: Faces, task: str, groups: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    table = task_labels(data.table, task, AGE_GROUPS[groups]).table
    return table, data.rows[table.index], table["label"].to_numpy()


def _classes(task: str, groups: str) -> int:
    return len(GENDERS) if task == "gender" else len(AGE_GROUPS[groups].names)


def _name(plan: Plan, start: keras.Model, table: pd.DataFrame, faces: np.ndarray, task: str, groups: str, fold: int) -> str:
    """Of a fold's result: changes with whatever the result depends on."""
    said = [task, groups, fold, asdict(plan.then), asdict(plan.alignment), keras.__version__, keras.backend.backend()]
    digest = hashlib.sha256(json.dumps(said).encode())
    digest.update(pd.util.hash_pandas_object(table.astype(str)).to_numpy().tobytes() + faces.tobytes())
    for weights in start.get_weights():
        digest.update(np.ascontiguousarray(weights))
    return digest.hexdigest()[:16]


def compare_with_published(results: dict[str, dict[int, pd.DataFrame]], drawn: bool = False) -> pd.DataFrame:
    """Published results and ours, mean ± standard deviation over folds, in per cent: one row a method.

    drawn: ours come from drawn pictures, and the row says so.
    """
    measures = {"gender": ("gender", "accuracy"), "eight_exact": ("eight groups", "accuracy")}
    measures |= {"eight_one_off": ("eight groups", "one-off accuracy"), "four_exact": ("four groups", "accuracy")}
    published = pd.read_csv(RESULTS / "published.csv", dtype=str, keep_default_na=False)
    ours = []
    for labels in ("strict", "mapped"):
        row = {"method": "this repository" + (" on drawn pictures: means nothing" if drawn else ""), "labels": labels}
        for column, (experiment, measure) in measures.items():
            name = experiment if experiment == "gender" else f"{experiment}, {labels}"
            if name in results:
                row[column] = mean_over_folds(results[name]).loc[measure, "text"].removesuffix("%")
        ours.append(row)
    names = {"method": "method", "labels": "labels", "gender": "gender", "eight_exact": "eight groups"}
    names |= {"eight_one_off": "one off", "four_exact": "four groups"}
    table = pd.concat([published, pd.DataFrame(ours)], ignore_index=True).reindex(columns=list(names))
    return table.fillna("").replace("", "–").rename(columns=names)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb-wiki", default="", help="the folder of IMDB-WIKI")
    parser.add_argument("--adience", default="", help="the folder of Adience")
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS), choices=FOLDS)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    drawn = not options.imdb_wiki
    try:
        plan = plan_of(options.imdb_wiki, options.adience, options.seed)
        results = run(plan, tuple(options.experiments), tuple(options.folds), lambda line: print(line, flush=True))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = compare_with_published(results, drawn)
    file = RUNS / ("sample" if drawn else "protocol") / "protocol.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, table.to_csv(index=False, lineterminator="\n"))
    print(table.to_string(index=False))
    print(
        f"written to {file}" + ("; drawn pictures: the figures say that the machinery works, nothing more" if drawn else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
