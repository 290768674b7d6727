"""The notebooks and the solutions of their exercises, run from top to bottom in a kernel, in a copy of the repository."""

import os
import shutil

import nbformat
import pandas as pd
import papermill
import pytest

from src.config import GENDERS, LANDMARK_FILE, NOTEBOOKS, ROOT
from src.faces.landmark_file import install_landmark_file
from src.models.model_folder import load_model

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """What git holds, in another folder; the kernels import `src` from there and write there."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("src", "notebooks", "docs/results"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    (root / "data" / "photos").mkdir(parents=True)
    (root / "data" / "sample").mkdir()
    shutil.copy(ROOT / "data" / "sample" / "face_model.npz", root / "data" / "sample")
    for name in ("gender", "age"):
        if (ROOT / "models" / name).exists():
            shutil.copytree(ROOT / "models" / name, root / "models" / name)
    os.symlink(install_landmark_file(), root / LANDMARK_FILE.name)
    return root


def execute(copy, number, monkeypatch, folder="notebooks", **parameters):
    monkeypatch.setenv("PYTHONPATH", str(copy))
    source = next((copy / folder).glob(f"{number}_*.ipynb"))
    target = copy / f"executed_{number}.ipynb"
    # Another working directory than the notebook's: notebooks must not depend on it.
    papermill.execute_notebook(source, target, parameters, cwd=copy / "data", progress_bar=False)
    outputs = [output for cell in nbformat.read(target, as_version=4).cells for output in cell.get("outputs", [])]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]
    return "\n".join(str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs)


def test_the_network_typed_in_notebook_1_is_that_of_the_package(capsys):
    """Executes the cells with the tag `network` and compares every layer."""
    from src import config
    from src.keras_setup import keras, layers
    from src.models.two_level_cnn import two_level_cnn

    cells = nbformat.read(NOTEBOOKS / "1_Gender_Classification.ipynb", as_version=4).cells
    typed = {"keras": keras, "layers": layers, "size": config.FACE_SIZE, "classes": GENDERS, "SEED": 3}
    exec("\n".join(cell.source for cell in cells if "network" in cell.metadata.get("tags", [])), typed)
    own = two_level_cnn(len(GENDERS), seed=3)
    assert [type(layer) for layer in typed["network"].layers] == [type(layer) for layer in own.layers]
    for level in ("level_one", "level_two"):
        pairs = zip(typed["network"].get_layer(level).layers, own.get_layer(level).layers, strict=True)
        for mine, other in pairs:
            assert type(mine) is type(other) and mine.get_config() == other.get_config()
            starts = list(zip(mine.get_weights(), other.get_weights(), strict=True))
            assert all(a.shape == b.shape and (a == b).all() for a, b in starts), mine.name
    assert "after block 4: (2, 2, 256)" in capsys.readouterr().out


@slow
@pytest.mark.parametrize(
    ("number", "task", "options", "classes", "lines"),
    [
        (1, "gender", {"ALL_FOLDS": True}, ["female", "male"], ["people in two parts: 0", "equal weights: True", "±"]),
        (2, "age", {"GROUPS": "four"}, ["Kid", "Youth", "Adult", "Old"], ["lowest validation loss"]),
    ],
)
def test_training_notebooks_leave_a_model_that_loads(copy, monkeypatch, number, task, options, classes, lines):
    printed = execute(copy, number, monkeypatch, EPOCHS=1, **options)
    assert [line for line in lines if line not in printed] == []
    trained = load_model(copy / "models" / f"sample-{task}")
    assert list(trained.labels.classes) == classes
    assert trained.card["trained_on"]["faces"]["train"] > 500
    assert {row["metric"] for row in trained.card["results"]} >= {"accuracy"}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] for row in trained.card["results"])


@slow
@pytest.mark.parametrize("number", [1, 2])
def test_solutions_of_the_training_notebooks_run(copy, monkeypatch, number):
    if not (copy / "models" / "sample-gender").exists():  # the solutions of notebook 2 reuse notebook 1's model
        execute(copy, 1, monkeypatch, EPOCHS=1)
    printed = execute(copy, number, monkeypatch, "notebooks/solutions", EPOCHS=1)
    assert "10% of the training faces" in printed


@slow
@pytest.mark.parametrize(("number", "task"), [(3, "gender"), (4, "age")])
def test_pipeline_notebooks_answer_for_every_photo(copy, monkeypatch, number, task):
    execute(copy, number, monkeypatch)
    table = pd.read_csv(copy / "runs" / "sample" / f"{task}_of_photos.csv")
    trained = {"mine", "released"} if (copy / "models" / f"sample-{task}").exists() else {"released"}
    assert set(table["status"]) == {"ok", "no_face"} and set(table["model"]) == trained
    faces = table[(table["status"] == "ok") & (table["model"] == "released")]
    assert faces["gender"].notna().all()
    if task == "age":
        assert faces["age_years"].between(0, 100).all()


@slow
def test_pipeline_notebook_takes_the_users_photos_and_bears_bad_ones(copy, monkeypatch):
    folder = copy / "own photos"
    folder.mkdir()
    (folder / "broken.jpg").write_text("no picture")
    execute(copy, 3, monkeypatch, PHOTOS=str(folder))
    table = pd.read_csv(copy / "runs" / "sample" / "gender_of_photos.csv")
    assert set(table["status"]) == {"unreadable"}


@slow
def test_cleaning_notebook_accounts_for_every_record(copy, monkeypatch):
    said = execute(copy, 5, monkeypatch)
    clean, ledger = (pd.read_csv(copy / "runs" / "sample" / f"imdb_wiki_{name}.csv") for name in ("clean", "ledger"))
    assert f"{len(clean):,} kept + {len(ledger):,} dropped = {len(clean) + len(ledger):,} read" in said
    assert {"no face", "second face", "low score", "impossible date", "age out of range"} <= set(ledger["reason"])


@slow
def test_comparison_notebook_shows_the_released_models(copy, monkeypatch, standins):
    said = execute(
        copy, 6, monkeypatch, GENDER_MODEL=str(standins.gender), AGE_MODEL=str(standins.age), RESULTS=str(standins.results)
    )
    assert "level one is the same in both: True" in said
    assert "UTKFace, gender accuracy: worst for ages 0–6, 85.5%" in said
    table = pd.read_csv(copy / "runs" / "sample" / "released_on_sample.csv")
    assert set(table["dataset"]) == {"sample"} and {"gender accuracy", "eight groups exact"} <= set(table["metric"])


@slow
def test_protocol_notebook_sets_both_readings_beside_the_published_results(copy, monkeypatch):
    said = execute(copy, 7, monkeypatch, FOLDS=[0], EXPERIMENTS=["four groups, strict"])
    assert "drawn sample" in said
    table = pd.read_csv(copy / "runs" / "sample" / "protocol.csv")
    ours = table[table["method"].str.contains("synthetic sample")]
    assert len(table) > len(ours) == 2 and ours["four groups"].tolist()[1] == "–"
    assert 0 <= float(ours["four groups"].tolist()[0]) <= 100


@slow
@pytest.mark.parametrize("number", [3, 4])
def test_solutions_of_the_pipeline_notebooks_run(copy, monkeypatch, number):
    assert "Styler" in execute(copy, number, monkeypatch, "notebooks/solutions")


@slow
def test_solutions_of_the_cleaning_notebook_drop_the_suspects(copy, monkeypatch):
    file = copy / "runs" / "sample" / "imdb_wiki_clean.csv"
    if not file.exists():
        execute(copy, 5, monkeypatch)
    table = pd.read_csv(file)
    table["suspect"] = table["suspect"].astype(object).where(table.index != 0)  # a face that was not checked
    table.to_csv(file, index=False)
    assert "ages change" in execute(copy, 5, monkeypatch, "notebooks/solutions")
    smaller, ledger = (
        pd.read_csv(file.parent / "without_suspects" / f"imdb_wiki_{name}.csv") for name in ("clean", "ledger")
    )
    assert len(smaller) == len(table) - table["suspect"].eq(True).sum() < len(table)
    assert (ledger["reason"] == "suspect label").sum() == len(table) - len(smaller)
