"""A composed video of drawn people who walk past each other, and who is who in it. Before `demonstration`."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.config import SEED
from src.faces.detect import VIDEO_DETECTOR
from src.predict import video
from src.predict.predictor import Predictor
from src.sample import scene
from src.sample.face_model import FaceSpace
from src.sample.person import EYE_DISTANCE, EYE_LINE, WIDTH, draw_person, new_person
from tools import cards

SHAPE = cards.WIDTH, cards.BODY
LENGTH = 12.0  # seconds


class Walker(NamedTuple):
    """Somebody who walks. x: from and to, shares of the width. line: height of the eyes. size: as in `portrait`."""

    age_group: int
    gender: str
    x: tuple[float, float]
    line: float
    size: int
    begins: float = 0.0  # seconds


# From back to front: whoever comes later hides those before.
WALKERS = (
    Walker(5, "male", (0.86, 0.16), 0.30, 225),
    Walker(2, "female", (0.08, 0.42), 0.52, 215, 0.5),
    Walker(4, "female", (0.30, 0.88), 0.42, 255, 1.5),
    Walker(6, "male", (1.10, 0.66), 0.60, 260, 3.0),
)


def walk(fps: int) -> list[np.ndarray]:
    """The video's frames: uint8 (664, 1280, 3), RGB."""
    rng, space = np.random.default_rng(SEED + 4), FaceSpace.load()
    width, height = SHAPE
    room = scene.backdrop(width, height, rng)
    figures = []
    for walker in WALKERS:
        person = new_person(space, walker.age_group, walker.gender, rng)
        unit = walker.size * EYE_DISTANCE
        top = height * walker.line - EYE_LINE * unit
        figures.append((draw_person(space, person, walker.size, rng, (height - top) / unit + 0.2), unit, top))
    frames = []
    for i in range(round(LENGTH * fps) + 1):  # one more: a frame at which faces are looked for comes last
        frame, second = room.copy(), i / fps
        for walker, (figure, unit, top) in zip(WALKERS, figures, strict=True):
            share = np.clip((second - walker.begins) / (LENGTH - 1 - walker.begins), 0, 1)
            x = walker.x[0] + (walker.x[1] - walker.x[0]) * share
            step = 0.02 * height * abs(np.sin(2.2 * second + walker.size)) * (0 < share < 1)
            scene.put(frame, figure, round(width * x - WIDTH / 2 * unit), round(top - step))
        frames.append(frame)
    return frames


def followed(frames: list[np.ndarray], fps: int) -> list[pd.DataFrame]:
    """For each frame the rows that `annotate` draws, as `python -m src.predict VIDEO` would draw them."""
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "walk.mp4"
        video.write(frames, SHAPE, fps, film)
        watched = video.track_people(film, Predictor(detector=VIDEO_DETECTOR), progress=False)
    rows = video.as_rows(watched.frames)
    return [rows[rows["frame"] == number] for number in range(len(frames))]
