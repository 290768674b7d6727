"""Detecting and aligning the faces of photos, in this process and in several, whatever the files hold."""

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from skimage.data import astronaut

from src import processes
from src.faces.align import Alignment
from src.faces.detect import DEFAULT_DETECTOR, DETECTORS, detect
from src.predict.extract_faces import (
    QUEUED_PER_WORKER,
    Source,
    detect_faces_in_photo,
    detect_faces_in_photos,
    first_with_face,
)

HEAD = astronaut()[0:260, 90:350]
ALIGNMENTS = {"gender": Alignment(size=64), "age": Alignment(size=64)}


def written(folder: Path, count: int) -> list[Path]:
    """Photos of which every third shows a face, a little different each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:05d}.jpg" for i in range(count)]
    for i, file in enumerate(files):
        picture = np.roll(HEAD, i, axis=1) if i % 3 == 0 else np.full((60, 80, 3), i % 256, np.uint8)
        Image.fromarray(picture).save(file)
    return files


def detected(paths, workers=2):
    sources = [Source(str(path), path) for path in paths]
    return detect_faces_in_photos(sources, ALIGNMENTS, "none", DEFAULT_DETECTOR, workers)


def assert_same_rows(rows, others):
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys() and all(
            row[name] == other[name] for name in row if name not in ("photo", "aligned")
        )
        assert all((row["aligned"][task] == other["aligned"][task]).all() for task in row.get("aligned", ()))


# --- one photo --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", DETECTORS)
def test_boxes_lie_within_the_photo(detector):
    """Also those of faces that the photo's edge cuts."""
    photo = np.ascontiguousarray(astronaut()[:150, 100:400])
    (row,) = detect_faces_in_photo(Source("a", photo), ALIGNMENTS, detector=detector)
    left, top, right, bottom = (row[edge] for edge in ("left", "top", "right", "bottom"))
    assert 0 <= left < right <= 300 and 0 <= top < bottom == 150
    (found,) = detect(photo, detector)
    assert found.box[3] > 150 and row["detection_score"] == round(found.score, 3)


def test_several_faces_largest_first():
    photo = np.full((300, 600, 3), 128, np.uint8)
    photo[20:190, 20:190], photo[20:280, 300:560] = np.asarray(Image.fromarray(HEAD).resize((170, 170))), HEAD
    large, small = detect_faces_in_photo(Source("a", photo), ALIGNMENTS)
    assert (large["face"], small["face"]) == (1, 2) and large["left"] > 300 > small["right"]


def test_a_file_its_bytes_its_picture_and_its_pixels_give_the_same(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(HEAD).save(file)
    rows = detect_faces_in_photo(Source("a", file), ALIGNMENTS)
    assert [row["status"] for row in rows] == ["ok"]
    for photo in (str(file), file.read_bytes(), Image.fromarray(HEAD), HEAD):
        assert_same_rows(detect_faces_in_photo(Source("a", photo), ALIGNMENTS), rows)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (16, 16)])
def test_a_photo_without_a_face_is_used_as_a_whole_on_request(shape):
    photo = np.full((*shape, 3), 200, np.uint8)
    assert [row["status"] for row in detect_faces_in_photo(Source("a", photo), ALIGNMENTS)] == ["no_face"]
    (row,) = detect_faces_in_photo(Source("a", photo), ALIGNMENTS, "whole-photo")
    assert row["status"] == "whole_photo" and row["aligned"]["age"].shape == (64, 64, 3)
    assert [row[edge] for edge in ("left", "top", "right", "bottom")] == [0, 0, shape[1], shape[0]]


def test_what_is_no_photo_gets_a_row_that_says_why(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (whole,) = written(tmp_path, 1)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:3000])
    os.mkfifo(tmp_path / "pipe.jpg")  # must not be waited for
    names = ("missing.jpg", "text.jpg", "empty.jpg", "cut.jpg", "pipe.jpg")
    rows = [row for one in detected(tmp_path / name for name in names) for row in one]
    assert [row["status"] for row in rows] == ["unreadable"] * 5
    expected = ["no such file", "not an image", "the file is empty", "damaged image", "not a regular file"]
    assert all(row["message"].startswith(message) for row, message in zip(rows, expected))


def test_the_first_photo_with_a_face(tmp_path):
    photos = written(tmp_path, 4)
    photo, faces = first_with_face([tmp_path / "missing.jpg", *photos[1:]])
    assert photo.shape == HEAD.shape and len(faces) == 1
    assert first_with_face(photos[1:3]) is None


