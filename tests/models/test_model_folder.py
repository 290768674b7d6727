"""Model folders: what is saved comes back the same, and what is damaged or does not fit is refused in one sentence."""

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
from src.keras_setup import keras
from src.models import model_folder, two_level_cnn
from src.models.model_folder import FILES, Labels, ModelFolderError

SMALL = 127
ALIGNMENT = Alignment(size=SMALL, eye_distance=0.3, eye_height=0.4, gamma=True)
GENDER = Labels("gender", ("female", "male"))
GROUPS = AGE_GROUPS["four"]
AGE = Labels("age", GROUPS.names, GROUPS.years, (6.5, 24.25, 44.0, 68.0))


@pytest.fixture(scope="module")
def model():
    return two_level_cnn.two_level_cnn(2, SMALL)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "gender"
    trained_on = {"dataset": "made", "faces": np.int64(12)}
    return model_folder.save_model(
        folder, model, GENDER, ALIGNMENT, trained_on, [{"name": "accuracy", "value": np.float64(0.5)}]
    )


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved folder, to be spoilt."""
    return shutil.copytree(saved, tmp_path / "gender")


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def trust(folder):
    """Makes the card vouch for whatever model.keras now is."""
    change(folder / "card.json", model_sha256=hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest())


def refused(folder):
    """What loading says, which must be one sentence of one line."""
    with pytest.raises(ModelFolderError) as caught:
        model_folder.load_model(folder)
    message = str(caught.value)
    assert str(folder) in message and len(message) - len(str(folder)) < 300
    assert "\n" not in message and "\x1b" not in message and ". " not in message and not message.endswith(".")
    return message


# --- there and back ---------------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(model, saved):
    loaded = model_folder.load_model(saved)
    assert (loaded.labels, loaded.alignment) == (GENDER, ALIGNMENT)
    faces = np.random.default_rng(1).integers(0, 256, (5, SMALL, SMALL, 3), np.uint8)
    assert np.array_equal(loaded.model.predict(faces, verbose=0), model.predict(faces, verbose=0))
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    card = loaded.card
    assert card["trained_on"] == {"dataset": "made", "faces": 12} and card["results"][0]["value"] == 0.5
    assert card["alignment"]["eyes"] == ALIGNMENT.eyes.tolist() and card["alignment"]["colour_order"] == "RGB"
    assert card["model_sha256"] == hashlib.sha256((saved / "model.keras").read_bytes()).hexdigest()
    assert {"python", "keras", "dlib"} <= set(card["versions"])


def test_age_labels_come_back(tmp_path):
    model_folder.save_model(tmp_path / "age", two_level_cnn.two_level_cnn(4, SMALL), AGE, ALIGNMENT, {}, [])
    assert model_folder.load_model(str(tmp_path / "age")).labels == AGE
    assert json.loads((tmp_path / "age" / "labels.json").read_text())["classes"] == ["Kid", "Youth", "Adult", "Old"]


def test_nothing_is_pickled(saved):
    with zipfile.ZipFile(saved / "model.keras") as archive:
        assert set(archive.namelist()) == {"metadata.json", "config.json", "model.weights.h5"}


def test_saving_again_replaces_the_folder(folder):
    (folder / "old.txt").write_text("x")
    model_folder.save_model(folder, two_level_cnn.two_level_cnn(4, SMALL), AGE, ALIGNMENT, {}, [])
    assert model_folder.load_model(folder).labels == AGE
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_calibration_comes_back_and_a_card_without_one_is_fine(model, saved, tmp_path):
    assert model_folder.load_model(saved).calibration is None and "calibration" not in json.loads(
        (saved / "card.json").read_text()
    )
    entry = {"unsure_below": np.float64(0.7), "bands": (0, 20), "quantiles": (1.5, 1.4)}
    folder = model_folder.save_model(tmp_path / "gender", model, GENDER, ALIGNMENT, {}, [], entry)
    assert model_folder.load_model(folder).calibration == Calibration(0.7, (0, 20), (1.5, 1.4))
    model_folder.save_model(folder, model, GENDER, ALIGNMENT, {}, [], {"unsure_below": 0.5})
    assert model_folder.load_model(folder).calibration == Calibration(0.5)


def test_single_years_are_the_101_years_and_nothing_else():
    names = tuple(str(year) for year in range(101))
    years = tuple((year, year) for year in range(101))
    assert Labels("age", names, years, tuple(range(101))).single_years
    assert not AGE.single_years and not GENDER.single_years
    assert not Labels("age", names[1:], years[1:], tuple(range(100))).single_years


# --- refused on loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    assert f"missing: {name}" in refused(folder)


def test_no_folder_at_all(tmp_path):
    assert "missing: model.keras, labels.json, card.json" in refused(tmp_path / "nowhere")


def test_one_bit_flipped_in_the_model(folder):
    content = bytearray((folder / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.keras").write_bytes(content)
    assert "damaged or was changed" in refused(folder)
    trust(folder)  # a card that vouches for it does not make it whole
    assert "can't be used" in refused(folder)


def test_a_model_cut_short(folder):
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:5000])
    trust(folder)
    assert "can't be used" in refused(folder)


@pytest.mark.parametrize("promised", ["0" * 64, "", None, 7])
def test_another_hash_in_the_card(folder, promised):
    change(folder / "card.json", model_sha256=promised)
    assert "SHA-256" in refused(folder)


@pytest.mark.parametrize(
    "labels, said",
    [
        ({"classes": ["male", "female"]}, r"['male', 'female'], card.json gender classes ['female', 'male']"),
        ({"classes": ["female"]}, "at least two different names, got ['female']"),
        ({"classes": ["male", "male"]}, "at least two different names"),
        ({"classes": ["women", "men"]}, "gender classes must be female and male"),
        ({"classes": "female"}, "not as this version writes it"),
        ({"classes": 2}, "not as this version writes it"),
        ({"classes": [{}, []]}, "not as this version writes it"),
        ({"task": "race"}, "task must be gender or age, got 'race'"),
        ({"task": "age"}, "age labels need years and centre_years for 2 classes"),
        ({"years": [[0, 2], [4, 6]], "centre_years": [1, 5]}, "gender labels need years and centre_years for 0 classes"),
        ({"task": "age", "years": [[0, 2], [4, 6]], "centre_years": [1, 5]}, "card.json gender"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_labels_that_do_not_fit(folder, labels, said):
    change(folder / "labels.json", **labels)
    assert said in refused(folder)


def test_labels_and_card_that_fit_each_other_but_not_the_model(folder):
    changed = {"task": "age", "classes": AGE.classes}
    change(folder / "labels.json", **changed, years=AGE.years, centre_years=AGE.centre_years)
    change(folder / "card.json", **changed)
    assert "the model has 2 outputs, labels.json names 4 classes" in refused(folder)


@pytest.mark.parametrize(
    "entry",
    [{"years": [[50, 60], [0, 12], [13, 20], [21, 49]]}, {"centre_years": [60, 40, 15, 5]}, {"centre_years": ["x"] * 4}],
)
def test_ages_that_are_no_ages(tmp_path, entry):
    with pytest.raises(ValueError):
        Labels(**{"task": "age", "classes": AGE.classes, "years": AGE.years, "centre_years": AGE.centre_years} | entry)


@pytest.mark.parametrize("name", ["task", "classes", "alignment", "model_sha256"])
def test_a_card_without_an_entry(folder, name):
    card = json.loads((folder / "card.json").read_text())
    del card[name]
    (folder / "card.json").write_text(json.dumps(card))
    assert name in refused(folder)


@pytest.mark.parametrize(
    "alignment, said",
    [
        ({"size": 227}, "the alignment gives uint8 (None, 227, 227, 3)"),
        ({"size": 8}, "size >= 16"),
        ({"size": "127"}, "not as this version writes it"),
        ({"colour_order": "BGR"}, "must be RGB, card.json says 'BGR'"),
        ({"eyes": [[1, 2], [3, 4]]}, "are not those of its alignment"),
    ],
)
def test_another_alignment(folder, alignment, said):
    card = json.loads((folder / "card.json").read_text())
    change(folder / "card.json", alignment=card["alignment"] | alignment)
    assert said in refused(folder)


DAMAGED = [
    ({"unsure_below": 1.5}, "unsure_below must be a number from 0 to 1, got 1.5"),
    ({"unsure_below": "0.5"}, "unsure_below must be a number from 0 to 1, got '0.5'"),
    ({"unsure_below": float("nan")}, "unsure_below must be a number from 0 to 1, got nan"),
    ({"bands": [0, 7]}, "one for each of the bands"),
    ({"bands": [0, 7, 7]}, "bands must be rising whole years"),
    ({"bands": [1, 7, 13]}, "the first 0"),
    ({"bands": [0, 7, 13.5]}, "bands must be rising whole years"),
    ({"bands": [0, 7, 101]}, "years from 0 to 100"),
    ({"bands": 3}, "one for each of the bands"),
    ({"quantiles": [1.4, 1.4, 51]}, "quantiles must be numbers from 0 to 50.5"),
    ({"quantiles": [1.4, 1.4, None]}, "quantiles must be numbers from 0 to 50.5"),
    ({"sure": 1}, "sure"),
]


@pytest.mark.parametrize("damage, said", DAMAGED)
def test_a_damaged_calibration(folder, damage, said):
    whole = {"unsure_below": 0.5, "bands": [0, 7, 13], "quantiles": [1.4, 1.4, 1.4]}
    change(folder / "card.json", calibration=whole)
    model_folder.load_model(folder)
    change(folder / "card.json", calibration=whole | damage)
    assert said in refused(folder)


@pytest.mark.parametrize("entry, said", [([0.5], "must be an object, got [0.5]"), ({}, "unsure_below")])
def test_a_calibration_that_is_none(folder, entry, said):
    change(folder / "card.json", calibration=entry)
    assert said in refused(folder)


@pytest.mark.parametrize("name", ["labels.json", "card.json"])
@pytest.mark.parametrize(
    "content, said",
    [
        (b"{", "no readable JSON"),
        (b"", "no readable JSON"),
        (b"\xff\xfe", "no readable JSON"),
        (b"[1, 2]", "must hold a JSON object, got list"),
        (b"null", "must hold a JSON object, got NoneType"),
        (b"{}", "not as this version writes it"),
    ],
)
def test_json_that_is_none(folder, name, content, said):
    (folder / name).write_bytes(content)
    assert said in refused(folder)


def test_a_lambda_layer_is_refused_though_the_hash_fits(folder, tmp_path):
    """Its code would have written a file."""
    proof = str(tmp_path / "proof")
    face = keras.Input((SMALL, SMALL, 3), dtype="uint8")
    x = keras.layers.Lambda(lambda face: (Path(proof).touch(), face[:, 0, 0])[1])(face)
    x = keras.layers.Dense(2, activation="softmax")(keras.layers.Rescaling(1.0)(x))
    keras.Model(face, x).save(folder / "model.keras")
    trust(folder)
    Path(proof).unlink()
    assert "Lambda" in refused(folder)
    assert not Path(proof).exists()


def test_a_model_that_takes_floats(folder):
    face = keras.Input((SMALL, SMALL, 3))
    small = keras.layers.AveragePooling2D(SMALL)(face)
    keras.Model(face, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(small))).save(folder / "model.keras")
    trust(folder)
    assert "the model takes float32" in refused(folder)


def fails_on_dark_faces(folder):
    """A folder whose model loads, but fails for any dark face, as models of another version of Keras may."""
    face = keras.Input((SMALL, SMALL, 3), dtype="uint8")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(-1.0, offset=255.0)(face))
    x = keras.layers.Flatten()(keras.layers.Embedding(20, 2)(mean))
    keras.Model(face, keras.layers.Dense(2, activation="softmax")(x)).save(folder / "model.keras")
    trust(folder)


def test_a_model_of_another_keras_that_loads_but_fails(folder):
    fails_on_dark_faces(folder)
    model_folder.load_model(folder)
    versions = json.loads((folder / "card.json").read_text())["versions"]
    change(folder / "card.json", versions=versions | {"keras": "3.10.0"})
    said = refused(folder)
    assert "3.10.0" in said and keras.__version__ in said


@pytest.mark.parametrize("versions", [{"keras": "3.10.0"}, {}, None, [1]])
def test_a_model_of_another_or_an_unknown_keras_that_works(folder, model, versions):
    change(folder / "card.json", versions=versions)
    assert model_folder.load_model(folder).model.count_params() == model.count_params()


@pytest.mark.parametrize("name", ["trained_on", "results", "versions"])
def test_a_card_without_an_entry_that_predictions_do_not_need(folder, name):
    card = json.loads((folder / "card.json").read_text())
    del card[name]
    (folder / "card.json").write_text(json.dumps(card))
    assert model_folder.load_model(folder).model.output_shape == (None, 2)


def test_a_model_that_changes_after_its_folder_was_loaded(folder):
    """Keras reads the file only when its model is asked for."""
    loaded = model_folder.load_model(folder)
    (folder / "model.keras").write_bytes(b"x")
    with pytest.raises(ModelFolderError, match="damaged or was changed"):
        loaded.model  # noqa: B018


# --- refused on saving ------------------------------------------------------------------------------------------------


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saving_what_does_not_fit_is_refused_before_anything_is_written(model, folder):
    before = snapshot(folder)
    with pytest.raises(ValueError, match="2 outputs, labels.json names 4 classes"):
        model_folder.save_model(folder, model, AGE, ALIGNMENT, {}, [])
    with pytest.raises(ValueError, match="the alignment gives uint8"):
        model_folder.save_model(folder, model, GENDER, Alignment(), {}, [])
    with pytest.raises(ValueError, match="unsure_below must be a number from 0 to 1, got 2"):
        model_folder.save_model(folder, model, GENDER, ALIGNMENT, {}, [], {"unsure_below": 2})
    assert snapshot(folder) == before and [path.name for path in folder.parent.iterdir()] == ["gender"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), None])
def test_interrupted_saving_leaves_the_old_folder_and_nothing_else(model, folder, error):
    class Results(list):
        def __iter__(self):
            raise error

    results = Results([1]) if error else [{"no JSON"}]
    before = snapshot(folder)
    with pytest.raises(type(error) if error else TypeError):
        model_folder.save_model(folder, model, GENDER, ALIGNMENT, {"new": True}, results)
    assert snapshot(folder) == before and [path.name for path in folder.parent.iterdir()] == ["gender"]
    model_folder.load_model(folder)


def test_interrupted_first_saving_leaves_nothing(model, tmp_path):
    with pytest.raises(TypeError, match="set has no place in a card"):
        model_folder.save_model(tmp_path / "gender", model, GENDER, ALIGNMENT, {}, [{"no JSON"}])
    assert list(tmp_path.iterdir()) == []
