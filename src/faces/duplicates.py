"""Finds near-duplicates: the same image twice in a data set, re-encoded, cropped, recoloured or slightly rotated.

`near_duplicates` compares all pairs of aligned faces, which finds most copies. `group_similar_hashes` compares 64-bit hashes,
half a million in about a second, and finds copies that were only re-encoded or resized.
"""

import itertools

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

THUMBNAIL_SIDE = 24  # pixels
MIN_CORRELATION = 0.93  # thumbnails of one image correlate by more, chosen by eye; lower values link different people
ROWS_PER_BLOCK = 2000  # faces that are compared with all others at a time
MAX_HASH_DISTANCE = 3  # bits in which two hashes of one image may differ; larger distances link different images


def near_duplicates(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Groups aligned faces that come from the same image.

    Two faces are linked if their grey thumbnails, with slow changes of brightness removed, correlate by more than
    `MIN_CORRELATION`.

    Args:
        faces: uint8 (n, size, size, 3), RGB, aligned, so that different crops of an image show the same face.

    Returns:
        Group numbers, shape (n,), equal for faces that are linked directly or through others.
    """
    thumbnails = np.stack([_thumbnail(face) for face in faces])
    pairs = []
    for start in range(0, len(thumbnails), ROWS_PER_BLOCK):
        block = thumbnails[start : start + ROWS_PER_BLOCK]
        pairs.append(np.argwhere(block @ thumbnails[start:].T > MIN_CORRELATION) + start)
    return _linked_groups(np.concatenate(pairs), len(thumbnails))


def _thumbnail(face: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns a grey thumbnail without slow changes of brightness, as a unit vector with mean 0."""
    edge = face.shape[0] // 8
    grey = cv2.cvtColor(face[edge:-edge, edge:-edge], cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey -= cv2.GaussianBlur(grey, (0, 0), THUMBNAIL_SIDE / 4)
    grey -= grey.mean()
    return grey.ravel() / max(float(np.linalg.norm(grey)), 1e-6)


def _linked_groups(pairs: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int32]:
    links = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def perceptual_hash(photo: npt.NDArray[np.uint8]) -> int:
    """Computes a 64-bit hash of an image, of which few bits change with its size or compression.

    The image is uint8 (height, width, 3), RGB. The bits are the signs, relative to their median, of the 8x8 lowest
    frequencies of a small grey copy ("pHash": Zauner, "Implementation and benchmarking of perceptual image hash functions",
    2010).
    """
    grey = cv2.resize(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes())


def group_similar_hashes(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Groups hashes, uint64 (n,), that differ in at most `MAX_HASH_DISTANCE` bits.

    Two such hashes agree in at least one of `MAX_HASH_DISTANCE` + 1 bands of bits, so only hashes that share a band are
    compared (multi-index hashing: Norouzi, Punjani and Fleet, CVPR 2012).

    Returns:
        Group numbers, shape (n,), equal for hashes that are linked directly or through others.
    """
    values, positions = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    edges = np.linspace(0, 64, MAX_HASH_DISTANCE + 2).astype(int).tolist()
    pairs = [_pairs_in_band(values, low, high) for low, high in itertools.pairwise(edges)]
    return _linked_groups(np.concatenate(pairs), len(values))[positions]


def _pairs_in_band(values: npt.NDArray[np.uint64], low: int, high: int) -> npt.NDArray[np.int64]:
    """Finds pairs of similar values, (m, 2), among those with equal bits from `low` to `high`."""
    band = values >> np.uint64(low) & np.uint64(2 ** (high - low) - 1)
    order = np.argsort(band, kind="stable")
    band, values = band[order], values[order]
    pairs, first = [np.empty((0, 2), int)], np.arange(len(band))
    for step in range(1, len(band)):  # compares each value with the one `step` places later while their bands are equal
        first = first[first + step < len(band)]
        first = first[band[first] == band[first + step]]
        if not len(first):
            break
        close = first[np.bitwise_count(values[first] ^ values[first + step]) <= MAX_HASH_DISTANCE]
        pairs.append(np.column_stack([order[close], order[close + step]]))
    return np.concatenate(pairs)


def duplicates_as_subjects(table: pd.DataFrame, group: npt.NDArray[np.integer]) -> pd.DataFrame:
    """Assigns one subject to each group of near-duplicates, so that no split separates them.

    Args:
        table: Table of faces. Known subjects are kept.
        group: Group number of each row.

    Returns:
        A copy of the table. The new subject of a group is its alphabetically first path.
    """
    group = pd.Series(group, index=table.index)
    first_path = table["path"].groupby(group).transform("min")
    has_copies = group.groupby(group).transform("size") > 1
    return table.assign(subject=table["subject"].fillna(first_path.where(has_copies)).astype("string"))
