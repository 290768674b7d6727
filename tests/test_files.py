"""Writing whole or not at all."""

import subprocess
import sys

import pytest

from src.files import HIDDEN, alone, folder_written_whole, write_text, written_whole


def test_a_failed_writing_leaves_the_old_file(tmp_path):
    file = tmp_path / "table.csv"
    write_text(file, "before")
    with pytest.raises(RuntimeError), written_whole(file) as new:
        new.write_text("half")
        raise RuntimeError
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "kept").touch()
    with pytest.raises(OSError), folder_written_whole(folder) as new:
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
    with alone(folder):
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
