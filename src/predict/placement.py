"""Finds places for labels in a photo, so that they cover no face and no other label.

This module knows rectangles only. A box is (left, top, right, bottom) in pixels; right and bottom are exclusive.
"""

from collections.abc import Sequence
from enum import IntEnum
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
Size = tuple[int, int]  # width, height
_Boxes: TypeAlias = npt.NDArray[np.int64]  # (n, 4)

GAP = 2  # pixels between labels
ATTEMPTS = 3  # orders in which `place_all` places the labels
OWN_SHARE = 0.1  # the largest share of its own face's box that a label may cover


class Cover(IntEnum):
    """What a label may cover: the cost that a candidate must stay below."""

    NOTHING = 10
    OWN_CORNER = 100
    ANYTHING = 10**9


def place_all(extents: dict[int, Size], boxes: dict[int, Box], size: Size) -> dict[int, Box]:
    """Places as many labels as possible that cover nothing; see `place`. It tries again with the missing labels first."""
    order, best = list(extents), {}
    for _ in range(ATTEMPTS):
        placed = place({number: extents[number] for number in order}, boxes, size)
        best = max(best, placed, key=len)
        missing = [number for number in order if number not in placed]
        if not missing:
            break
        order = missing + list(placed)
    return best


def place(
    extents: dict[int, Size], boxes: dict[int, Box], size: Size, taken: Sequence[Box] = (), cover: Cover = Cover.NOTHING
) -> dict[int, Box]:
    """Places labels one after the other, each at the best candidate in the photo, if that covers no more than `cover`.

    Extents and boxes are by the number of the face. A label without a box goes to the photo's upper left corner. `taken` are
    the places of other labels.
    """
    placed: dict[int, Box] = {}
    for number, extent in extents.items():
        box, others = boxes.get(number, (0, 0, 0, 0)), [other for key, other in boxes.items() if key != number]
        labels = [_widen(label, GAP) for label in (*taken, *placed.values())]
        candidates = _inside(_near(box, extent) if number in boxes else np.zeros((1, 2), int), extent, size)
        cost = _cost(candidates, box, others, labels)
        if cover == Cover.ANYTHING and not (cost < Cover.OWN_CORNER).any():
            candidates = np.concatenate([candidates, _inside(_grid(extent, size), extent, size, keep=True)])
            cost = _cost(candidates, box, others, labels)
        if len(cost) and cost.min() < cover:
            left, top, right, bottom = candidates[np.argmin(cost)].tolist()
            placed[number] = left, top, right, bottom
    return placed


def _near(box: Box, extent: Size) -> npt.NDArray[np.int64]:
    """Upper left corners of candidates at a face, best first: above, below, at the sides, over the corners of its box."""
    left, top, right, bottom = box
    width, height = extent

    def slide(start: int, end: int, length: int, count: int) -> list[float]:
        shared = min(length, end - start) // 2  # at least this much of the label lies along its face
        return [start, (start + end - length) // 2, end - length, *np.linspace(start + shared - length, end - shared, count)]

    corners = [
        *product(slide(left, right, width, 7), (top - height, bottom)),
        *product((right, left - width), slide(top, bottom, height, 5)),
        *product((left - width // 2, right - width // 2), (top - height // 2, bottom - height // 2)),
        *product((left, right - width), (bottom - height, top)),
    ]
    return np.array(corners).astype(int)


def _grid(extent: Size, size: Size) -> npt.NDArray[np.int64]:
    """Upper left corners all over the photo, half a label apart."""
    x, y = (np.arange(0, max(0, size[i] - extent[i]) + 1, max(1, extent[i] // 2)) for i in (0, 1))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _inside(corners: npt.NDArray[np.int64], extent: Size, size: Size, keep: bool = False) -> _Boxes:
    """Boxes moved into the photo. Without `keep`, there are none if they are larger than the photo."""
    corners = np.clip(corners, 0, np.maximum(np.subtract(size, extent), 0))
    boxes = np.concatenate([corners, corners + extent], axis=1)
    return boxes if keep or (extent[0] <= size[0] and extent[1] <= size[1]) else boxes[:0]


def _cost(candidates: _Boxes, box: Box, others: list[Box], labels: list[Box]) -> npt.NDArray[np.float64]:
    """How bad each candidate is, float64 (n,). Candidates of equal worth are taken in their order."""
    if not len(candidates):
        return np.empty(0)
    width, height = candidates[0, 2:] - candidates[0, :2]
    own = _overlap(candidates, [box])[:, 0]
    distance = np.maximum(0, np.maximum(box[:2] - candidates[:, 2:], candidates[:, :2] - box[2:])).sum(axis=1) / height
    near_others = _overlap(candidates, [_widen(other, height // 2) for other in others]).any(axis=1)
    cost = near_others + Cover.NOTHING * (distance + (own > 0))
    box_width, box_height = box[2] - box[0], box[3] - box[1]
    large_box = 8 * height <= box_height or (2 * width <= box_width and 2 * height <= box_height)
    cost += Cover.OWN_CORNER * (own > (OWN_SHARE * box_width * box_height if large_box else 0))
    # A label moves away from its face by up to twelve heights rather than cover another face, and by any distance
    # rather than cover a label.
    for boxes, weight in ((others, 1.2 * Cover.OWN_CORNER), (labels, 10**6)):
        shares = _overlap(candidates, boxes) / (width * height)
        cost += weight * ((shares > 0) + shares).sum(axis=1)
    return cost


def _overlap(candidates: _Boxes, boxes: list[Box]) -> npt.NDArray[np.int64]:
    """The area that each candidate shares with each box, in square pixels, int64 (candidates, boxes)."""
    others = np.array(boxes, int).reshape(-1, 4)
    low = np.maximum(candidates[:, None, :2], others[None, :, :2])
    high = np.minimum(candidates[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def _widen(box: Box, by: int) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by
