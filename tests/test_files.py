"""Atomic writes and locks."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from src.files import TEMPORARY_PREFIX, atomic_folder, atomic_write, exclusive_lock, write_text


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "table.csv"
    write_text(file, "before")
    with pytest.raises(RuntimeError), atomic_write(file) as new:
        new.write_text("half")
        raise RuntimeError
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_folder_is_replaced_at_the_end_of_the_block(tmp_path):
    folder = tmp_path / "models" / "gender"
    for name in ("old", "new"):
        with atomic_folder(folder) as new:
            (new / name).touch()
    with pytest.raises(RuntimeError), atomic_folder(folder) as new:
        (new / "half").touch()
        raise RuntimeError
    assert [path.name for path in folder.parent.rglob("*")] == ["gender", "new"]


def test_a_folder_never_replaces_a_file(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "a file"


def test_the_longest_names_can_be_written(tmp_path):
    write_text(tmp_path / ("n" * 251 + ".csv"), "text")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("target", ["exists", "does not exist"])
def test_a_link_stays_and_its_file_is_replaced(tmp_path, target):
    real, first, link = tmp_path / "real" / "table.csv", tmp_path / "first.csv", tmp_path / "link.csv"
    real.parent.mkdir()
    if target == "exists":
        real.write_text("before")
    first.symlink_to(real)
    link.symlink_to("first.csv")
    write_text(link, "after")
    assert link.is_symlink() and first.is_symlink() and not real.is_symlink()
    assert real.read_text() == link.read_text() == "after"
    assert [path.name for path in real.parent.iterdir()] == ["table.csv"]


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path):
    real, link = tmp_path / "disk" / "model", tmp_path / "model"
    real.mkdir(parents=True)
    (real / "old").touch()
    link.symlink_to(real)
    with atomic_folder(link) as new:
        (new / "new").touch()
    assert link.is_symlink() and [path.name for path in link.iterdir()] == ["new"]
    assert [path.name for path in real.parent.iterdir()] == ["model"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(target) as new:
        new.rmdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_a_folder_that_was_being_replaced_when_it_was_killed_keeps_its_content(tmp_path):
    for name in (f"{TEMPORARY_PREFIX}0123-old", f"{TEMPORARY_PREFIX}0123d"):
        (tmp_path / name).mkdir()
    with exclusive_lock(tmp_path / ".lock"):
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [f"{TEMPORARY_PREFIX}0123-old"]


def test_ctrl_c_between_the_two_renames_keeps_the_folder(tmp_path, monkeypatch):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old.txt").touch()
    rename = os.replace

    def interrupted(source, target):
        if Path(target).name == "target" and not str(source).endswith("-old"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "target"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "old.txt"]


def test_new_files_get_the_umasks_mode_and_replaced_ones_keep_theirs(tmp_path):
    before = os.umask(0o027)
    try:
        for mode in (None, 0o751):
            if mode:
                (tmp_path / "file").chmod(mode)
                (tmp_path / "folder").chmod(mode)
            write_text(tmp_path / "file", "text")
            with atomic_folder(tmp_path / "folder") as new:
                write_text(new / "file", "text")
            modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder", "folder/file")]
            assert modes == [mode or 0o640, mode or 0o750, 0o640]
    finally:
        os.umask(before)


COUNT = """
import sys, time
from pathlib import Path
from src.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1]) / ".lock"):
    file = Path(sys.argv[1]) / "count"
    count = int(file.read_text()) if file.exists() else 0
    time.sleep(0.3)
    file.write_text(str(count + 1))
"""


def test_one_process_at_a_time_holds_a_lock(tmp_path):
    folder = tmp_path / "states"
    (folder / f"{TEMPORARY_PREFIX}of-a-killed-run" / "epoch").mkdir(parents=True)
    with exclusive_lock(folder / ".lock"):
        assert [path.name for path in folder.iterdir()] == [".lock"], "what a killed run left is removed"
        command = [sys.executable, "-c", COUNT, str(folder)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert all(str(folder) in process.stdout.readline() for process in running)
        assert not (folder / "count").exists()
    assert [process.wait(30) for process in running] == [0, 0, 0] and (folder / "count").read_text() == "3"


HOLD = """
import sys
from pathlib import Path
from pathlib import Path
from src.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_a_lock_without_waiting_is_refused_until_its_holder_ends(tmp_path, end):
    table, lock = tmp_path / "table.csv", tmp_path / ".table.csv.lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], **pipes) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with (
            pytest.raises(BlockingIOError, match=f"another run is using {re.escape(str(table))}:"),
            exclusive_lock(lock, table),
        ):
            pass
        if end == "killed":
            holder.kill()
    foreign = tmp_path / f"{TEMPORARY_PREFIX}of-another-run"
    foreign.mkdir()
    with exclusive_lock(lock, table):
        pass
    assert list(tmp_path.iterdir()) == [foreign], "no lock is left, and nothing else in the user's folder is removed"
