"""A video to an annotated copy and two tables: who is where in every frame, and each person's one answer.

People are followed by `tracks`; what the models say of somebody is averaged over all looks at them. The video is read twice,
so that every frame shows the final answer. FFmpeg reads and writes, as a program of its own (imageio-ffmpeg carries it).

Before it: `tracks` and `answers`. After it: `camera`, `predict`, `demo`.
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
from src.faces import align as face_tools
from src.files import atomic_write
from src.predict.annotate import annotate
from src.predict.decode import Models
from src.predict.predictor import Predictor
from src.predict.tracks import TrackedPerson, Tracks

LONGEST = 1920  # pixels: larger frames are scaled down, on reading
USUAL, FASTEST = 25, 60  # frames a second: where a video does not say, and the most; more are left out
# What is inside counts, not the name: lists of other files to read, as HLS has them, must not be followed.
FORMATS = "mov,matroska,webm,avi,mpeg,mpegts,asf,flv,gif,ogg,mpegvideo"
# Each person's columns of the predictions, with their types: tables of nobody have the same as those of many.
ANSWERS = {
    "gender": "string", "p_male": "Float64", "age_group": "string", "age_group_probability": "Float64",
    "age_years": "Float64", "message": "string", "age_interval_low": "Int64", "age_interval_high": "Int64",
    "gender_unsure": "boolean", "age_unsure": "boolean",
}  # fmt: skip


class UnreadableVideo(ValueError):
    """A file that is no video that can be read; its text says why in one sentence."""


class TrackedVideo(NamedTuple):
    """The two tables of a video. Both are empty, with the same columns and types, where nobody was followed.

    frames: one row for each person in each frame: frame (from 0), second, person (from 1), left, top, right, bottom (pixels),
    and the person's predictions. people: one row for each person: person, first_second, last_second, frames (how many show
    the person), looks (how many times the models were asked), and the predictions.
    """

    frames: pd.DataFrame
    people: pd.DataFrame

    @property
    def summary(self) -> str:
        """How many people were followed, in words."""
        count = len(self.people)
        if not count:
            return "nobody was followed: no face was found, or only in too few frames"
        return f"{count} {'person was' if count == 1 else 'people were'} followed"


class FacePredictions:
    """What the models have said of each person so far: by person, how often, and the sum of the probabilities."""

    def __init__(self, models: Models):
        self.models = models
        self.sums: dict[int, dict[str, np.ndarray]] = {}
        self.counts: dict[int, int] = {}

    def add(self, frame: np.ndarray, seen: list[tuple[TrackedPerson, face_tools.Face]]) -> None:
        """Asks the models about those detected in a frame, uint8 (height, width, 3), RGB, and remembers their answers."""
        faces = [
            {task: face_tools.align_face(frame, face, how) for task, how in self.models.alignments.items()}
            for _, face in seen
        ]
        said = self.models.probabilities(faces)
        for i, (person, _) in enumerate(seen):
            sums = self.sums.setdefault(id(person), {})
            for task, probability in said.items():
                sums[task] = sums.get(task, 0) + probability[i].astype(float)
            self.counts[id(person)] = self.counts.get(id(person), 0) + 1

    def answers(self, people: list[TrackedPerson]) -> list[dict]:
        """Each person's columns of the table of predictions, from the mean over all looks."""
        if not people:
            return []
        tasks = self.sums[id(people[0])]
        means = {task: np.stack([self.sums[id(one)][task] / self.counts[id(one)] for one in people]) for task in tasks}
        return self.models.columns(means)


