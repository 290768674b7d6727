"""Model folders: what is saved comes back the same, and what is damaged or does not fit is refused in one line."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.config import AGE_GROUPS
from src.evaluation.calibration import Calibration
from src.faces.align import Alignment
from src.keras_setup import keras, layers
from src.models import model_folder
from src.models.model_folder import FILES, Labels, ModelFolderError

SIZE = 16
ALIGNMENT = Alignment(size=SIZE, eye_distance=0.3, eye_height=0.4, gamma=True)
GENDER = Labels("gender", ("female", "male"))
GROUPS = AGE_GROUPS["four"]
AGE = Labels("age", GROUPS.names, GROUPS.years, (6.5, 24.25, 44.0, 68.0))


def network(classes, dtype="uint8"):
    face = keras.Input((SIZE, SIZE, 3), dtype=dtype)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(face)))
    return keras.Model(face, layers.Dense(classes, activation="softmax")(x))


@pytest.fixture(scope="module")
def model():
    return network(2)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder, trained_on = tmp_path_factory.mktemp("models") / "gender", {"dataset": "made", "faces": np.int64(12)}
    results = [{"metric": "accuracy", "value": np.float64(0.5), "n": 1200}]
    return model_folder.save_model(folder, model, GENDER, ALIGNMENT, trained_on, results)


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved folder that a test may change."""
    return shutil.copytree(saved, tmp_path / "gender")


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def update_hash(folder):
    change(folder / "card.json", model_sha256=hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest())


def refusal(folder):
    with pytest.raises(ModelFolderError) as caught:
        model_folder.load_model(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) - len(str(folder)) < 350
    return message


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- saving and loading -----------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(model, saved):
    loaded = model_folder.load_model(saved)
    assert (loaded.labels, loaded.alignment, loaded.calibration) == (GENDER, ALIGNMENT, None)
    faces = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    assert np.array_equal(loaded.model.predict(faces, verbose=0), model.predict(faces, verbose=0))
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    card = loaded.card
    assert card["trained_on"] == {"dataset": "made", "faces": 12} and card["results"][0]["value"] == 0.5
    assert card["alignment"]["eyes"] == ALIGNMENT.eyes.tolist() and card["alignment"]["colour_order"] == "RGB"
    assert card["model_sha256"] == hashlib.sha256((saved / "model.keras").read_bytes()).hexdigest()
    assert {"python", "keras", "dlib"} <= set(card["versions"])
    with zipfile.ZipFile(saved / "model.keras") as archive:
        assert set(archive.namelist()) == {"metadata.json", "config.json", "model.weights.h5"}, "nothing is pickled"


def test_saving_again_replaces_the_folder(folder):
    (folder / "old.txt").write_text("x")
    calibration = Calibration(np.float64(0.7), (0, 20), (1.5, 1.4))
    model_folder.save_model(folder, network(4), AGE, ALIGNMENT, {}, [], calibration)
    loaded = model_folder.load_model(str(folder))
    assert (loaded.labels, loaded.calibration) == (AGE, calibration)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_saving_what_does_not_fit_changes_nothing(model, folder):
    before = contents(folder)
    for message, arguments in {
        "one output for each of 4 classes, got 2": (AGE, ALIGNMENT, {}, []),
        "the alignment produces uint8": (GENDER, Alignment(), {}, []),
    }.items():
        with pytest.raises(ValueError, match=message):
            model_folder.save_model(folder, model, *arguments)
    assert contents(folder) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), None])
def test_interrupted_saving_leaves_the_old_folder_and_nothing_else(model, folder, error):
    class Results(list):
        def __iter__(self):
            raise error

    results = Results([1]) if error else [{"a set is not JSON"}]
    before = contents(folder)
    with pytest.raises(type(error) if error else TypeError):
        model_folder.save_model(folder, model, GENDER, ALIGNMENT, {"new": True}, results)
    assert contents(folder) == before and [path.name for path in folder.parent.iterdir()] == ["gender"]


# --- refused on loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    assert f"missing: {name}" in refusal(folder)


