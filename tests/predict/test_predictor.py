"""`Predictor`: photos as paths, patterns, bytes, PIL images and arrays, with the released models; what is no photo."""

import io
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from skimage.data import astronaut

from src.config import MODELS
from src.faces.image_io import LARGE_PHOTO
from src.predict.decode import PREDICTION_COLUMNS
from src.predict.predictor import FEW, Predictor, predict

HEAD = astronaut()[0:260, 90:350]
WALL = np.full((200, 300, 3), 128, np.uint8)
TYPES = dict.fromkeys(PREDICTION_COLUMNS, "string") | dict.fromkeys(
    ("face", "left", "top", "right", "bottom", "age_interval_low", "age_interval_high"), "Int64"
) | dict.fromkeys(("detection_score", "p_male", "age_group_probability", "age_years"), "Float64") | dict.fromkeys(
    ("gender_unsure", "age_unsure"), "boolean"
)  # fmt: skip
ROTATED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.fixture(scope="module")
def predictor():
    return Predictor()


@pytest.fixture(scope="module")
def expected(predictor):
    """The table of the head alone, without its name."""
    return nameless(predictor.predict(HEAD, progress=False))


@pytest.fixture
def files(tmp_path):
    """An album of five pictures, four of which show the same face; the current folder is not in it."""
    folder = tmp_path / "my photos"
    for name in ("a [1].png", "b*.png", "trip/day 1/c.png", "trip/ü.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(HEAD).save(folder / name)
    Image.fromarray(WALL).save(folder / "wall.png")
    return folder


def content(pixels, suffix="PNG", **options):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, suffix, **options)
    return file.getvalue()


def opened(stored):
    """A PIL image that has not read its pixels yet."""
    return Image.open(io.BytesIO(stored))


def nameless(table):
    return table.drop(columns="photo").reset_index(drop=True)


def assert_each_is(table, expected, count):
    """Every one of the table's rows is the expected one, whatever its photo is called."""
    assert len(table) == count
    pd.testing.assert_frame_equal(nameless(table), pd.concat([expected] * count, ignore_index=True), atol=1e-3)


# --- what a photo can be ----------------------------------------------------------------------------------------------


def test_columns_and_types(predictor, expected):
    table = predictor.predict([HEAD, WALL, b"no picture"], progress=False)
    assert list(table.columns) == list(PREDICTION_COLUMNS)
    for one in (table, predictor.predict([], progress=False), Predictor(None, None).predict([HEAD, WALL], progress=False)):
        assert one.dtypes.astype(str).to_dict() == TYPES
    assert table["status"].tolist() == ["ok", "no_face", "unreadable"] and table["photo"].tolist()[1] == "photo-2"
    (row,) = expected.to_dict("records")
    assert row["gender"] in ("female", "male") and 0 <= row["p_male"] <= 1
    assert row["age_interval_low"] <= row["age_years"] <= row["age_interval_high"]
    assert 0 <= row["left"] < row["right"] <= 260 and 0 <= row["top"] < row["bottom"] <= 260


@pytest.mark.parametrize("count", [1, FEW])
def test_the_same_picture_gets_the_same_row_in_every_form(predictor, expected, tmp_path, count):
    """Also where other processes do the work."""
    (tmp_path / "head.png").write_bytes(content(HEAD))
    arrays = [HEAD, np.asfortranarray(HEAD), np.ascontiguousarray(HEAD[..., ::-1])[..., ::-1]]
    images = [Image.fromarray(HEAD), opened(content(HEAD))]
    forms = [tmp_path / "head.png", str(tmp_path / "head.png"), content(HEAD), *images, *arrays]
    for form in forms if count == 1 else [forms * (count // len(forms) + 1)]:
        photos = [form] if count == 1 else form
        assert_each_is(predictor.predict(photos, progress=False), expected, len(photos))


def test_one_photo_needs_no_list(predictor, expected, files):
    for form in (files / "a [1].png", str(files / "a [1].png"), content(HEAD), Image.fromarray(HEAD), HEAD):
        assert_each_is(predictor.predict(form, progress=False), expected, 1)
    assert_each_is(predict(HEAD, progress=False, workers=1), expected, 1)


def test_mixtures_and_generators_keep_their_order(predictor, files):
    given = [HEAD, files, files / "missing.png", content(WALL), files / "wall.png", opened(content(HEAD))]
    names = ["a [1].png", "b*.png", "trip/day 1/c.png", "trip/ü.png", "wall.png"]
    named = [
        "photo-1",
        *(str(files / name) for name in (*names, "missing.png")),
        "photo-8",
        str(files / "wall.png"),
        "photo-10",
    ]
    said = ["ok", *["ok"] * 4, "no_face", "unreadable", "no_face", "no_face", "ok"]
    for photos in (given, (one for one in given), pd.Series(given, dtype=object)):
        table = predictor.predict(photos, progress=False)
        assert table["photo"].tolist() == named and table["status"].tolist() == said


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("my photos/*.png", ["a [1].png", "b*.png", "wall.png"]),
        ("my photos/**/*.png", ["a [1].png", "b*.png", "trip/day 1/c.png", "trip/ü.png", "wall.png"]),
        ("my photos/a [1].png", ["a [1].png"]),  # a file of this name exists
        ("my photos/b*.png", ["b*.png"]),
        ("my photos/[w-z]*", ["wall.png"]),
        ("my photos/t*", ["trip/day 1/c.png", "trip/ü.png"]),  # a folder's pictures
        ("./my photos/trip/?.png", ["trip/ü.png"]),
    ],
)
def test_patterns_relative_and_absolute(predictor, files, monkeypatch, pattern, names):
    monkeypatch.chdir(files.parent)
    for start in ("", f"{files.parent}{os.sep}"):
        table = predictor.predict(start + pattern, progress=False)
        assert [Path(name) for name in table["photo"]] == [Path(start, "my photos", name) for name in names]
        assert table["status"].isin(("ok", "no_face")).all()


