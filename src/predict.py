"""New photos to answers: finds the faces, aligns them as the models' cards say, asks the models, gives one table.

    python -m src.predict PHOTO_OR_FOLDER… [--csv FILE] [--annotate FOLDER] [--fallback none|whole-photo]
                          [--detector hog+cnn|hog|cnn] [--gender-model FOLDER] [--age-model FOLDER]
    python -m src.predict VIDEO… [--annotate FOLDER]
    python -m src.predict --camera [NUMBER]

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

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from src import looking
from src.annotate import annotate as draw_answers
from src.config import IMAGE_SUFFIXES, MODELS, RUNS, VIDEO_SUFFIXES
from src.detect import DEFAULT, DETECTORS
from src.files import write_text, written_whole
from src.looking import Source
from src.photos import list_photos, read_photo, to_rgb
from src.processes import run_command

# TensorFlow takes seconds to import: what needs it is imported where it is used, after all else has been checked.

FALLBACKS = ("none", "whole-photo")
FEW = 8  # photos: fewer are looked at before other processes have started
TOGETHER = 32  # photos that are answered together; bounds the memory
COPIES = ".annotated-copies.json"  # in a folder of annotated copies: their names


Picture = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]  # one photo as the user has it; see `Predictor.predict`


class Predictor:
    """Loads the models once and predicts gender and age for the faces in photos.

    Example:
        >>> predictor = Predictor()
        >>> table = predictor.predict(["family.jpg", "holiday/"])
        >>> table[["photo", "face", "gender", "age_years"]]
    """

    def __init__(
        self,
        gender_model: str | Path | None = MODELS / "gender",
        age_model: str | Path | None = MODELS / "age",
        fallback: str = "none",
        detector: str = DEFAULT,
        workers: int = -1,
    ):
        """Loads the models.

        Args:
            gender_model: Model folder; None leaves the columns of gender empty.
            age_model: Model folder; None leaves the columns of age empty.
            fallback: What happens to a photo without a face: "none", or "whole-photo" to treat its central square as a face.
            detector: What finds the faces; see `detect.detect`.
            workers: Processes for eight photos or more, -1 for one per core. A process that may not start others, such as a
                worker of `multiprocessing.Pool` or Celery, does the work itself.

        Raises:
            ValueError: For an unknown fallback or detector, or a number of workers that is neither -1 nor positive.
            ModelFolderError: For a model folder that cannot be used; it is a ValueError too.
        """
        from src.answers import load_models

        if workers != -1 and workers < 1:
            raise ValueError(f"workers must be -1, for one per core, or at least 1, got {workers}")
        for name, allowed, given in (("fallback", FALLBACKS, fallback), ("detector", DETECTORS, detector)):
            if given not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {given!r}")
        self.models = load_models(gender_model, age_model)
        self.fallback, self.detector, self.workers = fallback, detector, workers

    def predict(
        self, photos: Picture | Iterable[Picture], annotate: str | Path | None = None, progress: bool = True
    ) -> pd.DataFrame:
        """Predicts for one photo or several.

        Args:
            photos: A file, a folder (searched recursively, sorted), a pattern such as "*.jpg", the bytes of a picture file,
                a PIL image, an array uint8 (height, width, 3), RGB, 0-255, or an iterable of any of these.
            annotate: A folder for annotated copies (see `src.annotate`; a copy with a legend is larger than its photo). The
                photos are never changed, and only the copies of an earlier call are replaced.
            progress: Whether to show a progress bar.

        Returns:
            The table of predictions: at least one row per photo, in the order given; several faces largest first. What does
            not apply is NA. Columns:

            - `photo`: the path as given, or "photo-N" for the N-th photo if it has no path
            - `status`: "ok", "no_face", "whole_photo" (the fallback was used) or "unreadable"
            - `face`: 1, 2, … within the photo; `left, top, right, bottom`: its box in pixels of the upright photo;
              `detection_score`: see `detect.Detection`
            - `gender`: "female" or "male"; `p_male`: 0-1
            - `age_group`, `age_group_probability` (0-1), `age_years`
            - `message`: a text for people: why there is no prediction, or which ones are uncertain
            - `age_interval_low`, `age_interval_high`: the 90% prediction interval of the age in whole years, inclusive, if the
              age model predicts single years and its card holds the quantiles
            - `gender_unsure`, `age_unsure`: whether the probability is below the limit in the model's card

        Raises:
            ValueError: For an array of another type or shape, an empty name, or a copy that would replace another file. A bad
                photo raises nothing: its row says what is wrong.
        """
        from src.answers import as_table

        sources = _sources(photos, annotate)
        copies = targets([Path(name) for name, _ in sources], Path(annotate)) if annotate is not None else None
        return as_table(itertools.chain.from_iterable(self.batches(sources, copies, progress=progress)))

    def batches(
        self,
        sources: list[Source],
        copies: dict[Path, Path] | None = None,
        done: int = 0,
        progress: bool = True,
    ) -> Iterator[list[dict]]:
        """Yields the rows of predictions, a batch of whole photos at a time.

        Args:
            sources: The photos.
            copies: Where to write annotated copies, by the photo's name (see `targets`).
            done: The number of photos to skip at the beginning.
            progress: Whether to show a progress bar.
        """
        from src.answers import answered

        left = sources[done:]
        workers = self.workers if len(left) >= FEW else 1
        looked = looking.looked(left, self.models.alignments, self.fallback, self.detector, workers)
        counts = {"total": len(sources), "initial": done}
        with tqdm(**counts, unit=" photos", desc="predicting", disable=not progress) as bar:
            for start in range(0, len(left), TOGETHER):
                some = left[start : start + TOGETHER]
                rows = list(itertools.chain.from_iterable(itertools.islice(looked, len(some))))
                rows = answered(rows, self.models)
                if copies:
                    _annotate(some, copies, rows)
                yield rows
                bar.update(len(some))


def predict(
    photos: Picture | Iterable[Picture],
    gender_model: str | Path | None = MODELS / "gender",
    age_model: str | Path | None = MODELS / "age",
    fallback: str = "none",
    annotate: str | Path | None = None,
    progress: bool = True,
    detector: str = DEFAULT,
    workers: int = -1,
) -> pd.DataFrame:
    """`Predictor(...).predict(photos)` in one call, with the arguments and errors of both."""
    return Predictor(gender_model, age_model, fallback, detector, workers).predict(photos, annotate, progress)


def _sources(photos: Picture | Iterable[Picture], annotate: str | Path | None) -> list[Source]:
    """Each photo's name and where its pixels come from."""
    given = [photos] if isinstance(photos, (str, Path, bytes, Image.Image, np.ndarray)) else list(photos)
    drawn = {Path(annotate, name).resolve() for name in _copies(Path(annotate))} if annotate is not None else set()
    named = {Path(os.path.expanduser(place)) for place in given if isinstance(place, (str, Path))}
    sources: list[Source] = []
    for place in given:
        if isinstance(place, (str, Path)):
            paths = list_photos([place])
            # A copy that an earlier call has drawn is no photo, unless it is named itself.
            sources += [Source(str(path), path) for path in paths if path in named or path.resolve() not in drawn]
        else:
            sources.append(Source(f"photo-{len(sources) + 1}", _in_memory(place)))
    return sources