@contextlib.contextmanager
def open_video(path: str | Path, seconds: float | None = None) -> Iterator[tuple[dict, Iterator[np.ndarray]]]:
    """A video's facts (size, fps, duration) and its frames: uint8 (height, width, 3), RGB, upright, evenly in time.

    seconds: so many at most are read. Raises UnreadableVideo, also from the frames.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableVideo(f"{path}: no such file")
    with contextlib.closing(_reader(path)) as reader, _readable(path):
        fps = min(next(reader)["fps"] or USUAL, FASTEST)  # the mean: a phone's frames come unevenly
    with contextlib.closing(_reader(path, "-r", str(fps), *(["-t", str(seconds)] if seconds else []))) as reader:
        with _readable(path):
            facts = next(reader) | {"fps": fps}
        yield facts, _frames(path, reader, facts["size"])


def _reader(path: Path, *how: str) -> Generator:
    smaller = f"scale=w='min({LONGEST},iw)':h='min({LONGEST},ih)':force_original_aspect_ratio=decrease:force_divisible_by=2"
    return imageio_ffmpeg.read_frames(
        str(path.absolute()),
        input_params=["-protocol_whitelist", "file", "-format_whitelist", FORMATS],
        output_params=["-vf", smaller, *how],
    )


def _frames(path: Path, reader: Iterator[bytes], size: tuple[int, int]) -> Iterator[np.ndarray]:
    with _readable(path):
        for raw in reader:
            yield np.frombuffer(raw, np.uint8).reshape(size[1], size[0], 3)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, IndexError, ZeroDivisionError) as error:
        raise UnreadableVideo(f"{path}: damaged, or no video in a format that can be read") from error


def track_people(path: str | Path, predictor: Predictor, progress: bool = True, seconds: float | None = None) -> TrackedVideo:
    """Follows the people in a video.

    Args:
        path: the video file.
        predictor: the loaded models and the detector; `detect.VIDEO_DETECTOR` is fast enough.
        progress: whether to show a progress bar.
        seconds: stops after this many seconds of the video; None reads all of it.

    Returns:
        Both tables; empty ones where nobody was followed.

    Raises:
        UnreadableVideo: the file is missing, damaged, or no video in a supported format.
    """
    looks, count = FacePredictions(predictor.models), 0
    with open_video(path, seconds) as (facts, frames):
        tracks = Tracks(predictor.detector, facts["fps"])
        total = round(facts["duration"] * facts["fps"]) or None
        for frame in tqdm(frames, total=total, desc="following", unit=" frames", disable=not progress):
            looks.add(frame, tracks.update(frame))
            count += 1
    if not count:
        raise UnreadableVideo(f"{path}: there is no picture in it")
    return _tables(tracks.finish(), looks, facts["fps"])


def _tables(people: list[TrackedPerson], looks: FacePredictions, fps: float) -> TrackedVideo:
    answers = table_of_answers(looks, people)
    spans = pd.DataFrame({
        "person": pd.Series([one.number for one in people], dtype="int64"),
        "first_second": pd.Series([min(one.boxes) / fps for one in people], dtype="float64").round(3),
        "last_second": pd.Series([max(one.boxes) / fps for one in people], dtype="float64").round(3),
        "frames": pd.Series([len(one.boxes) for one in people], dtype="int64"),
        "looks": pd.Series([one.detections for one in people], dtype="int64"),
    })  # fmt: skip
    places = [(frame, one.number, *box) for one in people for frame, box in one.boxes.items()]
    where = pd.DataFrame(places, columns=["frame", "person", *BOX_COLUMNS]).astype({"frame": "int64", "person": "int64"})
    where = where.sort_values(["frame", "person"], ignore_index=True)
    where.insert(1, "second", (where["frame"] / fps).round(3))
    where[BOX_COLUMNS] = where[BOX_COLUMNS].astype(float).round().astype("int64")
    where = where.merge(pd.concat([spans["person"], answers], axis=1), on="person", how="left")
    return TrackedVideo(where, pd.concat([spans, answers], axis=1))


def table_of_answers(looks: FacePredictions, people: list[TrackedPerson]) -> pd.DataFrame:
    """The predictions so far, a row a person in the order given, with the columns and types of `ANSWERS`."""
    rows = pd.DataFrame(looks.answers(people), index=range(len(people)))
    return rows.reindex(columns=list(ANSWERS)).astype(ANSWERS)


def draw(path: str | Path, watched: TrackedVideo, target: Path, progress: bool = True, seconds: float | None = None) -> None:
    """Writes the annotated copy, without sound. Frames in which nobody was followed are only re-encoded."""
    by_frame = dict(list(as_rows(watched.frames).groupby("frame")))
    with open_video(path, seconds) as (facts, frames):
        shown = enumerate(tqdm(frames, desc="drawing", unit=" frames", disable=not progress))
        drawn = (annotate(frame, by_frame[number], legend=False) if number in by_frame else frame for number, frame in shown)
        write(drawn, facts["size"], facts["fps"], target)


def write(frames: Iterable[np.ndarray], size: tuple[int, int], fps: float, target: Path) -> None:
    """Writes frames, uint8 (height, width, 3), RGB, as H.264 in MP4, which every browser plays. size: width, height, even."""
    with atomic_write(target) as new:
        writer = imageio_ffmpeg.write_frames(
            str(new.absolute()), size, fps=fps, codec="libx264", quality=None, macro_block_size=2,
            output_params=["-preset", "veryfast", "-crf", "23", "-movflags", "+faststart"], ffmpeg_log_level="error",
        )  # fmt: skip
        writer.send(None)
        try:
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
        finally:
            writer.close()


def as_rows(places: pd.DataFrame) -> pd.DataFrame:
    """People in frames as rows that `annotate` draws."""
    return places.assign(status="ok")


class VideoResult(NamedTuple):
    """files: what was written, the annotated copy first. summary: see `Watched.summary`."""

    files: list[Path]
    summary: str


def process_video(path: str | Path, target: Path, predictor: Predictor, progress: bool = True) -> VideoResult:
    """Writes the annotated copy of a video to `target`, NAME.mp4, and its tables beside it: NAME-frames.csv, NAME-people.csv.

    All three are also written where nobody was followed. Raises UnreadableVideo, see `watch`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    watched = track_people(path, predictor, progress)
    tables = []
    for name, table in zip(TrackedVideo._fields, watched):
        tables.append(target.with_name(f"{target.stem}-{name}.csv"))
        with atomic_write(tables[-1]) as new:
            table.to_csv(new, index=False)
    draw(path, watched, target, progress)
    return VideoResult([target, *tables], watched.summary)
