"""The command `python -m src.predict` for photos, videos and camera streams; docs/usage.md describes it."""

import argparse
import io
import os
import sys
from pathlib import Path

import pandas as pd

from src.config import IMAGE_SUFFIXES, MODELS, RUNS, VIDEO_SUFFIXES
from src.faces.detect import DEFAULT_DETECTOR, DETECTORS, VIDEO_DETECTOR
from src.predict.extract_faces import Fallback, Source, start_workers, worker_count
from src.predict.predictor import Predictor, is_video, list_sources, reserve_copies
from src.predict.table_file import open_table
from src.processes import run_command


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with `arguments`, by default those of the process, and returns its exit status."""
    options = _parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show
    if options.camera is not None or any(map(is_video, options.photos)):
        return _predict_videos(options)
    return _predict_photos(options)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m src.predict",
        description="Predicts gender and age for the faces in photos, videos and camera streams.",
        epilog="If a name begins with a dash, put -- before all names, or ./ before this name.",
    )
    formats = f"folders are searched for {', '.join(IMAGE_SUFFIXES)}; video formats: {', '.join(VIDEO_SUFFIXES)}"
    parser.add_argument("photos", nargs="*", metavar="PHOTO_OR_FOLDER", help=f"or VIDEO; {formats}")
    parser.add_argument(
        "--csv", type=_file, metavar="FILE",
        help="write the table to this file, pipe or device (-: standard output) instead of printing it",
    )  # fmt: skip
    parser.add_argument("--annotate", type=_path, metavar="FOLDER", help="write annotated copies into this folder")
    parser.add_argument(
        "--camera", nargs="?", const="0", metavar="CAMERA",
        help="show a camera in a window: its number (default: 0), device path, or address (rtsp://…, http://…)",
    )  # fmt: skip
    parser.add_argument(
        "--fallback", choices=[str(fallback) for fallback in Fallback], default=str(Fallback.NONE),
        help="for a photo without a detected face: no prediction (default), or a prediction for its central square",
    )  # fmt: skip
    parser.add_argument(
        "--detector", choices=DETECTORS,
        help=f"the face detector (default: {DEFAULT_DETECTOR}; for videos and cameras {VIDEO_DETECTOR})",
    )  # fmt: skip
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender", metavar="FOLDER")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age", metavar="FOLDER")
    parser.error = lambda message: parser.exit(2, f"error: {message}; see --help\n")
    options = parser.parse_args(arguments)
    if not options.photos and options.camera is None:
        parser.error("the following arguments are required: PHOTO_OR_FOLDER")
    return options


def _path(name: str) -> Path:
    """Returns the path of a name, in which ~ is the home folder (`make` passes it unchanged) and - is standard output."""
    if not name:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    return Path("/dev/stdout" if name == "-" else name).expanduser()


def _file(name: str) -> Path:
    if name.endswith(("/", os.sep)):
        raise argparse.ArgumentTypeError(f"expected the name of a file, got the folder {name}")
    return _path(name)


def _predict_photos(options: argparse.Namespace) -> int:
    """Prints the table of predictions, or writes it to a file."""
    sources = list_sources(options.photos, options.annotate)
    workers = worker_count(len(sources))
    if workers > 1:
        start_workers(workers)  # they load the detector while this process loads the models
    predictor = Predictor(options.gender_model, options.age_model, options.fallback, options.detector or DEFAULT_DETECTOR)
    copies = reserve_copies([source.name for source in sources], options.annotate) if options.annotate else None
    if options.csv:
        _write_table(options, predictor, sources, copies)
    else:
        tables = list(predictor.batches(sources, copies))
        print(pd.concat(tables).astype(object).fillna("").to_string(index=False) if tables else "no photo found")
    return 0


def _write_table(
    options: argparse.Namespace, predictor: Predictor, sources: list[Source], copies: dict[Path, Path] | None
) -> None:
    """Writes the table a batch at a time, and resumes the table of an interrupted run."""
    settings = {
        "photos": [os.path.abspath(path) for path in options.photos],
        "models": {task: trained.card["model_sha256"] for task, trained in predictor.models.trained.items()},
        "annotate": options.annotate and os.path.abspath(options.annotate),
        "fallback": options.fallback,
        "detector": predictor.detector,
    }
    with open_table(options.csv, [source.name for source in sources], settings) as table:
        if table.done:
            print(f"resuming {options.csv}: {table.done:,} of {len(sources):,} photos are done", file=sys.stderr)
        for batch in predictor.batches(sources, copies, table.done):
            table.add(batch)
    counts = ", ".join(f"{count:,} {status}" for status, count in table.counts.most_common()) or "no photo found"
    photos, rows = (f"{n:,} {unit}{'s' * (n != 1)}" for n, unit in ((len(sources), "photo"), (table.counts.total(), "row")))
    summary = f"{photos}, {rows} ({counts}) written to {options.csv}"
    print(summary, file=sys.stdout if table.resumable else sys.stderr)  # the table itself may go to standard output


def _predict_videos(options: argparse.Namespace) -> int:
    """Writes the annotated copies and tables of videos, or shows a camera."""
    if options.camera is not None and options.photos:
        raise ValueError(f"--camera takes no files, got {options.photos[0]}: run the command twice")
    if not all(map(is_video, options.photos)):
        raise ValueError("expected either photos or videos, got both: run the command twice")
    if options.csv:
        raise ValueError("--csv is for photos, and a video has two tables: name a folder for them with --annotate")
    if options.fallback != Fallback.NONE:
        raise ValueError("--fallback is for photos, and frames without a face stay without one: leave it out")
    copies = reserve_copies(options.photos, options.annotate or RUNS / "videos") if options.photos else {}
    predictor = Predictor(options.gender_model, options.age_model, detector=options.detector or VIDEO_DETECTOR)
    if options.camera is not None:
        from src.predict import camera

        with camera.open_camera(options.camera) as frames:
            camera.show(frames, predictor)
        return 0
    from src.predict import video

    status = 0
    for path, copy in copies.items():
        try:
            files, summary = video.process_video(path, copy, predictor)
            print(f"{path}: {summary}; files written:", *files, sep="\n  ")
        except video.UnreadableVideo as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    run_command(main)
