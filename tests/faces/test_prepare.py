"""Preparing a table of faces: what each row becomes, and what kills, full disks and locked folders leave behind."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import skimage.data
from PIL import Image

from src import config
from src.data.table import BOX_COLUMNS, TABLE_COLUMNS, check_table
from src.faces import prepare as prepare_module
from src.faces.align import Alignment, align_face, find_faces, whole_photo
from src.faces.detect import DEFAULT_DETECTOR, DETECTORS
from src.faces.image_io import read_photo
from src.faces.prepare import prepare
from src.files import TEMPORARY_PREFIX
from src.predict.extract_faces import Source, detect_faces_in_photo
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person

PORTRAIT = skimage.data.astronaut()
SMALL = Alignment(size=64)
CHUNK = 4
NO_BOX = (None,) * 4
LEFT, RIGHT = (30, 60, 130, 160), (210, 60, 310, 160)  # where the two faces of two.png are


def crop(top, left, side):
    return PORTRAIT[top : top + side, left : left + side]


def make_rows(folder):
    """Writes the pictures; gives (path, box, how, reason) a row."""
    rng = np.random.default_rng(11)
    rows = []

    def row(name, pixels, how, reason="", box=NO_BOX):
        if pixels is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)
        rows.append((name, box, how, reason))

    for i in range(22):
        top, left, side = rng.integers((20, 110, 190), (45, 145, 220))
        row(f"faces/{i:02d}.jpg", crop(top, left, side), "landmarks")
    row("übung 1/with space.jpg", crop(30, 130, 200), "landmarks")

    row("cut.jpg", crop(30, 130, 200), "", "unreadable: damaged image")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:3000])
    (folder / "text.jpg").write_text("no picture")
    row("text.jpg", None, "", "unreadable: not an image")
    (folder / "empty.jpg").touch()
    row("empty.jpg", None, "", "unreadable: the file is empty")
    row("gone.jpg", None, "", "unreadable: no such file")
    row("tiny.png", crop(100, 200, 15), "", "image too small")
    row("line.png", crop(100, 200, 60)[:3], "", "image too small")

    row("noise.png", rng.integers(0, 256, (90, 120, 3), np.uint8), "whole_photo")
    row("flat.png", np.full((150, 100, 3), 90, np.uint8), "whole_photo")
    row("sliver.png", np.full((16, 20_000, 3), 90, np.uint8), "whole_photo")

    two = np.full((240, 520, 3), 120, np.uint8)
    two[20:200, 0:160], two[20:200, 180:340] = PORTRAIT[40:220, 145:305], PORTRAIT[40:220, 305:144:-1][:, :160]
    row("two.png", two, "landmarks", box=LEFT)
    for box, how, reason in (
        (RIGHT, "landmarks", ""),
        ((400, 60, 480, 140), "box", ""),  # nobody there
        ((600, 60, 700, 160), "", "box outside the image"),
        ((-90, -90, 0, 0), "", "box outside the image"),
        ((130, 60, 30, 160), "", "box outside the image"),
        ((30, 60, np.inf, 160), "", "box outside the image"),
        ((30, None, None, None), "landmarks", ""),  # half a box is none
        ((-1e7, -1e7, 1e7, 1e7), "box", ""),
    ):
        row("two.png", None, how, reason, box)
    return rows


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The folder of pictures, their table, and what is expected of every row."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = make_rows(folder)
    table = pd.DataFrame({"path": [row[0] for row in rows], "dataset": "made"}).reindex(columns=list(TABLE_COLUMNS))
    table[BOX_COLUMNS] = [row[1] for row in rows]
    return folder, check_table(table), rows


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    """One quiet, serial run that the others are held against."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "CHUNK", CHUNK)
        return prepare(pictures[1], pictures[0], SMALL, tmp_path_factory.mktemp("undisturbed"), workers=1)


