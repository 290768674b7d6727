"""Whole pictures for the embedded sample: soft backgrounds, drawn people put on them, and a landscape with nobody.

Before it: `portraits`. After it: `sample`.
"""

import itertools

import cv2
import numpy as np

from src.config import GENDERS
from src.sample.face_model import FaceSpace
from src.sample.person import BUST, EYE_DISTANCE, EYE_LINE, WIDTH, Person, draw_person, face_box, new_person

PHOTO = 1280, 960  # width, height of a composed photo
# Rows from back to front: the height of the eyes as a share of the photo, and the size of the faces in pixels.
ROWS = {
    "one_face": [(1, 0.45, 360)],
    "three_faces": [(3, 0.43, 290)],
    "several_faces": [(3, 0.27, 225), (4, 0.60, 240)],
    "twenty_faces": [(5, 0.125, 165), (5, 0.345, 172), (5, 0.57, 178), (5, 0.80, 184)],
}

AGES = (4, 7, 2, 5, 1, 6, 3, 0)  # age groups in the order in which people join a photo


def backdrop(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A soft background: uint8, (height, width, 3), RGB; a slanted gradient, a few blurred shapes, mild noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(width, height)
    slant = np.clip(y + rng.uniform(-0.4, 0.4) * x, 0, 1)[..., None]
    top, bottom = rng.uniform(95, 225, (2, 3)) * 0.3 + rng.uniform(100, 215, (2, 1)) * 0.7
    colours = (top * (1 - slant) + bottom * slant).astype(np.float32)
    shapes = colours.copy()
    for _ in range(6):
        centre = rng.uniform(0, (width, height))
        size = rng.uniform(0.1, 0.5, 2) * max(width, height)
        tone = rng.uniform(0.8, 1.2) * (top + bottom) / 2
        cv2.ellipse(shapes, (tuple(centre), tuple(size), rng.uniform(0, 180)), tuple(tone.tolist()), -1)
    # Blurred small and enlarged: a wide blur of a large picture is slow.
    small = cv2.resize(shapes, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.006 * max(width, height)), (width, height))
    return _pixels(soft + rng.standard_normal((height, width, 1), np.float32) * 2.5)


def put(scene: np.ndarray, figure: np.ndarray, left: int, top: int) -> None:
    """Lays a `portrait`, uint8 (h, w, 4), over a scene, uint8 (height, width, 3), in place; what lies outside is cut."""
    height, width = scene.shape[:2]
    y = slice(max(top, 0), min(top + figure.shape[0], height))
    x = slice(max(left, 0), min(left + figure.shape[1], width))
    if x.start >= x.stop or y.start >= y.stop:
        return
    seen = figure[y.start - top : y.stop - top, x.start - left : x.stop - left].astype(np.float32)
    opacity = seen[..., 3:] / 255
    scene[y, x] = _pixels(scene[y, x] * (1 - opacity) + seen[..., :3] * opacity)


