"""The command: the same table as from Python, printed or as a file, and what happens when it is stopped."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image
from skimage.data import astronaut

from src.config import MODELS, ROOT
from src.predict import predict
from src.predict.__main__ import main
from src.predict.inference import PREDICTION_COLUMNS
from src.processes import run_command

HEAD = astronaut()[0:260, 90:350]
ODD_NAMES = ["a b.jpg", 'it\'s "quoted".jpg', "line\nbreak.jpg", "😀.jpg", "--help.jpg", "-x.jpg", ",.jpg"]


def save(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), 128, np.uint8) if pixels is None else pixels).save(path)
    return path


def run(capfd, *arguments):
    """The exit status, standard output, and the lines of standard error without the progress bar."""
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main([str(argument) for argument in arguments]))
    out, err = capfd.readouterr()
    return stop.value.code, out, [line for line in err.splitlines() if "predicting:" not in line and line.strip()]


def read(path):
    table = pd.read_csv(path, encoding="utf-8")
    assert tuple(table.columns) == PREDICTION_COLUMNS
    return table


def test_the_command_writes_the_same_table_as_python(tmp_path):
    folder = tmp_path / "my photos"
    names = ["a 'quoted' \"name\", really.png", "größe 😀.png", "plain.png", "wall.png"]
    for name in names:
        save(folder / name, None if name == "wall.png" else HEAD)
    (folder / "broken.jpg").write_text("no picture")
    photos = [str(folder), "my photos/plain.png", "nowhere.jpg"]
    command = [sys.executable, "-m", "src.predict", *photos, "--csv", "made/out.csv", "--annotate", "drawn"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7 photos, 7 rows (4 ok, 2 unreadable, 1 no_face) written to made/out.csv\n"
    table = read(tmp_path / "made" / "out.csv")
    expected = predict([folder, folder / "plain.png", "nowhere.jpg"], progress=False)
    assert table["photo"].tolist() == [*expected["photo"][:5], *photos[1:]]
    table = table.astype(expected.dtypes.to_dict()).drop(columns="photo")
    pd.testing.assert_frame_equal(table, expected.drop(columns="photo"), atol=2e-4, rtol=0)
    assert sorted(path.name for path in (tmp_path / "drawn").glob("[!.]*")) == sorted([*names, "plain-2.png"])


def test_without_a_file_the_table_is_printed(tmp_path, capfd):
    photo = save(tmp_path / "wall 😀.png")
    status, out, _ = run(capfd, photo, tmp_path / "missing.jpg")
    header, first, second = out.splitlines()
    assert status == 0 and tuple(header.split()) == PREDICTION_COLUMNS
    assert str(photo) in first and "no_face" in first and "unreadable" in second and "<NA>" not in out
    (tmp_path / "none").mkdir()
    assert run(capfd, tmp_path / "none")[:2] == (0, "no photo found\n")


def test_a_dash_is_standard_output(tmp_path, capfd):
    wall = save(tmp_path / "wall.png")
    status, out, err = run(capfd, wall, "--csv", "-")
    header, row = out.splitlines()
    assert status == 0 and tuple(header.split(",")) == PREDICTION_COLUMNS and row.startswith(f"{wall},no_face")
    assert err[-1].startswith("1 photo, 1 row (")


def test_names_that_begin_with_a_dash_or_are_no_text(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "-x.jpg")
    names = ["-x.jpg", os.fsdecode(b"\xff.png")]
    assert run(capfd, "--csv", "table.csv", "--", *names)[0] == 0
    assert read("table.csv")["photo"].tolist() == ["-x.jpg", "\\udcff.png"]
    status, out, _ = run(capfd, "--", *names)
    assert status == 0 and "\\udcff.png" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fallback", "guess"], "guess"),
        (["--gender-model", "nowhere"], "nowhere is not a model folder"),
        (["--gender-model", MODELS / "age"], "contains a model for age, not for gender"),
        (["--annotate", "FOLDER"], "must not replace"),
        (["--annotate", "WALL"], "wall.png"),
        (["--annotate", ""], "--annotate: expected a name, got an empty one"),
        (["--csv", ""], "--csv: expected a name, got an empty one"),
        (["--csv", "FOLDER"], "is a folder"),
        (["--csv", "new/"], "--csv: expected the name of a file, got the folder new/"),
        (["--csv", "WALL"], "wall.png is not a table of predictions"),
        (["--wrong"], "--wrong"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capfd, arguments, message):
    photo = save(tmp_path / "wall.png")
    before = photo.read_bytes()
    places = {"FOLDER": tmp_path, "WALL": photo}
    status, out, err = run(capfd, photo, *(places.get(argument, argument) for argument in arguments))
    assert (status, out, len(err)) == (2, "", 1) and err[0].startswith("error: ") and message in err[0]
    assert photo.read_bytes() == before


def test_no_photos_named(capfd):
    status, out, err = run(capfd)
    assert (status, out, len(err)) == (2, "", 1) and err[0].startswith("error: ") and "PHOTO_OR_FOLDER" in err[0]


# --- interruptions ----------------------------------------------------------------------------------------------------


def photos_in(folder, count):
    """Photos of which every third shows a face."""
    return [save(folder / f"{i:05d}.jpg", np.roll(HEAD, i, axis=1) if i % 3 == 0 else None) for i in range(count)]


def start(folder, target):
    """The command in a process that obeys Ctrl-C, even if these tests run in the background."""

    def obey():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "src.predict", str(folder), "--csv", str(target), "--detector", "hog"]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=obey, stderr=subprocess.PIPE)


def wait_for_lines(process, target, count):
    while process.poll() is None and not (target.exists() and target.read_bytes().count(b"\n") > count):
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_a_valid_table_that_the_same_command_resumes(tmp_path, capfd):
    folder, target = tmp_path / "photos", tmp_path / "table.csv"
    for photo, name in zip(photos_in(folder, 150), ODD_NAMES):
        photo.rename(folder / name)
    rows = []
    for count in (0, 40, 80):
        process = start(folder, target)
        wait_for_lines(process, target, count)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches every process of the command
        error = process.communicate()[1].decode()
        assert process.returncode == 130 and f"{target} has the photos done so far" in error, error
        rows.append(len(read(target)))
    assert rows[0] < rows[1] < rows[2] < 150
    assert run(capfd, folder, "--csv", target, "--detector", "hog")[0] == 0
    table, expected = read(target), predict(folder, detector="hog", progress=False)
    pd.testing.assert_frame_equal(table.astype(expected.dtypes.to_dict()), expected, atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_leaves_its_table_and_no_process(tmp_path, capfd, number):
    """The signal goes to the command alone, as from a scheduler or a container's stop."""
    folder, target = tmp_path / "photos", tmp_path / "table.csv"
    photos = [str(photo) for photo in photos_in(folder, 150)]
    process = start(folder, target)
    wait_for_lines(process, target, 40)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), error
    assert children and not psutil.wait_procs(children, timeout=10)[1]
    kept = read(target)["photo"].tolist()
    assert 32 <= len(kept) < 150 and kept == photos[: len(kept)]
    status, _, err = run(capfd, folder, "--csv", target, "--detector", "hog")
    assert status == 0 and any(line.startswith(f"resuming {target}") for line in err)
    assert read(target)["photo"].tolist() == photos and not list(tmp_path.glob(".*"))
