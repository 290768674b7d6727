"""The table that grows while the command runs: resumed after an interruption, and never written over another file."""

import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from src.predict.inference import PREDICTION_COLUMNS, PREDICTION_TYPES
from src.predict.table_file import open_table

ODD_NAMES = ["a b.jpg", 'it\'s "quoted".jpg', "line\nbreak.jpg", "😀.jpg", ",.jpg", "\r.jpg"]
HEADER = ",".join(PREDICTION_COLUMNS).encode() + b"\n"


def table(names, faces=0) -> pd.DataFrame:
    """Rows without a face, or with several faces each."""
    rows = [
        {"photo": name, "status": "ok" if faces else "no_face", "face": face}
        for name in names
        for face in (range(1, faces + 1) if faces else [pd.NA])
    ]
    return pd.DataFrame(rows).reindex(columns=PREDICTION_COLUMNS).astype(PREDICTION_TYPES)


def read(path) -> pd.DataFrame:
    content = pd.read_csv(path, encoding="utf-8")
    assert tuple(content.columns) == PREDICTION_COLUMNS
    return content


def interrupted(path, photos, *tables, settings=None) -> int:
    """Begins or resumes a table, adds rows and stops; returns how many photos were done at the beginning."""
    with pytest.raises(KeyboardInterrupt) as stop, open_table(path, list(photos), settings or {}) as opened:
        for rows in tables:
            opened.add(rows)
        done = opened.done
        raise KeyboardInterrupt
    assert str(path) in str(stop.value), "the user learns which file the photos done so far are in"
    return done


def test_an_unfinished_table_is_resumed_and_a_finished_one_is_replaced(tmp_path):
    path = tmp_path / "new folder" / "table.csv"
    assert interrupted(path, "abcda", table("ab"), table("c", 2), table("d")) == 0
    with open_table(path, list("abcda"), {}) as resumed:
        assert resumed.done == 3, "the last photo may be incomplete, so it is done again"
        resumed.add(table("da"))
        assert resumed.counts == {"no_face": 4, "ok": 2}
    assert read(path)["photo"].tolist() == ["a", "b", "c", "c", "d", "a"]
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]
    with open_table(path, list("abcda"), {}) as replaced:
        assert not replaced.done and read(path).empty


def test_other_settings_do_not_resume_it(tmp_path, capsys):
    interrupted(tmp_path / "t.csv", "abc", table("abc"), settings={"fallback": "none"})
    assert not capsys.readouterr().err
    assert not interrupted(tmp_path / "t.csv", "abc", settings={"fallback": "whole-photo"})
    assert str(tmp_path / "t.csv") in capsys.readouterr().err, "the user learns that finished photos are done again"


@pytest.mark.parametrize(
    ("photos", "kept"), [("abcde", "abc"), ("abd", "ab"), ("xabcd", ""), ("acd", "a"), ("aabcd", "a"), ("", "")]
)
def test_the_rows_before_the_first_changed_photo_are_kept(tmp_path, photos, kept):
    path = tmp_path / "t.csv"
    interrupted(path, "abcd", table("a"), table("b", 2), table("cd"))
    assert interrupted(path, photos) == len(kept)
    assert "".join(dict.fromkeys(read(path)["photo"])) == kept


@pytest.mark.parametrize("name", ODD_NAMES[1:3])
def test_a_table_that_is_cut_off_anywhere_is_resumed_with_whole_photos(tmp_path, name):
    path, photos = tmp_path / "t.csv", [name, name + "2", name + "3"]
    interrupted(path, photos, table(photos[:1]), table(photos[1:2], 3), table(photos[2:]))
    content = path.read_bytes()
    for end in range(len(HEADER), len(content), 3):
        path.write_bytes(content[:end])
        done = interrupted(path, photos)
        assert done in (0, 1, 2) and len(read(path)) == (0, 1, 4)[done]
    path.write_bytes(content)
    assert interrupted(path, photos) == 2


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_stays_and_its_file_is_written(tmp_path, exists):
    real, link = tmp_path / "disk" / "real.csv", tmp_path / "table.csv"
    real.parent.mkdir()
    link.symlink_to(real)
    if exists:
        real.touch()
    interrupted(link, "abc", table("abc"))
    with open_table(link, list("abc"), {}) as opened:
        assert opened.done == 2
        opened.add(table("c"))
    assert link.is_symlink() and read(real)["photo"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("content", [b"name,price\nbread,3\n", b"\xff\xd8\xff\xe0 a picture", b"\n", HEADER[6:], b"photo"])
def test_another_file_stays(tmp_path, content):
    file = tmp_path / "mine.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="mine.csv is not a table of predictions"), open_table(file, [], {}):
        pass
    assert file.read_bytes() == content and list(tmp_path.iterdir()) == [file]


def test_a_pipe_gets_the_header_and_then_the_rows_as_they_come(tmp_path):
    reading, writing = os.pipe()
    with open_table(Path(f"/dev/fd/{writing}"), list("ab"), {}) as opened:
        assert os.read(reading, 1 << 16) == HEADER and not opened.resumable
        opened.add(table("ab", 2))
        assert os.read(reading, 1 << 16).count(b"\n") == 4
        assert opened.counts == {"ok": 4}
        os.close(reading)
        with pytest.raises(OSError, match="cannot be written .Broken pipe.: the rest is lost"):
            opened.add(table("c"))
    os.close(writing)
    pipe = tmp_path / "table.csv"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        with open_table(pipe, ["a"], {}) as opened:
            opened.add(table("a"))
        assert reader.communicate()[0].startswith(HEADER + b"a,no_face")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_rows_are_added_after_what_standard_output_holds_already(tmp_path):
    """A shell may have sent it to a file with lines in it."""
    with (tmp_path / "out.csv").open("wb") as out:
        out.write(b"# made today\n")
        out.flush()
        with open_table(Path(f"/dev/fd/{out.fileno()}"), [], {}):
            pass
    assert (tmp_path / "out.csv").read_bytes() == b"# made today\n" + HEADER


def test_a_second_run_with_the_same_table_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    refused = pytest.raises(BlockingIOError, match="another run is using")
    with open_table(path, [], {}), refused, open_table(path, [], {}):
        pass


def test_a_table_is_resumed_after_a_full_disk(mounted):
    disk = mounted("-o", "size=12k")
    photos = [f"{i:05}.jpg" for i in range(1000)]
    batches = [table(photos[i : i + 10]) for i in range(0, 1000, 10)]
    full = pytest.raises(OSError, match="table.csv cannot be written .No space left on device.: free some space")
    with full, open_table(disk / "table.csv", photos, {}) as opened:
        for rows in batches:
            opened.add(rows)
    kept = (disk / "table.csv").read_bytes().count(b"\n") - 1  # the last row may be incomplete
    assert 0 < kept < 1000
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    assert interrupted(disk / "table.csv", photos) == kept - 1
