"""Draws predictions on a photo: a box and a line of text for each face, or numbers with a legend in a crowd.

`layout` computes the places of all boxes and texts, and `annotate` draws them. The size of the text follows from the size of
the photo.
"""

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from src.config import FACE_COLOURS
from src.data.table import BOX_COLUMNS
from src.predict.extract_faces import NO_FACE_FOUND, Status
from src.predict.placement import COST_OWN_FACE, PixelBox, Size, place


class Text(NamedTuple):
    """A line of text for a face."""

    number: int  # number of the face, which determines the colour
    text: str
    font_size: int  # pixels
    box: PixelBox  # rectangle of the background
    bold: bool = False


class Layout(NamedTuple):
    """Where everything is drawn, in pixels of the canvas. The photo is in its upper left corner."""

    canvas: Size
    boxes: dict[int, PixelBox]  # the faces by number, clipped to the photo
    labels: list[Text]  # predictions beside their faces
    numbers: list[Text]  # numbers beside the faces without a label
    legend: list[Text]  # predictions outside the photo


def annotate(photo: npt.NDArray[np.uint8], rows: pd.DataFrame, legend: bool = True) -> npt.NDArray[np.uint8]:
    """Draws each face's box and prediction on a copy of the photo.

    A line reads `female, 25 (18–34)`: gender, age in years and its 90% interval, or the age group where there is no
    interval. A question mark marks an uncertain value. A photo without a face says "no face found".

    Args:
        photo: uint8 (height, width, 3), RGB, 0-255.
        rows: Predictions for this photo; see `layout`.
        legend: Whether a photo without room for all lines gets numbers and a legend on a white strip beside it. Without a
            legend the photo keeps its size, as frames of a video must: faces without room for a line get a number.

    Returns:
        A new uint8 RGB array with the photo in its upper left corner. It is larger than the photo if it has a legend.

    Raises:
        ValueError: The photo is not a uint8 RGB array.
    """
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"a photo must be uint8 RGB of shape (height, width, 3), got {photo.dtype} {photo.shape}")
    plan = layout((photo.shape[1], photo.shape[0]), rows, legend)
    image = Image.new("RGB", plan.canvas, "white")
    image.paste(Image.fromarray(photo), (0, 0))
    pen = ImageDraw.Draw(image)
    for number, (left, top, right, bottom) in plan.boxes.items():
        width = max(1, min(math.ceil(max(photo.shape) / 500), (right - left) // 12))
        pen.rectangle((left, top, right - 1, bottom - 1), outline=_colour(number), width=width)
    for text in plan.labels + plan.numbers:
        _write(image, text, _colour(text.number))
    for text in plan.legend:
        left, top, right, bottom = text.box
        start = right - _text_size(text.text, text.font_size)[0]
        number_text = str(text.number) if plan.numbers else ""
        _write(image, text._replace(text=number_text, box=(left, top, start, bottom), bold=True), _colour(text.number))
        _write(image, text._replace(box=(start, top, right, bottom)), "white")
    return np.array(image)


def layout(size: Size, rows: pd.DataFrame, legend: bool = True) -> Layout:
    """Computes the places of boxes, labels, numbers and the legend.

    - A label is inside the photo, beside its face, and covers no face and no other label.
    - If that is not possible for all faces, numbers replace all labels with `legend`. Without it, the other labels may cover
      a corner of their own face, and numbers replace the rest.
    - A number is beside its face or on a corner of its box, otherwise where it covers the least.

    Args:
        size: Width and height of the photo.
        rows: The columns left, top, right, bottom (pixels; NA: no box), gender, age_group, age_years (NA: unknown) and, if
            known, status, face, person (of a video), age_interval_low, age_interval_high, gender_unsure, age_unsure.
            `person`, otherwise `face`, determines the number and the colour.
        legend: See `annotate`.
    """
    lines: dict[int, str] = {}
    boxes: dict[int, PixelBox] = {}
    # `DataFrame.to_dict` takes ten times as long, which slows videos down.
    for index, values in enumerate(zip(*(rows[name].tolist() for name in rows)), start=1):
        row = dict(zip(rows.columns, values))
        number = int(next((row[name] for name in ("person", "face") if pd.notna(row.get(name))), index))
        lines[number] = _label_text(row)
        if not any(pd.isna(row[side]) for side in BOX_COLUMNS):
            boxes[number] = _clip([float(row[side]) for side in BOX_COLUMNS], size)
    smallest = max(11, math.ceil(max(size) / 70))
    small = dict.fromkeys(lines, smallest)
    large = small | {number: int(np.clip((box[2] - box[0]) / 7, smallest, 2 * smallest)) for number, box in boxes.items()}
    for font_sizes in (large, small):
        label_sizes = {number: _text_size(line, font_sizes[number]) for number, line in lines.items()}
        places = place(label_sizes, boxes, size)
        if len(places) == len(lines):
            return Layout(size, boxes, _texts(lines, font_sizes, places), [], [])
    if legend:
        legends = (_legend(lines, size, smallest, below) for below in (True, False))
        canvas, entries = min(legends, key=lambda canvas_and_entries: max(canvas_and_entries[0]))
        return Layout(canvas, boxes, [], _numbers(boxes if len(lines) > 1 else {}, boxes, size, canvas, []), entries)
    # `places` and `label_sizes` are now those of the small font. The other labels cover a corner of their own face, or become
    # numbers.
    missing = {number: label_sizes[number] for number in boxes if number not in places}
    places |= place(missing, boxes, size, list(places.values()), COST_OWN_FACE)
    numbers = _numbers(boxes.keys() - places.keys(), boxes, size, size, list(places.values()))
    return Layout(size, boxes, _texts(lines, small, places), numbers, [])


def _texts(lines: dict[int, str], font_sizes: dict[int, int], places: dict[int, PixelBox], bold: bool = False) -> list[Text]:
    return [Text(number, lines[number], font_sizes[number], box, bold) for number, box in places.items()]


def _numbers(
    chosen: Iterable[int], boxes: dict[int, PixelBox], size: Size, canvas: Size, labels: list[PixelBox]
) -> list[Text]:
    """Numbers for the chosen faces, large enough to be read when the canvas is scaled down to a page."""
    smallest = max(9, max(canvas) / 80)
    widths = {number: boxes[number][2] - boxes[number][0] for number in sorted(chosen)}
    font_sizes = {number: int(np.clip(width / 4, smallest, 1.6 * smallest)) for number, width in widths.items()}
    text_sizes = {number: _text_size(str(number), font_size, bold=True) for number, font_size in font_sizes.items()}
    places = place(text_sizes, boxes, size, labels, math.inf)
    return _texts({number: str(number) for number in places}, font_sizes, places, bold=True)


def _legend(lines: dict[int, str], size: Size, font_size: int, below: bool) -> tuple[Size, list[Text]]:
    """Returns the canvas with a legend in columns below the photo or to its right, and the entries of the legend."""
    numbers = sorted(lines)
    margin, line_height = font_size // 2, round(1.7 * font_size)
    number_width = max(_text_size(str(number), font_size, bold=True)[0] for number in numbers)
    widths = {number: number_width + _text_size(line, font_size)[0] for number, line in lines.items()}
    column_width, text_height = max(widths.values()) + margin, _text_size("Ag", font_size)[1]
    if below:
        columns = max(1, (size[0] - margin) // column_width)
    else:
        columns = math.ceil(len(numbers) / max(1, (size[1] - margin) // line_height))
    per_column = math.ceil(len(numbers) / columns)
    width, height = math.ceil(len(numbers) / per_column) * column_width + margin, per_column * line_height + margin
    start = (0, size[1]) if below else (size[0], 0)
    canvas = (max(size[0], width), size[1] + height) if below else (size[0] + width, max(size[1], height))
    entries = []
    for index, number in enumerate(numbers):
        column, row = divmod(index, per_column)
        left, top = start[0] + margin + column * column_width, start[1] + margin + row * line_height
        entries.append(Text(number, lines[number], font_size, (left, top, left + widths[number], top + text_height)))
    return canvas, entries


def _label_text(row: dict) -> str:
    """Returns one row's prediction as a line of text."""
    status = row.get("status")
    if status == Status.NO_FACE:
        return NO_FACE_FOUND
    prefix = f"person {row['person']}" if "person" in row else "whole photo" if status == Status.WHOLE_PHOTO else ""
    unsure = {task: "?" if row.get(f"{task}_unsure") is True else "" for task in ("gender", "age")}
    parts = [] if pd.isna(row["gender"]) else [row["gender"] + unsure["gender"]]
    if pd.notna(row["age_years"]) and pd.notna(row.get("age_interval_low")):
        low, high = row["age_interval_low"], row["age_interval_high"]
        parts.append(f"{row['age_years']:.0f}{unsure['age']} ({low:.0f}–{high:.0f})")
    elif pd.notna(row["age_group"]):
        parts.append(row["age_group"] + unsure["age"])
    return ": ".join(filter(None, (prefix, ", ".join(parts)))) or "face"


def _clip(box: list[float], size: Size) -> PixelBox:
    """Returns the part of a box inside the photo, of at least one pixel."""
    left, top = np.clip(np.floor(box[:2]), 0, np.subtract(size, 1)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(box[2:]), (left + 1, top + 1), size).astype(int).tolist()
    return left, top, right, bottom


def _colour(number: int) -> str:
    return FACE_COLOURS[(number - 1) % len(FACE_COLOURS)]  # black text is readable on each of them


@functools.lru_cache(maxsize=4096)
def _text_size(text: str, font_size: int, bold: bool = False) -> Size:
    """Width and height of a text with its background in pixels. Bold numbers have less padding."""
    padding, height = (0.4, 1.15) if bold else (0.6, 1.35)
    return math.ceil(_font(bold, font_size).getlength(text) + padding * font_size), math.ceil(height * font_size)


def _write(image: Image.Image, text: Text, background: str) -> None:
    left, top, right, bottom = text.box
    image.paste(_text_image(text.text, text.font_size, text.bold, (right - left, bottom - top), background), (left, top))


@functools.lru_cache(maxsize=256)
def _text_image(text: str, font_size: int, bold: bool, size: Size, background: str) -> Image.Image:
    """Draws a text on its background. In a video, most labels appear in many frames."""
    label = Image.new("RGB", size, background)
    baseline = round((0.94 if bold else 1.02) * font_size)
    ImageDraw.Draw(label).text((size[0] / 2, baseline), text, "black", _font(bold, font_size), anchor="ms")
    return label


@functools.lru_cache(maxsize=64)
def _font(bold: bool, font_size: int) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(path, font_size, layout_engine=ImageFont.Layout.BASIC)  # twice as fast; enough for Latin text
