"""A video of synthetic people who walk past each other, for the demonstration."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import SEED
from src.faces.detect import VIDEO_DETECTOR
from src.predict import video
from src.predict.predictor import Predictor
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import EYE_DISTANCE, EYE_HEIGHT, FRAME_WIDTH, draw_person, new_person
from tools import cards

SHAPE = cards.WIDTH, cards.BODY
LENGTH = 12.0  # seconds


class Walker(NamedTuple):
    """A walking person; age group, gender and size are those of `sample.person`."""

    age_group: int
    gender: str
    x: tuple[float, float]  # start and end, shares of the width
    eye_height: float  # height of the eyes, a share of the height
    size: int
    start_second: float = 0.0  # seconds


# From back to front.
WALKERS = (
    Walker(5, "male", (0.86, 0.16), 0.30, 225),
    Walker(2, "female", (0.08, 0.42), 0.52, 215, 0.5),
    Walker(4, "female", (0.30, 0.88), 0.42, 255, 1.5),
    Walker(6, "male", (1.10, 0.66), 0.60, 260, 3.0),
)


def walk(fps: int) -> list[npt.NDArray[np.uint8]]:
    """Returns the frames of the video, uint8 RGB (664, 1280, 3)."""
    rng, model = np.random.default_rng(SEED + 4), FaceModel.load()
    width, height = SHAPE
    room = scene.backdrop(width, height, rng)
    figures = []
    for walker in WALKERS:
        person = new_person(model, walker.age_group, walker.gender, rng)
        unit = walker.size * EYE_DISTANCE
        top = height * walker.eye_height - EYE_HEIGHT * unit
        figures.append((draw_person(model, person, walker.size, rng, (height - top) / unit + 0.2), unit, top))
    frames = []
    for i in range(round(LENGTH * fps) + 1):  # the last frame is one on which faces are detected
        frame, second = room.copy(), i / fps
        for walker, (figure, unit, top) in zip(WALKERS, figures, strict=True):
            share = np.clip((second - walker.start_second) / (LENGTH - 1 - walker.start_second), 0, 1)
            x = walker.x[0] + (walker.x[1] - walker.x[0]) * share
            step = 0.02 * height * abs(np.sin(2.2 * second + walker.size)) * (0 < share < 1)
            scene.paste(frame, figure, round(width * x - FRAME_WIDTH / 2 * unit), round(top - step))
        frames.append(frame)
    return frames


def track(frames: list[npt.NDArray[np.uint8]], fps: int) -> list[pd.DataFrame]:
    """Returns the predictions of each frame, as `python -m src.predict VIDEO` makes them."""
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "walk.mp4"
        video.write_video(frames, SHAPE, fps, film)
        rows = video.track_people(film, Predictor(detector=VIDEO_DETECTOR), progress=False).frames
    return [rows[rows["frame"] == number] for number in range(len(frames))]
