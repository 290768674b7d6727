"""New photos to answers: finds the faces, aligns them as the models' cards say, asks the models, gives one table.

    python -m src.predict PHOTO_OR_FOLDER… [--csv FILE] [--annotate FOLDER] [--fallback none|whole-photo]
                          [--detector hog+cnn|hog|cnn] [--gender-model FOLDER] [--age-model FOLDER]
    python -m src.predict VIDEO… [--annotate FOLDER]
    python -m src.predict --camera [NUMBER|DEVICE|ADDRESS]

`predict` is the same from Python. It shares `faces` with training, so that a new photo is treated as the training faces were.
An interrupted run with --csv goes on where it stopped, when the same command is given again.

Before it: `looking`, `answers`, `video`. After it: notebooks 3 and 4.
"""

import argparse
import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import joblib
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from src import looking
from src.annotate import annotate as draw_answers
from src.config import IMAGE_SUFFIXES, MODELS, RUNS, VIDEO_SUFFIXES
from src.faces import DETECTOR, DETECTORS
from src.files import write_text, written_whole
from src.photos import list_photos, read_photo

# TensorFlow takes seconds to import: what needs it is imported where it is used, after all else has been checked.

FALLBACKS = ("none", "whole-photo")
FEW = 8  # photos: fewer are looked at before other processes have started
TOGETHER = 32  # photos that are answered together; bounds the memory
COPIES = ".annotated-copies.json"  # in a folder of annotated copies: their names


def predict(
    photos: str | Path | Iterable[str | Path],
    gender_model: str | Path | None = MODELS / "gender",
    age_model: str | Path | None = MODELS / "age",
    fallback: str = "none",
    annotate: str | Path | None = None,
    progress: bool = True,
    detector: str = DETECTOR,
    workers: int = -1,
) -> pd.DataFrame:
    """The table of predictions: at least one row a photo, in the order given; several faces largest first.

    photos: files and folders (see `photos.list_photos`). gender_model, age_model: model folders; None leaves that task's
    columns empty. fallback: what becomes of a photo in which no face is found: nothing, or its central square is judged
    as if it were a face. annotate: a folder to write copies of the photos to, with boxes and answers drawn in; the
    photos themselves are never changed, and no file is replaced but the copies of an earlier call. detector: see
    `faces.find_faces`. workers: processes that look at many photos, -1 for one a core.

    Columns: `photo` path; `status` ok, no_face, whole_photo or unreadable; `face` 1, 2, … in the photo; `left, top, right,
    bottom` in pixels of the upright photo; `detection_score`; `gender` female or male; `p_male` and
    `age_group_probability` 0-1; `age_group`; `age_years`; `message`, why there is no answer, or what the models are unsure
    of; `age_low`, `age_high`: years between which, ends included, the labelled age of nine faces in ten lies, where the age
    model knows single years and its card holds the quantiles for that. What does not apply is NA.

    Raises ValueError for another fallback, detector or number of workers, and ModelFolderError for a model folder that can't
    be used. A bad photo raises nothing: its row says what is wrong.
    """
    from src.answers import as_table, load_models

    if workers != -1 and workers < 1:
        raise ValueError(f"workers must be -1, for one a core, or at least 1, got {workers}")
    paths = _listed([photos] if isinstance(photos, (str, Path)) else list(photos), annotate)
    models = load_models(gender_model, age_model)
    work = Work(paths, models, fallback, annotate, detector, workers if len(paths) >= FEW else 1)
    return as_table(itertools.chain.from_iterable(work.batches(progress=progress)))


def in_words(table: pd.DataFrame) -> str:
    """A table of predictions in a few sentences: how many faces were found, where none, and what could not be read."""
    faces = table[table["status"] == "ok"]
    said = [f"{len(faces)} {'face was' if len(faces) == 1 else 'faces were'} found in {faces['photo'].nunique()} of "
            f"{table['photo'].nunique()} photos."]  # fmt: skip
    named = table["photo"].str.split(r"[\\/]").str[-1]
    for name in named[table["status"] == "no_face"]:
        said.append(f"{name}: no face was found. One that is larger, from the front and well lit is easier to find.")
    for name, why in zip(named, table["message"].where(table["status"] == "unreadable")):
        said += [f"{name}: could not be read: {why}."] if pd.notna(why) else []
    return "\n".join(said)


