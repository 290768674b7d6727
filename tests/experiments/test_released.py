"""The training of the released models from end to end, on drawn faces in the layouts of UTKFace and FairFace."""

import dataclasses
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import released
from src.config import AGE_GROUPS, GENDERS, YEARS
from src.data.fairface import AGES
from src.evaluation.subgroups import RESULT_COLUMNS, UTKFACE_RACES
from src.keras_setup import keras
from src.models.model_folder import load_model
from src.predict.predictor import predict
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person

FACES = 60  # of each data set
RACES = ("White", "Black", "East Asian", "Indian", "Latino_Hispanic")
TABLES = ("results", "reliability", "coverage", "history")
COPY = f"FairFace/train/{FACES + 1}.png"  # of the first picture of UTKFace/


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Drawn faces as UTKFace/ and FairFace/, with labels that fit them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "UTKFace").mkdir()
    (folder / "FairFace" / "train").mkdir(parents=True)
    space, rng, lines = FaceModel.load(), np.random.default_rng(7), ["file,age,gender,race,service_test"]
    ranges = AGE_GROUPS["fairface"]
    for i in range(2 * FACES):
        group, gender = i % 8, GENDERS[i // 8 % 2]
        picture, _ = scene.snapshot(space, [new_person(space, group, gender, rng)], (150, 150), 100, rng)
        low, high = AGE_GROUPS["adience"].years[group]
        age = int(rng.integers(low, min(high, 90) + 1))
        if i < FACES:
            name = f"UTKFace/{age}_{1 - GENDERS.index(gender)}_{i % 5}_{20170101000000000 + i}.png"
        else:
            number = i - FACES + 1
            name = f"FairFace/train/{number}.png"
            label = list(AGES)[ranges.index([age], [age])[0]]
            lines.append(f"train/{number}.png,{label},{gender.capitalize()},{RACES[i % 5]},True")
        Image.fromarray(picture).save(folder / name)
        if i == 0:
            again = cv2.imdecode(cv2.imencode(".jpg", picture[3:, 2:], [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)
            Image.fromarray(again).save(folder / COPY)
    lines.append(f"train/{FACES + 1}.png,0-2,Female,White,False")
    (folder / "FairFace" / "fairface_label_train.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory):
    """The folder of the steps, and that of what the second call released; before it, when each step was written."""
    runs, target = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TEACHER", "STUDENT", "AGAIN"):
            patch.setattr(released, name, dataclasses.replace(getattr(released, name), epochs=1, batch_size=16))
        patch.setattr(released, "MODELS", target / "models")
        patch.setattr(released, "RESULTS", target / "results")
        asked = ["--data", str(pictures), "--runs", str(runs), "--seed", "3"]
        released.main(asked)
        assert not list(target.iterdir()), "only --release writes to models/ and docs/results/"
        before = steps(runs)
        keras.backend.clear_session()  # as in a new process
        released.main([*asked, "--release"])
    return runs, target, before


def steps(runs):
    """Every file of the steps, with the time of its last change."""
    return {
        path.relative_to(runs).as_posix(): path.stat().st_mtime_ns
        for path in runs.rglob("*")
        if path.is_file() and "released-" not in path.as_posix()
    }


def results(folder, name):
    return pd.read_csv(folder / f"released_{name}.csv", keep_default_na=False, na_values=[""])


def test_both_models_can_be_loaded_and_say_what_they_are(runs):
    for task, classes in (("gender", 2), ("age", YEARS)):
        trained = load_model(runs[0] / "released-3" / task)
        assert trained.labels.task == task and trained.model.output_shape == (None, classes)
        assert trained.alignment == released.ALIGNMENT and trained.calibration is not None
        assert [layer.name for layer in trained.model.layers[1:]] == ["level_one", "level_two"]
        faces = trained.card["trained_on"]["faces"]
        assert sum(faces["utkface"].values()) == FACES and sum(faces["fairface"].values()) == FACES + 1
        measures = {row["measure"] for row in trained.card["results"]}
        assert measures and all(("gender" in measure) == (task == "gender") for measure in measures)
    assert load_model(runs[0] / "released-3" / "age").labels.single_years


def test_the_models_answer_for_photos(runs, pictures):
    photos = sorted((pictures / "FairFace" / "train").glob("1*.png"))
    table = predict(photos, *(runs[0] / "released-3" / task for task in ("gender", "age")), progress=False)
    found = table[table["status"] == "ok"]
    assert len(found) >= 0.8 * len(photos)
    assert found["gender"].isin(GENDERS).all() and found["age_group"].isin(AGE_GROUPS["adience"].names).all()
    assert ((found["age_interval_low"] <= found["age_years"]) & (found["age_years"] <= found["age_interval_high"])).all()
    assert found["age_interval_low"].ge(0).all() and found["age_interval_high"].lt(YEARS).all()


def test_the_tables_of_results(runs):
    tables = {name: results(runs[0] / "released-3" / "results", name) for name in TABLES}
    figures = tables["results"]
    assert list(figures.columns) == list(RESULT_COLUMNS)
    assert set(figures["dataset"]) == {"utkface", "fairface"}
    whole = figures[figures["by"] == "all"].set_index(["dataset", "measure"])["value"]
    assert {"gender accuracy", "eight groups exact", "eight groups 1-off", "absolute error"} <= set(whole["utkface"].index)
    assert {"gender accuracy", "nine ranges exact", "nine ranges 1-off"} <= set(whole["fairface"].index)
    assert "absolute error" not in whole["fairface"].index
    for dataset, names in (("utkface", UTKFACE_RACES), ("fairface", RACES)):
        told = figures["group"][(figures["dataset"] == dataset) & (figures["by"] == "race")]
        assert len(told) and set(told) <= set(names)
    assert list(tables["reliability"].columns) == ["confidence", "accuracy", "n", "dataset", "task"]
    assert list(tables["coverage"].columns) == ["coverage", "score", "dataset", "task"]
    for name in ("reliability", "coverage"):
        assert set(zip(tables[name]["dataset"], tables[name]["task"])) == {
            (dataset, task) for dataset in ("utkface", "fairface") for task in ("gender", "age")
        }
    assert tables["history"]["epoch"].tolist() == [1, 2]
    assert tables["history"][["loss", "val_loss", "val_gender_accuracy", "val_absolute_error"]].notna().all(axis=None)


def test_the_figures_are_of_the_test_faces(runs, pictures):
    data = released.load_data(pictures, runs[0])
    figures = results(runs[0] / "released-3" / "results", "results").query("by == 'all' and measure == 'gender accuracy'")
    test = data.table[data.part == "test"]["dataset"].value_counts()
    assert figures.set_index("dataset")["n"].to_dict() == test.to_dict() and test.min() >= 1
    card = json.loads((runs[0] / "released-3" / "age" / "card.json").read_text())
    for dataset, told in card["trained_on"]["faces"].items():
        mine = (data.table["dataset"] == dataset).to_numpy(bool)
        assert told == {part: int(((data.part == part) & mine).sum()) for part in told}, dataset
        assert {"train", "validation", "test"} <= set(told)


def test_a_picture_in_both_data_sets_falls_on_one_side(runs, pictures):
    data = released.load_data(pictures, runs[0])
    path = data.table["path"]
    original = path.str.endswith("_0_20170101000000000.png").to_numpy(bool)
    pair = original | (path == COPY).to_numpy(bool)
    assert pair.sum() == 2 and data.table["subject"][pair].nunique() == 1 and len(set(data.part[pair])) == 1
    assert data.table["subject"][~pair].isna().all()


def test_the_second_call_gives_the_same(runs):
    first, (second, where) = runs[0] / "released-3", (runs[1] / "models", runs[1] / "results")
    for name in TABLES[:3]:
        file = f"released_{name}.csv"
        assert (where / file).read_text() == (first / "results" / file).read_text()
    for task in ("gender", "age"):
        one, other = load_model(first / task), load_model(second / task)
        assert all(map(np.array_equal, one.model.get_weights(), other.model.get_weights()))
        assert one.calibration == other.calibration


def test_the_second_call_aligns_and_teaches_nothing_again(runs):
    after = {name: when for name, when in steps(runs[0]).items() if not name.startswith("training/")}
    assert after == {name: when for name, when in runs[2].items() if not name.startswith("training/")}
    kept = {name.split("/")[-1].split("-")[0] for name in after}
    assert {"teacher", "descriptors.npy", "near_duplicates.npy"} <= kept


def test_the_second_call_trains_nothing_again(runs):
    assert steps(runs[0]) == runs[2]


def test_a_folder_that_is_not_there_gives_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        released.main(["--data", str(tmp_path / "nowhere"), "--runs", str(tmp_path)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and "nowhere does not exist" in said and said.count("\n") == 1
