"""Where labels go in a photo, so that they cover no face and no other label: rectangles alone, without text or drawing.

Boxes and places are (left, top, right, bottom) in pixels; right and bottom are the first outside. They are kept by number,
the number of a face.

Before it: nothing. After it: `annotate`.
"""

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
Size = tuple[int, int]  # width, height

GAP = 2  # pixels between labels
TRIES = 6  # orders in which labels are placed


def labels(extents: dict[int, Size], boxes: dict[int, Box], size: Size) -> dict[int, Box]:
    """Places for as many labels as possible, inside the photo, beside their faces, over no face and no other label.

    Args:
        extents: the width and height of each label.
        boxes: the faces, inside the photo; a label without a box goes to the photo's upper left corner.
        size: the photo's width and height.
    """
    choices = {}
    for number, extent in extents.items():
        spots = _inside(_beside(boxes[number], extent) if number in boxes else _sized(np.zeros((1, 2)), extent), size)
        spots = spots[_free(spots, list(boxes.values()))]
        choices[number] = _clearest_first(spots, _others(boxes, number))
    order, best = list(extents), {}
    for _ in range(TRIES):
        placed: dict[int, Box] = {}
        for number in order:
            spots = choices[number]
            free = _free(spots, [_wider(place, GAP) for place in placed.values()])
            if free.any():
                placed[number] = _box(spots[np.argmax(free)])
        best = max(best, placed, key=len)
        missing = [number for number in order if number not in placed]
        if not missing or not all(map(len, choices.values())):  # no order makes room where there is no place at all
            break
        order = missing + [number for number in order if number in placed]  # those without room go first
    return best


def on_own_boxes(extents: dict[int, Size], boxes: dict[int, Box], size: Size, taken: list[Box]) -> dict[int, Box]:
    """Places along the lower or upper edge of the label's own face, where it covers at most an eighth of its height.

    Args:
        extents: the width and height of each label.
        boxes: all faces.
        size: the photo's width and height.
        taken: places of other labels.
    """
    placed: dict[int, Box] = {}
    for number, (width, height) in extents.items():
        left, top, right, bottom = boxes[number]
        spots = _inside(np.array([(left, y, left + width, y + height) for y in (bottom - height, top)]), size)
        texts = [_wider(place, GAP) for place in (*taken, *placed.values())]
        spots = spots[_free(spots, _others(boxes, number) + texts)]
        if len(spots) and 8 * height <= bottom - top:
            placed[number] = _box(spots[0])
    return placed


def numbers(extents: dict[int, Size], boxes: dict[int, Box], size: Size, taken: list[Box]) -> dict[int, Box]:
    """A place for every number: beside its face, on a corner of its own box, else wherever it covers least.

    Args:
        extents: the width and height of each number.
        boxes: all faces.
        size: the photo's width and height.
        taken: places of labels.
    """
    placed: dict[int, Box] = {}
    for number, extent in extents.items():
        box, others = boxes[number], _others(boxes, number)
        texts = [_wider(place, GAP) for place in (*taken, *placed.values())]
        outside = _inside(_beside(box, extent), size)
        spots = outside[_free(outside, [box, *others, *texts])]
        if not len(spots):
            corners = _inside(_at_corners(box, extent), size)
            spots = corners[_free(corners, [*others, *texts])]
        if not len(spots):
            everywhere = np.concatenate([outside, corners, _grid(extent, size)])
            spots = everywhere[[np.argmin(_cost(everywhere, box, others, texts))]]
        placed[number] = _box(_clearest_first(spots, others)[0])
    return placed


def _others(boxes: dict[int, Box], number: int) -> list[Box]:
    return [box for other, box in boxes.items() if other != number]


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
