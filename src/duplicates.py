"""Near-duplicates: one picture that stands in a data set twice, re-encoded, re-cropped, recoloured or turned a little.

Before it: `prepare`. After it: `tables.split`, which keeps a subject on one side.
"""

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 24  # pixels of the small grey picture that is compared
ALIKE = 0.93  # correlation above which two pictures are the same; looked at by eye, below it other people begin
CHUNK = 2000


def near_duplicates(faces: np.ndarray, alike: float = ALIKE) -> np.ndarray:
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
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(small),) * 2)
    return connected_components(links, directed=False)[1]


def _small(face: np.ndarray) -> np.ndarray:
    edge = face.shape[0] // 8
    grey = cv2.cvtColor(face[edge:-edge, edge:-edge], cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey -= cv2.GaussianBlur(grey, (0, 0), SIDE / 4)
    grey -= grey.mean()
    return grey.ravel() / max(float(np.linalg.norm(grey)), 1e-6)


def as_subjects(table: pd.DataFrame, group: np.ndarray) -> pd.DataFrame:
    """The table with one subject for the faces of each group of near-duplicates, so that no split parts them.

    Faces whose subject is known keep it. The subject of a group is the path of its first face.
    """
    group = pd.Series(group, index=table.index)
    first = table["path"].groupby(group).transform("min")
    many = group.groupby(group).transform("size") > 1
    return table.assign(subject=table["subject"].fillna(first.where(many)).astype("string"))
