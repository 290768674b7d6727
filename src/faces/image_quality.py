"""Cleans a data set by what its image files show: drops unreadable, small, grey and duplicate images."""

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed, parallel_config
from tqdm.auto import tqdm

from src.config import CACHE
from src.data import load
from src.data.table import TableAndLedger, split_rejects
from src.faces.duplicates import group_similar_hashes, perceptual_hash
from src.faces.image_io import MIN_SIDE, UnreadablePhoto, read_photo
from src.files import atomic_write, file_stamps
from src.processes import end_with_parent

VERSION = 1  # version of the cached properties; increase it when they change
CHUNK = 1000  # images per task, whose work is lost if a worker is killed
MIN_COLOUR = 8  # of 255; in a small copy of a grey image, the channels of every pixel differ by less
# `colour` is the largest difference between the channels of a pixel, and `hash` is the `perceptual_hash`.
PROPERTIES = np.dtype([("width", "u4"), ("height", "u4"), ("colour", "u1"), ("hash", "u8"), ("readable", "?")])


def load_clean(
    dataset: str,
    folder: str | Path,
    min_side: int = MIN_SIDE,
    drop_grey: bool = False,
    cache: Path = CACHE,
    **options,
) -> TableAndLedger:
    """Loads a data set as `data.load` does, and drops images that are unreadable, small, grey or duplicate, in this order.

    What the images show is cached, so an interrupted run resumes; a replaced file is inspected again.

    Args:
        dataset: One of `data.DATASETS`.
        folder: The data set's folder.
        min_side: Shortest side in pixels that is kept.
        drop_grey: Whether to drop images without colour.
        cache: Folder of the cache.
        **options: Options of the data set's loader.

    Returns:
        The table of faces and the ledger of all dropped rows. The first of several duplicates is kept.
    """
    loaded = load(dataset, folder, **options)
    return _drop_bad_images(loaded, _inspect_images(loaded.table, folder, cache), min_side, drop_grey)


def _inspect_images(table: pd.DataFrame, folder: str | Path, cache: Path) -> pd.DataFrame:
    """Returns `PROPERTIES` of the image of each row, with the table's index."""
    folder, target = Path(folder).expanduser(), cache / "image_properties"
    target.mkdir(parents=True, exist_ok=True)
    paths = table["path"].to_numpy(object)
    tasks = (delayed(_inspect_chunk)(paths[i : i + CHUNK], folder, target) for i in range(0, len(paths), CHUNK))
    chunks = []
    workers = parallel_config("loky", initializer=end_with_parent, initargs=(os.getpid(),))
    with workers, tqdm(mininterval=0.5, total=len(paths), desc="inspecting", unit=" images") as bar:
        for chunk in Parallel(n_jobs=-1, return_as="generator")(tasks):
            chunks.append(chunk)
            bar.update(len(chunk))
    return pd.DataFrame(np.concatenate(chunks), index=table.index)


def _drop_bad_images(loaded: TableAndLedger, properties: pd.DataFrame, min_side: int, drop_grey: bool) -> TableAndLedger:
    """Moves the rows of bad images to the ledger."""
    side = properties[["width", "height"]].min(axis=1).to_numpy()
    reasons = {"unreadable": ~properties["readable"].to_numpy(), "too small": side < min_side}
    if drop_grey:
        reasons["grey"] = properties["colour"].to_numpy() < MIN_COLOUR
    good = np.flatnonzero(~np.logical_or.reduce(list(reasons.values())))
    group = group_similar_hashes(properties["hash"].to_numpy()[good])
    reasons["duplicate image"] = np.zeros(len(properties), bool)
    reasons["duplicate image"][good] = pd.Series(group).duplicated()
    table, ledger = split_rejects(loaded.table, reasons, loaded.table["dataset"].iloc[0])
    return TableAndLedger(table, pd.concat([loaded.ledger, ledger], ignore_index=True))


def _inspect_chunk(paths: np.ndarray, folder: Path, target: Path) -> np.ndarray:
    """Returns the properties of a chunk of images; the cache key covers the files' paths, sizes and times."""
    digest = hashlib.sha256(f"{VERSION} {cv2.__version__} {folder.resolve()}\n".encode())
    digest.update("\n".join(paths).encode() + file_stamps(folder, paths).tobytes())
    file = target / f"{digest.hexdigest()[:24]}.npy"
    if not file.exists():
        with atomic_write(file) as path:
            np.save(path, np.array([_properties(folder / name) for name in paths], PROPERTIES))
    return np.load(file)


def _properties(path: Path) -> tuple[int, int, int, int, bool]:
    try:
        photo = read_photo(path)
    except UnreadablePhoto:
        return 0, 0, 0, 0, False
    height, width = photo.shape[:2]
    small = cv2.resize(photo, (16, 16), interpolation=cv2.INTER_AREA)
    return width, height, int(np.ptp(small, axis=2).max()), perceptual_hash(photo), True
