"""A composed video of drawn people who walk past each other, and who is who in it. Before `demonstration`."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from src.config import SEED
from src.datasets import scenes
from src.datasets.portraits import EYE_DISTANCE, EYE_LINE, WIDTH, new_person, portrait
from src.face_space import FaceSpace
from src.predict import predict
from src.tables import BOX
from tools import cards

SHAPE = cards.WIDTH, cards.BODY
LENGTH = 12.0  # seconds
SIDES = ("x", "left", "right"), ("y", "top", "bottom")
EVERY = 2  # frames from one look to the next; the boxes between are interpolated


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
    room = scenes.backdrop(width, height, rng)
    figures = []
    for walker in WALKERS:
        person = new_person(space, walker.age_group, walker.gender, rng)
        unit = walker.size * EYE_DISTANCE
        top = height * walker.line - EYE_LINE * unit
        figures.append((portrait(space, person, walker.size, rng, (height - top) / unit + 0.2), unit, top))
    frames = []
    for i in range(round(LENGTH * fps)):
        frame, second = room.copy(), i / fps
        for walker, (figure, unit, top) in zip(WALKERS, figures, strict=True):
            share = np.clip((second - walker.begins) / (LENGTH - 1 - walker.begins), 0, 1)
            x = walker.x[0] + (walker.x[1] - walker.x[0]) * share
            step = 0.02 * height * abs(np.sin(2.2 * second + walker.size)) * (0 < share < 1)
            scenes.put(frame, figure, round(width * x - WIDTH / 2 * unit), round(top - step))
        frames.append(frame)
    return frames


def followed(frames: list[np.ndarray]) -> list[pd.DataFrame]:
    """For each frame the rows that `annotate` draws: whoever is followed then, with the mean of what was said of them."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = [*range(0, len(frames) - 1, EVERY), len(frames) - 1]
        paths = [Path(folder) / f"{number:05d}.png" for number in numbers]
        for path, number in zip(paths, numbers):
            Image.fromarray(frames[number]).save(path, compress_level=1)
        table = predict(paths, progress=False)
    table = table[table["status"] == "ok"].assign(frame=lambda rows: rows["photo"].map(lambda name: int(Path(name).stem)))
    table["person"] = _persons(table)
    people = [mine for _, mine in table.groupby("person") if len(mine) >= 5]
    tracks = [_track(mine) for mine in people]
    return [pd.DataFrame([track.loc[number] for track in tracks if number in track.index]) for number in range(len(frames))]


def _persons(table: pd.DataFrame) -> list[int]:
    """Who each face is: the one who, walking on as before, would be nearest to it."""
    seen: list[tuple[int, np.ndarray, np.ndarray]] = []  # frame, centre, pixels a frame
    persons = []
    for row in table.itertuples():
        centre = np.array([row.left + row.right, row.top + row.bottom], float) / 2
        near = [np.hypot(*(place + speed * min(row.frame - frame, 40) - centre)) for frame, place, speed in seen]
        free = [distance if seen[i][0] < row.frame else np.inf for i, distance in enumerate(near)]
        who = int(np.argmin(free)) if free and min(free) < 0.6 * (row.right - row.left) else len(seen)
        if who == len(seen):
            seen.append((row.frame, centre, np.zeros(2)))
        else:
            frame, place, speed = seen[who]
            seen[who] = row.frame, centre, 0.8 * speed + 0.2 * (centre - place) / (row.frame - frame)
        persons.append(who)
    return persons


def _track(mine: pd.DataFrame) -> pd.DataFrame:
    """One person's rows, one a frame from the first look to the last."""
    frames = pd.RangeIndex(mine["frame"].min(), mine["frame"].max() + 1)
    boxes = mine.set_index("frame")[BOX].astype(float).reindex(frames).interpolate()
    centre = {
        name: (boxes[one] + boxes[other]).rolling(7, center=True, min_periods=1).mean() / 2 for name, one, other in SIDES
    }
    half = (boxes["right"] - boxes["left"]).rolling(61, center=True, min_periods=1).mean() / 2  # steady, and so are labels
    smooth = pd.DataFrame(
        {"left": centre["x"] - half, "top": centre["y"] - half, "right": centre["x"] + half, "bottom": centre["y"] + half}
    )
    p_male, gender = mine["p_male"].mean(), "male" if mine["p_male"].mean() > 0.5 else "female"
    years = mine[["age_years", "age_low", "age_high"]].astype(float).mean().round()
    group = mine.groupby("age_group")["age_group_probability"].agg(["size", "mean"]).sort_values("size").iloc[-1]
    return smooth.assign(
        status="ok", gender=gender, p_male=p_male, age_group=group.name, age_group_probability=group["mean"],
        age_years=years["age_years"], age_low=int(years["age_low"]), age_high=int(years["age_high"]), message=pd.NA,
    )  # fmt: skip
