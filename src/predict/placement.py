"""Finds places for labels in a photo, so that they cover no face and no other label.

This module knows rectangles only. A box is (left, top, right, bottom) in pixels; right and bottom are exclusive.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
Size = tuple[int, int]  # width, height
_Boxes = npt.NDArray[np.int64]  # (n, 4)

GAP = 2  # pixels between labels
ATTEMPTS = 6  # orders in which `place_all` places the labels
COVERED_SHARE = 0.1  # the largest share of its own face's box that a label may cover


def place_all(extents: dict[int, Size], boxes: dict[int, Box], size: Size) -> dict[int, Box]:
    """Places as many labels as possible beside their faces; see `place`. Labels that found no room go first next time."""
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
    extents: dict[int, Size],
    boxes: dict[int, Box],
    size: Size,
    taken: Iterable[Box] = (),
    on_own_box: bool = False,
    anywhere: bool = False,
) -> dict[int, Box]:
    """Places labels one after the other: inside the photo, beside their face, on no face and on no other label.

    Args:
        extents: Width and height of each label, by the number of its face.
        boxes: The faces, inside the photo. A label without a box goes to the photo's upper left corner.
        size: Width and height of the photo.
        taken: Places of other labels.
        on_own_box: Whether a label without room beside its face may cover a small part of its own box.
        anywhere: Whether a label that still has no room goes where it covers least of labels and faces.

    Returns:
        The place of each label, without those that have none.
    """
    placed: dict[int, Box] = {}
    for number, extent in extents.items():
        box = boxes.get(number, (0, 0, 0, 0))
        others = [other for key, other in boxes.items() if key != number]
        labels = [_widened(label, GAP) for label in (*taken, *placed.values())]
        beside = _inside(_beside(box, extent) if number in boxes else _rectangles([(0, 0)], extent), size)
        found = _first_free(beside, [*boxes.values(), *labels], others)
        if found is None and on_own_box:
            found = _first_free(_inside(_on_box(box, extent), size), [*others, *labels], others)
        if found is None and anywhere:
            candidates = np.concatenate([beside, _grid(extent, size)])
            found = _as_box(candidates[np.argmin(_cost(candidates, box, others, labels))])
        if found is not None:
            placed[number] = found
    return placed


def _first_free(candidates: _Boxes, obstacles: list[Box], others: list[Box]) -> Box | None:
    """The first candidate without an obstacle. One at a distance from the other faces comes before the rest."""
    free = candidates[~_overlap(candidates, obstacles).any(axis=1)]
    if not len(free):
        return None
    distance = int(free[0, 3] - free[0, 1]) // 2
    near = _overlap(free, [_widened(box, distance) for box in others]).any(axis=1)
    return _as_box(free[np.argmin(near)])


def _cost(candidates: _Boxes, box: Box, others: list[Box], labels: list[Box]) -> npt.NDArray[np.float64]:
    """Distance from the face in label heights, plus penalties for what a candidate covers, float64 (n,)."""
    area, height = np.prod(candidates[0, 2:] - candidates[0, :2]), candidates[0, 3] - candidates[0, 1]
    cost = np.maximum(0, np.maximum(box[:2] - candidates[:, 2:], candidates[:, :2] - box[2:])).sum(axis=1) / height
    for covered, weight in ((labels, 1000), (others, 12), ([box], 4)):
        shares = _overlap(candidates, covered) / area
        cost = cost + weight * ((shares > 0) + shares).sum(axis=1)
    return cost


def _beside(box: Box, extent: Size) -> _Boxes:
    """Candidates that touch the box from outside, the best first: above and below, then right and left."""
    left, top, right, bottom = box
    width, height = extent

    def slide(start: int, end: int, length: int, count: int) -> list[float]:
        shared = min(length, end - start) // 2  # at least this much of the label lies along its face
        return [start, (start + end - length) // 2, end - length, *np.linspace(start + shared - length, end - shared, count)]

    corners = [(x, y) for x in slide(left, right, width, 7) for y in (top - height, bottom)]
    corners += [(x, y) for y in slide(top, bottom, height, 5) for x in (right, left - width)]
    return _rectangles(corners, extent)


def _on_box(box: Box, extent: Size) -> _Boxes:
    """Candidates over the corners of a box, half outside and then inside, that cover a small share of it."""
    left, top, right, bottom = box
    width, height = extent
    corners = [(x - width // 2, y - height // 2) for y in (top, bottom) for x in (left, right)]
    corners += [(x, y) for y in (bottom - height, top) for x in (left, right - width)]
    candidates = _rectangles(corners, extent)
    return candidates[_overlap(candidates, [box])[:, 0] <= COVERED_SHARE * (right - left) * (bottom - top)]


def _grid(extent: Size, size: Size) -> _Boxes:
    """Candidates all over the photo, half a label apart."""
    x, y = (np.arange(0, max(0, size[i] - extent[i]) + 1, max(1, extent[i] // 2)) for i in (0, 1))
    return _rectangles(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), extent)


def _rectangles(corners: npt.ArrayLike, extent: Size) -> _Boxes:
    """Boxes of one size from their upper left corners."""
    corners = np.asarray(corners).astype(int)
    return np.concatenate([corners, corners + extent], axis=1)


def _inside(candidates: _Boxes, size: Size) -> _Boxes:
    """Moves candidates of one size into the photo; gives none if they are larger than the photo."""
    extents = candidates[:, 2:] - candidates[:, :2]
    if (extents > size).any():
        return candidates[:0]
    start = np.clip(candidates[:, :2], 0, np.array(size) - extents)
    return np.concatenate([start, start + extents], axis=1)


def _overlap(candidates: _Boxes, boxes: list[Box]) -> npt.NDArray[np.int64]:
    """The area that each candidate shares with each box, in square pixels, int64 (candidates, boxes)."""
    others = np.array(boxes, int).reshape(-1, 4)
    low = np.maximum(candidates[:, None, :2], others[None, :, :2])
    high = np.minimum(candidates[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def _widened(box: Box, by: int) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _as_box(row: npt.NDArray[np.int64]) -> Box:
    left, top, right, bottom = row.tolist()
    return left, top, right, bottom
