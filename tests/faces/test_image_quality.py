"""Cleaning by what the picture files show: one reason each, nothing lost, and what was seen is not looked at again."""

import cv2
import numpy as np
import pandas as pd
import pytest
import skimage.data
from PIL import Image

from src.data.table import TABLE_COLUMNS, Loaded, check_table
from src.faces.image_quality import drop_bad_images, inspect_images, load_clean
from src.faces.prepare import prepare

PORTRAIT = skimage.data.astronaut()


@pytest.fixture
def loaded(tmp_path):
    """A table of pictures of every kind, and a ledger of one row."""
    coffee = skimage.data.coffee()
    grey = np.repeat(cv2.cvtColor(coffee, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)[::-1]
    made = {
        "a.png": PORTRAIT,
        "text.jpg": None,
        "copy.jpg": cv2.resize(PORTRAIT, (300, 300), interpolation=cv2.INTER_AREA),
        "tiny.png": PORTRAIT[:12, :40],
        "grey.png": grey,
        "coffee.png": coffee,
        "same.png": PORTRAIT,
    }
    for name, pixels in made.items():
        if pixels is None:
            (tmp_path / name).write_text("no picture")
        else:
            Image.fromarray(pixels).save(tmp_path / name)
    names = [*made, "gone.jpg"]
    table = check_table(pd.DataFrame({"path": names, "dataset": "made"}).reindex(columns=list(TABLE_COLUMNS)))
    return Loaded(table, pd.DataFrame({"path": ["x.jpg"], "reason": ["no face"]}, dtype="string"))


def test_every_dropped_picture_has_one_reason(loaded, tmp_path):
    seen = inspect_images(loaded.table, tmp_path, tmp_path / "cache", workers=1)
    table, ledger = drop_bad_images(loaded, seen)
    assert table["path"].tolist() == ["a.png", "grey.png", "coffee.png"]
    assert dict(zip(ledger["path"], ledger["reason"])) == {
        "x.jpg": "no face",
        "text.jpg": "unreadable",
        "gone.jpg": "unreadable",
        "tiny.png": "too small",
        "copy.jpg": "duplicate image",
        "same.png": "duplicate image",
    }
    assert list(table.columns) == list(TABLE_COLUMNS) and set(table["dataset"]) == {"made"}
    prepared = prepare(table, tmp_path, cache=tmp_path / "cache", workers=1)
    assert not prepared.reason.any()


def test_thresholds_are_parameters(loaded, tmp_path):
    seen = inspect_images(loaded.table, tmp_path, tmp_path / "cache", workers=1)
    reasons = drop_bad_images(loaded, seen, min_side=301, drop_grey=True).ledger.set_index("path")["reason"]
    assert reasons["grey.png"] == "grey" and reasons["copy.jpg"] == "too small"
    assert drop_bad_images(loaded, seen, min_side=1).ledger["reason"].tolist().count("too small") == 0


def test_looking_again_gives_the_same_and_notices_a_replaced_picture(loaded, tmp_path):
    cache = tmp_path / "cache"
    first = inspect_images(loaded.table, tmp_path, cache, workers=1)
    (kept,) = (cache / "pictures").iterdir()
    before = kept.stat().st_mtime_ns
    pd.testing.assert_frame_equal(inspect_images(loaded.table, tmp_path, cache, workers=1), first)
    assert kept.stat().st_mtime_ns == before
    Image.fromarray(PORTRAIT).save(tmp_path / "text.jpg", format="PNG")
    again = inspect_images(loaded.table, tmp_path, cache, workers=1)
    assert again["readable"].tolist() == [True] * 7 + [False]
    assert not first["readable"][1] and again["hash"][1] == first["hash"][0]


def test_a_data_set_is_loaded_clean(tmp_path):
    folder, cache = tmp_path / "UTKFace", tmp_path / "cache"
    folder.mkdir()
    for name, pixels in (("20_1_0_1", PORTRAIT), ("30_1_0_2", PORTRAIT[::2, ::2]), ("40_0_0_3", skimage.data.coffee())):
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
    (folder / "unnamed.jpg").write_text("no picture")
    table, ledger = load_clean("utkface", folder, cache=cache)
    assert table["age_low"].tolist() == [20, 40] and set(table["dataset"]) == {"utkface"}
    assert len(ledger) == 2 and ledger["reason"].iloc[-1] == "duplicate image"


def test_an_empty_table_is_clean(loaded, tmp_path):
    none = Loaded(loaded.table.head(0), loaded.ledger)
    table, ledger = drop_bad_images(none, inspect_images(none.table, tmp_path, tmp_path / "cache", workers=1))
    assert (len(table), len(ledger)) == (0, 1)
