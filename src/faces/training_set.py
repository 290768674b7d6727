"""A data set's faces, aligned and labelled for one task. `data.table.split` splits them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import CACHE, AgeGroups
from src.data import load_for_training, resolve_folder
from src.data.table import task_labels
from src.faces.align import Alignment
from src.faces.duplicates import duplicates_as_subjects, near_duplicates
from src.faces.prepare import prepare


class TrainingSet(NamedTuple):
    """Faces to train on.

    Attributes:
        table: Table of faces, with the column `label` once a task is chosen. Its index is the row of each face in `faces`.
        faces: All aligned faces of the data set, uint8 (n, size, size, 3), RGB, memory-mapped.
    """

    table: pd.DataFrame
    faces: npt.NDArray[np.uint8]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows in `faces` of the labelled faces, shape (m,)."""
        return self.table.index.to_numpy()

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each labelled face, shape (m,)."""
        return self.table["label"].to_numpy()


def load_training_set(
    dataset: str,
    folder: str | Path,
    task: str,
    groups: AgeGroups | None = None,
    alignment: Alignment = Alignment(),
    cache: Path = CACHE,
    **options,
) -> TrainingSet:
    """Loads a data set, aligns its faces and selects those with a label for the task.

    Faces without a usable image are dropped. In a data set without identities, near-duplicates count as one subject, so that
    a split keeps them together.

    Args:
        dataset: One of `data.DATASETS`.
        folder: The data set's folder; "" selects data/DATASET.
        task: "gender" or "age".
        groups: Age classes, required for "age".
        alignment: How to align the faces.
        cache: Folder for the aligned faces.
        **options: Options of the data set's loader.

    Raises:
        ValueError: The data set or the task is unknown, or the data set has no usable face.
        FileNotFoundError: Files of the data set are missing.
    """
    folder = resolve_folder(dataset, folder)
    table = load_for_training(dataset, folder, **options).table
    prepared = prepare(table, folder, alignment, cache)
    if not prepared.usable.any():
        raise ValueError(f"expected an image of {dataset} with a usable face, but all have problems: {prepared.reason[0]}")
    if table["subject"].isna().all():
        table = duplicates_as_subjects(table, near_duplicates(prepared.faces))
    labelled = task_labels(table, task, groups).table
    return TrainingSet(labelled[prepared.usable[labelled.index]], prepared.faces)
