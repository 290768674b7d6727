"""`Predictor`: photos as paths, patterns, bytes, PIL images and arrays, with the released models, and annotated copies."""

import io
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from skimage.data import astronaut

from src.config import MODELS
from src.faces.image_io import REDUCE_ABOVE_PIXELS
from src.predict import Predictor, predict
from src.predict.extract_faces import PARALLEL_FROM, Source
from src.predict.inference import PREDICTION_TYPES
from src.predict.predictor import BATCH_PHOTOS, summarise

HEAD = astronaut()[0:260, 90:350]
WALL = np.full((200, 300, 3), 128, np.uint8)
ROTATED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.fixture(scope="module")
def predictor():
    return Predictor(workers=1)


@pytest.fixture(scope="module")
def expected(predictor):
    """The table of the head alone, without its name."""
    return nameless(predictor.predict(HEAD, progress=False))


@pytest.fixture
def files(tmp_path):
    """An album of five pictures, four of which show the same face; the current folder is not in it."""
    folder = tmp_path / "my photos"
    for name in ("a [1].png", "b*.png", "trip/day 1/c.png", "trip/ü.png"):
        save(folder / name, HEAD)
    save(folder / "wall.png", WALL)
    for name in ("trip/.hidden.png", ".hidden/no.png"):
        save(folder / name, WALL)
    (folder / "notes.txt").write_text("x")
    return folder


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


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


# --- photos -----------------------------------------------------------------------------------------------------------


def test_columns_and_types(predictor, expected):
    table = predictor.predict([HEAD, WALL, b"no picture"], progress=False)
    no_models = predict([HEAD, WALL], gender_model=None, age_model=None, progress=False)
    for one in (table, predictor.predict([], progress=False), no_models):
        assert one.dtypes.astype(str).to_dict() == PREDICTION_TYPES
    assert table["status"].tolist() == ["ok", "no_face", "unreadable"] and table["photo"].tolist()[1] == "photo-2"
    (row,) = expected.to_dict("records")
    assert row["gender"] == ("male" if row["p_male"] > 0.5 else "female")
    assert row["age_interval_low"] <= row["age_years"] <= row["age_interval_high"]
    assert 0 <= row["left"] < row["right"] <= 260 and 0 <= row["top"] < row["bottom"] <= 260
    assert table.loc[1:].drop(columns=["photo", "status", "message"]).isna().all(axis=None)


def test_one_model_is_enough(expected):
    table = predict(HEAD, age_model=None, progress=False)
    assert table["p_male"][0] == expected["p_male"][0] and table[["age_group", "age_years", "age_unsure"]].isna().all(
        axis=None
    )


def test_the_same_picture_gets_the_same_row_in_every_form(predictor, expected, files):
    arrays = [HEAD, np.asfortranarray(HEAD), np.ascontiguousarray(HEAD[..., ::-1])[..., ::-1]]
    images = [Image.fromarray(HEAD), opened(content(HEAD))]
    forms = [files / "a [1].png", str(files / "a [1].png"), content(HEAD), *images, *arrays]
    for form in forms:
        assert_each_is(predictor.predict(form, progress=False), expected, 1)
    assert_each_is(predictor.predict(forms, progress=False), expected, len(forms))


def test_mixtures_and_generators_keep_their_order(predictor, files):
    given = [HEAD, files, files / "missing.png", content(WALL), files / "wall.png", opened(content(HEAD))]
    names = ["a [1].png", "b*.png", "trip/day 1/c.png", "trip/ü.png", "wall.png", "missing.png"]
    photos = ["photo-1", *(str(files / name) for name in names), "photo-8", str(files / "wall.png"), "photo-10"]
    statuses = ["ok", *["ok"] * 4, "no_face", "unreadable", "no_face", "no_face", "ok"]
    for some in (given, (one for one in given), pd.Series(given, dtype=object)):
        table = predictor.predict(some, progress=False)
        assert table["photo"].tolist() == photos and table["status"].tolist() == statuses


