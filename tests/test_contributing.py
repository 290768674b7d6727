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

from src import datasets, model_folder, train
from src.config import ROOT
from src.datasets import sample
from src.faces import Alignment
from src.prepare import prepare

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
        shutil.copy(sample.draw() / "photos" / name, tmp_path)
    rows = pd.DataFrame({"file": [*names, "gone.jpg", names[0]], "age": [30, 41, 20, 50]})
    rows.assign(gender=["female", "male", "male", "?"]).to_csv(tmp_path / "faces.csv", index=False)
    return tmp_path


def test_the_example_of_a_data_set_loads_and_can_be_prepared(mine, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "LOADERS", dict(datasets.LOADERS))
    names = {"LOADERS": datasets.LOADERS}
    exec(BLOCKS[0], names)
    exec(BLOCKS[1], names)
    table, ledger = datasets.load("mine", mine)
    assert list(table["path"]) == ["one_face.jpg", "three_faces.jpg"] and list(table["age_low"]) == [30, 41]
    assert ledger["reason"].value_counts().to_dict() == {"gender unknown": 1, "image missing": 1}
    prepared = prepare(table, mine, Alignment(size=128), tmp_path / "cache")
    assert list(prepared.how) == ["landmarks", "landmarks"]


def test_the_example_of_a_level_one_trains_and_is_saved_and_loaded(tmp_path):
    names = {}
    exec(BLOCKS[2], names)
    faces = np.random.default_rng(1).integers(0, 256, (12, 128, 128, 3), np.uint8)
    part = np.array(["train"] * 8 + ["validation"] * 4)
    settings = train.Settings(epochs=1, batch_size=4)
    model, history = train.fit(
        names["model"], faces, np.arange(12), np.arange(12) % 2, part, settings, states=tmp_path / "states"
    )
    assert np.isfinite(history["val_loss"]).all()
    labels = model_folder.Labels("gender", ("female", "male"))
    loaded = model_folder.load(model_folder.save(tmp_path / "mine", model, labels, Alignment(size=128), {}, []))
    assert loaded.model.get_layer("level_one").layers[-1].name == "features"
    assert np.allclose(loaded.model.predict(faces, verbose=0).sum(axis=1), 1, atol=1e-5)


def test_there_are_three_examples_and_commands_of_each_kind():
    assert len(BLOCKS) == 3
    assert any(line.startswith("make check") for line in COMMANDS) and any(PYTEST in line for line in COMMANDS)


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
