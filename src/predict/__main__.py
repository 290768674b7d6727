"""The command that predicts gender and age for the faces in photos and videos, and before a camera.

    python -m src.predict PHOTO_OR_FOLDER… [--csv FILE] [--annotate FOLDER] [--fallback none|whole-photo]
                          [--detector yunet|hog|cnn|hog+cnn] [--gender-model FOLDER] [--age-model FOLDER]
    python -m src.predict VIDEO… [--annotate FOLDER]
    python -m src.predict --camera [NUMBER|DEVICE|ADDRESS]

From Python, `Predictor` and `predict` do the same (see `predictor`). An interrupted run with --csv is resumed by the same
command.

Before it: `predictor` and `video`.
"""

import argparse
import io
import itertools
import json
import os
import sys
from pathlib import Path

from src.config import IMAGE_SUFFIXES, MODELS, RUNS, VIDEO_SUFFIXES
from src.faces.detect import DEFAULT_DETECTOR, DETECTORS, VIDEO_DETECTOR
from src.predict import detection
from src.predict.decode import to_table
from src.predict.detection import Source
from src.predict.predictor import FALLBACKS, FEW, Predictor, is_video, list_sources, name_outputs
from src.predict.table_file import open_table
from src.processes import run_command


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal can't show
    try:
        if options.camera is not None or any(map(is_video, options.photos)):
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
        "--csv",
        metavar="FILE",
        help="write the table here (a file, pipe or device; - is standard output) instead of printing it",
    )
    parser.add_argument("--annotate", metavar="FOLDER", help="write copies with boxes and answers drawn in")
    watched = "watch a camera in a window: its number (default: 0), device path, or address (rtsp://…, http://…)"
    parser.add_argument("--camera", nargs="?", const="0", metavar="CAMERA", help=watched)
    parser.add_argument("--fallback", choices=FALLBACKS, default="none", help="for photos without a face found")
    parser.add_argument(
        "--detector",
        choices=DETECTORS,
        help=f"what finds faces (default: {DEFAULT_DETECTOR}; in moving pictures {VIDEO_DETECTOR})",
    )
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender", metavar="FOLDER")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age", metavar="FOLDER")
    parser.error = lambda message: parser.exit(2, f"error: {message}; --help tells more\n")
    options = parser.parse_args(arguments)
    for name in ("csv", "annotate"):
        given = getattr(options, name)
        if given == "":
            parser.error(f"--{name} requires a name, got an empty one")
        path = "/dev/stdout" if (name, given) == ("csv", "-") else given
        setattr(options, name, path and Path(os.path.expanduser(path)))  # make passes ~ on as it is
    if not options.photos and options.camera is None:
        parser.error("the following arguments are required: PHOTO_OR_FOLDER")
    return options


def _photos(options: argparse.Namespace) -> int:
    if options.csv and options.csv.is_dir():
        raise ValueError(f"--csv needs a file's name, got the folder {options.csv}")
    sources = list_sources(options.photos, options.annotate)
    given = [Path(source.name) for source in sources]
    if options.csv and (is_video(options.csv) or options.csv.suffix.lower() in IMAGE_SUFFIXES or options.csv in given):
        raise ValueError(f"--csv needs the name of a table, such as faces.csv, got the picture {options.csv}")
    if len(sources) >= FEW and detection.process_count() > 1:
        detection.start_workers()  # they load the detector while this process loads the models
    predictor = Predictor(options.gender_model, options.age_model, options.fallback, options.detector or DEFAULT_DETECTOR)
    copies = name_outputs(given, options.annotate) if options.annotate else None
    if not options.csv:
        table = to_table(itertools.chain.from_iterable(predictor.batches(sources, copies)))
        print(table.astype(object).where(table.notna(), "").to_string(index=False) if len(table) else "no photo found")
        return 0
    return _to_csv(predictor, sources, copies, options)


def _to_csv(predictor: Predictor, sources: list[Source], copies: dict[Path, Path] | None, options: argparse.Namespace) -> int:
    settings = {
        "photos": [str(Path(place).absolute()) for place in options.photos],
        "models": {task: some.card["model_sha256"] for task, some in predictor.models.trained.items()},
        "annotate": options.annotate and str(options.annotate.absolute()),
        "fallback": options.fallback,
        "detector": predictor.detector,
    }
    with open_table(options.csv, [Path(source.name) for source in sources], json.loads(json.dumps(settings))) as table:
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
        detection.kill()
        rest = "the rest of the table is lost"
        if table.resumes:
            rest = "what is in it is whole: make room and give the same command again, which goes on from there"
        raise OSError(f"{table.path} cannot be written ({error.strerror}); {rest}") from error


def _moving(options: argparse.Namespace) -> int:
    """A video's annotated copy and tables, or the view of a camera."""
    if options.camera is not None and options.photos:
        raise ValueError(f"--camera watches a camera, and no files beside it, got {options.photos[0]}")
    if not all(map(is_video, options.photos)):
        raise ValueError("videos and photos are answered in different ways: give them in two commands")
    if options.csv:
        raise ValueError("a video gives two tables: name a folder for them with --annotate instead of --csv")
    predictor = Predictor(options.gender_model, options.age_model, detector=options.detector or VIDEO_DETECTOR)
    if options.camera is not None:
        from src.predict import camera

        with camera.open_camera(options.camera) as frames:
            camera.show(frames, predictor)
        return 0
    from src.predict import video

    copies = name_outputs([Path(name) for name in options.photos], options.annotate or RUNS / "videos")
    failed = 0
    for path, target in copies.items():
        try:
            made = video.process_video(path, target, predictor)
            print(f"{path}: {made.summary}; files written:", *made.files, sep="\n  ")
        except video.UnreadableVideo as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


if __name__ == "__main__":
    run_command(main)
