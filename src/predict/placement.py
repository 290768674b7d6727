"""Finds places for labels in a photo, so that they cover no face and no other label.

This module knows rectangles only. A box is (left, top, right, bottom) in pixels; right and bottom are exclusive. A size is
(width, height) in pixels. Boxes and sizes are given by the number of the face.
"""

from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

PixelBox: TypeAlias = tuple[int, int, int, int]
Size: TypeAlias = tuple[int, int]
_Boxes: TypeAlias = npt.NDArray[np.int64]  # (n, 4)

GAP = 2  # pixels between labels
MAX_OWN_COVER = 0.1  # share of its own face's box that a label covers at most, if the box is much larger than the label

# Costs of a place for a label. Larger ones outweigh smaller ones. The last two count for each face or label that is covered.
COST_NEAR_OTHER_FACE = 1  # nearer than half the label's height
COST_OWN_CORNER = 10  # covers its own face, by no more than MAX_OWN_COVER
COST_OWN_FACE = 100  # covers its own face by more than that
COST_OTHER_FACE = 120  # covers another face; doubled if the whole label is on it
COST_LABEL = 10**6  # covers another label


def place(
    label_sizes: dict[int, Size],
    boxes: dict[int, PixelBox],
    photo_size: Size,
    other_labels: Sequence[PixelBox] = (),
    cost_below: float = COST_OWN_CORNER,
) -> dict[int, PixelBox]:
    """Places labels one after the other inside the photo, each at the cheapest place beside its face.

    A label without a box goes to the photo's upper left corner. A label is left out if it is larger than the photo, or if no
    place costs less than `cost_below`; by default, a place must cover nothing. `other_labels` are places that are taken.
    """
    placed: dict[int, PixelBox] = {}
    for number, size in label_sizes.items():
        if size[0] > photo_size[0] or size[1] > photo_size[1]:
            continue
        corners = _corners_near(boxes[number], size) if number in boxes else np.zeros((1, 2), int)
        corners = np.clip(corners, 0, np.subtract(photo_size, size))
        candidates = np.concatenate([corners, corners + size], axis=1)
        other_faces = [box for other, box in boxes.items() if other != number]
        cost = _cost(candidates, boxes.get(number, (0, 0, 0, 0)), other_faces, [*other_labels, *placed.values()])
        if cost.min() < cost_below:
            left, top, right, bottom = candidates[np.argmin(cost)].tolist()
            placed[number] = left, top, right, bottom
    return placed


def _corners_near(box: PixelBox, size: Size) -> npt.NDArray[np.int64]:
    """Returns upper left corners of labels at a face, best first: above, below, at the sides, over the corners of its box."""
    left, top, right, bottom = box
    width, height = size

    def slide(start: int, end: int, length: int, count: int) -> list[float]:
        """Returns positions along an edge of the box: its start, middle and end, then `count` that overlap it in part."""
        shared = min(length, end - start) // 2  # at least this much of the label is along its face
        return [start, (start + end - length) // 2, end - length, *np.linspace(start + shared - length, end - shared, count)]

    corners = [
        *product(slide(left, right, width, 7), (top - height, bottom)),
        *product((right, left - width), slide(top, bottom, height, 5)),
        *product((left - width // 2, right - width // 2), (top - height // 2, bottom - height // 2)),
        *product((left, right - width), (bottom - height, top)),
    ]
    return np.array(corners).astype(int)


def _cost(candidates: _Boxes, box: PixelBox, other_faces: list[PixelBox], labels: list[PixelBox]) -> npt.NDArray[np.float64]:
    """Returns the cost of each candidate, float64 (n,)."""
    width, height = candidates[0, 2:] - candidates[0, :2]
    box_width, box_height = box[2] - box[0], box[3] - box[1]
    is_large_box = 8 * height <= box_height or (2 * width <= box_width and 2 * height <= box_height)
    own = _overlap(candidates, [box])[:, 0]
    cost = COST_NEAR_OTHER_FACE * _overlap(candidates, other_faces, height // 2).any(axis=1)
    cost = cost + COST_OWN_CORNER * (own > 0)
    cost += COST_OWN_FACE * (own > (MAX_OWN_COVER * box_width * box_height if is_large_box else 0))
    for boxes, gap, weight in ((other_faces, 0, COST_OTHER_FACE), (labels, GAP, COST_LABEL)):
        shares = _overlap(candidates, boxes, gap) / (width * height)
        cost = cost + weight * ((shares > 0) + shares).sum(axis=1)
    return cost


def _overlap(candidates: _Boxes, boxes: list[PixelBox], margin: int = 0) -> npt.NDArray[np.int64]:
    """Returns the square pixels that each candidate shares with each box and a margin around it, (candidates, boxes)."""
    others = np.array(boxes, int).reshape(-1, 4) + margin * np.array([-1, -1, 1, 1])
    low = np.maximum(candidates[:, None, :2], others[None, :, :2])
    high = np.minimum(candidates[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)
