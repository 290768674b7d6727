"""Atomic writes and locks."""

import os
import platform
import stat
import subprocess
import sys

import pytest

from src.files import HIDDEN, atomic_folder, atomic_write, exclusive_lock, only_writer, write_text


def test_a_failed_writing_leaves_the_old_file(tmp_path):
    file = tmp_path / "table.csv"
    write_text(file, "before")
    with pytest.raises(RuntimeError), atomic_write(file) as new:
        new.write_text("half")
        raise RuntimeError
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "kept").touch()
    with pytest.raises(OSError), atomic_folder(folder) as new:
        new.rmdir()  # so that the last renaming fails
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "kept"]


COUNTS = """
import sys, time
from pathlib import Path
from src.files import alone
with alone(Path(sys.argv[1])):
    file = Path(sys.argv[1]) / "count"
    count = int(file.read_text()) if file.exists() else 0
    time.sleep(0.3)
    file.write_text(str(count + 1))
"""


def test_of_several_processes_one_at_a_time_is_alone(tmp_path):
    folder = tmp_path / "states"
    command = [sys.executable, "-c", COUNTS, str(folder)]
    (folder / f"{HIDDEN}of-a-killed-run" / "epoch").mkdir(parents=True)
    with exclusive_lock(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"], "what a kill left is removed"
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [process.stdout.readline() for process in running] == [
            f"another run works in {folder}: waiting for its end\n"
        ] * 3
        assert not (folder / "count").exists()
    assert [process.wait(30) for process in running] == [0, 0, 0] and (folder / "count").read_text() == "3"


def test_the_longest_names_can_be_written(tmp_path):
    write_text(tmp_path / ("n" * 251 + ".csv"), "text")
    assert len(list(tmp_path.iterdir())) == 1


# --- links, special files, modes --------------------------------------------------------------------------------------


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("target", ["there", "not there yet"])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, target):
    real, first, link = tmp_path / "real" / "table.csv", tmp_path / "first.csv", tmp_path / "link.csv"
    real.parent.mkdir()
    if target == "there":
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("by_link", [False, True])
def test_a_special_file_is_refused_and_stays(tmp_path, by_link):
    pipe = target = tmp_path / "pipe"
    os.mkfifo(pipe)
    if by_link:
        target = tmp_path / "link"
        target.symlink_to(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        write_text(target, "text")
    with pytest.raises(OSError), atomic_folder(target):
        pass
    assert pipe.is_fifo() and target.is_symlink() == by_link


def test_a_folder_never_replaces_a_file(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "a file"


@pytest.fixture
def umask():
    before = os.umask(0)
    yield os.umask
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
@pytest.mark.parametrize(("mask", "of_file", "of_folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (2, 0o664, 0o775)])
def test_new_files_honour_the_umask(tmp_path, umask, mask, of_file, of_folder):
    umask(mask)
    write_text(tmp_path / "file", "text")
    with atomic_folder(tmp_path / "folder") as new:
        write_text(new / "file", "text")
    assert [mode(tmp_path / name) for name in ("file", "folder", "folder/file")] == [of_file, of_folder, of_file]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
@pytest.mark.parametrize("wanted", [0o600, 0o664, 0o750])
def test_what_is_replaced_keeps_its_mode(tmp_path, wanted):
    write_text(tmp_path / "file", "before")
    (tmp_path / "file").chmod(wanted)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(wanted | 0o100)
    write_text(tmp_path / "file", "after")
    with atomic_folder(tmp_path / "folder"):
        pass
    assert mode(tmp_path / "file") == wanted and mode(tmp_path / "folder") == wanted | 0o100


# The kernel refuses each call by which a mode is changed, as it does on exFAT and on some network shares.
WITHOUT_CHMOD = """
import ctypes, errno, os, platform, struct, sys
from pathlib import Path
from src.files import folder_written_whole, write_text
calls = {"x86_64": (90, 91, 268, 452), "aarch64": (52, 53, 452)}[platform.machine()]
load, equal, refuse, allow = (0x20, 0, 0, 0), 0x15, (6, 0, 0, 0x50000 | errno.EPERM), (6, 0, 0, 0x7FFF0000)
lines = [load, *((equal, len(calls) - i, 0, call) for i, call in enumerate(calls)), allow, refuse]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit(77)
try:
    os.chmod(sys.argv[1], 0o777)
    sys.exit("the mode can be changed")
except PermissionError:
    pass
write_text(Path(sys.argv[1]), "after")
write_text(Path(sys.argv[1] + "-new"), "after")
with folder_written_whole(Path(sys.argv[1] + "-folder")) as new:
    write_text(new / "file", "after")
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="uses Linux's system calls"
)
def test_a_file_system_that_changes_no_modes_can_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")
    file.chmod(0o600)
    (tmp_path / "file-folder").mkdir(0o700)
    done = subprocess.run([sys.executable, "-c", WITHOUT_CHMOD, str(file)], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel has no seccomp")
    assert done.returncode == 0, done.stderr
    written = [file, tmp_path / "file-new", tmp_path / "file-folder" / "file"]
    assert [path.read_text() for path in written] == ["after"] * 3


# --- one writer at a time ---------------------------------------------------------------------------------------------

WRITES = """
import sys
from pathlib import Path
from src.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_a_second_writer_is_refused_until_the_first_ends(tmp_path, end):
    table = tmp_path / "table.csv"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WRITES, str(table)], **pipes) as first:
        assert first.stdout.readline() == b"writing\n"
        with pytest.raises(BlockingIOError, match="another run is writing .*table.csv"), only_writer(table):
            pass
        if end == "killed":
            first.kill()
    with only_writer(table):
        pass
    assert not list(tmp_path.iterdir()), "no lock is left"