def _in_memory(photo) -> bytes | npt.NDArray[np.uint8]:
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, Image.Image):
        return to_rgb(photo)
    if isinstance(photo, np.ndarray) and photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and photo.size:
        return photo
    got = f"{photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else type(photo).__name__
    raise ValueError(f"a photo must be a path, bytes, a PIL image or an array uint8 (height, width, 3), RGB; got {got}")


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


def _copy_name(path: Path, number: int) -> str:
    stem = path.stem if number == 1 else f"{path.stem}-{number}"
    if _is_video(path):
        return f"{stem}.mp4"
    return stem + path.suffix + ("" if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg")


def _annotate(sources: list[Source], copies: dict[Path, Path], rows: list[dict]) -> None:
    from src.answers import add_message, as_table

    table = as_table(rows)
    for name, source in dict((source.name, source) for source in sources).values():
        mine = table[table["photo"] == name]
        if (mine["status"] == "unreadable").any():
            continue
        try:
            with written_whole(copies[Path(name)]) as new:
                pixels = source if isinstance(source, np.ndarray) else read_photo(source)
                Image.fromarray(draw_answers(pixels, mine)).save(new, quality=92)
        except (OSError, ValueError) as error:  # the predictions are worth more than the picture of them
            why = getattr(error, "strerror", None) or error
            for row in rows:
                if row["photo"] == name:
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


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m src.predict",
        description="Gender and age of the faces in photos, in a video, or before the camera.",
        epilog="A name that begins with a dash: put -- before all names, or ./ before this one.",
    )
    suffixes = f"folders give {', '.join(IMAGE_SUFFIXES)}; videos are {', '.join(VIDEO_SUFFIXES)}"
    parser.add_argument("photos", nargs="*", metavar="PHOTO_OR_FOLDER", help=f"or VIDEO; {suffixes}")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the table here (a file, pipe or device) instead of printing it"
    )
    parser.add_argument("--annotate", type=Path, metavar="FOLDER", help="write copies with boxes and answers drawn in")
    parser.add_argument("--camera", type=int, nargs="?", const=0, metavar="NUMBER", help="watch a camera in a window")
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
    sources = _sources(options.photos, options.annotate)
    given = [source.pixels for source in sources]
    if options.csv and (_is_video(options.csv) or options.csv.suffix.lower() in IMAGE_SUFFIXES or options.csv in given):
        raise ValueError(f"--csv needs the name of a table, such as faces.csv, got the picture {options.csv}")
    if len(sources) >= FEW and looking.process_count() > 1:
        looking.started()  # they load the detector while this process loads the models
    from src.answers import as_table

    predictor = Predictor(options.gender_model, options.age_model, options.fallback, options.detector or DEFAULT)
    copies = targets(given, options.annotate) if options.annotate else None
    if not options.csv:
        table = as_table(itertools.chain.from_iterable(predictor.batches(sources, copies)))
        print(table.astype(object).where(table.notna(), "").to_string(index=False) if len(table) else "no photo found")
        return 0
    return _to_csv(predictor, sources, copies, options)