class Work:
    """How photos are answered; see `predict`, whose arguments it takes, with models that are loaded."""

    def __init__(self, paths: list[Path], models, fallback: str, annotate: str | Path | None, detector: str, workers: int):
        for name, allowed, given in (("fallback", FALLBACKS, fallback), ("detector", DETECTORS, detector)):
            if given not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {given!r}")
        self.paths, self.models, self.workers = paths, models, workers
        self.fallback, self.detector = fallback, detector
        self.targets = targets(paths, Path(annotate)) if annotate is not None else None

    def batches(self, done: int = 0, progress: bool = True) -> Iterator[list[dict]]:
        """The finished rows, a batch of whole photos at a time. done: so many of the photos are left out."""
        from src.answers import answered

        left = self.paths[done:]
        looked = looking.looked(left, self.models.alignments, self.fallback, self.detector, self.workers)
        counts = {"total": len(self.paths), "initial": done}
        with tqdm(**counts, unit=" photos", desc="looking", disable=not progress) as bar:
            for start in range(0, len(left), TOGETHER):
                some = left[start : start + TOGETHER]
                rows = list(itertools.chain.from_iterable(itertools.islice(looked, len(some))))
                rows = answered(rows, self.models)
                if self.targets:
                    _annotate(some, self.targets, rows)
                yield rows
                bar.update(len(some))


