"""The second half of cleaning: what only the picture files themselves can tell, whatever the data set.

Before it: a loader's table. After it: `prepare`, which then meets no picture that cannot be read.
"""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from src.config import CACHE
from src.data.table import Loaded, split_rejects
from src.faces.duplicates import BITS, perceptual_hash, similar_pairs
from src.faces.image_io import UnreadablePhoto, read_photo
from src.faces.prepare import SMALLEST, stamps
from src.files import atomic_write

VERSION = 1  # of what is seen of a picture
CHUNK = 1000  # pictures that one task looks at, and the most that a kill loses a worker
GREY = 8  # of 255: a picture whose colours differ less from grey anywhere has none
SEEN = np.dtype([("width", "u4"), ("height", "u4"), ("colour", "u1"), ("hash", "u8"), ("readable", "?")])


def inspect_images(table: pd.DataFrame, folder: str | Path, cache: Path = CACHE, workers: int = -1) -> pd.DataFrame:
    """What is seen of each picture of a table of faces, in its order.

    Columns: width, height in pixels; colour, how far the most coloured place of the small picture is from grey, 0-255; hash,
    uint64, see `duplicates.perceptual_hash`; readable. Kept in the cache by 1,000 pictures, named by their paths, sizes and
    times of change, so that an interrupted look goes on and a replaced picture is looked at again.
    """
    folder, place = Path(folder).expanduser(), cache / "pictures"
    place.mkdir(parents=True, exist_ok=True)
    paths = table["path"].to_numpy(object)
    tasks = (delayed(_look_at)(paths[i : i + CHUNK], folder, place) for i in range(0, len(paths), CHUNK))
    seen = []
    with tqdm(mininterval=0.5, total=len(paths), desc="looking", unit=" pictures") as bar:
        for some in Parallel(n_jobs=workers, return_as="generator")(tasks):
            seen.append(some)
            bar.update(len(some))
    return pd.DataFrame(np.concatenate([np.empty(0, SEEN), *seen]), index=table.index)


def drop_bad_images(
    loaded: Loaded, seen: pd.DataFrame, smallest: int = SMALLEST, drop_grey: bool = False, bits: int = BITS
) -> Loaded:
    """The table without the pictures that are of no use, each in the ledger under one reason.

    seen: what `look` gave for loaded.table. Reasons, in this order: unreadable; too small (a side below `smallest` pixels);
    grey (where asked for); duplicate image (alike an earlier good one in all but `bits` of its hash: the first stays).
    """
    side = seen[["width", "height"]].min(axis=1).to_numpy()
    reasons = {"unreadable": ~seen["readable"].to_numpy(), "too small": side < smallest}
    if drop_grey:
        reasons["grey"] = seen["colour"].to_numpy() < GREY
    good = np.flatnonzero(~np.logical_or.reduce(list(reasons.values())))
    group = similar_pairs(seen["hash"].to_numpy()[good], bits)
    reasons["duplicate image"] = np.zeros(len(seen), bool)
    reasons["duplicate image"][good] = pd.Series(group).duplicated()
    table, ledger = split_rejects(loaded.table, reasons, loaded.table["dataset"])
    return Loaded(table, pd.concat([loaded.ledger, ledger], ignore_index=True))


def _look_at(paths: np.ndarray, folder: Path, place: Path) -> np.ndarray:
    digest = hashlib.sha256(f"{VERSION} {cv2.__version__} {folder.resolve()}\n".encode())
    digest.update("\n".join(paths).encode() + stamps(folder, paths).tobytes())
    file = place / f"{digest.hexdigest()[:24]}.npy"
    if not file.exists():
        seen = np.array([_seen(folder / path) for path in paths], SEEN)
        with atomic_write(file) as new, new.open("wb") as opened:
            np.save(opened, seen)
    return np.load(file)


def _seen(path: Path) -> tuple:
    try:
        photo = read_photo(path)
    except UnreadablePhoto:
        return 0, 0, 0, 0, False
    height, width = photo.shape[:2]
    small = cv2.resize(photo, (16, 16), interpolation=cv2.INTER_AREA)
    return width, height, int(np.ptp(small, axis=2).max()), perceptual_hash(photo), True
