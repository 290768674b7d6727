"""Predictions drawn on a photo: boxes with one line per face, or numbers with a legend where the lines do not fit.

`layout` decides where everything goes; `annotate` draws it. Sizes follow from the picture, so that the text stays readable
when a large picture is scaled down to the width of a page.

Before it: rows as `predict` gives them. After it: `plots`, `predict`, `video`, `camera` and `demo`.
"""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from src.tables import BOX

# Okabe and Ito's orange, sky blue, green, purple and yellow, in turn; black text is readable on each.
LABELS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442")
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")  # part of matplotlib, thus on every machine
REGULAR, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"
GAP = 2  # pixels between labels
TRIES = 6  # orders in which labels are placed before numbers take their place

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are the first outside


class Text(NamedTuple):
    """A line of text with its place on the canvas.

    Attributes:
        number: the face's number, which also gives the colour.
        text: what is written.
        size: height of the font in pixels.
        place: the rectangle of the text with its background.
    """

    number: int
    text: str
    size: int
    place: Box


class Layout(NamedTuple):
    """Where everything is drawn.

    Attributes:
        canvas: width and height of the result in pixels; the photo is in its upper left corner.
        boxes: by number, the faces' boxes, clipped to the photo.
        labels: whole answers beside their faces.
        numbers: numbers beside faces that have no label on the photo.
        legend: whole answers outside the photo, one for each of `numbers`; for a single face a line without a number.
    """

    canvas: tuple[int, int]
    boxes: dict[int, Box]
    labels: list[Text]
    numbers: list[Text]
    legend: list[Text]