def test_a_pattern_without_a_match_is_a_row(predictor, files):
    table = predictor.predict([files / "*.gif", files / "wall.png"], progress=False)
    assert table["status"].tolist() == ["unreadable", "no_face"]
    assert table["message"][0] == "no file matches this pattern" and table["photo"][0] == str(files / "*.gif")


@pytest.mark.parametrize("suffix", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", list(ROTATED))
def test_pictures_in_memory_are_turned_upright(predictor, suffix, orientation):
    """As bytes and as PIL images, opened and read, here and in other processes; an array is taken as it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = content(Image.fromarray(HEAD).transpose(ROTATED[orientation]), suffix, exif=exif)
    read = opened(stored)
    read.load()
    pixels = np.asarray(ImageOps.exif_transpose(opened(stored)).convert("RGB"))
    assert np.abs(pixels.astype(int) - HEAD).mean() < 8, "upright"
    upright = nameless(predictor.predict(pixels, progress=False))
    assert_each_is(predictor.predict([stored, opened(stored), read] * 3, progress=False), upright, 9)


def test_pil_images_of_every_mode(predictor, expected):
    picture = Image.fromarray(HEAD)
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.where(np.indices(HEAD.shape[:2])[0] < 5, 0, 255).astype(np.uint8)))
    photos = [alpha, picture.quantize(256), picture.convert("L"), picture.convert("CMYK"), picture.convert("1"),
              Image.fromarray(HEAD[..., 1].astype(np.uint16) * 257), picture.convert("LA"), picture]  # fmt: skip
    modes = [photo.mode for photo in photos]
    table = predictor.predict(photos, progress=False)
    assert table["status"].tolist()[:4] == ["ok"] * 4 and not (table["status"] == "unreadable").any()
    assert (table["left"] - expected.loc[0, "left"]).abs().max() < 25
    assert_each_is(table[-1:], expected, 1)
    assert [photo.mode for photo in photos] == modes, "the caller's images are unchanged"


# --- what is no photo -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (HEAD.astype(np.float32) / 255, r"got float32 \(260, 260, 3\)"),
        (HEAD.astype(int), r"got int64 \(260, 260, 3\)"),
        (HEAD[..., 0], r"got uint8 \(260, 260\)"),
        (HEAD[..., :1], r"got uint8 \(260, 260, 1\)"),
        (np.dstack([HEAD, HEAD[..., 0]]), r"got uint8 \(260, 260, 4\)"),
        (HEAD[None], r"got uint8 \(1, 260, 260, 3\)"),
        (HEAD[:0], r"got uint8 \(0, 260, 3\)"),
        (3, "got int"),
        (None, "got NoneType"),
        ([HEAD], "got list"),
    ],
)
def test_other_arrays_and_things_are_refused(predictor, wrong, got):
    for photos in ([WALL, wrong], wrong) if isinstance(wrong, np.ndarray) else ([WALL, wrong],):
        with pytest.raises(ValueError, match=f"a photo must be .*uint8.*RGB; {got}$"):
            predictor.predict(photos, progress=False)


@pytest.mark.parametrize("wrong", [None, 3, io.BytesIO(b"a\nb"), {"a.jpg": 1}], ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_list_of_photos_is_refused(predictor, wrong):
    with pytest.raises(ValueError, match=f"a photo must be .*; got {type(wrong).__name__}$"):
        predictor.predict(wrong, progress=False)


def test_an_empty_name_is_refused(predictor):
    for photos in ("", [HEAD, ""]):
        with pytest.raises(ValueError, match="got an empty name"):
            predictor.predict(photos, progress=False)


@pytest.mark.parametrize("count", [1, FEW])
def test_damaged_pictures_in_memory_are_rows(predictor, expected, count):
    """Here and in other processes."""
    stored = content(HEAD, "JPEG")
    closed = opened(stored)
    closed.close()
    damaged = [b"", b"no picture", stored[:3000], opened(stored[:3000]), closed]
    table = predictor.predict([*damaged, *[HEAD] * count], progress=False)
    assert table["status"].tolist() == ["unreadable"] * 5 + ["ok"] * count
    assert table["message"].tolist()[:2] == ["the file is empty", "not a picture in a format that can be read"]
    assert table["message"].str.startswith("damaged picture").tolist()[2:5] == [True] * 3
    assert table["photo"].tolist() == [f"photo-{number}" for number in range(1, 6 + count)]
    assert_each_is(table[5:], expected, count)


def test_mistakes_when_it_is_made():
    for options, said in (
        ({"fallback": "guess"}, "fallback must be one of none, whole-photo, got 'guess'"),
        ({"detector": "eyes"}, "detector must be one of .*, got 'eyes'"),
        ({"workers": 0}, "workers must be -1, for one per core, or at least 1, got 0"),
        ({"gender_model": MODELS / "age"}, "the gender model's folder holds a model for age"),
        ({"age_model": MODELS / "nowhere"}, "is no model folder"),
    ):
        with pytest.raises(ValueError, match=said):
            Predictor(**options)


# --- annotated copies, processes, large photos ------------------------------------------------------------------------


def test_annotated_copies_of_pictures_in_memory(predictor, files, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = content(Image.fromarray(HEAD[:200]).transpose(Image.Transpose.ROTATE_90), exif=exif)
    photos = [HEAD.copy(), turned, opened(turned), WALL.copy(), b"no picture", files / "wall.png"]
    table = predictor.predict(photos, annotate=tmp_path / "out", progress=False)
    assert table["message"].dropna().str.contains("copy").sum() == 0
    copies = sorted((tmp_path / "out").glob("[!.]*"))
    assert [path.name for path in copies] == ["photo-1.jpg", "photo-2.jpg", "photo-3.jpg", "photo-4.jpg", "wall.png"]
    assert (photos[0] == HEAD).all() and (photos[3] == WALL).all(), "nothing is drawn into the caller's arrays"
    for path, pixels in zip(copies, (HEAD, HEAD[:200], HEAD[:200], WALL)):
        drawn = np.asarray(Image.open(path)).astype(int)[: pixels.shape[0], : pixels.shape[1]]
        assert drawn.shape == pixels.shape
        changed = np.abs(drawn - pixels).max(axis=2) > 60
        assert 0.005 < changed.mean() < 0.3, "drawn in, upright"
    again = predictor.predict(photos, annotate=tmp_path / "out", progress=False)
    pd.testing.assert_frame_equal(again, table)
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 5, "an earlier call's copies are replaced"


def in_pool(folder):
    """Runs in a worker, which may start no other processes."""
    assert multiprocessing.current_process().daemon
    return predict([folder, *[HEAD] * FEW], progress=False)


def test_in_a_worker_of_a_pool(predictor, files):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        table = pool.apply(in_pool, (files,))
    pd.testing.assert_frame_equal(table, predictor.predict([files, *[HEAD] * FEW], progress=False), atol=1e-3)
    assert len(pickle.loads(pickle.dumps(table))) == 5 + FEW


def test_one_process_and_several_give_the_same(predictor, files):
    photos = [HEAD, files, content(WALL), b"", *[opened(content(HEAD))] * 4]
    alone = Predictor(workers=1).predict(photos, progress=False)
    pd.testing.assert_frame_equal(predictor.predict(photos, progress=False), alone, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
def test_boxes_of_a_reduced_photo_are_in_its_own_pixels(predictor, tmp_path, suffix):
    """A photo that is read at half its size: as a file, as bytes and as a PIL image, which stays as it is."""
    small = np.full((1500, 2100, 3), 128, np.uint8)
    small[300:560, 900:1160] = HEAD
    options = {"quality": 92} if suffix == "JPEG" else {"compress_level": 1}
    large = Image.fromarray(small).resize((8400, 6000), Image.Resampling.BICUBIC)
    assert large.width * large.height > LARGE_PHOTO
    stored = content(large, suffix, **options)
    file = tmp_path / f"large.{suffix.lower()}"
    file.write_bytes(stored)
    lazy = opened(stored)
    table = predictor.predict([file, stored, lazy], annotate=tmp_path / "out" if suffix == "JPEG" else None, progress=False)
    assert table["face"].tolist() == [1, 1, 1] and lazy.size == (8400, 6000)
    (row,) = predictor.predict(small, progress=False).to_dict("records")
    for side in ("left", "top", "right", "bottom"):
        assert (table[side] - 4 * row[side]).abs().max() < 60, side  # of a face of 400 pixels
    if suffix == "JPEG":
        sizes = [Image.open(path).size for path in (tmp_path / "out").glob("*.jp*g")]
        assert len(sizes) == 3 and all(width >= 8400 and height >= 6000 for width, height in sizes)
