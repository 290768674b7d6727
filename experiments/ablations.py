"""What each choice in the training of the released models is worth: short trainings that differ in one thing.

    python -m experiments.ablations DATA [--runs FOLDER] [--seeds 1 2] [--only NAME ...] [--csv FILE] [--faces N]

DATA holds UTKFace/ and FairFace/, as for `python -m experiments.released`; the faces and the teacher's answers that it keeps
under
--runs are used again, or made. Every training sees the same quarter of the training faces at 96 pixels, and is judged on
the validation faces, by which its best epoch is chosen too. The test part is not touched. Prints each variant's figures and
their paired differences to the variant it is compared with, both with 95% bootstrap intervals over faces; how much two
trainings differ by chance, only several seeds show. What is in the CSV file already is not done again.

The teacher's answers come from faces aligned by the eyes, also where the network learns from other pictures.
"""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.special import softmax
from tqdm.auto import tqdm

from experiments.released import (
    ALIGNMENT,
    INNER,
    METRICS,
    STUDENT,
    Data,
    joint_probabilities,
    load_data,
    log_epoch,
    teacher_targets,
)
from src.config import AGE_GROUPS, CACHE, SEED, YEARS
from src.data import AGE_GROUPS_OF
from src.data.table import exact_years, task_labels
from src.evaluation import metrics
from src.evaluation.calibration import sum_to_groups
from src.faces import align as face_tools
from src.faces.image_io import read_photo
from src.files import atomic_write, write_text
from src.keras_setup import keras, ops
from src.models.multitask import (
    LOGITS,
    TEACHER_WEIGHT,
    UNKNOWN,
    add_task_heads,
    distillation_loss,
    multitask_labels,
    multitask_loss,
)
from src.models.train import fast_dtype, fit, predict_probabilities
from src.models.two_level_cnn import level_one, residual_level_one

CHILD = 12  # years, and younger
RELEASED, UNTAUGHT = "as released", "no teacher"
SPOILT = dict.fromkeys(("grey", "coarse", "erased"), 0.0)
MOVED = dict.fromkeys(("rotation", "zoom", "shift", "brightness"), 0.0)
DIFFERENCE = ("difference", "difference_low", "difference_high")  # to the variant named by `against`, of the same seed
COLUMNS = (
    "variant", "seed", "dataset", "measure", *metrics.Estimate._fields, "seconds", "against", *DIFFERENCE, "faces", "epochs",
)  # fmt: skip


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def probabilities_loss(labels, outputs):
    """`taught_loss` without the descriptor: labels (n, 234), outputs (n, 103)."""
    return distillation_loss(labels, ops.concatenate([outputs, labels[:, 3 + LOGITS :]], axis=1))  # told right: costs nothing


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def descriptor_loss(labels, outputs):
    """`taught_loss` without the teacher's probabilities: labels (n, 234), outputs (n, 231)."""
    away = ops.mean(ops.square(outputs[:, LOGITS:] - labels[:, 3 + LOGITS :]), axis=1)
    return multitask_loss(labels, outputs) + away


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def soft_ends_loss(labels, outputs):
    """`joint_loss` with an age range that reaches softly over its ends: labels (n, 3 or more), outputs (n, 103)."""
    low, high = labels[:, 1:2], labels[:, 2:3]
    years = ops.arange(YEARS, dtype="float32")[None]
    outside = ops.maximum(ops.maximum(low - years, years - high), 0.0)
    within = ops.log_softmax(outputs[:, 2:LOGITS], axis=1) - 0.5 * ops.square(outside / SOFT_EDGE)
    of_age = ops.where(low > UNKNOWN, -ops.logsumexp(within, axis=1, keepdims=True), 0.0)[:, 0]
    return multitask_loss(_gender_alone(labels), outputs) + of_age


