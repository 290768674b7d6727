"""Draws the images of the embedded sample: people in front of soft backgrounds, and a landscape without people."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from src.config import GENDERS
from src.sample.face_model import FaceModel
from src.sample.person import EYE_DISTANCE, EYE_HEIGHT, FRAME_HEIGHT, FRAME_WIDTH, Person, draw_person, face_box, new_person

Image: TypeAlias = npt.NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Row(NamedTuple):
    """A row of people in a photo."""

    people: int
    eye_height: float  # distance of the eyes from the upper edge, as a fraction of the photo's height
    face_side: int  # usual side of the face squares in pixels


PHOTO_SIZE = 1280, 960  # width and height
ROWS = {  # the rows of people in each photo, from back to front
    "one_face": [Row(1, 0.45, 360)],
    "three_faces": [Row(3, 0.43, 290)],
    "several_faces": [Row(3, 0.27, 225), Row(4, 0.60, 240)],
    "twenty_faces": [Row(5, 0.125, 165), Row(5, 0.345, 172), Row(5, 0.57, 178), Row(5, 0.80, 184)],
}
LANDSCAPE = "nobody"  # the photo without people
AGE_ORDER = (4, 7, 2, 5, 1, 6, 3, 0)  # age groups of the people in a photo, repeated if there are more


def backdrop(width: int, height: int, rng: np.random.Generator) -> Image:
    """Draws a soft background of a slanted gradient and a few blurred shapes: uint8 (height, width, 3), RGB."""
    # Drawn small and enlarged: a wide blur of a large image is slow.
    small = np.array((width, height)) // 8 + 1
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) / max(small) for side in small))
    slant = np.clip(y + rng.uniform(-0.4, 0.4) * x, 0, 1)[..., None]
    top, bottom = rng.uniform(95, 225, (2, 3)) * 0.3 + rng.uniform(100, 215, (2, 1)) * 0.7
    colours = (top * (1 - slant) + bottom * slant).astype(np.float32)
    for _ in range(6):
        middle, axes = rng.uniform(0, small), rng.uniform(0.1, 0.5, 2) * max(small)
        tone = rng.uniform(0.8, 1.2) * (top + bottom) / 2
        cv2.ellipse(colours, (tuple(middle), tuple(axes), rng.uniform(0, 180)), tuple(tone.tolist()), -1)
    soft = cv2.resize(cv2.GaussianBlur(colours, (0, 0), 0.05 * max(small)), (width, height))
    return _pixels(soft + rng.standard_normal((height, width, 1), np.float32) * 2.5)


def paste(image: Image, figure: Image, left: int, top: int) -> None:
    """Pastes an RGBA figure from `draw_person` into an image, in place.

    Args:
        image: uint8 (height, width, 3), RGB.
        figure: uint8 (h, w, 4), RGB and opacity; parts outside the image are clipped.
        left, top: Position of the figure's corner in the image in pixels, may be negative.
    """
    height, width = image.shape[:2]
    y = slice(max(top, 0), min(top + figure.shape[0], height))
    x = slice(max(left, 0), min(left + figure.shape[1], width))
    if x.start < x.stop and y.start < y.stop:
        seen = figure[y.start - top : y.stop - top, x.start - left : x.stop - left].astype(np.float32)
        opacity = seen[..., 3:] / 255
        image[y, x] = _pixels(image[y, x] * (1 - opacity) + seen[..., :3] * opacity)


def snapshot(
    model: FaceModel, people: list[Person], size: tuple[int, int], face_side: int, rng: np.random.Generator
) -> tuple[Image, Box]:
    """Draws a small image of one person, or of several side by side.

    Args:
        model: The face model.
        people: The people from left to right.
        size: Width and height in pixels.
        face_side: Side of the face square in pixels.
        rng: Source of randomness.

    Returns:
        The image, uint8 (height, width, 3) RGB, and the box of the first person's face.
    """
    width, height = size
    image = backdrop(width, height, rng)
    unit = face_side * EYE_DISTANCE
    top = round(height * rng.uniform(0.41, 0.46) - EYE_HEIGHT * unit)
    centres = width * (np.arange(len(people)) + 0.5) / len(people) + rng.uniform(-0.02, 0.02, len(people)) * width
    lefts = np.round(centres - FRAME_WIDTH / 2 * unit).astype(int)
    for left, person in zip(lefts, people, strict=True):
        paste(image, draw_person(model, person, face_side, rng, max(FRAME_HEIGHT, (height - top) / unit)), left, top)
    box = np.array(face_box(face_side)) + (lefts[0], top, lefts[0], top)
    return image, tuple(np.clip(box, 0, (width, height, width, height)))


def draw_photo(path: Path, model: FaceModel, name: str, rng: np.random.Generator) -> None:
    """Writes the photo `name` of `ROWS`, or the `LANDSCAPE`, to a JPEG file of 1280x960 pixels."""
    write_jpeg(path, landscape(rng) if name == LANDSCAPE else group_photo(model, name, rng))


def write_jpeg(path: Path, image: Image) -> None:
    """Writes uint8 (h, w, 3) RGB as a JPEG file. `cv2.imwrite` fails for some paths on Windows."""
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(coded.tobytes())


def group_photo(model: FaceModel, name: str, rng: np.random.Generator) -> Image:
    """Draws a photo of the people in `ROWS[name]`: uint8 (960, 1280, 3), RGB."""
    width, height = PHOTO_SIZE
    image = backdrop(width, height, rng)
    ages = itertools.cycle(AGE_ORDER)
    for row in ROWS[name]:
        for i in range(row.people):
            person = new_person(model, next(ages), GENDERS[int(rng.integers(2))], rng)
            face_side = round(row.face_side * rng.uniform(0.97, 1.05))
            unit = face_side * EYE_DISTANCE
            centre = width * (0.5 + 0.94 * ((i + 0.5) / row.people - 0.5)) + rng.uniform(-0.006, 0.006) * width
            top = height * row.eye_height - EYE_HEIGHT * unit + rng.uniform(-0.012, 0.012) * height
            figure = draw_person(model, person, face_side, rng, (height - top) / unit + 0.1)
            paste(image, figure, round(centre - FRAME_WIDTH / 2 * unit), round(top))
    return image


def landscape(rng: np.random.Generator) -> Image:
    """Draws hills under a low sun: uint8 (960, 1280, 3), RGB."""
    width, height = PHOTO_SIZE
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = np.float32([120, 165, 215]) * (1 - down) + np.float32([250, 215, 170]) * down
    image = np.repeat(sky, width, axis=1)
    cv2.circle(image, (930, 330), 62, (255, 240, 205), -1, cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), 4)
    x = np.arange(width)
    for depth, colour in enumerate([(150, 165, 180), (120, 148, 140), (92, 128, 98), (62, 100, 66)]):
        waves = sum(np.sin(x * rng.uniform(1, 3.5) * (k + 1) / 420 + rng.uniform(0, 6)) / (k + 1) for k in range(4))
        ridge = 470 + 115 * depth + (34 + 8 * depth) * waves
        land = np.clip(np.arange(height)[:, None] - ridge + 0.5, 0, 1)[..., None].astype(np.float32)
        shade = 1 + 0.3 * cv2.blur(rng.standard_normal((height, width), np.float32), (31, 5))[..., None]
        image = image * (1 - land) + land * np.float32(colour) * shade
    return _pixels(image + rng.standard_normal((height, width, 1), np.float32) * 2.5)


def street(rng: np.random.Generator, frames: int = 100) -> Iterator[tuple[Image, list[Box | None]]]:
    """Draws a video of three people: one crosses from the left, one from the right behind the first, one leaves and returns.

    Yields:
        The frames, uint8 (480, 640, 3) RGB, each with the boxes of the three faces. A box is None if the face is outside the
        frame or behind the first person.
    """
    model, (width, height), size = FaceModel.load(), (640, 480), 138
    background = backdrop(width, height, rng)
    people = [new_person(model, group, gender, rng) for group, gender in ((6, "male"), (3, "female"), (1, "male"))]
    figures = [draw_person(model, person, size, rng) for person in people]
    face = np.array(face_box(size))
    for t in np.linspace(0, 1, frames):
        image = _pixels(background + rng.normal(0, 1.5, background.shape))
        away = max(0.0, np.sin(np.pi * (t - 0.25) / 0.5)) * 260
        corners = [(-40 + 500 * t, 170), (420 - 500 * t, 150), (430 + away, 20 + 10 * np.sin(12 * t))]
        boxes = [tuple(face + np.tile(np.round(corner), 2)) for corner in corners]
        for i in (2, 1, 0):  # the first person in front
            paste(image, figures[i], *(round(float(edge)) for edge in corners[i]))
        visible = [0 <= (left + right) / 2 < width for left, _, right, _ in boxes]
        visible[1] = visible[1] and abs(corners[0][0] - corners[1][0]) >= 0.6 * (face[2] - face[0])
        yield image, [box if seen else None for box, seen in zip(boxes, visible, strict=True)]


def _pixels(colours: np.ndarray) -> Image:
    """Rounds colours, 0-255, to uint8."""
    return np.clip(colours, 0, 255).round().astype(np.uint8)
