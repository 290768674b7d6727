"""New photos to answers: finds the faces, aligns them as the models' cards say, asks the models, gives one table.

    python -m src.predict PHOTO_OR_FOLDER… [--csv FILE] [--annotate FOLDER] [--fallback none|whole-photo]
                          [--gender-model FOLDER] [--age-model FOLDER]

`predict` is the same from Python. It shares `faces` with training, so that a new photo is treated as the training faces were.
"""

import argparse
import io
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from src import faces as face_tools
from src.annotate import UNSURE
from src.annotate import annotate as draw_answers
from src.backend import keras
from src.calibrate import in_groups, interval
from src.config import AGE_GROUPS, IMAGE_SUFFIXES, MODELS
from src.evaluate import answer, expected_years
from src.faces import Alignment
from src.files import write_text, written_whole
from src.model_folder import Labels, ModelFolderError, TrainedModel, load
from src.photos import UnreadablePhoto, list_photos, read_photo

COLUMNS = (
    "photo", "status", "face", "left", "top", "right", "bottom", "detection_score", "gender", "p_male",
    "age_group", "age_group_probability", "age_years", "message", "age_low", "age_high",
)  # fmt: skip
FALLBACKS = ("none", "whole-photo")
TOGETHER = 32  # photos that are looked at together, and faces in a batch; bounds the memory
NO_FACE = "no face was found"