def annotate(photo: npt.NDArray[np.uint8], rows: pd.DataFrame, legend: bool = True) -> npt.NDArray[np.uint8]:
    """Draws each face's box and prediction on a copy of the photo.

    A face has one line, such as `female, 25 (18–34)`: the gender, the age in years and its 90% interval, or the age group
    where there is no interval. `?` follows a value that the model is unsure of. Without a face it says "no face found".

    Args:
        photo: uint8 RGB, (height, width, 3), 0-255.
        rows: this photo's predictions, see `layout`.
        legend: where there is no room for all lines beside the faces, put numbers there and the lines outside the photo, on
            a white strip below or to the right. False keeps the photo's size, for frames of a video: faces without room for
            their line then have a number only.

    Returns:
        A new uint8 RGB array, as large as the photo or, with a legend, larger; the photo is in its upper left corner.

    Raises:
        ValueError: photo is not a uint8 RGB array.
    """
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"photo must be uint8 RGB of shape (h, w, 3), got {photo.dtype} {photo.shape}")
    plan = layout((photo.shape[1], photo.shape[0]), rows, legend)
    picture = Image.new("RGB", plan.canvas, "white")
    picture.paste(Image.fromarray(photo), (0, 0))
    pen = ImageDraw.Draw(picture)
    for number, (left, top, right, bottom) in plan.boxes.items():
        line = max(1, min(math.ceil(max(photo.shape) / 500), (right - left) // 12))
        pen.rectangle((left, top, right - 1, bottom - 1), outline=_colour(number), width=line)
    for text in plan.numbers:
        _connect(pen, text, plan.boxes[text.number])
    for text in plan.labels:
        picture.paste(_drawn(text.text, text.size, REGULAR, _colour(text.number)), text.place[:2])
    for text in plan.numbers:
        picture.paste(_drawn(text.text, text.size, BOLD, _colour(text.number)), text.place[:2])
    for text in plan.legend:
        left, top, right, bottom = text.place
        words = _drawn(text.text, text.size, REGULAR, "white")
        chip = _drawn(str(text.number) if plan.numbers else " ", text.size, BOLD, _colour(text.number))
        pen.rectangle((left, top, right - words.width - 1, top + chip.height - 1), _colour(text.number))
        picture.paste(chip, (left + (right - left - words.width - chip.width) // 2, top))
        picture.paste(words, (right - words.width, top))
    return np.array(picture)


def layout(size: tuple[int, int], rows: pd.DataFrame, legend: bool = True) -> Layout:
    """Decides where boxes, labels, numbers and the legend go.

    Labels lie inside the photo, beside their face, and cover no face and no other label. Where that is not possible for all
    faces, numbers take the place of all labels (with `legend`) or of those without room (without it). A number lies beside
    its face or on a corner of its own box, else at a free place nearby, with a line to its face. In a crowd so dense that no
    place is free, it covers as little of the faces as possible, and another number only where the photo is full of them.

    Args:
        size: the photo's width and height in pixels.
        rows: the columns status, left, top, right, bottom (pixels; a box may reach over the edge; NA: no box), gender,
            age_group, age_years (NA: unknown) and, where there are any, face, person (of a video), age_interval_low,
            age_interval_high, gender_unsure, age_unsure. `person`, else `face`, gives the number and the colour.
        legend: see `annotate`.
    """
    texts, boxes = {}, {}
    for index, row in enumerate(rows.to_dict("records"), start=1):
        number = _number(row, index)
        texts[number] = _line(row)
        if not any(pd.isna(row[side]) for side in BOX):
            boxes[number] = _clipped([float(row[side]) for side in BOX], size)
    smallest = max(11, math.ceil(max(size) / 70))
    wanted = dict.fromkeys(texts, smallest)
    for number, (left, _, right, _) in boxes.items():
        wanted[number] = int(np.clip((right - left) / 7, smallest, 2 * smallest))
    labels: dict[int, Text] = {}
    for fonts in (wanted, dict.fromkeys(texts, smallest)):
        labels = _labels(texts, fonts, boxes, size)
        if len(labels) == len(texts):
            return Layout(size, boxes, list(labels.values()), [], [])
    if not legend:
        left = [number for number in texts if number in boxes and number not in labels]
        labels |= _on_own_box(left, texts, smallest, boxes, size, labels)
        left = [number for number in left if number not in labels]
        taken = [label.place for label in labels.values()]
        return Layout(size, boxes, list(labels.values()), _numbers(left, boxes, size, size, taken), [])
    canvas, lines = _legend(texts, size)
    numbers = _numbers(list(boxes), boxes, size, canvas, []) if len(texts) > 1 else []
    return Layout(canvas, boxes, [], numbers, lines)


def _number(row: dict, index: int) -> int:
    for name in ("person", "face"):
        if pd.notna(row.get(name, pd.NA)):
            return int(row[name])
    return index


def _colour(number: int) -> str:
    return LABELS[(number - 1) % len(LABELS)]


def _line(row: dict) -> str:
    """A row's prediction as one line of text."""
    status = {"no_face": "no face found", "whole_photo": "whole photo: ", "unreadable": "unreadable"}.get(row["status"], "")
    person = f"person {row['person']}: " if "person" in row else ""
    said = []
    if pd.notna(row["gender"]):
        said.append(row["gender"] + _doubt(row, "gender"))
    low, high = row.get("age_interval_low", pd.NA), row.get("age_interval_high", pd.NA)
    if pd.notna(row["age_years"]) and pd.notna(low):
        said.append(f"{row['age_years']:.0f}{_doubt(row, 'age')} ({low:.0f}–{high:.0f})")
    elif pd.notna(row["age_group"]):
        said.append(row["age_group"] + _doubt(row, "age"))
    return status + person + ", ".join(said) or "face"


def _doubt(row: dict, task: str) -> str:
    unsure = row.get(f"{task}_unsure", pd.NA)
    return "?" if pd.notna(unsure) and unsure else ""


def _clipped(box: list[float], size: tuple[int, int]) -> Box:
    """The part of a box inside the photo, of at least one pixel."""
    left, top = (int(np.clip(math.floor(box[i]), 0, size[i] - 1)) for i in (0, 1))
    right, bottom = (int(np.clip(math.ceil(box[i + 2]), start + 1, size[i])) for i, start in ((0, left), (1, top)))
    return left, top, right, bottom


# --- labels and numbers on the photo ------------------------------------------------------------------------------------


def _labels(texts: dict[int, str], fonts: dict[int, int], boxes: dict[int, Box], size: tuple[int, int]) -> dict[int, Text]:
    """Labels for as many faces as possible; those that found no room go first in the next try."""
    choices = {}
    for number, text in texts.items():
        extent = _extent(text, fonts[number], REGULAR)
        spots = _inside(_beside(boxes[number], extent) if number in boxes else _sized(np.zeros((1, 2)), extent), size)
        spots = spots[_free(spots, list(boxes.values()))]
        choices[number] = _clearest_first(spots, [box for other, box in boxes.items() if other != number])
    order, best = list(texts), {}
    for _ in range(TRIES):
        placed: dict[int, Text] = {}
        taken: list[Box] = []
        for number in order:
            spots = choices[number]
            free = _free(spots, taken)
            if free.any():
                placed[number] = Text(number, texts[number], fonts[number], _box(spots[np.argmax(free)]))
                taken.append(_wider(placed[number].place, GAP))
        best = max(best, placed, key=len)
        missing = [number for number in order if number not in placed]
        if not missing or not all(map(len, choices.values())):  # no order makes room where there is no place at all
            break
        order = missing + [number for number in order if number in placed]
    return best


def _on_own_box(numbers, texts, font: int, boxes: dict[int, Box], size, labels: dict[int, Text]) -> dict[int, Text]:
    """Labels along the lower or upper edge of faces so large that a label covers at most an eighth of their height."""
    placed: dict[int, Text] = {}
    for number in numbers:
        left, top, right, bottom = boxes[number]
        width, height = _extent(texts[number], font, REGULAR)
        spots = np.array([(left, y, left + width, y + height) for y in (bottom - height, top)])
        others = [box for other, box in boxes.items() if other != number]
        taken = others + [_wider(label.place, GAP) for label in (*labels.values(), *placed.values())]
        spots = _inside(spots, size)
        spots = spots[_free(spots, taken)]
        if len(spots) and 8 * height <= bottom - top:
            placed[number] = Text(number, texts[number], font, _box(spots[0]))
    return placed


def _numbers(
    numbers: list[int], boxes: dict[int, Box], size: tuple[int, int], canvas: tuple[int, int], taken: list[Box]
) -> list[Text]:
    """A number for each of the faces. canvas: what will be scaled to a page. taken: places that are not free."""
    smallest = max(9, max(canvas) / 80)
    placed: list[Text] = []
    for number in numbers:
        box = boxes[number]
        font = int(np.clip((box[2] - box[0]) / 4, smallest, 1.6 * smallest))
        width, height = _extent(str(number), font, BOLD)
        others = [other for name, other in boxes.items() if name != number]
        texts = taken + [_wider(text.place, GAP) for text in placed]
        outside = _inside(_beside(box, (width, height)), size)
        spots = outside[_free(outside, [box, *others, *texts])]
        if not len(spots):
            corners = _inside(_at_corners(box, (width, height)), size)
            spots = corners[_free(corners, [*others, *texts])]
        if not len(spots):
            everywhere = np.concatenate([outside, corners, _grid((width, height), size)])
            spots = everywhere[[np.argmin(_cost(everywhere, box, others, texts))]]
        placed.append(Text(number, str(number), font, _box(_clearest_first(spots, others)[0])))
    return placed


def _beside(box: Box, extent: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Places that touch a box from outside, int (n, 4), the best first: above and below, then right and left."""
    left, top, right, bottom = box
    width, height = extent
    shared = min(width, right - left) // 2  # at least so much of the label is above or below its own face
    slides = [left, (left + right - width) // 2, right - width, *np.linspace(left + shared - width, right - shared, 7)]
    across = [(x, y) for x in slides for y in (top - height, bottom)]
    shared = min(height, bottom - top) // 2
    slides = [top, (top + bottom - height) // 2, bottom - height, *np.linspace(top + shared - height, bottom - shared, 5)]
    along = [(x, y) for y in slides for x in (right, left - width)]
    return _sized(np.array(across + along), extent)


def _at_corners(box: Box, extent: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Places over the corners of a face's own box, int (n, 4): half outside, then inside; only where the face is large."""
    left, top, right, bottom = box
    width, height = extent
    half = [(x - width // 2, y - height // 2) for y in (top, bottom) for x in (left, right)]
    inside = [(x, y) for y in (top, bottom - height) for x in (left, right - width)]
    large = [
        2 * width <= right - left and 2 * height <= bottom - top,
        4 * width <= right - left and 4 * height <= bottom - top,
    ]
    return _sized(np.array(half * large[0] + inside * large[1]).reshape(-1, 2), extent)


def _grid(extent: tuple[int, int], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Places all over the photo, int (n, 4), half a label apart."""
    ends = [max(0, size[i] - extent[i]) for i in (0, 1)]
    x, y = (np.arange(0, end + 1, max(1, length // 2)) for end, length in zip(ends, extent))
    return _sized(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), extent)


def _sized(corners: npt.NDArray, extent: tuple[int, int]) -> npt.NDArray[np.int64]:
    corners = corners.astype(int)
    return np.concatenate([corners, corners + extent], axis=1)


def _inside(spots: npt.NDArray, size: tuple[int, int]) -> npt.NDArray:
    """Moves places into the photo; drops those that are larger than it."""
    extents = spots[:, 2:] - spots[:, :2]
    spots = spots[(extents <= size).all(axis=1)]
    extents = spots[:, 2:] - spots[:, :2]
    start = np.clip(spots[:, :2], 0, np.array(size) - extents)
    return np.concatenate([start, start + extents], axis=1)


def _free(spots: npt.NDArray, taken: list[Box]) -> npt.NDArray[np.bool_]:
    return ~(_shared(spots, taken) > 0).any(axis=1)


def _clearest_first(spots: npt.NDArray, others: list[Box]) -> npt.NDArray:
    """Places in the same order, but first those at a distance from other faces, so that the label is not taken for theirs."""
    if not len(spots):
        return spots
    height = int(spots[0, 3] - spots[0, 1])
    return spots[np.argsort(~_free(spots, [_wider(box, height // 2) for box in others]), kind="stable")]


def _box(spot: npt.NDArray) -> Box:
    left, top, right, bottom = (int(edge) for edge in spot)
    return left, top, right, bottom


def _shared(spots: npt.NDArray, others: list) -> npt.NDArray[np.float64]:
    """The area that each place shares with each other box, in square pixels, float (places, others)."""
    boxes = np.array(others, float).reshape(-1, 4)
    low = np.maximum(spots[:, None, :2], boxes[None, :, :2])
    high = np.minimum(spots[:, None, 2:], boxes[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def _cost(spots: npt.NDArray, box: Box, others: list[Box], texts: list[Box]) -> npt.NDArray[np.float64]:
    """How bad each place is for a number: how many of its own heights it is away from its face, and what it covers.

    A number moves 12 heights away rather than touch another box, 30 rather than touch the middle of a face.
    """
    width, height = spots[0, 2:] - spots[0, :2]
    distance = np.maximum(0, np.maximum(box[:2] - spots[:, 2:], spots[:, :2] - box[2:])).sum(axis=1) / height
    middles = [_middle(other) for other in (box, *others)]
    weighed = ((texts, 1000), (middles, 30), (others, 12), ([box], 4))
    for boxes, weight in weighed:
        shares = _shared(spots, boxes) / (width * height)
        distance = distance + weight * ((shares > 0) + shares).sum(axis=1)
    return distance


def _middle(box: Box) -> tuple[float, ...]:
    """The part of a box with eyes, nose and mouth: the middle 70% of its width and height."""
    left, top, right, bottom = box
    x, y = 0.15 * (right - left), 0.15 * (bottom - top)
    return left + x, top + y, right - x, bottom - y


def _wider(place: Box, by: int) -> Box:
    return place[0] - by, place[1] - by, place[2] + by, place[3] + by


# --- the legend ---------------------------------------------------------------------------------------------------------


def _legend(texts: dict[int, str], size: tuple[int, int]) -> tuple[tuple[int, int], list[Text]]:
    """The canvas and the lines beside the photo, below or to the right, whichever keeps the canvas smaller."""
    font = max(12, math.ceil(max(size) / 80))
    for _ in range(4):  # a larger canvas is scaled down further, and then needs larger letters
        canvas, lines = min((_columns(texts, size, font, below) for below in (True, False)), key=lambda one: max(one[0]))
        if font >= max(canvas) / 90:
            break
        font = math.ceil(max(canvas) / 90)
    return canvas, lines


def _columns(texts: dict[int, str], size: tuple[int, int], font: int, below: bool) -> tuple[tuple[int, int], list[Text]]:
    numbers = sorted(texts)
    margin, pitch = font // 2, round(1.7 * font)
    chip = max(_extent(str(number), font, BOLD)[0] for number in numbers)
    height = _extent("1", font, REGULAR)[1]
    width = chip + max(_extent(text, font, REGULAR)[0] for text in texts.values())
    if below:
        columns = int(np.clip((size[0] - margin) // (width + margin), 1, len(numbers)))
    else:
        columns = math.ceil(len(numbers) / max(1, (size[1] - margin) // pitch))
    deep = math.ceil(len(numbers) / columns)
    columns = math.ceil(len(numbers) / deep)
    wide, high = columns * (width + margin) + margin, deep * pitch + margin
    start = (0, size[1]) if below else (size[0], 0)
    canvas = (max(size[0], wide), size[1] + high) if below else (size[0] + wide, max(size[1], high))
    lines = []
    for index, number in enumerate(numbers):
        column, line = divmod(index, deep)
        x, y = start[0] + margin + column * (width + margin), start[1] + margin + line * pitch
        lines.append(
            Text(number, texts[number], font, (x, y, x + chip + _extent(texts[number], font, REGULAR)[0], y + height))
        )
    return canvas, lines


# --- drawing ------------------------------------------------------------------------------------------------------------


def _connect(pen: ImageDraw.ImageDraw, text: Text, box: Box) -> None:
    """A line from a number to its face, where the two do not touch."""
    low = [max(box[i], text.place[i]) for i in (0, 1)]
    high = [min(box[i + 2], text.place[i + 2]) for i in (0, 1)]
    if all(start <= end for start, end in zip(low, high)):
        return
    middle = [(text.place[i] + text.place[i + 2]) // 2 for i in (0, 1)]
    nearest = [min(max(middle[i], box[i]), box[i + 2] - 1) for i in (0, 1)]
    width = max(1, text.size // 8)
    pen.line((*middle, *nearest), "black", width + 2)
    pen.line((*middle, *nearest), _colour(text.number), width)


@functools.lru_cache(maxsize=4096)
def _extent(text: str, size: int, font: str) -> tuple[int, int]:
    """The width and height of a text with its background, in pixels. Numbers are trimmed, as they have no descenders."""
    bold = font == BOLD
    width = _font(font, size).getlength(text)
    return math.ceil(width + (0.4 if bold else 0.6) * size), math.ceil((1.15 if bold else 1.35) * size)


@functools.lru_cache(maxsize=64)  # in a video the same words are in many frames
def _drawn(text: str, size: int, font: str, colour: str) -> Image.Image:
    width, height = _extent(text, size, font)
    picture = Image.new("RGB", (width, height), colour)
    baseline = round((0.94 if font == BOLD else 1.02) * size)  # capital letters are 0.73 of the size high
    ImageDraw.Draw(picture).text((width / 2, baseline), text, "black", _font(font, size), anchor="ms")
    return picture


@functools.lru_cache(maxsize=64)
def _font(font: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / font), size)
