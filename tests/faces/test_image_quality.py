"""Cleaning by what the images show: one reason each, nothing lost, and an image is inspected once."""

import cv2
import joblib
import numpy as np
import pytest
import skimage.data
from PIL import Image

from src.data.table import TABLE_COLUMNS
from src.faces.image_quality import load_clean

PORTRAIT = skimage.data.astronaut()


@pytest.fixture(autouse=True)
def no_processes():
    with joblib.parallel_config("sequential"):
        yield


@pytest.fixture
def folder(tmp_path):
    """A folder in UTKFace's layout with images of every kind, of people of 10, 11, 12 … years."""
    coffee = skimage.data.coffee()
    grey = np.repeat(cv2.cvtColor(coffee, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)[::-1]
    small_copy = cv2.resize(PORTRAIT, (300, 300), interpolation=cv2.INTER_AREA)
    made = [PORTRAIT, small_copy, PORTRAIT[:12, :40], grey, coffee, PORTRAIT]
    (tmp_path / "UTKFace").mkdir()
    for age, pixels in enumerate(made, start=10):
        Image.fromarray(pixels).save(tmp_path / "UTKFace" / f"{age}_1_0_1.png")
    (tmp_path / "UTKFace" / "16_1_0_1.png").write_text("no image")
    (tmp_path / "UTKFace" / "unnamed.jpg").touch()
    return tmp_path


def ages_by_reason(ledger):
    """Maps the age in a dropped file's name to the reason."""
    return {path.rpartition("/")[2].split("_")[0]: reason for path, reason in zip(ledger["path"], ledger["reason"])}


def test_every_dropped_image_has_one_reason(folder, tmp_path):
    table, ledger = load_clean("utkface", folder, cache=tmp_path / "cache")
    assert table["age_low"].tolist() == [10, 13, 14]
    assert ages_by_reason(ledger) == {
        "unnamed.jpg": "malformed name",
        "16": "unreadable",
        "12": "too small",
        "11": "duplicate image",
        "15": "duplicate image",
    }
    assert list(table.columns) == list(TABLE_COLUMNS) and set(table["dataset"]) == {"utkface"}


def test_thresholds_are_parameters(folder, tmp_path):
    strict = ages_by_reason(load_clean("utkface", folder, 301, True, tmp_path / "cache").ledger)
    assert strict["13"] == "grey" and strict["11"] == "too small"
    assert "too small" not in ages_by_reason(load_clean("utkface", folder, 1, cache=tmp_path / "cache").ledger).values()


def test_an_image_is_inspected_once_unless_it_is_replaced(folder, tmp_path):
    cache = tmp_path / "cache"
    first = load_clean("utkface", folder, cache=cache)
    (kept,) = (file for file in cache.rglob("*") if file.is_file())
    before = kept.stat().st_mtime_ns
    again = load_clean("utkface", folder, cache=cache)
    assert again.table.equals(first.table) and kept.stat().st_mtime_ns == before
    Image.fromarray(skimage.data.chelsea()).save(folder / "UTKFace" / "16_1_0_1.png")
    assert load_clean("utkface", folder, cache=cache).table["age_low"].tolist() == [10, 13, 14, 16]
