"""Writing whole or not at all."""

import pytest

from src.files import folder_written_whole, write_text, written_whole


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


def test_the_longest_names_can_be_written(tmp_path):
    write_text(tmp_path / ("n" * 251 + ".csv"), "text")
    assert len(list(tmp_path.iterdir())) == 1