def _to_csv(
    predictor: Predictor, sources: list[Source], copies: dict[Path, Path] | None, options: argparse.Namespace
) -> int:
    from src.table_file import open_table

    settings = {
        "photos": [str(Path(place).absolute()) for place in options.photos],
        "models": {task: some.card["model_sha256"] for task, some in predictor.models.trained.items()},
        "annotate": options.annotate and str(options.annotate.absolute()),
        "fallback": options.fallback,
        "detector": predictor.detector,
    }
    names = [Path(source.name) for source in sources]
    with open_table(options.csv, names, json.loads(json.dumps(settings))) as table:
        if table.done:
            print(f"resuming {options.csv}: {table.done:,} of {len(sources):,} photos are done", file=sys.stderr)
        try:
            for rows in predictor.batches(sources, copies, table.done):
                _add(table, rows)
        except KeyboardInterrupt as stop:
            if table.resumes:
                stop.args = (f"stopped; {options.csv} holds what is done, and the same command resumes it",)
            raise
        table.finish()
        counts = table.counts()
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items()) or "no photo found"
    summary = f"{len(sources):,} photos, {sum(counts.values()):,} rows ({told}) written to {options.csv}"
    print(summary, file=sys.stdout if table.resumes else sys.stderr)  # a stream's output is the table alone
    return 0


def _add(table, rows: list[dict]) -> None:
    try:
        table.add(rows)
    except OSError as error:
        looking.kill()
        rest = "the rest of the table is lost"
        if table.resumes:
            rest = "what is in it is whole: make room and give the same command again, which goes on from there"
        raise OSError(f"{table.path} cannot be written ({error.strerror}); {rest}") from error


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
            print("made:", *made, sep="\n  ")
        except video.UnreadableVideo as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


def _is_video(name: str | Path) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


if __name__ == "__main__":
    run_command(main)
