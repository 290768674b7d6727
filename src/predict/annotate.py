"""Predictions drawn on a photo: boxes with one line per face, or numbers with a legend where the lines do not fit.

`layout` decides where everything goes; `annotate` draws it. Sizes follow from the picture, so that the text stays readable
when a large picture is scaled down to the width of a page.

Before it: `placement`, and rows as `predict` gives them. After it: `plots`, `predict`, `video`, `camera` and `demo`.
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

from src.config import FACE_COLOURS
from src.data.table import BOX_COLUMNS
from src.predict import placement
from src.predict.placement import Box, Size

# Okabe and Ito's orange, sky blue, green, purple and yellow, in turn; black text is readable on each.
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")  # part of matplotlib, thus on every machine
REGULAR, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"


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

    canvas: Size
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


def layout(size: Size, rows: pd.DataFrame, legend: bool = True) -> Layout:
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
    texts: dict[int, str] = {}
    boxes: dict[int, Box] = {}
    for index, row in enumerate(rows.to_dict("records"), start=1):
        number = _number(row, index)
        texts[number] = _line(row)
        if not any(pd.isna(row[side]) for side in BOX_COLUMNS):
            boxes[number] = _clipped([float(row[side]) for side in BOX_COLUMNS], size)
    smallest = max(11, math.ceil(max(size) / 70))
    fonts = dict.fromkeys(texts, smallest)
    wanted = fonts | {number: int(np.clip((box[2] - box[0]) / 7, smallest, 2 * smallest)) for number, box in boxes.items()}
    for some in (wanted, fonts):
        extents = {number: _extent(text, some[number], REGULAR) for number, text in texts.items()}
        places = placement.labels(extents, boxes, size)
        if len(places) == len(texts):
            return Layout(size, boxes, _texts(places, texts, some), [], [])
    if not legend:
        missing = {number: extents[number] for number in boxes if number not in places}
        places |= placement.on_own_boxes(missing, boxes, size, list(places.values()))
        missing_still = [number for number in missing if number not in places]
        numbers = _numbers(missing_still, boxes, size, size, list(places.values()))
        return Layout(size, boxes, _texts(places, texts, fonts), numbers, [])
    canvas, lines = _legend(texts, size)
    numbers = _numbers(list(boxes), boxes, size, canvas, []) if len(texts) > 1 else []
    return Layout(canvas, boxes, [], numbers, lines)


def _texts(places: dict[int, Box], texts: dict[int, str], fonts: dict[int, int]) -> list[Text]:
    return [Text(number, texts[number], fonts[number], place) for number, place in places.items()]


def _numbers(chosen: list[int], boxes: dict[int, Box], size: Size, canvas: Size, taken: list[Box]) -> list[Text]:
    """A number beside each of the chosen faces. canvas: what will be scaled to a page. taken: places of labels."""
    smallest = max(9, max(canvas) / 80)
    fonts = {number: int(np.clip((boxes[number][2] - boxes[number][0]) / 4, smallest, 1.6 * smallest)) for number in chosen}
    texts = {number: str(number) for number in chosen}
    extents = {number: _extent(texts[number], fonts[number], BOLD) for number in chosen}
    return _texts(placement.numbers(extents, boxes, size, taken), texts, fonts)


def _number(row: dict, index: int) -> int:
    for name in ("person", "face"):
        if pd.notna(row.get(name, pd.NA)):
            return int(row[name])
    return index


def _colour(number: int) -> str:
    return FACE_COLOURS[(number - 1) % len(FACE_COLOURS)]


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
    return (status + person + ", ".join(said)).rstrip(": ") or "face"


def _doubt(row: dict, task: str) -> str:
    unsure = row.get(f"{task}_unsure", pd.NA)
    return "?" if pd.notna(unsure) and unsure else ""


def _clipped(box: list[float], size: Size) -> Box:
    """The part of a box inside the photo, of at least one pixel."""
    left, top = (int(np.clip(math.floor(box[i]), 0, size[i] - 1)) for i in (0, 1))
    right, bottom = (int(np.clip(math.ceil(box[i + 2]), start + 1, size[i])) for i, start in ((0, left), (1, top)))
    return left, top, right, bottom


# --- the legend ---------------------------------------------------------------------------------------------------------


def _legend(texts: dict[int, str], size: Size) -> tuple[Size, list[Text]]:
    """The canvas and the lines beside the photo, below or to the right, whichever keeps the canvas smaller."""
    font = max(12, math.ceil(max(size) / 80))
    for _ in range(4):  # a larger canvas is scaled down further, and then needs larger letters
        canvas, lines = min((_columns(texts, size, font, below) for below in (True, False)), key=lambda one: max(one[0]))
        if font >= max(canvas) / 90:
            break
        font = math.ceil(max(canvas) / 90)
    return canvas, lines


def _columns(texts: dict[int, str], size: Size, font: int, below: bool) -> tuple[Size, list[Text]]:
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
def _extent(text: str, size: int, font: str) -> Size:
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
