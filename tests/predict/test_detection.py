"""Looking at many photos in several processes, and the table that grows meanwhile: bad files, kills, a full disk, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image
from skimage.data import astronaut

from src.config import AGE_GROUPS, ROOT
from src.faces.align import Alignment
from src.faces.detect import DEFAULT_DETECTOR, DETECTORS, detect
from src.models import model_folder, two_level_cnn
from src.models.model_folder import Labels
from src.predict import detection, predict
from src.predict.__main__ import main
from src.predict.decode import PREDICTION_COLUMNS
from src.predict.detection import Source
from src.predict.table_file import TableFile, as_written, open_table

HEAD = astronaut()[0:260, 90:350]
ALIGNMENTS = {"gender": Alignment(size=64), "age": Alignment(size=64)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of two small networks that have not learnt anything, as options of the command."""
    folder, groups = tmp_path_factory.mktemp("models"), AGE_GROUPS["adience"]
    for labels in (Labels("gender", ("female", "male")), Labels("age", groups.names, groups.years, tuple(range(8)))):
        model = two_level_cnn.two_level_cnn(len(labels.classes), 127)
        model_folder.save_model(folder / labels.task, model, labels, Alignment(size=127), {}, [])
    return ["--gender-model", str(folder / "gender"), "--age-model", str(folder / "age")]


def drawn(folder: Path, count: int) -> list[Path]:
    """Photos of which every third shows the face, a little different each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:05d}.jpg" for i in range(count)]
    for i, file in enumerate(files):
        picture = np.roll(HEAD, i, axis=1) if i % 3 == 0 else np.full((60, 80, 3), i % 256, np.uint8)
        Image.fromarray(picture).save(file)
    return files


def looked(paths, workers=2):
    sources = [Source(str(path), path) for path in paths]
    return detection.detect_faces_in_photos(sources, ALIGNMENTS, "none", DEFAULT_DETECTOR, workers)


def rows_of(paths, workers=2):
    return list(looked(paths, workers))


# --- one photo --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", DETECTORS)
def test_boxes_in_the_table_lie_within_the_photo(detector):
    """Also those of faces that the photo's edge cuts, whose boxes reach over it."""
    photo = np.ascontiguousarray(astronaut()[:150, 100:400])
    rows = detection.detect_faces_in_photo(Source("a", photo), ALIGNMENTS, detector=detector)
    ((left, top, right, bottom),) = [[row[edge] for edge in ("left", "top", "right", "bottom")] for row in rows]
    assert 0 <= left < right <= 300 and 0 <= top < bottom <= 150
    assert all(isinstance(edge, int) for edge in (left, top, right, bottom))
    (found,) = detect(photo, detector)
    assert found.box[3] > 150 and bottom == 150 and rows[0]["detection_score"] == found.score


def test_a_file_its_bytes_its_picture_and_its_pixels_give_the_same(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(HEAD).save(file)
    (first,) = detection.detect_faces_in_photo(Source("a", file), ALIGNMENTS)
    for photo in (str(file), file.read_bytes(), Image.fromarray(HEAD), HEAD):
        (row,) = detection.detect_faces_in_photo(Source("a", photo), ALIGNMENTS)
        assert all(row[name] == first[name] for name in row if name != "aligned")
        assert all((row["aligned"][task] == first["aligned"][task]).all() for task in ALIGNMENTS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (16, 16)])
def test_a_line_of_pixels_has_no_face(shape):
    photo = np.full((*shape, 3), 200, np.uint8)
    assert [row["status"] for row in detection.detect_faces_in_photo(Source("a", photo), ALIGNMENTS)] == ["no_face"]
    (row,) = detection.detect_faces_in_photo(Source("a", photo), ALIGNMENTS, "whole-photo")
    assert row["status"] == "whole_photo" and row["aligned"]["age"].shape == (64, 64, 3)


# --- several processes ------------------------------------------------------------------------------------------------


def test_several_processes_see_what_one_sees_in_the_same_order(tmp_path):
    photos = [*drawn(tmp_path, 20), tmp_path / "missing.jpg", tmp_path / "00003.jpg"]
    alone, together = rows_of(photos, workers=1), rows_of(photos)
    assert [rows[0]["photo"] for rows in together] == [str(path) for path in photos]
    for one, other in zip(alone, together, strict=True):
        for row, same in zip(one, other, strict=True):
            assert row.keys() == same.keys()
            assert all(row[name] == same[name] for name in row if name != "aligned")
            assert all((row["aligned"][task] == same["aligned"][task]).all() for task in row.get("aligned", ()))
    assert {rows[0]["status"] for rows in together} == {"ok", "no_face", "unreadable"}