def tree(folder):
    """Every file and folder below, hidden ones too, with what they hold."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def times(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def records(folder):
    return sorted(folder.glob("*/chunks/[0-9]*.json"))


def test_every_row_says_how_it_was_aligned_or_why_not(pictures, undisturbed):
    _, table, rows = pictures
    assert len(table) == len(undisturbed.alignment_source) == len(undisturbed.reason) == len(rows) >= 40
    for (path, box, how, reason), found_how, found_reason in zip(rows, undisturbed.alignment_source, undisturbed.reason):
        assert found_how == how, (path, box, found_reason)
        assert found_reason.startswith(reason) and bool(found_reason) == bool(reason), (path, box)


def test_faces_are_in_the_tables_order(pictures, undisturbed):
    folder, _, rows = pictures
    assert undisturbed.faces.shape == (len(rows), 64, 64, 3) and undisturbed.faces.dtype == np.uint8
    for (path, box, how, reason), face in zip(rows, undisturbed.faces):
        if reason:
            assert not face.any(), path
        elif how == "landmarks" and box == NO_BOX:
            photo = read_photo(folder / path)
            (found,) = find_faces(photo)
            assert (face == align_face(photo, found, SMALL)).all(), path
        elif how == "whole_photo":
            assert (face == whole_photo(read_photo(folder / path), SMALL)).all(), path


def turned(photo, degrees):
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize(
    "detector", [DEFAULT_DETECTOR, *(pytest.param(name, marks=pytest.mark.slow) for name in ("hog", "hog+cnn"))]
)
def test_a_photo_gives_the_same_pixels_in_training_and_in_prediction(tmp_path, detector):
    """One path of detection and alignment serves both; every kind of single face goes through it unchanged."""
    rng = np.random.default_rng(4)
    person = new_person(FaceModel.load(), 5, "male", rng)
    drawn = scene.snapshot(FaceModel.load(), [person], (640, 480), 200, rng)[0]
    kinds = {
        "portrait.png": PORTRAIT,
        "drawn.jpg": drawn,
        "tilted.jpg": turned(drawn, 35),
        "crop.jpg": cv2.resize(crop(45, 140, 160), (224, 224)),
        "turned head.png": cv2.resize(PORTRAIT, None, fx=0.6, fy=1),
        "small.png": cv2.resize(crop(30, 130, 190), (96, 96), interpolation=cv2.INTER_AREA),
        "large.jpg": cv2.resize(PORTRAIT, (3000, 3000)),
        "nobody.png": scene.backdrop(320, 240, rng),
    }
    for name, pixels in kinds.items():
        Image.fromarray(pixels).save(tmp_path / name)
    table = check_table(pd.DataFrame({"path": list(kinds), "dataset": "made"}).reindex(columns=list(TABLE_COLUMNS)))
    prepared = prepare(table, tmp_path, SMALL, tmp_path / "cache", workers=1, detector=detector)
    for name, face, how in zip(kinds, prepared.faces, prepared.alignment_source):
        rows = detect_faces_in_photo(Source(name, tmp_path / name), {"age": SMALL}, "whole-photo", detector)
        expected = ("whole_photo", "whole_photo") if name == "nobody.png" else ("landmarks", "ok")
        assert (how, rows[0]["status"]) == expected, name
        assert sum((row["aligned"]["age"] == face).all() for row in rows) == 1, name
        assert len(rows) == 1 or detector != "yunet", name  # HOG also takes the suit for a face


def test_each_detector_has_its_own_cache_which_names_it(pictures, tmp_path):
    folder, table, _ = pictures
    few = table.iloc[:3]
    made = {one: prepare(few, folder, SMALL, tmp_path, workers=1, detector=one) for one in DETECTORS if one != "cnn"}
    assert len({prepared.folder for prepared in made.values()}) == len(made)
    for detector, prepared in made.items():
        settings = json.loads((prepared.folder / "settings.json").read_text())
        assert settings["detector"] == detector and settings["dlib"] and ("yunet" in settings) == (detector == "yunet")
        assert (prepared.alignment_source == "landmarks").all() and prepared.faces.any(axis=(1, 2, 3)).all()
    assert prepare(few, folder, SMALL, tmp_path, workers=1).folder == made[DEFAULT_DETECTOR].folder
    for face, path in zip(made["hog"].faces, few["path"]):
        photo = read_photo(folder / path)
        (found,) = find_faces(photo, "hog")
        assert (face == align_face(photo, found, SMALL)).all()


def test_an_unknown_detector_is_refused_before_anything_is_written(pictures, tmp_path):
    folder, table, _ = pictures
    with pytest.raises(ValueError, match="detector must be one of"):
        prepare(table.iloc[:2], folder, SMALL, tmp_path, workers=1, detector="haar")
    assert not list(tmp_path.iterdir())


def test_a_box_picks_its_own_face(pictures, undisturbed):
    folder, _, rows = pictures
    faces = {box: face.astype(int) for (path, box, _, _), face in zip(rows, undisturbed.faces) if path == "two.png"}
    left, right = faces[LEFT], faces[RIGHT]
    # The right face is the left one mirrored; which one is which shows in the parting of the hair.
    assert np.abs(left - right).mean() > 1.5 * np.abs(left - right[:, ::-1]).mean()
    by_hand = sorted(find_faces(read_photo(folder / "two.png")), key=lambda found: found.box[0])
    for face, found in zip((left, right), by_hand, strict=True):
        expected = align_face(read_photo(folder / "two.png"), found, SMALL)
        assert np.corrcoef(face.ravel(), expected.ravel())[0, 1] > 0.97


def test_parallel_and_serial_give_the_same_bytes(pictures, undisturbed, tmp_path):
    folder, table, _ = pictures
    parallel = prepare(table, folder, SMALL, tmp_path, workers=2)
    assert parallel.folder.name == undisturbed.folder.name
    assert tree(parallel.folder) == tree(undisturbed.folder)
    assert (parallel.alignment_source == undisturbed.alignment_source).all() and (parallel.reason == undisturbed.reason).all()


def test_the_second_call_does_nothing(pictures, undisturbed):
    folder, table, _ = pictures
    before = times(undisturbed.folder.parent)
    start = time.perf_counter()
    again = prepare(table, folder, SMALL, undisturbed.folder.parent)
    assert time.perf_counter() - start < 2  # no workers are started for it
    assert times(undisturbed.folder.parent) == before
    assert (again.faces == undisturbed.faces).all() and (again.alignment_source == undisturbed.alignment_source).all()


def test_the_originals_stay_untouched(pictures, tmp_path):
    folder, table, _ = pictures
    before, when = tree(folder), times(folder)
    prepare(table.iloc[20:], folder, SMALL, tmp_path, workers=1)
    assert tree(folder) == before and times(folder) == when


def test_an_empty_table_is_refused(pictures, tmp_path):
    folder, table, _ = pictures
    with pytest.raises(ValueError, match="table of faces is empty"):
        prepare(table.iloc[:0], folder, SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_whatever_the_faces_depend_on_has_its_own_folder(pictures, tmp_path):
    folder, table, _ = pictures
    table = table.iloc[:6]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    moved = table.assign(left=30.0, top=30.0, right=150.0, bottom=150.0)
    asked = {
        "plain": (table, folder, SMALL),
        "size": (table, folder, Alignment(size=80)),
        "eyes": (table, folder, Alignment(size=64, eye_distance=0.4)),
        "gamma": (table, folder, Alignment(size=64, gamma=True)),
        "fewer rows": (table.iloc[:5], folder, SMALL),
        "other order": (table.iloc[::-1], folder, SMALL),
        "boxes": (moved, folder, SMALL),
        "other folder": (table, elsewhere, SMALL),
    }
    results = {name: prepare(*args, tmp_path / "cache", workers=1) for name, args in asked.items()}
    assert len({result.folder for result in results.values()}) == len(asked)
    for name, args in asked.items():  # once all are there, each call still gets its own
        again = prepare(*args, tmp_path / "cache", workers=1)
        assert again.folder == results[name].folder and (again.faces == results[name].faces).all()
    plain = results["plain"].faces
    assert (results["fewer rows"].faces == plain[:5]).all() and (results["other order"].faces == plain[::-1]).all()
    assert (results["other folder"].faces == plain).all()
    assert results["size"].faces.shape[1] == 80
    assert (results["gamma"].faces != plain).any() and (results["eyes"].faces != plain).any()


def test_labels_are_no_reason_to_align_anew(pictures, undisturbed):
    folder, table, _ = pictures
    labelled = table.assign(gender="female", age_low=30, age_high=30, subject="she", fold=2)
    assert prepare(check_table(labelled), folder, SMALL, undisturbed.folder.parent).folder == undisturbed.folder


RUN = f"""
import sys
from pathlib import Path
import pandas as pd
from src.data.table import check_table
from src.faces import prepare
from src.faces.align import Alignment
from src.processes import run_command
prepare.CHUNK = {CHUNK}
table, folder, cache, workers = sys.argv[1:]
table = check_table(pd.read_pickle(table))
run_command(lambda: prepare.prepare(table, folder, Alignment(size=64), Path(cache), int(workers)) and 0)
"""


@pytest.fixture(scope="module")
def table_file(pictures, tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "table.pickle"
    pictures[1].to_pickle(file)
    return file


def start(table_file, folder, cache, workers, stderr=subprocess.DEVNULL):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, table_file, folder, cache, str(workers)],
        cwd=config.ROOT, start_new_session=True, stderr=stderr,
    )  # fmt: skip


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.002)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize(
    "workers, moment",
    [
        (1, "first record"),
        pytest.param(2, "first record", marks=pytest.mark.slow),
        pytest.param(1, "array made", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(pictures, undisturbed, table_file, tmp_path, workers, moment):
    folder, table, rows = pictures
    running = start(table_file, folder, tmp_path, workers)
    try:
        wait_for(lambda: records(tmp_path) if moment == "first record" else list(tmp_path.glob("*/faces.npy")), running)
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # the run and its workers: what the power switch would do
        running.wait()
    kept = {path: path.stat().st_mtime_ns for path in records(tmp_path)}
    assert len(kept) < len(range(0, len(rows), CHUNK))
    if moment == "first record":
        assert kept
        (kept_folder,) = {path.parent for path in kept}
        (kept_folder / f"{TEMPORARY_PREFIX}x7.json").write_text("[[")  # as a kill in the middle of a record leaves it
    prepared = prepare(table, folder, SMALL, tmp_path, workers=1)
    assert tree(prepared.folder) == tree(undisturbed.folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # what was done was not done again


@pytest.mark.slow
def test_two_runs_beside_each_other_end_with_the_same_bytes(pictures, undisturbed, table_file, tmp_path):
    both = [start(table_file, pictures[0], tmp_path, 1) for _ in range(2)]
    assert [running.wait(120) for running in both] == [0, 0]
    assert tree(tmp_path / undisturbed.folder.name) == tree(undisturbed.folder)


def test_pictures_that_vanish_meanwhile_are_not_taken_for_missing(pictures, tmp_path, monkeypatch):
    """A drive that drops out for a moment must not make its pictures unreadable for ever."""
    folder, table, _ = pictures
    away, moved = shutil.copytree(folder, tmp_path / "pictures"), tmp_path / "elsewhere"
    whole = prepare(table, away, SMALL, tmp_path / "whole", workers=1)

    def dropping_out(path, *how):
        if path.name == "05.jpg" and away.exists():
            away.rename(moved)
        return align_row(path, *how)

    align_row = prepare_module._align_row
    monkeypatch.setattr(prepare_module, "_align_row", dropping_out)
    with pytest.raises(ValueError, match="05.jpg existed at the start and is missing now"):
        prepare(table, away, SMALL, tmp_path / "cache", workers=1)
    monkeypatch.undo()
    moved.rename(away)
    monkeypatch.setattr(prepare_module, "CHUNK", CHUNK)
    assert len(records(tmp_path / "cache")) == 1
    assert tree(prepare(table, away, SMALL, tmp_path / "cache", workers=1).folder) == tree(whole.folder)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows has no SIGKILL")
def test_workers_that_die_are_one_sentence(pictures, undisturbed, table_file, tmp_path):
    folder, table, _ = pictures
    running = start(table_file, folder, tmp_path, 2, stderr=subprocess.PIPE)
    wait_for(lambda: records(tmp_path), running)
    for child in psutil.Process(running.pid).children():
        if any("popen_loky" in word for word in child.cmdline()):  # not what keeps track of their files
            child.kill()
    said = running.communicate(timeout=60)[1].decode().splitlines()
    assert running.returncode == 2 and f"error: {prepare_module.WORKER_DIED}" in said
    assert tree(prepare(table, folder, SMALL, tmp_path, workers=1).folder) == tree(undisturbed.folder)


def test_a_removed_array_is_made_again_whole(pictures, undisturbed, tmp_path):
    folder, table, _ = pictures
    copy = shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name)
    (copy / "faces.npy").unlink()
    prepare(table, folder, SMALL, tmp_path, workers=1)
    assert tree(copy) == tree(undisturbed.folder)


def refusal(pictures, cache):
    with pytest.raises(OSError) as caught:
        prepare(pictures[1], pictures[0], SMALL, cache, workers=1)
    message = str(caught.value)
    assert str(cache) in message and "by a link to a folder on another disk" in message and "\n" not in message
    return caught.value


def test_a_file_where_the_cache_should_be(pictures, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    refusal(pictures, tmp_path / "cache")
    assert (tmp_path / "cache").read_text() == "in the way"


def test_too_little_room_is_told_before_the_work(pictures, mounted):
    point = mounted("-o", "size=128k")
    error = refusal(pictures, point)
    assert error.errno == errno.ENOSPC and f"{len(pictures[1])} faces require" in str(error)
    assert not records(point)


@pytest.mark.parametrize("scarce", ["bytes", "files"])
def test_a_disk_that_fills_up_midway(pictures, undisturbed, mounted, scarce):
    folder, table, _ = pictures
    kilobytes = undisturbed.faces.nbytes // 1024 + 24  # the faces, the settings and a few records
    options = f"size={kilobytes}k" if scarce == "bytes" else "nr_inodes=10"
    point = mounted("-o", options)
    error = refusal(pictures, point)
    kept = {path: path.stat().st_mtime_ns for path in records(point)}
    assert error.errno == errno.ENOSPC and 0 < len(kept) < 11

    subprocess.run(["mount", "-o", "remount,size=8m,nr_inodes=1k", str(point)], check=True)
    prepared = prepare(table, folder, SMALL, point, workers=1)
    assert tree(prepared.folder) == tree(undisturbed.folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_mended_picture_is_prepared_again(tmp_path):
    picture = tmp_path / "face.png"
    picture.write_text("cut off in a download")
    table = check_table(pd.DataFrame({"path": ["face.png"], "dataset": ["made"]}).reindex(columns=list(TABLE_COLUMNS)))
    assert prepare(table, tmp_path, SMALL, tmp_path / "cache", workers=1).alignment_source.tolist() == [""]
    Image.fromarray(PORTRAIT).save(picture)
    assert prepare(table, tmp_path, SMALL, tmp_path / "cache", workers=1).alignment_source.tolist() == ["landmarks"]