@keras.saving.register_keras_serializable("age_and_gender_ablations")
def children_loss(labels, outputs):
    """`taught_loss` in which the label of a child's gender counts three times as much: labels (n, 234), outputs (n, 231)."""
    child = ops.logical_and(labels[:, 2] > UNKNOWN, labels[:, 2] <= CHILD)
    of_gender = multitask_loss(_gender_alone(labels), outputs)
    return distillation_loss(labels, outputs) + 2 * (1 - TEACHER_WEIGHT) * ops.where(child, of_gender, 0.0)


SOFT_EDGE = 1.5  # years: how softly a range ends, in the variant that reaches over its ends


def _gender_alone(labels):
    return ops.concatenate([labels[:, :1], ops.full_like(labels[:, 1:3], UNKNOWN)], axis=1)


@dataclass(frozen=True)
class Variant:
    """A training. against: the variant that it differs from in one thing. unknown: labels it goes without. settings: of
    `train.Settings`. pictures: how its faces are made, see `pictures`. mirror: answers for the mirror image count too."""

    against: str = RELEASED
    loss: Callable = distillation_loss
    unknown: str = ""  # "gender", "age" or, of the ages, "ranges"
    only: str = ""  # the data set whose faces alone it learns from
    settings: dict = field(default_factory=dict)
    plain: bool = False  # the level one of four convolutions
    pictures: str = "eyes"
    mirror: bool = False


# What others are compared with comes before them.
VARIANTS = {
    RELEASED: Variant(against=""),
    UNTAUGHT: Variant(loss=multitask_loss),
    "answers with mirror image": Variant(mirror=True),
    "no alignment": Variant(pictures="whole"),
    "alignment on 68 landmarks": Variant(pictures="shape"),
    "adaptive gamma": Variant(pictures="gamma"),
    "denoised": Variant(pictures="denoised"),
    "teacher without descriptor": Variant(loss=probabilities_loss),
    "teacher without probabilities": Variant(loss=descriptor_loss),
    "children weighted": Variant(loss=children_loss),
    "no grey, coarse, erased": Variant(settings=SPOILT),
    "no augmentation but mirror": Variant(settings=SPOILT | MOVED),
    "gender alone": Variant(UNTAUGHT, multitask_loss, unknown="age"),
    "age alone": Variant(UNTAUGHT, multitask_loss, unknown="gender"),
    "only UTKFace": Variant(UNTAUGHT, multitask_loss, only="utkface"),
    "only FairFace": Variant(UNTAUGHT, multitask_loss, only="fairface"),
    "exact ages only": Variant(UNTAUGHT, multitask_loss, unknown="ranges"),
    "ranges with soft ends": Variant(UNTAUGHT, soft_ends_loss),
    "plain level one": Variant(plain=True),
}