def test_no_more_photos_are_looked_at_than_were_asked_for_soon(tmp_path):
    """Memory stays flat: who takes no rows is not given ever more of them."""
    photos = drawn(tmp_path, 60)
    rows = looked(photos)
    next(rows)
    time.sleep(1)
    for path in photos[2 * detection.AHEAD + 1 :]:
        path.unlink()  # not looked at yet: now they are missing
    rest = list(rows)
    assert {some[0]["status"] for some in rest[2 * detection.AHEAD :]} == {"unreadable"}
    assert len(rest) == 59 and "unreadable" not in {some[0]["status"] for some in rest[: 2 * detection.AHEAD - 1]}


def test_killed_processes_lose_no_photo(tmp_path):
    photos = drawn(tmp_path, 30)
    found = looked(photos)
    rows = [next(found) for _ in range(5)]
    detection.kill()
    rows += found
    assert [some[0]["photo"] for some in rows] == [str(path) for path in photos]
    assert {some[0]["status"] for some in rows} == {"ok", "no_face"}


class Deadly(type(Path())):
    """A path that ends the process which is to read it, as a fault in a decoder does."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.parametrize("pause", [0, 4])
def test_a_file_that_ends_its_reader_gets_a_row_and_the_others_theirs(tmp_path, pause):
    photos = drawn(tmp_path, 20)
    photos[7] = Deadly(photos[7])
    found = looked(photos)
    rows = [next(found)]
    time.sleep(pause)  # the reader may end while nobody waits for it
    rows += found
    assert [some[0]["photo"] for some in rows] == [str(path) for path in photos]
    assert rows[7][0]["status"] == "unreadable" and "ended the reader" in rows[7][0]["message"]
    assert {some[0]["status"] for some in rows[:7] + rows[8:]} == {"ok", "no_face"}


# --- whatever bytes come ----------------------------------------------------------------------------------------------


def resident() -> int:
    """Megabytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def damaged(folder: Path, count: int) -> list[Path]:
    """Drawn photos in every format, each with some bits flipped or its end cut off."""
    rng = np.random.default_rng(11)
    kinds = ["jpg", "png", "webp", "tif", "bmp", "gif", "heic", "avif"]
    small = Image.fromarray(HEAD).resize((120, 120))
    whole = {}
    for kind in kinds:
        small.save(folder / f"whole.{kind}")
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


def test_a_thousand_files_of_random_bytes_and_damaged_pictures(tmp_path):
    """In one process, where a crash, a hang or a leak would show."""
    rng = np.random.default_rng(12)
    magic = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"RIFF....WEBP", b"BM", b"....ftypheic"]
    files = [tmp_path / f"random {i:03d}.jpg" for i in range(500)]
    for i, file in enumerate(files):
        file.write_bytes(magic[i % len(magic)].replace(b"....", b"\0\0\0\x18") + rng.bytes(int(rng.integers(1, 4000))))
    files += damaged(tmp_path, 500)
    statuses, sizes = Counter(), []
    for i, rows in enumerate(rows_of(files, workers=1)):
        assert rows[0]["photo"] == str(files[i])
        statuses[rows[0]["status"]] += 1
        assert all(row.get("message") or row["status"] == "ok" for row in rows)
        sizes.append(i % 100 or resident())
    assert sum(statuses.values()) == 1000 and statuses["unreadable"] > 500 and statuses["ok"] > 20
    held = sizes[::100]
    assert held[-1] - held[2] < 100, f"megabytes held after each hundred files: {held}"


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    rows = rows_of([tmp_path / "pipe.jpg", Path("/dev/zero")], workers=1)
    assert [some[0]["message"] for some in rows] == ["not a file that can be read as a photo"] * 2
    assert predict([tmp_path], progress=False, gender_model=None, age_model=None).empty