def test_a_face_gets_the_same_prediction_alone_and_in_a_batch(predictor, expected):
    """With more photos than are predicted together, and no face in every second one."""
    repeats = BATCH_PHOTOS // 4 + 1
    table = predictor.predict([np.ascontiguousarray(HEAD[:, ::-1]), b"", WALL, HEAD] * repeats, progress=False)
    assert table["status"].tolist() == ["ok", "unreadable", "no_face", "ok"] * repeats
    assert_each_is(table[3::4], expected, repeats)
    assert table["p_male"][0] != pytest.approx(expected["p_male"][0], abs=1e-3), "another face"


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


@pytest.mark.parametrize(("suffix", "orientation"), [("PNG", 3), ("TIFF", 6), ("JPEG", 8)])
def test_pictures_are_turned_upright(predictor, tmp_path, suffix, orientation):
    """As files, as bytes and as PIL images, opened and read; an array is taken as it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = content(Image.fromarray(HEAD).transpose(ROTATED[orientation]), suffix, exif=exif)
    file = tmp_path / f"turned.{suffix}"
    file.write_bytes(stored)
    read = opened(stored)
    read.load()
    pixels = np.asarray(ImageOps.exif_transpose(opened(stored)).convert("RGB"))
    assert np.abs(pixels.astype(int) - HEAD).mean() < 8, "upright"
    upright = nameless(predictor.predict(pixels, progress=False))
    assert_each_is(predictor.predict([file, stored, opened(stored), read], progress=False), upright, 4)


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
        (io.BytesIO(b"line\nline"), "got BytesIO"),
        ({"photo": HEAD}, "got dict"),
        ([HEAD], "got list"),
    ],
)
def test_other_arrays_and_things_are_refused(predictor, wrong, got):
    for photos in ([WALL, wrong], *([] if isinstance(wrong, list) else [wrong])):
        with pytest.raises(ValueError, match=f"a photo must be .*uint8.*RGB; {got}$"):
            predictor.predict(photos, progress=False)


def test_damaged_pictures_in_memory_are_rows(predictor):
    stored = content(HEAD, "JPEG")
    closed = opened(stored)
    closed.close()
    table = predictor.predict([b"", b"no picture", stored[:3000], opened(stored[:3000]), closed, HEAD], progress=False)
    assert table["status"].tolist() == ["unreadable"] * 5 + ["ok"]
    messages = ["the file is empty", "not an image in a supported format", *["damaged image"] * 3]
    assert all(found.startswith(message) for found, message in zip(table["message"], messages))


def test_arguments_are_checked():
    for options, message in (
        ({"fallback": "guess"}, "fallback must be one of none, whole-photo, got 'guess'"),
        ({"detector": "eyes"}, "detector must be one of .*, got 'eyes'"),
        ({"workers": 0}, "workers must be -1, for one per core, or at least 1, got 0"),
        ({"gender_model": MODELS / "age"}, "contains a model for age, not for gender"),
        ({"age_model": MODELS / "nowhere"}, "is not a model folder"),
    ):
        with pytest.raises(ValueError, match=message):
            Predictor(**options)


def test_a_summary_counts_faces_and_names_the_other_photos(predictor, files):
    table = predictor.predict([files, files / "missing.png", HEAD], progress=False)
    lines = summarise(table).splitlines()
    assert lines[0] == "5 faces were found in 5 of 7 photos." and len(lines) == 3
    assert lines[1].startswith("wall.png: no face was found") and lines[2] == "missing.png could not be read: no such file."


# --- annotated copies --------------------------------------------------------------------------------------------------


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


def test_copies_of_one_name_get_numbers_and_a_legend_may_enlarge_them(predictor, tmp_path):
    photos = [save(tmp_path / name, pixels) for name, pixels in (("one/a.jpg", HEAD), ("two/A.jpg", WALL), ("b.gif", WALL))]
    before = [photo.read_bytes() for photo in photos]
    predictor.predict(photos, annotate=tmp_path / "out" / "deep", progress=False)
    assert [photo.read_bytes() for photo in photos] == before
    copies = sorted((tmp_path / "out" / "deep").glob("[!.]*"))
    assert [copy.name for copy in copies] == ["A-2.jpg", "a.jpg", "b.gif.jpg"]
    assert Image.open(copies[0]).size == (300, 200) and Image.open(copies[1]).width >= 260
    no_face_found = np.abs(np.asarray(Image.open(copies[2])).astype(int) - 128).max(axis=2) > 60
    assert no_face_found.mean() > 0.005, "a text is drawn"


@pytest.mark.parametrize("given", ["one/same.png", "two/same.png", "both", "all"])
def test_annotated_copies_never_replace_a_photo(predictor, tmp_path, given):
    """Not even the photo of the same name in another of the folders."""
    one, two = (save(tmp_path / name / "same.png", WALL) for name in ("one", "two"))
    photos = {"both": [one, two], "all": [tmp_path]}.get(given) or [tmp_path / given]
    before = [path.read_bytes() for path in (one, two)]
    folder = photos[0].parent if len(photos) == 1 and given != "all" else tmp_path / "two"
    with pytest.raises(ValueError, match="must not replace"):
        predictor.predict(photos, annotate=folder, progress=False)
    assert [path.read_bytes() for path in (one, two)] == before


def test_annotated_copies_replace_only_earlier_copies(predictor, tmp_path):
    photo, other = (save(tmp_path / name / "same.png", WALL) for name in ("in", "other"))
    before = other.read_bytes()
    with pytest.raises(ValueError, match=r"must not replace .*same.png"):
        predictor.predict(photo, annotate=other.parent, progress=False)
    copy = photo.parent / "drawn" / photo.name
    for _ in range(2):  # the second time, the folder of photos contains the copy
        table = predictor.predict(photo.parent, annotate=copy.parent, progress=False)
        assert table["photo"].tolist() == [str(photo)] and copy.is_file()
        copy.write_bytes(before)
    with pytest.raises(ValueError, match="must not replace"):  # a copy that is named is a photo
        predictor.predict(copy, annotate=copy.parent, progress=False)
    assert copy.read_bytes() == other.read_bytes() == before
    assert len(predictor.predict(photo.parent, progress=False)) == 2


def test_a_copy_that_cannot_be_written_costs_no_prediction(predictor, expected, tmp_path):
    photo = save(tmp_path / "a.png", HEAD)
    batches = predictor.batches([Source("a.png", photo)], {Path("a.png"): tmp_path / "missing" / "a.png"}, progress=False)
    (table,) = batches
    assert table["message"][0].endswith("no annotated copy could be written (No such file or directory)")
    assert_each_is(table.assign(message=expected["message"]), expected, 1)


# --- processes, large photos ------------------------------------------------------------------------------------------


def predict_in_pool(photos):
    """Runs in a daemonic process, which may start no others."""
    assert multiprocessing.current_process().daemon
    return predict(photos, progress=False)


@pytest.mark.slow
def test_one_process_several_and_a_worker_of_a_pool_give_the_same(predictor, files):
    lazy = [opened(content(HEAD)) for _ in range(PARALLEL_FROM)]
    photos = [HEAD, files, content(WALL), b"", *[content(HEAD)] * 4]
    expected = predictor.predict(photos, progress=False)
    several = Predictor(workers=2)
    pd.testing.assert_frame_equal(several.predict(photos, progress=False), expected, atol=1e-3)
    assert_each_is(several.predict(lazy, progress=False), nameless(expected[:1]), len(lazy))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pd.testing.assert_frame_equal(pool.apply(predict_in_pool, (photos,)), expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
def test_boxes_of_a_reduced_photo_are_in_its_own_pixels(predictor, tmp_path, suffix):
    """A photo that is read at half its size: as a file, as bytes and as a PIL image, which stays as it is."""
    small = np.full((1500, 2100, 3), 128, np.uint8)
    small[300:560, 900:1160] = HEAD
    options = {"quality": 92} if suffix == "JPEG" else {"compress_level": 1}
    large = Image.fromarray(small).resize((8400, 6000), Image.Resampling.BICUBIC)
    assert large.width * large.height > REDUCE_ABOVE_PIXELS
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