def predict(
    photos: str | Path | Iterable[str | Path],
    gender_model: str | Path | None = MODELS / "gender",
    age_model: str | Path | None = MODELS / "age",
    fallback: str = "none",
    annotate: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The table of predictions: at least one row a photo, in the order given; several faces largest first.

    photos: files and folders (see `photos.list_photos`). gender_model, age_model: model folders; None leaves that task's
    columns empty. fallback: what becomes of a photo in which no face is found: nothing, or its central square is judged
    as if it were a face. annotate: a folder to write copies of the photos to, with boxes and answers drawn in; the
    photos themselves are never changed.

    Columns: `photo` path; `status` ok, no_face, whole_photo or unreadable; `face` 1, 2, … in the photo; `left, top, right,
    bottom` in pixels of the upright photo; `detection_score`; `gender` female or male; `p_male` and
    `age_group_probability` 0-1; `age_group`; `age_years`; `message`, why there is no answer, or what the models are unsure
    of; `age_low`, `age_high`: years between which, ends included, the true age of nine faces in ten lies, where the age
    model knows single years and its card holds the quantiles for that. What does not apply is NA.

    Raises ValueError for another fallback, and ModelFolderError for a model folder that can't be used. A bad photo
    raises nothing: its row says what is wrong.
    """
    if fallback not in FALLBACKS:
        raise ValueError(f"fallback must be one of {', '.join(FALLBACKS)}, got {fallback!r}")
    models = {task: load(place) for task, place in (("gender", gender_model), ("age", age_model)) if place is not None}
    for task, trained in models.items():
        if trained.labels.task != task:
            raise ModelFolderError(f"the {task} model's folder holds a model for {trained.labels.task}")
    paths = list_photos([photos] if isinstance(photos, (str, Path)) else list(photos))
    targets = _targets(paths, Path(annotate)) if annotate is not None else None
    networks = joint_networks(models)
    rows = []
    with tqdm(total=len(paths), unit=" photos", desc="looking", disable=not progress) as bar:
        for start in range(0, len(paths), TOGETHER):
            some = paths[start : start + TOGETHER]
            looked = [look(path, models, fallback) for path in some]
            answered = _answer(list(itertools.chain.from_iterable(looked)), models, networks)
            if targets:
                _annotate(some, targets, answered)
            rows += answered
            bar.update(len(some))
    return _table(rows)


def look(path: Path, models: dict[str, TrainedModel], fallback: str) -> list[dict]:
    """One photo's rows before the models have spoken; a row with a face carries it, aligned for each task, in `aligned`."""
    try:
        photo = read_photo(path)
    except UnreadablePhoto as error:
        return [{"photo": str(path), "status": "unreadable", "message": str(error)}]
    found = face_tools.find_faces(photo)
    rows = []
    for number, face in enumerate(found, start=1):
        aligned = _aligned(models, lambda alignment, face=face: face_tools.align(photo, face.landmarks, alignment))
        rows.append(_row(path, "ok", number, face.box, aligned) | {"detection_score": face.score})
    if not found and fallback == "whole-photo":
        box = (0, 0, photo.shape[1], photo.shape[0])
        aligned = _aligned(models, lambda alignment: face_tools.whole_photo(photo, alignment))
        rows.append(_row(path, "whole_photo", 1, box, aligned) | {"message": f"{NO_FACE}; the whole photo was judged"})
    return rows or [{"photo": str(path), "status": "no_face", "message": NO_FACE}]


def first_with_face(paths: Iterable[Path]) -> tuple[np.ndarray, list[face_tools.Face]] | None:
    """The first photo in which a face is found, with its faces, largest first; None where there is no such photo."""
    for path in paths:
        try:
            photo = read_photo(path)
        except UnreadablePhoto:
            continue
        if found := face_tools.find_faces(photo):
            return photo, found
    return None


def _row(path: Path, status: str, number: int, box: tuple, aligned: dict) -> dict:
    edges = dict(zip(("left", "top", "right", "bottom"), (round(edge) for edge in box), strict=True))
    return {"photo": str(path), "status": status, "face": number, **edges, "aligned": aligned}


def _aligned(models: dict[str, TrainedModel], align) -> dict[str, np.ndarray]:
    once: dict[Alignment, np.ndarray] = {}
    for trained in models.values():
        if trained.alignment not in once:
            once[trained.alignment] = align(trained.alignment)
    return {task: once[trained.alignment] for task, trained in models.items()}


def joint_networks(models: dict[str, TrainedModel]) -> dict[tuple[str, ...], keras.Model]:
    """What to ask, by the tasks that it answers: each model or, where both stand on the same level one, a joint one.

    Each network takes aligned faces and gives a dict of probabilities, one entry a task.
    """
    if len(models) < 2 or not _same_level_one(*models.values()):
        return {(task,): keras.Model(some.model.inputs, {task: some.model.output}) for task, some in models.items()}
    level_one = next(iter(models.values())).model.get_layer("level_one")
    photo = keras.Input(level_one.input_shape[1:], dtype="uint8")
    features = level_one(photo)
    answers = {}
    for task, trained in models.items():  # each level two is wrapped: two of one name can't stand side by side
        given = keras.Input(features.shape[1:])
        answers[task] = keras.Model(given, trained.model.get_layer("level_two")(given), name=task)(features)
    return {tuple(models): keras.Model(photo, answers)}


def _same_level_one(one: TrainedModel, other: TrainedModel) -> bool:
    for trained in (one, other):
        if [layer.name for layer in trained.model.layers[1:]] != ["level_one", "level_two"]:
            return False
    first, second = one.model.get_layer("level_one"), other.model.get_layer("level_one")
    described = [keras.saving.serialize_keras_object(level) for level in (first, second)]
    weights = zip(first.get_weights(), second.get_weights())
    return one.alignment == other.alignment and described[0] == described[1] and all(np.array_equal(*two) for two in weights)


def _answer(rows: list[dict], models: dict[str, TrainedModel], networks: dict) -> list[dict]:
    """The rows with each model's answer in place of the aligned faces."""
    seen = [row for row in rows if "aligned" in row]
    for tasks, network in networks.items():
        for start in range(0, len(seen), TOGETHER):
            some = seen[start : start + TOGETHER]
            # Unlike a direct call it is compiled, unlike `Model.predict` it starts no data pipeline.
            said = network.predict_on_batch(np.stack([row["aligned"][tasks[0]] for row in some]))
            for task in tasks:
                for row, answers in zip(some, _say(said[task], models[task]), strict=True):
                    row.setdefault("unsure", []).extend([task] if answers.pop("unsure") else [])
                    row.update(answers)
    for row in seen:
        if row.get("unsure"):
            _add(row, UNSURE + " and ".join(row["unsure"]))
    return [{name: value for name, value in row.items() if name not in ("aligned", "unsure")} for row in rows]


def _say(probability: np.ndarray, trained: TrainedModel) -> list[dict]:
    """The columns for each face, and whether the model is `unsure`, from its probabilities (n, classes)."""
    labels, calibration = trained.labels, trained.calibration
    probability = probability / probability.sum(axis=1, keepdims=True, dtype=float)
    names, of_names = grouped(probability, labels)
    best = answer(of_names, ordered=labels.task == "age")
    confidence = of_names[np.arange(len(best)), best]
    said = {"unsure": confidence < (calibration.unsure_below if calibration else 0)}
    if labels.task == "gender":
        said |= {"gender": [names[i] for i in best], "p_male": probability[:, names.index("male")].round(4)}
    else:
        said |= {
            "age_group": [names[i] for i in best],
            "age_group_probability": confidence.round(4),
            "age_years": _years(probability, labels).round(1),
        }
    if labels.single_years and calibration and calibration.quantiles:
        said["age_low"], said["age_high"] = interval(probability, calibration.quantiles, calibration.bands).T
    return [dict(zip(said, values)) for values in zip(*said.values())]


def _years(probability: np.ndarray, labels: Labels) -> np.ndarray:
    """The age answered: the median year or, of a model that knows only groups, the expected one; floats (n,)."""
    if labels.single_years:
        return answer(probability, ordered=True).astype(float)
    return expected_years(probability, labels.centre_years)


def grouped(probability, labels: Labels) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes that answers are given in, and their probabilities, floats (n, classes).

    They are a model's own classes; where these are single years, the eight age groups, each the sum of its years.
    """
    if not labels.single_years:
        return labels.classes, np.asarray(probability)
    groups = AGE_GROUPS["adience"]
    return groups.names, in_groups(probability, labels.years, groups)


def _add(row: dict, text: str) -> None:
    """Adds to a row's message."""
    row["message"] = "; ".join(filter(None, (row.get("message"), text)))


def _table(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    table["detection_score"] = table["detection_score"].astype(float).round(3)
    whole = dict.fromkeys(("face", "left", "top", "right", "bottom", "age_low", "age_high"), "Int64")
    words = dict.fromkeys(("photo", "status", "gender", "age_group", "message"), "string")
    numbers = dict.fromkeys(("detection_score", "p_male", "age_group_probability", "age_years"), "Float64")
    return table.astype(whole | words | numbers)


def _targets(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where each photo's annotated copy goes; photos of the same name get a number."""
    originals = {path.resolve() for path in paths}
    taken: set[str] = set()  # in small letters: some file systems can't tell A.jpg from a.jpg
    targets = {}
    for path in dict.fromkeys(paths):
        suffix = "" if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
        target = folder / (path.name + suffix)
        for number in itertools.count(2):
            if target.name.casefold() not in taken:
                break
            target = folder / f"{path.stem}-{number}{path.suffix}{suffix}"
        if target.resolve() in originals:
            raise ValueError(f"annotated copies must not replace the photos: name another folder than {folder}")
        taken.add(target.name.casefold())
        targets[path] = target
    folder.mkdir(parents=True, exist_ok=True)
    return targets


def _annotate(paths: list[Path], targets: dict[Path, Path], rows: list[dict]) -> None:
    table = _table(rows)
    for path in dict.fromkeys(paths):
        mine = table[table["photo"] == str(path)]
        if (mine["status"] == "unreadable").any():
            continue
        try:
            with written_whole(targets[path]) as new:
                Image.fromarray(draw_answers(read_photo(path), mine)).save(new, quality=92)
        except OSError as error:  # the answers are worth more than the picture of them
            for row in rows:
                if row["photo"] == str(path):
                    _add(row, f"no annotated copy could be written ({error.strerror})")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.predict", description="Gender and age of the faces in photos.")
    parser.add_argument("photos", nargs="+", metavar="PHOTO_OR_FOLDER", help=f"folders give {', '.join(IMAGE_SUFFIXES)}")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table here instead of printing it")
    parser.add_argument("--annotate", type=Path, metavar="FOLDER", help="write copies with boxes and answers drawn in")
    parser.add_argument("--fallback", choices=FALLBACKS, default="none", help="for photos without a face found")
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender", metavar="FOLDER")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age", metavar="FOLDER")
    parser.error = lambda message: parser.exit(2, f"error: {message}; --help tells more\n")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal can't show
    try:
        if options.csv:  # before the work, so that it is not done in vain
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            if options.csv.is_dir():
                raise ValueError(f"--csv needs a file's name, got the folder {options.csv}")
        table = predict(options.photos, options.gender_model, options.age_model, options.fallback, options.annotate)
    except (ModelFolderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = table.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace").decode()  # names hold any bytes
    try:
        if options.csv:
            write_text(options.csv, text)
    except OSError as error:
        print(text)
        print(f"error: {options.csv} cannot be written ({error.strerror}); the table is printed instead", file=sys.stderr)
        return 2
    if options.csv:
        counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
        print(f"{table['photo'].nunique()} photos, {len(table)} rows ({counts or 'no photo found'}) written to {options.csv}")
    else:
        print(table.astype(object).where(table.notna(), "").to_string(index=False) if len(table) else "no photo found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
