"""Predictions drawn on a photo: boxes and answers, for the notebooks' figures and `predict`'s annotated copies.

Before it: rows as `predict` gives them. After it: `plots` and `predict`, which show and write what is drawn here.
"""

import functools
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from src.tables import BOX

# Okabe and Ito's orange, sky blue, green, purple and yellow, one a face, in turn; black is readable on each.
LABELS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442")
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # with matplotlib, thus on every machine


def annotate(photo, rows: pd.DataFrame) -> np.ndarray:
    """The photo with each face's box and answers, or "no face found"; uint8 RGB, as large as `photo`, a new array.

    photo: uint8 RGB (h, w, 3), 0-255. rows: this photo's predictions: status, left, top, right, bottom (pixels; a box
    may reach over the edge, NA: none is drawn), gender, p_male, age_group, age_group_probability, age_years (NA: not
    said) and, where there are any, age_interval_low, age_interval_high, person (a number, of a video's), and gender_unsure
    and age_unsure, which give a question mark. Labels
    lie wholly inside the photo and, where there is room, beside the faces; the smaller the
    face, the smaller its label, but never too small to read at the width of a page; where a photo is too small to write
    on, the box stands alone. Raises ValueError for any other kind of array.
    """
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"photo must be uint8 RGB of shape (h, w, 3), got {photo.dtype} {photo.shape}")
    picture = Image.fromarray(photo)
    pen = ImageDraw.Draw(picture)
    rows = rows.to_dict("records")
    places = [None if any(pd.isna(row[side]) for side in BOX) else [float(row[side]) for side in BOX] for row in rows]
    taken: list = [place for place in places if place]
    # A person of a video keeps their colour, whoever else is in the picture.
    colours = [LABELS[(int(row.get("person", number)) - 1) % len(LABELS)] for number, row in enumerate(rows, start=1)]
    for colour, place in zip(colours, places):  # all boxes first, so that none is drawn over a label
        if place:
            pen.rectangle(place, outline=colour, width=max(1, max(picture.size) // 300))
    for colour, row, place in zip(colours, rows, places):
        text = _label(row)
        label = _written(text, colour, picture.size, place[2] - place[0] if place else max(picture.size))
        if label is None:
            continue
        spot = _spot(label.size, place or (0, 0, 0, 0), picture.size, taken)
        picture.paste(label, spot[:2])
        taken.append(spot)
    return np.array(picture)


def _label(row: dict) -> str:
    lines = {"no_face": ["no face found"], "whole_photo": ["whole photo"], "unreadable": ["unreadable"]}
    lines = lines.get(row["status"], []) + ([f"person {row['person']}"] if "person" in row else [])
    doubt = {task: "?" if _unsure(row, task) else "" for task in ("gender", "age")}
    if pd.notna(row["gender"]):
        probability = row["p_male"] if row["gender"] == "male" else 1 - row["p_male"]
        lines.append(f"{row['gender']}{doubt['gender']} {probability:.0%}")
    if pd.notna(row["age_group"]):
        lines.append(f"{row['age_group']}{doubt['age']} {row['age_group_probability']:.0%}")
    if pd.notna(row["age_years"]):
        low, high = row.get("age_interval_low", pd.NA), row.get("age_interval_high", pd.NA)
        lines.append(f"{row['age_years']:.0f} {'years' if pd.isna(low) else f'({low}-{high})'}")
    return "\n".join(lines)


def _unsure(row: dict, task: str) -> bool:
    unsure = row.get(f"{task}_unsure", False)
    return pd.notna(unsure) and bool(unsure)


def _written(text: str, colour: str, photo: tuple[int, int], face_width: float) -> Image.Image | None:
    """A label in a font that suits the face and is readable with the photo as wide as a page; smaller only to fit the photo.

    None where it would not fit at 7 pixels, the smallest that can be read.
    """
    smallest = max(11, max(photo) / 60)
    for size in range(int(np.clip(face_width / 8, smallest, 2 * smallest)), 6, -1):
        label = _in_font(text, colour, size)
        if label.width <= photo[0] and label.height <= photo[1]:
            return label
    return None


@functools.lru_cache(maxsize=16)  # in a video the same words stand in many frames
def _in_font(text: str, colour: str, size: int) -> Image.Image:
    font, pad = ImageFont.truetype(str(FONT), size), size // 4
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    right, bottom = pen.multiline_textbbox((pad, pad), text, font, spacing=pad)[2:]
    label = Image.new("RGB", (int(right + pad), int(bottom + pad)), colour)
    ImageDraw.Draw(label).multiline_text((pad, pad), text, "black", font, spacing=pad)
    return label


def _spot(label: tuple, box, photo: tuple, taken: list) -> tuple:
    """Where a label hides least of `taken`: above its box, else below, right or left of it, always inside the photo."""
    (width, height), (left, top, right, bottom) = label, box
    spots = []
    for x, y in ((left, top - height), (left, bottom), (right, top), (left - width, top)):
        x, y = int(max(0, min(x, photo[0] - width))), int(max(0, min(y, photo[1] - height)))
        spots.append((x, y, x + width, y + height))
    return min(spots, key=lambda spot: sum(_overlap(spot, other) for other in taken))


def _overlap(one, other) -> float:
    """The area that two boxes share, in square pixels."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(0, width) * max(0, height)
