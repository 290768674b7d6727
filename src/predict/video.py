"""Processes a video: tracks the people in it, writes an annotated copy and two tables.

The prediction for a person is the mean over all detections. The video is read twice, so that every frame shows the final
prediction. FFmpeg, which the package imageio-ffmpeg contains, reads and writes the files.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from src.data.table import BOX_COLUMNS
from src.faces.detect import Photo
from src.files import atomic_write
from src.predict.annotate import annotate
from src.predict.predictor import Predictor
from src.predict.tracks import MultiTracker, predictions_table, run_models

MAX_SIDE = 1920  # pixels; larger frames are scaled down
MAX_FPS = 60  # frames per second; frames of faster videos are dropped
DEFAULT_FPS = 25  # frames per second of a video that does not state its rate
# FFmpeg detects the format by the content. Playlists, such as HLS, are not allowed, because they make it read other files.
FORMATS = "mov,matroska,webm,avi,mpeg,mpegts,asf,flv,gif,ogg,mpegvideo"
PEOPLE_TYPES = {
    "person": "int64", "first_second": "float64", "last_second": "float64", "frames": "int64", "detections": "int64",
}  # fmt: skip


class UnreadableVideo(ValueError):
    """The file is missing, damaged, or no video in a supported format."""


class TrackedVideo(NamedTuple):
    """The tables of a video. If nobody was tracked, they are empty, with the same columns and types.

    `frames` has one row per person and frame: frame (from 0), second, person (from 1), left, top, right, bottom (pixels) and
    the person's predictions. `people` has one row per person: person, first_second, last_second, frames and detections (their
    numbers) and the predictions.
    """

    frames: pd.DataFrame
    people: pd.DataFrame

    @property
    def summary(self) -> str:
        """The number of people in a sentence."""
        if self.people.empty:
            return "nobody was tracked: no face was found, or in too few frames"
        return f"{len(self.people)} {'person was' if len(self.people) == 1 else 'people were'} tracked"


@contextlib.contextmanager
def open_video(path: str | Path, seconds: float | None = None) -> Iterator[tuple[dict, Iterator[Photo]]]:
    """Opens a video.

    Args:
        path: The video file.
        seconds: The number of seconds to read at most; None for the whole video.

    Yields:
        The properties of the video, with its `size` (width, height), `fps` and `duration` (seconds), and its frames: uint8
        (height, width, 3), RGB, upright, at a constant rate.

    Raises:
        UnreadableVideo: The video cannot be read. Reading the frames may raise it too.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableVideo(f"{path}: no such file")
    with contextlib.closing(_reader(path)) as reader, _readable(path):  # first only for the frame rate
        fps = min(next(reader)["fps"] or DEFAULT_FPS, MAX_FPS)  # the mean, since a phone records at a variable rate
    limit = [] if seconds is None else ["-t", str(seconds)]
    with contextlib.closing(_reader(path, "-r", str(fps), *limit)) as reader:
        with _readable(path):
            properties = next(reader) | {"fps": fps}
        yield properties, _frames(path, reader, properties["size"])


def _reader(path: Path, *options: str) -> Generator:
    scale = f"scale=w='min({MAX_SIDE},iw)':h='min({MAX_SIDE},ih)':force_original_aspect_ratio=decrease:force_divisible_by=2"
    allowed = ["-protocol_whitelist", "file", "-format_whitelist", FORMATS]
    return imageio_ffmpeg.read_frames(str(path.absolute()), input_params=allowed, output_params=["-vf", scale, *options])


def _frames(path: Path, reader: Iterator[bytes], size: tuple[int, int]) -> Iterator[Photo]:
    with _readable(path):
        for raw in reader:
            yield np.frombuffer(raw, np.uint8).reshape(size[1], size[0], 3)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, IndexError, ZeroDivisionError) as error:  # imageio-ffmpeg raises all of these
        raise UnreadableVideo(f"{path}: the file is damaged or not a video in a supported format") from error