# --- several processes ------------------------------------------------------------------------------------------------


def test_several_processes_give_the_same_rows_in_the_same_order(tmp_path):
    photos = [*written(tmp_path, 20), tmp_path / "missing.jpg", tmp_path / "00003.jpg"]
    together = list(detected(photos))
    assert [rows[0]["photo"] for rows in together] == [str(path) for path in photos]
    for rows, others in zip(detected(photos, workers=1), together, strict=True):
        assert_same_rows(rows, others)
    assert {rows[0]["status"] for rows in together} == {"ok", "no_face", "unreadable"}


def test_few_photos_are_read_ahead(tmp_path):
    """Memory stays flat while nobody takes the rows."""
    photos = written(tmp_path, 40)
    rows = detected(photos)
    next(rows)
    time.sleep(0.5)
    for path in photos[2 * QUEUED_PER_WORKER + 1 :]:
        path.unlink()
    statuses = [some[0]["status"] for some in rows]
    assert set(statuses[2 * QUEUED_PER_WORKER :]) == {"unreadable"} and len(statuses) == 39
    assert "unreadable" not in statuses[: 2 * QUEUED_PER_WORKER - 1]


class Crashing(type(Path())):
    """A path that ends the process which is to read it, as a fault in a decoder does."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0, 4])
def test_a_crashed_decoder_costs_one_photo_only(tmp_path, pause):
    photos = written(tmp_path, 20)
    photos[7] = Crashing(photos[7])
    detections = detected(photos)
    rows = [next(detections)]
    time.sleep(pause)  # a worker may also crash while nobody waits for it
    rows += detections
    assert [some[0]["photo"] for some in rows] == [str(path) for path in photos]
    assert rows[7][0]["status"] == "unreadable" and "its decoder crashed" in rows[7][0]["message"]
    assert {some[0]["status"] for some in rows[:7] + rows[8:]} == {"ok", "no_face"}


@pytest.mark.slow
def test_killed_workers_lose_no_photo(tmp_path):
    photos = written(tmp_path, 30)
    detections = detected(photos)
    rows = [next(detections) for _ in range(5)]
    processes.end_children()
    rows += detections
    assert [some[0]["photo"] for some in rows] == [str(path) for path in photos]
    assert {some[0]["status"] for some in rows} == {"ok", "no_face"}


# --- whatever bytes come ----------------------------------------------------------------------------------------------


def damaged(folder: Path, count: int) -> list[Path]:
    """Pictures in every format, each with some bits flipped or its end cut off."""
    rng = np.random.default_rng(11)
    kinds = ["jpg", "png", "webp", "tif", "bmp", "gif", "heic", "avif"]
    whole = {}
    for kind in kinds:
        Image.fromarray(HEAD).resize((120, 120)).save(folder / f"whole.{kind}")
        whole[kind] = (folder / f"whole.{kind}").read_bytes()
        (folder / f"whole.{kind}").unlink()
    files = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        content = np.frombuffer(whole[kind], np.uint8).copy()
        content[rng.integers(0, len(content) if i % 3 else 300, 1 + i % 12)] ^= np.uint8(1 << i % 8)
        files.append(folder / f"damaged {i:03d}.{kind}")
        files[-1].write_bytes(content[: None if i % 5 else rng.integers(20, len(content))].tobytes())
    return files


@pytest.mark.slow
def test_a_thousand_files_of_random_bytes_and_damaged_pictures(tmp_path):
    """In one process, where a crash, a hang or a leak would show."""
    rng = np.random.default_rng(12)
    magic = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"RIFF....WEBP", b"BM", b"....ftypheic"]
    files = [tmp_path / f"random {i:03d}.jpg" for i in range(500)]
    for i, file in enumerate(files):
        file.write_bytes(magic[i % len(magic)].replace(b"....", b"\0\0\0\x18") + rng.bytes(int(rng.integers(1, 4000))))
    files += damaged(tmp_path, 500)
    statuses, megabytes = Counter(), []
    for i, rows in enumerate(detected(files, workers=1)):
        assert rows[0]["photo"] == str(files[i])
        statuses[rows[0]["status"]] += 1
        assert all(row.get("message") or row["status"] == "ok" for row in rows)
        if i % 100 == 0:
            megabytes.append(psutil.Process().memory_info().rss >> 20)
    assert statuses.total() == 1000 and statuses["unreadable"] > 500 and statuses["ok"] > 20
    assert megabytes[-1] - megabytes[2] < 100, megabytes