def test_a_damaged_model(folder):
    content = bytearray((folder / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.keras").write_bytes(content)
    assert "damaged or was changed" in refusal(folder)
    update_hash(folder)
    assert "cannot be used" in refusal(folder)


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"classes": ["male", "female"]}, "require classes ['male', 'female'], card.json has ['female', 'male']"),
        ({"classes": ["women", "men"]}, "task must be age, or gender with the classes female and male"),
        ({"classes": 2}, "cannot be used"),
        ({"task": "race"}, "task must be age, or gender with the classes female and male, got Labels(task='race'"),
        ({"task": "age"}, "age labels must have years and centre_years"),
        ({"years": [[0, 2], [4, 6]], "centre_years": [1, 5]}, "gender labels must have neither"),
        ({"task": "age", "years": [[0, 2], [4, 6]], "centre_years": [1, 5]}, "require task age, card.json has gender"),
        ({"task": "age", "years": [[4, 6], [0, 2]], "centre_years": [1, 5]}, "years and centre_years must be in order"),
        ({"task": "age", "years": [[0, 2], [4, 6]], "centre_years": [5, 1]}, "years and centre_years must be in order"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_labels_that_do_not_fit(folder, labels, message):
    change(folder / "labels.json", **labels)
    assert message in refusal(folder)


def test_labels_and_card_that_fit_each_other_but_not_the_model(folder):
    changed = {"task": "age", "classes": AGE.classes}
    change(folder / "labels.json", **changed, years=AGE.years, centre_years=AGE.centre_years)
    change(folder / "card.json", **changed)
    assert "one output for each of 4 classes, got 2" in refusal(folder)


def test_a_network_that_is_replaced_after_its_card_was_read(folder):
    trained = model_folder.load_model(folder)
    network(2).save(folder / "model.keras")
    with pytest.raises(ModelFolderError, match="replaced after its card was read; load the folder again"):
        trained.model  # noqa: B018


@pytest.mark.parametrize("name", ["task", "classes", "alignment", "model_sha256"])
def test_a_card_without_an_entry(folder, name):
    card = json.loads((folder / "card.json").read_text())
    del card[name]
    (folder / "card.json").write_text(json.dumps(card))
    assert f"labels.json or card.json lacks '{name}'" in refusal(folder)


@pytest.mark.parametrize(
    "alignment, message",
    [
        ({"size": 227}, "require eyes"),
        ({"size": 8}, "size >= 16"),
        ({"colour_order": "BGR"}, "require colour_order RGB, card.json has BGR"),
        ({"eyes": [[1, 2], [3, 4]]}, "require eyes"),
        ({"size": 32, "eyes": Alignment(32, 0.3, 0.4).eyes.tolist()}, "the alignment produces uint8 (None, 32, 32, 3)"),
    ],
)
def test_another_alignment(folder, alignment, message):
    card = json.loads((folder / "card.json").read_text())
    change(folder / "card.json", alignment=card["alignment"] | alignment)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "calibration", [{"unsure_below": 1.5}, {"unsure_below": 0.5, "bands": [0, 7]}, {"sure": 1}, {}, [0.5]]
)
def test_a_damaged_calibration(folder, calibration):
    change(folder / "card.json", calibration=calibration)
    assert "cannot be used" in refusal(folder)


@pytest.mark.parametrize("name", ["labels.json", "card.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1, 2]", b"{}"])
def test_damaged_json(folder, name, content):
    (folder / name).write_bytes(content)
    assert "cannot be used" in refusal(folder)


def test_a_lambda_layer_is_refused_and_not_run(folder, tmp_path):
    proof = str(tmp_path / "proof")
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.Lambda(lambda face: (Path(proof).touch(), face[:, 0, 0])[1])(face)
    keras.Model(face, layers.Dense(2, activation="softmax")(layers.Rescaling(1.0)(x))).save(folder / "model.keras")
    update_hash(folder)
    Path(proof).unlink()
    assert "Lambda" in refusal(folder)
    assert not Path(proof).exists()


def test_my_model_and_the_released_one_are_found_side_by_side(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "MODELS", tmp_path)
    with pytest.raises(ModelFolderError, match="models/sample-gender/ and models/gender/: notebook 1 trains one"):
        model_folder.find_models("gender", "sample")
    mine, released = tmp_path / "sample-gender", tmp_path / "gender"
    shutil.copytree(saved, released)
    assert model_folder.find_models("gender", "sample") == {"released": released}
    with pytest.raises(ModelFolderError, match="no gender model in models/sample-gender/"):
        model_folder.find_models("gender", "sample", "mine")
    shutil.copytree(saved, mine)
    both = model_folder.find_models("gender", "sample")
    assert list(both.items()) == [("mine", mine), ("released", released)]
    assert model_folder.find_models("gender", "sample", "mine") == {"mine": mine}
    with pytest.raises(ValueError, match="must be mine, released or both, got 'yours'"):
        model_folder.find_models("gender", "sample", "yours")
    table = model_folder.summarise_models(both)
    assert table["folder"].to_dict() == {name: f"{tmp_path.name}/{folder.name}" for name, folder in both.items()}
    assert set(table["accuracy on its own test faces"]) == {"50.0% (n = 1,200)"}
