"""CONTRIBUTING.md, CITATION.cff and the pre-commit settings: what they tell people to type works."""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from src.config import LANDMARK_FILE, ROOT
from src.faces.align import Alignment
from src.models import model_folder, train
from src.sample import draw

pytestmark = pytest.mark.slow

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(enumerate(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
PYTEST = ".venv/bin/python -m pytest "


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def mine(tmp_path):
    """Two drawn photos and a table beside them that names a third picture, and somebody of unknown gender."""
    names = ["one_face.jpg", "three_faces.jpg"]
    for name in names:
        shutil.copy(draw.draw_sample() / "photos" / name, tmp_path)
    rows = pd.DataFrame({"file": [*names, "gone.jpg", names[0]], "age": [30, 41, 20, 50]})
    rows.assign(gender=["female", "male", "male", "?"]).to_csv(tmp_path / "faces.csv", index=False)
    return tmp_path


ASKED = """
import sys
from src import data
from src.faces.align import Alignment
from src.faces.prepare import prepare
table, ledger = data.load("mine", sys.argv[1])
prepared = prepare(table, sys.argv[1], Alignment(size=128), sys.argv[2], workers=1)
print(data.DATASETS[-1], *table["path"], *table["age_low"], *ledger["reason"], *prepared.alignment_source, sep="; ")
"""


def test_the_example_of_a_data_set_loads_and_can_be_prepared(mine, tmp_path):
    """In a copy of the package that was changed as the text says."""
    copy, entry = tmp_path / "copy", '"mine": "mine",'
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / LANDMARK_FILE.name).symlink_to(LANDMARK_FILE)
    (copy / "src" / "data" / "mine.py").write_text(BLOCKS[0], encoding="utf-8")
    listed = copy / "src" / "data" / "__init__.py"
    text = listed.read_text(encoding="utf-8")
    assert f"`{entry}` in `LOADERS`" in " ".join(TEXT.split())
    listed.write_text(text.replace("}\nNAMES", f"    {entry}\n}}\nNAMES"), encoding="utf-8")
    command = [sys.executable, "-c", ASKED, mine, tmp_path / "cache"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    said = "mine; one_face.jpg; three_faces.jpg; 30; 41; image missing; gender unknown; landmarks; landmarks"
    assert done.stdout.strip() == said, done.stderr


def test_the_example_of_a_level_one_trains_and_is_saved_and_loaded(tmp_path):
    names = {}
    exec(BLOCKS[1], names)
    faces = np.random.default_rng(1).integers(0, 256, (12, 128, 128, 3), np.uint8)
    part = np.array(["train"] * 8 + ["validation"] * 4)
    settings = train.TrainingSettings(epochs=1, batch_size=4)
    model, history = train.fit(
        names["model"], faces, np.arange(12), np.arange(12) % 2, part, settings, checkpoint_folder=tmp_path / "states"
    )
    assert np.isfinite(history["val_loss"]).all()
    labels = model_folder.Labels("gender", ("female", "male"))
    loaded = model_folder.load_model(model_folder.save_model(tmp_path / "mine", model, labels, Alignment(size=128), {}, []))
    assert loaded.model.get_layer("level_one").layers[-1].name == "features"
    assert np.allclose(loaded.model.predict(faces, verbose=0).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(PYTEST)])
def test_a_command_selects_tests_that_there_are(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line.removeprefix(PYTEST), comments=True)
    assert pytest.main(["--collect-only", "-q", *arguments]) == 0
    files = [name for name in capsys.readouterr().out.split() if name.startswith("tests/")]
    assert all(name.startswith(arguments[0]) for name in files) and files


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_knows_its_targets(line):
    done = run("make", "--dry-run", *shlex.split(line, comments=True)[1:])
    assert done.returncode == 0, done.stderr


def test_the_hooks_are_local_and_pre_commit_accepts_them():
    assert run(sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml").returncode == 0
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        module = hook["entry"].split()[2]
        assert run(sys.executable, "-m", module, "--version").returncode == 0


def test_the_citation_names_what_the_package_and_the_licence_do():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f'version = "{citation["version"]}"' in project and f'license = "{citation["license"]}"' in project
    holder = re.search(r"Copyright \(c\) \d+ (.*)", (ROOT / "LICENSE").read_text(encoding="utf-8"))[1]
    assert [author["name"].casefold() for author in citation["authors"]] == [holder.casefold()]
    assert f"## {citation['version']} – {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