def targets(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where the annotated copy of each photo or video goes; those of the same name get a number.

    The folder is made, and a hidden file in it tells which names are copies, or a video's tables. ValueError where one would
    replace any file that is not of an earlier call.
    """
    originals = {path.resolve() for path in paths}
    earlier = _copies(folder)
    written = set(earlier)
    taken: set[str] = set()  # in small letters: some file systems can't tell A.jpg from a.jpg
    chosen = {}
    for path in dict.fromkeys(paths):
        names = (_copy_name(path, number) for number in itertools.count(1))
        target = folder / next(name for name in names if name.casefold() not in taken)
        made = [target, *(target.with_name(f"{target.stem}-{name}.csv") for name in ("frames", "people") if _is_video(path))]
        for file in made:
            if file.resolve() in originals or (file.exists() and file.name not in earlier):
                raise ValueError(f"an annotated copy must not replace {file}: name another folder than {folder}")
        written.update(file.name for file in made)
        taken.add(target.name.casefold())
        chosen[path] = target
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / COPIES, json.dumps(sorted(written)))
    return chosen


def _copies(folder: Path) -> set[str]:
    """The names of the annotated copies in a folder."""
    try:
        return set(json.loads((folder / COPIES).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return set()


def _listed(photos: list[str | Path], annotate: str | Path | None) -> list[Path]:
    """The photos of files and folders, but for the copies that an earlier call has drawn into a folder among them."""
    paths = list_photos(photos)
    drawn = {Path(annotate, name).resolve() for name in _copies(Path(annotate))} if annotate is not None else set()
    if not drawn:
        return paths
    named = {Path(os.path.expanduser(place)) for place in photos}
    return [path for path in paths if path in named or path.resolve() not in drawn]


def _copy_name(path: Path, number: int) -> str:
    stem = path.stem if number == 1 else f"{path.stem}-{number}"
    if _is_video(path):
        return f"{stem}.mp4"
    return stem + path.suffix + ("" if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg")


def _annotate(paths: list[Path], targets: dict[Path, Path], rows: list[dict]) -> None:
    from src.answers import add_message, as_table

    table = as_table(rows)
    for path in dict.fromkeys(paths):
        mine = table[table["photo"] == str(path)]
        if (mine["status"] == "unreadable").any():
            continue
        try:
            with written_whole(targets[path]) as new:
                Image.fromarray(draw_answers(read_photo(path), mine)).save(new, quality=92)
        except (OSError, ValueError) as error:  # the answers are worth more than the picture of them
            why = getattr(error, "strerror", None) or error
            for row in rows:
                if row["photo"] == str(path):
                    add_message(row, f"no annotated copy could be written ({why})")


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal can't show
    try:
        if options.camera is not None or any(map(_is_video, options.photos)):
            return _moving(options)
        return _photos(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if stop.args else "\nstopped", file=sys.stderr, flush=True)
        looking.kill()
        os._exit(130)  # a common exit would wait for the processes that were interrupted too


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m src.predict",
        description="Gender and age of the faces in photos, in a video, or before the camera.",
        epilog="A name that begins with a dash: put -- before all names, or ./ before this one.",
    )
    suffixes = f"folders give {', '.join(IMAGE_SUFFIXES)}; videos are {', '.join(VIDEO_SUFFIXES)}"
    parser.add_argument("photos", nargs="*", metavar="PHOTO_OR_FOLDER", help=f"or VIDEO; {suffixes}")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table here instead of printing it")
    parser.add_argument("--annotate", type=Path, metavar="FOLDER", help="write copies with boxes and answers drawn in")
    watched = "watch a camera in a window: its number (default: 0), device path, or address (rtsp://…, http://…)"
    parser.add_argument("--camera", nargs="?", const="0", metavar="CAMERA", help=watched)
    parser.add_argument("--fallback", choices=FALLBACKS, default="none", help="for photos without a face found")
    parser.add_argument("--detector", choices=DETECTORS, help="what finds faces (default: hog+cnn; in moving pictures hog)")
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender", metavar="FOLDER")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age", metavar="FOLDER")
    parser.error = lambda message: parser.exit(2, f"error: {message}; --help tells more\n")
    options = parser.parse_args(arguments)
    for name in ("csv", "annotate"):  # as `list_photos` does; make passes ~ on as it is
        path = getattr(options, name)
        setattr(options, name, path and Path(os.path.expanduser(path)))
    if not options.photos and options.camera is None:
        parser.error("the following arguments are required: PHOTO_OR_FOLDER")
    return options


def _photos(options: argparse.Namespace) -> int:
    if options.csv and options.csv.is_dir():
        raise ValueError(f"--csv needs a file's name, got the folder {options.csv}")
    paths = _listed(options.photos, options.annotate)
    if options.csv and (_is_video(options.csv) or options.csv.suffix.lower() in IMAGE_SUFFIXES or options.csv in paths):
        raise ValueError(f"--csv needs the name of a table, such as faces.csv, got the picture {options.csv}")
    workers = max(1, min(len(paths), joblib.cpu_count()))
    if paths and joblib.cpu_count() > 1:
        looking.started(workers)  # they get ready while TensorFlow is imported
    from src.answers import as_table, load_models

    models = load_models(options.gender_model, options.age_model)
    work = Work(paths, models, options.fallback, options.annotate, options.detector or DETECTOR, workers)
    if not options.csv:
        table = as_table(itertools.chain.from_iterable(work.batches()))
        print(table.astype(object).where(table.notna(), "").to_string(index=False) if len(table) else "no photo found")
        return 0
    return _to_csv(work, options)


def _to_csv(work: Work, options: argparse.Namespace) -> int:
    from src.table_file import TableFile

    settings = {
        "photos": [str(Path(place).absolute()) for place in options.photos],
        "models": {task: some.card["model_sha256"] for task, some in work.models.trained.items()},
        "annotate": options.annotate and str(options.annotate.absolute()),
        "fallback": options.fallback,
        "detector": options.detector or DETECTOR,
    }
    table = TableFile(options.csv, work.paths, json.loads(json.dumps(settings)))
    if table.done:
        print(f"going on with {options.csv}: {table.done:,} of {len(work.paths):,} photos are done", file=sys.stderr)
    try:
        for rows in work.batches(table.done):
            _add(table, rows)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; what is done is in {options.csv}, and the same command goes on from there"
        ) from None
    table.finish()
    counts = table.counts()
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items()) or "no photo found"
    print(f"{len(work.paths):,} photos, {sum(counts.values()):,} rows ({told}) written to {options.csv}")
    return 0


def _add(table, rows: list[dict]) -> None:
    try:
        table.add(rows)
    except OSError as error:
        looking.kill()
        raise OSError(
            f"{table.path} cannot be written ({error.strerror}); what is in it is whole: make room and give the same "
            "command again, which goes on from there"
        ) from error


def _moving(options: argparse.Namespace) -> int:
    """A video's annotated copy and tables, or the view of a camera."""
    if options.camera is not None and options.photos:
        raise ValueError(f"--camera watches a camera, and no files beside it, got {options.photos[0]}")
    if not all(map(_is_video, options.photos)):
        raise ValueError("videos and photos are answered in different ways: give them in two commands")
    if options.csv:
        raise ValueError("a video gives two tables: name a folder for them with --annotate instead of --csv")
    detector = options.detector or "hog"
    if options.camera is not None:
        from src import camera

        with camera.opened(options.camera) as frames:
            camera.show(frames, options.gender_model, options.age_model, detector)
        return 0
    from src import video
    from src.answers import load_models

    copies = targets([Path(name) for name in options.photos], options.annotate or RUNS / "videos")
    models, failed = load_models(options.gender_model, options.age_model), 0
    for path, target in copies.items():
        try:
            made = video.process(path, target, models, detector)
            print(f"{path}: {made.summary}; files written:", *made.files, sep="\n  ")
        except video.UnreadableVideo as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


def _is_video(name: str | Path) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


if __name__ == "__main__":
    sys.exit(main())
