"""Near-duplicates: one picture that stands in a data set twice, re-encoded, re-cropped, recoloured or turned a little.

Two searches: `near_duplicates` compares every aligned face with every other, which finds most but takes the square of their
number; `alike` looks up 64-bit hashes of pictures, half a million in about a second, and finds what was only
re-encoded or resized.

Before it: `prepare`. After it: `tables.split`, which keeps a subject on one side.
"""

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 24  # pixels of the small grey picture that is compared
SIMILAR = 0.93  # correlation above which two pictures are the same; looked at by eye, below it other people begin
CHUNK = 2000
HASH_SIDE = 32  # pixels of the grey picture that is hashed
BITS = 3  # of 64 in which the hashes of one picture may differ; more, and other pictures begin
PAIRS = 4_000_000  # of hashes compared at once


def near_duplicates(faces: np.ndarray, alike: float = SIMILAR) -> np.ndarray:
    """Groups of the same picture: int (n,), equal numbers for faces of one group.

    faces: uint8 (n, size, size, 3), RGB, aligned, so that another crop of a picture comes out the same. Compared is the
    correlation of small grey copies of their middle without the slow changes of light.
    """
    small = np.stack([_small(face) for face in faces])
    pairs = []
    for start in range(0, len(small), CHUNK):
        one, other = np.nonzero(small[start : start + CHUNK] @ small[start:].T > alike)
        pairs.append(np.column_stack([one, other]) + start)
    one, other = np.concatenate(pairs).T
    return _groups(one, other, len(small))


def _groups(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """int (count,): equal numbers for what the pairs (one, other) link, directly or by way of others."""
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def _small(face: np.ndarray) -> np.ndarray:
    edge = face.shape[0] // 8
    grey = cv2.cvtColor(face[edge:-edge, edge:-edge], cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey -= cv2.GaussianBlur(grey, (0, 0), SIDE / 4)
    grey -= grey.mean()
    return grey.ravel() / max(float(np.linalg.norm(grey)), 1e-6)


def perceptual_hash(photo: np.ndarray) -> int:
    """64 bits that say how a picture looks, the same in most of them for another size or compression of it.

    photo: uint8 (height, width, 3), RGB. The signs, against their median, of the 8x8 lowest frequencies of the small grey
    picture (the widely used "pHash": Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010).
    """
    grey = cv2.resize(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), (HASH_SIDE,) * 2, interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes())


def similar_pairs(hashes: np.ndarray, bits: int = BITS) -> np.ndarray:
    """Groups of hashes that differ in at most `bits` of 64, directly or by way of others: int (n,), equal in a group.

    hashes: uint64 (n,). Of bits + 1 bands of a hash one is the same in both of such a pair, so that only hashes that share
    a band are compared (multi-index hashing: Norouzi, Punjani, Fleet, CVPR 2012). ValueError for bits outside 0 to 15.
    """
    if not 0 <= bits <= 15:
        raise ValueError(f"bits must be from 0 to 15, got {bits}")
    values, which = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    edges = np.linspace(0, 64, bits + 2).astype(int)
    pairs = [_close(values, int(low), int(high), bits) for low, high in zip(edges, edges[1:])] if bits else []
    one, other = np.concatenate([np.empty((2, 0), int), *pairs], axis=1)
    return _groups(one, other, len(values))[which]


def _close(values: np.ndarray, low: int, high: int, bits: int) -> np.ndarray:
    """Pairs, int (2, m), of values that share the bits from `low` to `high` and differ in at most `bits`."""
    band = values >> np.uint64(low) & np.uint64(2 ** (high - low) - 1)
    order = np.argsort(band, kind="stable")
    band = band[order]
    end = np.searchsorted(band, band, side="right")  # of each value's run of equal bands
    partners = end - np.arange(len(band)) - 1  # that come after it in its run
    found = []
    stops = np.append(0, np.cumsum(partners))
    start = 0
    while start < len(band):
        stop = max(start + 1, int(np.searchsorted(stops, stops[start] + PAIRS, side="right")) - 1)
        count = partners[start:stop]
        one = np.repeat(np.arange(start, stop), count)
        other = one + 1 + np.arange(len(one)) - np.repeat(stops[start:stop] - stops[start], count)
        near = np.bitwise_count(values[order[one]] ^ values[order[other]]) <= bits
        found.append(np.stack([order[one[near]], order[other[near]]]))
        start = stop
    return np.concatenate(found, axis=1) if found else np.empty((2, 0), int)


def duplicates_as_subjects(table: pd.DataFrame, group: np.ndarray) -> pd.DataFrame:
    """The table with one subject for the faces of each group of near-duplicates, so that no split parts them.

    Faces whose subject is known keep it. The subject of a group is the path of its first face.
    """
    group = pd.Series(group, index=table.index)
    first = table["path"].groupby(group).transform("min")
    many = group.groupby(group).transform("size") > 1
    return table.assign(subject=table["subject"].fillna(first.where(many)).astype("string"))
