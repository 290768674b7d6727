"""The faces and labels of a data set for one task, from its folder."""

import cv2
import numpy as np
import pytest

from src.config import AGE_GROUPS
from src.faces.align import Alignment
from src.faces.training_set import load_training_set

SMALL = Alignment(size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set in UTKFace's form: three pictures, a copy of the first one, and a damaged file."""
    folder, rng = tmp_path_factory.mktemp("utkface"), np.random.default_rng(1)
    pictures = [cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (96, 96)) for _ in range(3)]
    names = ["5_0_0_1.jpg", "30_1_0_2.jpg", "70_0_0_3.jpg", "6_0_0_4.png"]
    for name, picture in zip(names, [*pictures, pictures[0]]):
        cv2.imwrite(str(folder / name), picture)
    (folder / "40_1_0_5.jpg").write_text("no picture")
    return folder


def test_faces_are_loaded_aligned_and_labelled(folder, tmp_path):
    found = load_training_set("utkface", folder, "age", AGE_GROUPS["four"], SMALL, tmp_path)
    assert found.table["path"].tolist() == ["30_1_0_2.jpg", "5_0_0_1.jpg", "6_0_0_4.png", "70_0_0_3.jpg"]
    assert found.labels.tolist() == found.table["label"].tolist() == [1, 0, 0, 3]
    assert found.faces.dtype == np.uint8 and found.faces.shape == (5, 64, 64, 3), "the damaged image keeps its row"
    assert (found.faces[found.rows].std(axis=(1, 2, 3)) > 0).all()
    subject = found.table["subject"]
    assert subject[1:3].nunique() == 1 and subject[1:3].notna().all() and subject.isna().sum() == 2
    genders = load_training_set("utkface", folder, "gender", None, SMALL, tmp_path)
    assert genders.labels.tolist() == [0, 1, 1, 1] and genders.rows.tolist() == found.rows.tolist()


def test_age_needs_groups(folder, tmp_path):
    with pytest.raises(ValueError, match="age requires age groups"):
        load_training_set("utkface", folder, "age", None, SMALL, tmp_path)