def test_a_folder_that_loses_and_gains_photos_while_it_is_read(tmp_path):
    photos = drawn(tmp_path, 40)
    found = looked(photos)
    rows = [next(found) for _ in range(3)]
    for path in photos[30:]:
        path.unlink()
    photos[25].write_bytes(photos[25].read_bytes()[:300])  # is being written
    drawn(tmp_path / "new", 3)
    rows += found
    assert [some[0]["photo"] for some in rows] == [str(path) for path in photos]
    assert [some[0]["message"] for some in rows[30:]] == ["no such file"] * 10
    assert rows[25][0]["status"] == "unreadable"


# --- the table that grows ---------------------------------------------------------------------------------------------

ODD_NAMES = ["a b.jpg", 'it\'s "quoted".jpg', "line\nbreak.jpg", "😀.jpg", "--help.jpg", "-x.jpg", ",.jpg", "\r.jpg"]


def row(name, status="no_face", **columns):
    return {"photo": name, "status": status, "message": "no face was found"} | columns


def faces_of(name, count):
    return [row(name, "ok", face=number, message=None) for number in range(1, count + 1)]


def read(path) -> pd.DataFrame:
    table = pd.read_csv(path, encoding="utf-8")
    assert list(table.columns) == list(PREDICTION_COLUMNS)
    return table


def named(names):
    return [Path(name) for name in names]


def test_an_unfinished_table_is_gone_on_with_and_a_finished_one_is_replaced(tmp_path):
    path, photos = tmp_path / "new folder" / "table.csv", named("abcda")
    first = TableFile(path, photos, {"photos": ["x"]})
    assert not first.done and list(read(path).columns)
    first.add([row("a"), row("b")])
    first.add([*faces_of("c", 2), row("d")])
    again = TableFile(path, photos, {"photos": ["x"]})
    assert again.done == 3, "the last photo may be half written and is done again"
    again.add([row("d"), row("a")])
    again.finish()
    assert read(path)["photo"].tolist() == ["a", "b", "c", "c", "d", "a"]
    assert again.counts() == {"no_face": 4, "ok": 2}
    assert not TableFile(path, photos, {"photos": ["x"]}).done and read(path).empty
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith(".")] == ["table.csv"]


def test_another_command_does_not_go_on_with_it(tmp_path):
    TableFile(tmp_path / "t.csv", named("abc"), {"fallback": "none"}).add([row("a"), row("b"), row("c")])
    assert not TableFile(tmp_path / "t.csv", named("abc"), {"fallback": "whole-photo"}).done


@pytest.mark.parametrize(
    ("photos", "kept"), [("abcde", "abc"), ("abd", "ab"), ("xabcd", ""), ("acd", "a"), ("aabcd", "a"), ("", "")]
)
def test_photos_that_came_or_went_meanwhile_leave_the_table_in_order(tmp_path, photos, kept):
    path = tmp_path / "t.csv"
    TableFile(path, named("abcd"), {}).add([row("a"), *faces_of("b", 2), row("c"), row("d")])
    assert TableFile(path, named(photos), {}).done == len(kept)
    assert "".join(dict.fromkeys(read(path)["photo"])) == kept


@pytest.mark.parametrize("name", ODD_NAMES)
def test_whatever_is_cut_off_the_rest_is_whole(tmp_path, name):
    """Killed at any byte: what is gone on with holds whole photos only, and loses no more than it must."""
    path, photos = tmp_path / "t.csv", named([name, name + "2", name + "3"])
    TableFile(path, photos, {}).add([row(name), *faces_of(name + "2", 3), row(name + "3")])
    content = path.read_bytes()
    start = content.index(b"\n") + 1
    for end in range(start, len(content)):
        path.write_bytes(content[:end])
        done = TableFile(path, photos, {}).done
        table = read(path)
        assert done in (0, 1, 2) and len(table) == (0, 1, 4)[done]
        assert list(dict.fromkeys(table["photo"])) == [as_written(str(photo)) for photo in photos[:done]]


# --- where the table goes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["there", "not there yet"])
def test_a_table_goes_where_a_link_leads(tmp_path, target):
    real, link = tmp_path / "disk" / "real.csv", tmp_path / "table.csv"
    real.parent.mkdir()
    link.symlink_to(real)
    if target == "there":
        real.touch()
    for done in (0, 2):  # the second time it is resumed
        with open_table(link, named("abc"), {}) as table:
            assert table.done == done
            table.add([row(name) for name in "abc"[done:]])
    assert link.is_symlink() and read(real)["photo"].tolist() == ["a", "b", "c"]