def snapshot(
    space: FaceSpace, people: list[Person], shape: tuple[int, int], size: int, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A small picture of one person, or of several side by side.

    shape: width, height in pixels; size: as in `portrait`. Gives the picture, uint8 (height, width, 3) RGB, and the first
    person's face as left, top, right, bottom in pixels from 0.
    """
    width, height = shape
    scene = backdrop(width, height, rng)
    unit = size * EYE_DISTANCE
    top = round(height * rng.uniform(0.41, 0.46) - EYE_LINE * unit)
    centres = width * (np.arange(len(people)) + 0.5) / len(people) + rng.uniform(-0.02, 0.02, len(people)) * width
    lefts = np.round(centres - WIDTH / 2 * unit).astype(int)
    for left, person in zip(lefts, people, strict=True):
        put(scene, draw_person(space, person, size, rng, max(BUST, (height - top) / unit)), left, top)
    box = np.array(face_box(size)) + (lefts[0], top, lefts[0], top)
    return scene, tuple(np.clip(box, 0, (width, height, width, height)))


def group_photo(space: FaceSpace, name: str, rng: np.random.Generator) -> np.ndarray:
    """A photo of the people in `ROWS[name]`: uint8, (960, 1280, 3), RGB."""
    width, height = PHOTO
    scene = backdrop(width, height, rng)
    ages = itertools.cycle(AGES)
    for count, line, size in ROWS[name]:
        for place in range(count):
            person = new_person(space, next(ages), GENDERS[int(rng.integers(2))], rng)
            own = size * rng.uniform(0.97, 1.05)
            unit = own * EYE_DISTANCE
            middle = width * (0.5 + 0.94 * ((place + 0.5) / count - 0.5)) + rng.uniform(-0.006, 0.006) * width
            top = height * line - EYE_LINE * unit + rng.uniform(-0.012, 0.012) * height
            figure = draw_person(space, person, own, rng, (height - top) / unit + 0.1)
            put(scene, figure, round(middle - WIDTH / 2 * unit), round(top))
    return scene


def landscape(rng: np.random.Generator) -> np.ndarray:
    """Hills under a low sun and nobody there: uint8, (960, 1280, 3), RGB."""
    width, height = PHOTO
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = np.float32([120, 165, 215]) * (1 - down) + np.float32([250, 215, 170]) * down
    scene = np.repeat(sky, width, axis=1)
    cv2.circle(scene, (930, 330), 62, (255, 240, 205), -1, cv2.LINE_AA)
    scene = cv2.GaussianBlur(scene, (0, 0), 4)
    x = np.arange(width)
    for depth, colour in enumerate([(150, 165, 180), (120, 148, 140), (92, 128, 98), (62, 100, 66)]):
        waves = sum(np.sin(x * rng.uniform(1, 3.5) * (k + 1) / 420 + rng.uniform(0, 6)) / (k + 1) for k in range(4))
        ridge = 470 + 115 * depth + (34 + 8 * depth) * waves
        land = np.clip(np.arange(height)[:, None] - ridge + 0.5, 0, 1)[..., None].astype(np.float32)
        shade = 1 + 0.1 * cv2.blur(rng.standard_normal((height, width), np.float32), (31, 5))[..., None] * 3
        scene = scene * (1 - land) + land * np.float32(colour) * shade
    return _pixels(scene + rng.standard_normal((height, width, 1), np.float32) * 2.5)


def _pixels(colours: np.ndarray) -> np.ndarray:
    return np.clip(colours, 0, 255).round().astype(np.uint8)


def street(space: FaceSpace, rng: np.random.Generator, frames: int = 100):
    """A film, 640x480: somebody crosses from the left, somebody from the right behind them, a third leaves and comes back.

    Gives the people and, a frame at a time, the picture, uint8 (480, 640, 3) RGB, and each person's face as left, top, right,
    bottom in pixels; None where it is out of the picture or behind the first.
    """
    width, height, size = 640, 480, 130
    scene = backdrop(width, height, rng)
    people = [new_person(space, group, gender, rng) for group, gender in ((6, "male"), (3, "female"), (1, "male"))]
    figures = [draw_person(space, person, size, rng) for person in people]
    box = np.array(face_box(size))

    def film():
        for frame in range(frames):
            t = frame / (frames - 1)
            picture = np.clip(scene + rng.normal(0, 1.5, scene.shape), 0, 255).astype(np.uint8)
            gone = max(0.0, np.sin(np.pi * (t - 0.25) / 0.5)) * 260
            corners = [(-40 + 500 * t, 170), (420 - 500 * t, 150), (430 + gone, 20 + 10 * np.sin(12 * t))]
            boxes = [tuple(box + np.tile(np.round(corner), 2)) for corner in corners]
            for i in (2, 1, 0):  # the first in front
                put(picture, figures[i], *(round(float(edge)) for edge in corners[i]))
            inside = [0 <= (left + right) / 2 < width for left, _, right, _ in boxes]
            hidden = abs(corners[0][0] - corners[1][0]) < 0.6 * (box[2] - box[0])
            inside[1] = inside[1] and not hidden
            yield picture, [one if seen else None for one, seen in zip(boxes, inside)]

    return people, film()