class Work(NamedTuple):
    """What all variants share. rows: of the data's faces, those used, int (m,); labels, part, paths: theirs."""

    data: Data
    rows: np.ndarray
    labels: np.ndarray
    part: np.ndarray
    paths: list[Path]
    folder: Path  # for what is kept
    epochs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=CACHE, help="where steps are kept (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED], help="one training each (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of: {'; '.join(VARIANTS)}")
    parser.add_argument("--csv", type=Path, help="results so far, and those to come (default: in --runs)")
    parser.add_argument("--faces", type=int, help="training faces, and at most as many to judge on (default: a quarter)")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    strange = set(options.only or ()) - set(VARIANTS)
    if strange:
        parser.error(f"no variant is called {sorted(strange)[0]!r}; there are: {'; '.join(VARIANTS)}")
    work = gathered(options.data, options.runs, options.faces, options.epochs)
    size = {"faces": int((work.part == "train").sum()), "epochs": options.epochs}
    csv = options.csv or work.folder / f"ablations-{options.epochs}.csv"
    results = pd.read_csv(csv) if csv.exists() else pd.DataFrame(columns=list(COLUMNS))
    if any((results[name] != value).any() for name, value in size.items()):
        parser.error(f"{csv} is of trainings of another size than {size}: choose another file")
    print(size | {"judged on": int((work.part == "validation").sum())}, flush=True)
    wanted = set(options.only or VARIANTS)
    wanted |= {VARIANTS[name].against for name in wanted}
    for seed in options.seeds:
        for name in VARIANTS:
            if name not in wanted or ((results["variant"] == name) & (results["seed"] == seed)).any():
                continue
            print(f"{name}, seed {seed}", flush=True)
            rows = judged(name, seed, work).assign(**size)[list(COLUMNS)]
            results = pd.concat([results, rows], ignore_index=True) if len(results) else rows
            write_text(csv, results.round(5).to_csv(index=False, lineterminator="\n"))
            keras.backend.clear_session()
    print(shown(results))


def gathered(folder: Path, runs: Path, count: int | None, epochs: int) -> Work:
    """Draws the faces, and gives them with their labels and the teacher's answers."""
    data = load_data(folder, runs)
    taught = teacher_targets(data, SEED, runs)
    rng = np.random.default_rng(SEED)
    training, held = (rng.permutation(np.flatnonzero(data.part == name)) for name in ("train", "validation"))
    count = count or len(training) // 4
    rows = np.sort(np.concatenate([training[:count], held[:count]]))
    table = data.table.iloc[rows]
    name = hashlib.sha256("\n".join(table["path"]).encode()).hexdigest()[:12]
    paths = [folder / path for path in table["path"]]
    kept = runs / "ablations" / name
    kept.mkdir(parents=True, exist_ok=True)
    return Work(data, rows, multitask_labels(table, taught[rows]), data.part[rows], paths, kept, epochs)


def judged(name: str, seed: int, work: Work) -> pd.DataFrame:
    """Trains a variant and judges it: a row for each measure of each data set. The faces' scores are kept."""
    variant = VARIANTS[name]
    model, seconds, faces, rows = trained(RELEASED if variant.mirror else name, seed, work)
    held = work.part == "validation"
    if variant.mirror:
        said, seconds = joint_probabilities(model, faces, rows[held]), 0.0
    else:
        logits = predict_probabilities(model, faces, rows[held])
        said = np.hstack([softmax(logits[:, :2], axis=1), softmax(logits[:, 2:LOGITS], axis=1)])
    table = work.data.table.iloc[work.rows[held]].reset_index(drop=True)
    mine = scores(table, said[:, :2], said[:, 2:])
    mine = mine[[column for column in mine if variant.unknown != ("gender" if "gender" in column else "age")]]
    mine.to_csv(_scores_file(name, seed, work), index=False)
    other = _scores_file(variant.against, seed, work)
    theirs = pd.read_csv(other) if variant.against and other.exists() else None
    measured = with_differences(mine, theirs, table["subject"].to_numpy(object))
    return measured.assign(variant=name, seed=seed, seconds=seconds, against=variant.against)


def _scores_file(name: str, seed: int, work: Work) -> Path:
    return work.folder / f"scores-{work.epochs}-{seed}-{_dashed(name)}.csv"


def _dashed(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def trained(name: str, seed: int, work: Work) -> tuple[keras.Model, float, np.ndarray, np.ndarray]:
    """The network of a variant, the seconds of its training, and its faces: an array and the rows of it."""
    variant = VARIANTS[name]
    faces, rows = work.data.faces, work.rows
    if variant.pictures != "eyes":
        faces, rows = pictures(variant.pictures, work), np.arange(len(work.rows))
    size = ALIGNMENT.size
    make = level_one if variant.plain else partial(residual_level_one, inner=INNER)
    first = make(size, dtype=fast_dtype(), seed=seed)
    model = add_task_heads(first, taught=variant.loss in (distillation_loss, descriptor_loss, children_loss), seed=seed)
    settings = replace(STUDENT, epochs=work.epochs, seed=seed, **variant.settings)
    labels = without(work.labels, variant.unknown)
    of_others = bool(variant.only) & (work.data.table["dataset"].iloc[work.rows] != variant.only).to_numpy(bool)
    part = np.where(of_others, "test", work.part)  # which is not looked at
    model, history = fit(
        model, faces, rows, labels, part, settings, log_epoch, work.folder / "training", variant.loss, METRICS
    )
    return model, float(history["seconds"].sum()), faces, rows


def without(labels: np.ndarray, what: str) -> np.ndarray:
    """Labels with those of "gender", of "age", or of the "ranges" of age unknown."""
    labels = labels.copy()
    if what == "gender":
        labels[:, 0] = UNKNOWN
    elif what:
        labels[(labels[:, 1] < labels[:, 2]) | (what == "age"), 1:3] = UNKNOWN
    return labels


def scores(table: pd.DataFrame, gender: np.ndarray, age: np.ndarray) -> pd.DataFrame:
    """Each face's score by each measure, a column each named "dataset measure"; NaN where there is no label for it."""
    found = {}
    for name, rows in table.groupby("dataset", sort=False):
        groups = AGE_GROUPS[AGE_GROUPS_OF[name]]
        truth = task_labels(rows, "gender").table["label"]
        right = pd.Series(metrics.exact_match(truth, gender[truth.index]), truth.index)
        found[f"{name} gender accuracy"] = right
        found[f"{name} gender accuracy of children"] = right.where(rows["age_high"].le(CHILD).fillna(False))
        years = exact_years(rows)
        if np.isfinite(years).any():
            error = np.abs(metrics.decode(age[rows.index], ordered=True) - years)
            found[f"{name} absolute error"] = pd.Series(error, rows.index)
        truth = task_labels(rows, "age", groups).table["label"]
        summed = sum_to_groups(age, groups)[truth.index]
        word = {8: "eight groups", 9: "nine ranges"}[len(groups.names)]
        found[f"{name} {word} exact"] = pd.Series(metrics.exact_match(truth, summed, ordered=True), truth.index)
        found[f"{name} {word} 1-off"] = pd.Series(metrics.one_off(truth, summed), truth.index)
    return pd.DataFrame(found, index=table.index)


def with_differences(mine: pd.DataFrame, theirs: pd.DataFrame | None, subjects: np.ndarray) -> pd.DataFrame:
    """The mean of each column of scores with its interval, and of the differences between the same faces' scores."""
    rows = []
    for column in mine:
        dataset, measure = column.split(" ", 1)
        known = mine[column].notna().to_numpy()
        unit = "years" if measure == "absolute error" else "share"
        value = metrics.bootstrap_mean(mine[column][known], subjects[known], unit)
        rows.append({"dataset": dataset, "measure": measure, **value._asdict()})
        away = [np.nan] * 3
        if theirs is not None:
            # Not as a "share", of which 0 would mean that no face is right.
            away = metrics.bootstrap_mean((mine[column] - theirs[column])[known], subjects[known], unit="difference")
        rows[-1] |= dict(zip(DIFFERENCE, away))
    return pd.DataFrame(rows)


def pictures(how: str, work: Work) -> np.ndarray:
    """The faces made in another way, once: uint8 (m, 128, 128, 3). how: "whole", "shape", "gamma" or "denoised"."""

    def made():
        if how == "whole":
            return _each(_whole, work.paths)
        if how == "shape":
            points = landmarks(work)
            return _each(_on_shape, work.paths, points, [mean_shape(points[work.part == "train"])] * len(points))
        # Filters are the last step of an alignment: the faces that are there can be filtered as well.
        change = {"gamma": face_tools.adaptive_gamma, "denoised": face_tools.denoise}[how]
        return _each(change, (np.asarray(work.data.faces[row]) for row in work.rows))

    file = work.folder / f"{how}.npy"
    if not file.exists():
        with atomic_write(file) as new:
            shape = (len(work.rows), *work.data.faces.shape[1:])
            array = np.lib.format.open_memmap(new, "w+", np.uint8, shape)
            for i, face in enumerate(tqdm(made(), mininterval=5, total=len(array), desc=how, unit=" faces")):
                array[i] = work.data.faces[work.rows[i]] if face is None else face
            array.flush()
    return np.load(file, mmap_mode="r")


def landmarks(work: Work) -> np.ndarray:
    """Each face's 68 landmarks in its photo: complex (m, 68), x + iy, NaN where the face was aligned without them."""
    file = work.folder / "landmarks.npy"
    if not file.exists():
        found = _each(_landmarks, work.paths, work.data.how[work.rows])
        found = np.array(list(tqdm(found, mininterval=5, total=len(work.rows), desc="landmarks", unit=" faces")))
        with atomic_write(file) as new, open(new, "wb") as opened:
            np.save(opened, found)
    return np.load(file)


def mean_shape(points: np.ndarray) -> np.ndarray:
    """The mean of the landmarks (m, 68) after the alignment by the eyes, in the aligned face: complex (68,)."""
    points = points[np.isfinite(points).all(axis=1)]
    one, other = (points[:, eye].mean(axis=1, keepdims=True) for eye in face_tools.EYES)
    left, right = ALIGNMENT.eyes @ (1, 1j)
    return (left + (points - one) * (right - left) / (other - one)).mean(axis=0)


def _each(function, *columns):
    """The function's results for each row of the columns, in their order."""
    return Parallel(n_jobs=-1, return_as="generator")(delayed(function)(*row) for row in zip(*columns))


def _whole(path: Path) -> np.ndarray:
    return face_tools.whole_photo(read_photo(path), ALIGNMENT)


def _landmarks(path: Path, how: str) -> np.ndarray:
    # As in `prepare` for pictures without a box, which those of both data sets are.
    if how != "landmarks":
        return np.full(68, np.nan, complex)
    photo = read_photo(path)
    face = face_tools.choose_face(face_tools.find_faces(photo), None, photo.shape)
    assert face is not None, f"{path} has landmarks in the cache"
    return face.landmarks @ (1, 1j)


def _on_shape(path: Path, points: np.ndarray, shape: np.ndarray) -> np.ndarray | None:
    """The face carried onto the mean shape by the similarity that fits all its landmarks best; None without landmarks."""
    if not np.isfinite(points).all():
        return None
    centred = points - points.mean()
    turn = np.vdot(centred, shape - shape.mean()) / np.vdot(centred, centred)
    # The shape, carried back to the photo. Its eyes are the template's, so that to align by them does what was fitted.
    back = points.mean() + (shape - shape.mean()) / turn
    return face_tools.align(read_photo(path), np.column_stack([back.real, back.imag]), ALIGNMENT)


def shown(results: pd.DataFrame) -> str:
    """Two tables, of the values and of the differences, a row for each variant and seed; shares in per cent."""
    order = {name: i for i, name in enumerate(VARIANTS)}
    results = results.sort_values("variant", key=lambda names: names.map(order), kind="stable")
    scale = np.where(results["unit"] == "share", 100.0, 1.0)
    values, *away = (results[name].astype(float).to_numpy() * scale for name in ("value", *DIFFERENCE))
    digits = np.where(results["unit"] == "share", 1, 2)
    cells = results.assign(
        value=[f"{value:.{n}f}" for value, n in zip(values, digits)],
        difference=[
            "" if np.isnan(value) else f"{value:+.{n}f} ({low:+.{n}f} to {high:+.{n}f})"
            for value, low, high, n in zip(*away, digits)
        ],
        against=results["against"].fillna(""),
    )
    tables = []
    for kind, index in (("value", ["variant", "seed", "seconds"]), ("difference", ["variant", "against", "seed"])):
        some = cells[cells[kind] != ""]
        wide = some.pivot(index=index, columns=["dataset", "measure"], values=kind) if len(some) else some[[]]
        wide = wide.reindex(columns=pd.MultiIndex.from_frame(cells[["dataset", "measure"]].drop_duplicates()))
        order = [tuple(row) for row in some[index].drop_duplicates().itertuples(index=False)]
        tables.append(wide.reindex(order).fillna("").reset_index().to_string(index=False))
    return f"values (per cent, years)\n{tables[0]}\n\ndifferences (95% interval)\n{tables[1]}"


if __name__ == "__main__":
    main()