def track_people(path: str | Path, predictor: Predictor, progress: bool = True, seconds: float | None = None) -> TrackedVideo:
    """Tracks the people in a video and predicts gender and age of each.

    Args:
        path: The video file.
        predictor: The loaded models and the detector; `detect.VIDEO_DETECTOR` is fast enough.
        progress: Whether to show a progress bar.
        seconds: The number of seconds to read at most; None for the whole video.

    Returns:
        Both tables.

    Raises:
        UnreadableVideo: The video cannot be read.
    """
    frame = None
    with open_video(path, seconds) as (properties, frames):
        fps = properties["fps"]
        tracker, total = MultiTracker(predictor.detector, fps), round(properties["duration"] * fps) or None
        for frame in tqdm(frames, total=total, desc="tracking", unit=" frames", disable=not progress):
            run_models(tracker.update(frame), frame, predictor.models)
    if frame is None:
        raise UnreadableVideo(f"{path}: the video has no frames")
    tracks = tracker.finish()
    predictions = predictions_table(tracks, predictor.models)
    spans = [
        (track.number, min(track.boxes) / fps, max(track.boxes) / fps, len(track.boxes), track.detections) for track in tracks
    ]
    people = pd.DataFrame(spans, columns=list(PEOPLE_TYPES)).astype(PEOPLE_TYPES).round(3)
    boxes = [(frame_number, track.number, *box) for track in tracks for frame_number, box in track.boxes.items()]
    table = pd.DataFrame(boxes, columns=["frame", "person", *BOX_COLUMNS]).astype(float).round().astype("int64")
    table = table.sort_values(["frame", "person"], ignore_index=True)
    table.insert(1, "second", (table["frame"] / fps).round(3))
    table = table.merge(predictions.assign(person=people["person"]), on="person", how="left")
    return TrackedVideo(table, pd.concat([people, predictions], axis=1))


def annotate_video(
    path: str | Path, frames: pd.DataFrame, target: Path, progress: bool = True, seconds: float | None = None
) -> None:
    """Writes a copy of a video with the boxes and predictions of `TrackedVideo.frames`, without sound."""
    by_frame = dict(list(frames.groupby("frame")))
    with open_video(path, seconds) as (properties, images):
        numbered = enumerate(tqdm(images, desc="writing", unit=" frames", disable=not progress))
        drawn = (annotate(image, by_frame[i], legend=False) if i in by_frame else image for i, image in numbered)
        write_video(drawn, properties["size"], properties["fps"], target)


def write_video(frames: Iterable[Photo], size: tuple[int, int], fps: float, target: Path) -> None:
    """Writes frames, uint8 (height, width, 3), RGB, as H.264 in MP4, which browsers play. Width and height must be even."""
    with atomic_write(target) as new:
        writer = imageio_ffmpeg.write_frames(
            str(new.absolute()), size, fps=fps, codec="libx264", quality=None, macro_block_size=2,
            output_params=["-preset", "veryfast", "-crf", "23", "-movflags", "+faststart"], ffmpeg_log_level="error",
        )  # fmt: skip
        writer.send(None)
        with contextlib.closing(writer):
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))


def process_video(path: str | Path, target: Path, predictor: Predictor, progress: bool = True) -> tuple[list[Path], str]:
    """Writes the annotated copy of a video to `target`, and its tables to NAME-frames.csv and NAME-people.csv beside it.

    Returns:
        The written files, and the number of people in a sentence.

    Raises:
        UnreadableVideo: The video cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    tracked = track_people(path, predictor, progress)
    files = [target]
    for name, table in {"frames": tracked.frames, "people": tracked.people}.items():
        files.append(target.with_name(f"{target.stem}-{name}.csv"))
        with atomic_write(files[-1]) as new:
            table.to_csv(new, index=False)
    annotate_video(path, tracked.frames, target, progress)
    return files, tracked.summary
