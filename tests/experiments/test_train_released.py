"""The training of the released models from end to end, on synthetic faces."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from experiments import train_released, training_steps
from src.config import AGE_GROUPS, GENDERS, YEAR_COUNT
from src.data import utkface
from src.evaluation.subgroups import RESULT_COLUMNS
from src.keras_setup import keras
from src.models.model_folder import load_model
from src.predict.predictor import predict
from tests.experiments.conftest import COPY, FACES, RACES

TABLES = ("results", "reliability", "coverage", "history")


@pytest.fixture(scope="module")
def runs(pictures, untrained_faceres, tmp_path_factory):
    """Trains, then releases with the same command: the folders of both, and when the first call wrote each file."""
    runs, target = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        teacher = dataclasses.replace(train_released.TEACHERS["faceres"], epochs=1, batch_size=16)
        patch.setattr(train_released, "TEACHERS", {"faceres": teacher})
        patch.setattr(train_released, "STUDENT", dataclasses.replace(train_released.STUDENT, epochs=2, batch_size=16))
        patch.setattr(train_released, "MODELS", target / "models")
        patch.setattr(train_released, "RESULTS", target / "results")
        arguments = ["--data", str(pictures), "--runs", str(runs), "--seed", "3"]
        train_released.main(arguments)
        assert not list(target.iterdir()), "only --release writes to models/ and docs/results/"
        before = written(runs)
        keras.backend.clear_session()  # as in a new process
        train_released.main([*arguments, "--release"])
    return runs, target, before


@pytest.fixture(scope="module")
def data(pictures, runs):
    return training_steps.load_data(pictures, runs[0])


def written(runs):
    """Every intermediate file, with the time of its last change."""
    files = (path for path in runs.rglob("*") if path.is_file() and "released-" not in path.as_posix())
    return {path.relative_to(runs).as_posix(): path.stat().st_mtime_ns for path in files}


def read(folder, name):
    return pd.read_csv(folder / f"released_{name}.csv", keep_default_na=False, na_values=[""])


@pytest.mark.slow
def test_both_models_can_be_loaded_and_predict(runs, pictures, data):
    folders = [runs[0] / "released-3" / task for task in ("gender", "age")]
    for folder, task, classes in zip(folders, ("gender", "age"), (2, YEAR_COUNT)):
        trained = load_model(folder)
        assert trained.labels.task == task and trained.model.output_shape == (None, classes)
        assert trained.alignment == training_steps.ALIGNMENT and trained.calibration is not None
        assert [layer.name for layer in trained.model.layers[1:]] == ["level_one", "level_two"]
        metrics = {row["metric"] for row in trained.card["results"]}
        assert metrics and all(("gender" in metric) == (task == "gender") for metric in metrics)
    for dataset, counts in json.loads((folders[1] / "card.json").read_text())["trained_on"]["faces"].items():
        mine = data.split[(data.table["dataset"] == dataset).to_numpy(bool)]
        assert counts == {name: int((mine == name).sum()) for name in counts}, dataset
        assert {"train", "validation", "test"} <= set(counts) and sum(counts.values()) in (FACES, FACES + 1)
    photos = sorted((pictures / "FairFace" / "train").glob("1*.png"))
    table = predict(photos, gender_model=folders[0], age_model=folders[1], progress=False)
    found = table[table["status"] == "ok"]
    assert len(found) >= 0.8 * len(photos)
    assert found["gender"].isin(GENDERS).all() and found["age_group"].isin(AGE_GROUPS["adience"].names).all()
    assert found["age_years"].between(0, YEAR_COUNT - 1).all()


@pytest.mark.slow
def test_the_result_files_are_of_the_test_faces(runs, data):
    tables = {name: read(runs[0] / "released-3" / "results", name) for name in TABLES}
    figures = tables["results"]
    assert list(figures.columns) == list(RESULT_COLUMNS)
    overall = figures[figures["by"] == "all"].set_index(["dataset", "metric"])
    assert {"gender accuracy", "eight groups exact", "absolute error"} <= set(overall.loc["utkface"].index)
    assert {"gender accuracy", "nine ranges exact"} <= set(overall.loc["fairface"].index)
    assert "absolute error" not in overall.loc["fairface"].index and "absolute error" in overall.loc["allagefaces"].index
    test = data.table[data.split == "test"]["dataset"].value_counts()
    assert overall["n"].xs("gender accuracy", level="metric").to_dict() == test.to_dict() and test.min() >= 1
    for dataset, names in (("utkface", utkface.RACES.values()), ("fairface", RACES)):
        groups = figures["group"][(figures["dataset"] == dataset) & (figures["by"] == "race")]
        assert len(groups) and set(groups) <= set(names)
    assert list(tables["reliability"].columns) == ["confidence", "accuracy", "n", "dataset", "task"]
    assert list(tables["coverage"].columns) == ["coverage", "score", "dataset", "task"]
    for name in ("reliability", "coverage"):
        assert len(tables[name][["dataset", "task"]].drop_duplicates()) == 6
    assert tables["history"]["epoch"].tolist() == [1, 2]
    assert tables["history"][["loss", "val_loss", "val_gender_accuracy", "val_absolute_error"]].notna().all(axis=None)


@pytest.mark.slow
def test_a_picture_in_two_data_sets_falls_on_one_side(data):
    path, group = data.table["path"], np.load(data.folder / "near_duplicates.npy")
    pair = (path.str.endswith("_0_20170101000000000.png") | (path == COPY)).to_numpy(bool)
    assert pair.sum() == 2 and len(set(group[pair])) == 1
    assert pd.Series(data.split).groupby(group).nunique().max() == 1
    is_alone = ~pd.Series(group).duplicated(keep=False).to_numpy()
    assert data.table["subject"][is_alone].isna().all()


@pytest.mark.slow
def test_the_second_call_repeats_nothing_and_releases_the_same(runs):
    assert written(runs[0]) == runs[2]
    first, released, results = runs[0] / "released-3", runs[1] / "models", runs[1] / "results"
    for name in TABLES[:3]:
        file = f"released_{name}.csv"
        assert (results / file).read_text() == (first / "results" / file).read_text()
    for task in ("gender", "age"):
        one, other = load_model(first / task), load_model(released / task)
        assert all(map(np.array_equal, one.model.get_weights(), other.model.get_weights()))
        assert one.calibration == other.calibration


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        train_released.main(["--data", str(tmp_path / "nowhere"), "--runs", str(tmp_path)])