def header(columns):
    return ",".join(columns).encode() + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"name,price\nbread,3\n",
        b"\xff\xd8\xff\xe0 a picture",
        b"\n",
        header(PREDICTION_COLUMNS[1:]),
        header([*PREDICTION_COLUMNS, "my notes"]),
        b"photo",
    ],
)
def test_a_file_that_is_no_table_of_predictions_stays(tmp_path, models, capfd, content):
    file = tmp_path / "mine.csv"
    file.write_bytes(content)
    photos = drawn(tmp_path / "photos", 1)
    assert main([str(photos[0]), "--csv", str(file), *models]) == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{file} is not a table of predictions" in error
    assert file.read_bytes() == content and {path.name for path in tmp_path.iterdir()} == {"mine.csv", "photos"}


@pytest.mark.parametrize(
    "content", [b"", header(PREDICTION_COLUMNS), header(PREDICTION_COLUMNS[:14]) + b"x.jpg" + b"," * 13 + b"\r\n"]
)
def test_an_empty_file_and_an_older_table_are_replaced(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with open_table(tmp_path / "t.csv", named("a"), {}) as table:
        table.add([row("a")])
    assert read(tmp_path / "t.csv")["photo"].tolist() == ["a"]


def test_a_pipe_gets_header_and_rows_as_they_come_and_nothing_else(tmp_path):
    """By the name of an open file, as /dev/stdout is one, and by a link."""
    reading, writing = os.pipe()
    link = tmp_path / "link.csv"
    link.symlink_to(f"/dev/fd/{writing}")
    for path in (Path(f"/dev/fd/{writing}"), link):
        with open_table(path, named("ab"), {}) as table:
            assert os.read(reading, 1 << 16) == header(PREDICTION_COLUMNS)
            table.add([row("a"), *faces_of("b", 2)])
            assert os.read(reading, 1 << 16).count(b"\n") == 3
            table.finish()
        assert table.counts() == {"ok": 2, "no_face": 1} and not table.done
    assert link.is_symlink() and [path.name for path in tmp_path.iterdir()] == ["link.csv"]
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_named_pipe_stays_one(tmp_path):
    pipe = tmp_path / "table.csv"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        with open_table(pipe, named("a"), {}) as table:
            table.add([row("a")])
        assert reader.communicate()[0].startswith(header(PREDICTION_COLUMNS) + b"a,no_face")
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_the_table_on_standard_output_is_a_table_alone(tmp_path, models):
    """Also where the shell has sent that to a file with lines in it."""
    photos, out = drawn(tmp_path / "photos", 3), tmp_path / "out.csv"
    with out.open("wb") as stdout:
        stdout.write(b"# made today\n")
        stdout.flush()
        command = [sys.executable, "-m", "src.predict", str(tmp_path / "photos"), "--csv", "/dev/fd/1", *models]
        done = subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "3 photos, 3 rows" in done.stderr, done.stderr
    assert pd.read_csv(out, comment="#")["photo"].tolist() == [str(photo) for photo in photos]


def test_a_reader_that_goes_away_is_told_in_one_sentence(tmp_path, models, capfd):
    drawn(tmp_path, 40)
    reading, writing = os.pipe()
    os.close(reading)
    assert main([str(tmp_path), "--csv", f"/dev/fd/{writing}", *models]) == 2
    os.close(writing)
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "Broken pipe" in said


def test_a_second_run_with_the_same_table_ends_at_once(tmp_path, models, capfd):
    drawn(tmp_path / "photos", 2)
    target, link = tmp_path / "table.csv", tmp_path / "link.csv"
    link.symlink_to(target)
    arguments = [str(tmp_path / "photos"), *models, "--csv"]
    code = (
        "import sys; from pathlib import Path; from src.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), False): print('writing', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".table.csv.lock")], cwd=ROOT, **pipes) as first:
        first.stdout.readline()
        for path in (target, link):
            assert main([*arguments, str(path)]) == 2
            assert "another run is using" in capfd.readouterr().err.splitlines()[-1]
        assert not target.exists()
    assert main([*arguments, str(link)]) == 0
    assert len(read(target)) == 2 and link.is_symlink() and not list(tmp_path.glob(".*"))


def test_a_disk_that_fills_up_leaves_whole_rows_and_a_second_try_ends_the_work(tmp_path, models, mounted, capfd):
    photos = drawn(tmp_path / "photos", 100)
    disk = mounted("-o", "size=12k")
    command = [str(tmp_path / "photos"), "--csv", str(disk / "table.csv"), "--detector", "hog", *models]
    assert main(command) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {disk}/table.csv cannot be written (No space left on device)") and "goes on" in said
    kept = read(disk / "table.csv")
    assert 0 < len(kept) < 100 and kept["photo"].tolist() == [str(path) for path in photos[: len(kept)]]
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    assert main(command) == 0
    assert f"resuming {disk}/table.csv" in capfd.readouterr().err
    assert read(disk / "table.csv")["photo"].tolist() == [str(path) for path in photos]


def test_ctrl_c_at_any_moment_leaves_a_valid_table_and_the_same_command_ends_the_work(tmp_path, models):
    """The real command, interrupted again and again, ever later, with names of every kind."""
    folder = tmp_path / "photos"
    photos = drawn(folder, 180)
    for photo, name in zip(photos, ODD_NAMES):
        photo.rename(folder / name)
    target = tmp_path / "table.csv"
    command = [sys.executable, "-m", "src.predict", str(folder), "--csv", str(target), "--detector", "hog", *models]
    rows, interrupted = [], 0
    for moment in range(4):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=heeding_ctrl_c, **pipes)
        if moment:  # at first while it starts, then when so many rows more are there
            while process.poll() is None and not (target.exists() and len(lines(target)) > 45 * moment):
                time.sleep(0.01)
        else:
            time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches every process of the command
        error = process.communicate()[1].decode()
        if process.returncode == 0:
            break
        assert process.returncode in (130, -signal.SIGINT) or not moment, error  # Python itself was starting
        interrupted += 1
        if target.exists():
            rows.append(len(read(target)))
    else:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert interrupted >= 2 and sorted(rows) == rows
    table = read(target)
    alone = predict([folder], models[1], models[3], detector="hog", progress=False)
    alone["photo"] = alone["photo"].map(as_written).astype("string")
    assert alone["photo"].tolist() == table["photo"].tolist()
    pd.testing.assert_frame_equal(table.astype(alone.dtypes.to_dict()), alone, atol=2e-4, rtol=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_stopped_command_leaves_its_table_and_no_process(tmp_path, models, capfd, number):
    """The signal goes to the command alone, as from a scheduler or a container's stop."""
    folder, target = tmp_path / "photos", tmp_path / "table.csv"
    photos = drawn(folder, 150)
    arguments = [str(folder), "--csv", str(target), "--detector", "hog", *models]
    running = subprocess.Popen(
        [sys.executable, "-m", "src.predict", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        preexec_fn=heeding_ctrl_c,
    )
    while running.poll() is None and not (target.exists() and len(lines(target)) > 40):
        time.sleep(0.01)
    children = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(number)
    error = running.communicate(timeout=60)[1].decode()
    assert running.returncode == (-number if number == signal.SIGKILL else 128 + number), error
    assert number == signal.SIGKILL or f"{target} holds what is done" in error
    assert children and not psutil.wait_procs(children, timeout=10)[1]
    kept = read(target)["photo"].tolist()
    assert 32 <= len(kept) < 150 and kept == [str(photo) for photo in photos[: len(kept)]]
    assert main(arguments) == 0
    assert f"resuming {target}" in capfd.readouterr().err
    assert read(target)["photo"].tolist() == [str(photo) for photo in photos]
    assert not list(tmp_path.glob(".*"))


def heeding_ctrl_c():
    """Also where these tests run in the background of a shell, which lets its jobs ignore SIGINT, or under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def lines(path):
    return path.read_bytes().split(b"\n")


def test_names_that_begin_with_a_dash(tmp_path, models, monkeypatch, capfd):
    drawn(tmp_path, 1)[0].rename(tmp_path / "-x.jpg")
    monkeypatch.chdir(tmp_path)
    assert main(["--csv", "table.csv", *models, "--", "-x.jpg"]) == 0
    assert read("table.csv")["photo"].tolist() == ["-x.jpg"]
    with pytest.raises(SystemExit):
        main(["-x.jpg"])
    assert capfd.readouterr().err.endswith("--help tells more\n")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "put -- before all names" in capfd.readouterr().out.replace("\n", " ")


def test_help_does_not_wait_for_tensorflow():
    code = "import sys; from src import predict; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
