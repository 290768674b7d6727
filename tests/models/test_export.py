"""Exported models: ONNX Runtime and LiteRT give Keras's answers for any number of faces, and nothing else is overwritten."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.config import MODELS, ROOT
from src.faces.align import Alignment
from src.keras_setup import keras, layers
from src.models import model_folder, two_level_cnn
from src.models.export import EXPORTED, export, litert_model, main, onnx_model
from src.models.model_folder import Labels, ModelFolderError
from src.sample.face_model import FaceModel

SMALL = 100  # pixels: odd sizes follow inside the network, where averages at the edge count fewer pixels
RUNTIMES = {"model.onnx": onnx_model, "model.tflite": litert_model}


@pytest.fixture(scope="module")
def drawn():
    """32 faces of all age groups and both genders: a list of uint8 (h, w, 3)."""
    space, rng = FaceModel.load(), np.random.default_rng(1)
    return [space.face(space.draw(i % 8, ("female", "male")[i % 2], rng)) for i in range(32)]


@pytest.fixture(scope="module")
def residual(drawn, tmp_path_factory):
    """A saved residual network with weights as if trained: fresh ones let each block pass all unchanged."""
    first, rng = two_level_cnn.with_mirror_image(two_level_cnn.residual_level_one(SMALL)), np.random.default_rng(1)
    normalisations = [x for x in first.get_layer("trunk").layers if isinstance(x, layers.BatchNormalization)]
    for layer in normalisations:
        layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    assert len(normalisations) > 14, "two and more a block"
    head = layers.Dense(2, activation="softmax")
    model = keras.Model(first.input, head(first.output))
    features = first.predict(faces_for(model, drawn), verbose=0)
    kernel = rng.normal(0, 1, head.kernel.shape) / features.std(axis=0).max()
    head.set_weights([kernel, -features.mean(axis=0) @ kernel])
    folder = tmp_path_factory.mktemp("models") / "residual"
    return model_folder.save_model(folder, model, Labels("gender", ("female", "male")), Alignment(size=SMALL), {}, [])


@pytest.fixture(scope="module", params=["gender", "age", "residual"])
def both(request, tmp_path_factory):
    """(model folder, its export) of the released models and the residual one."""
    folder = request.getfixturevalue("residual") if request.param == "residual" else MODELS / request.param
    target = tmp_path_factory.mktemp("exported") / request.param
    assert export(folder, target) == [target / name for name in EXPORTED]
    return folder, target


def faces_for(model, drawn):
    return np.stack([cv2.resize(face, model.input_shape[1:3], interpolation=cv2.INTER_AREA) for face in drawn])


# --- the same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("threads", [1, 2])
def test_answers_are_those_of_keras_for_any_number_of_faces(both, drawn, name, threads):
    folder, target = both
    model = model_folder.load_model(folder).model
    faces = faces_for(model, drawn)
    expected = keras.ops.convert_to_numpy(model(faces, training=False))
    assert np.ptp(expected, axis=0).max() > 0.05, "faces that are all answered alike would show nothing"
    answers = RUNTIMES[name](target / name, threads)
    for count in (1, 5, 32, 1):  # in one go: an answer must not depend on the call before
        got = answers(faces[:count])
        assert got.shape == (count, model.output_shape[-1]) and got.dtype == np.float32
        np.testing.assert_allclose(got, expected[:count], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", RUNTIMES)
def test_other_faces_are_refused(both, drawn, name):
    """Faces scaled to 0-1, or of another size, would else be answered wrongly."""
    folder, target = both
    faces = faces_for(model_folder.load_model(folder).model, drawn)[:2]
    answers = RUNTIMES[name](target / name)
    before = answers(faces)
    for other in (np.float32(faces / 255), faces[:, :50], faces[0], faces[:0]):
        with pytest.raises(ValueError, match="the model takes uint8"):
            answers(other)
    assert np.array_equal(answers(faces), before)


# --- the files --------------------------------------------------------------------------------------------------------


def test_labels_and_card_come_along(both):
    folder, target = both
    assert sorted(path.name for path in target.iterdir()) == sorted(EXPORTED)
    for name in ("labels.json", "card.json"):
        assert (target / name).read_bytes() == (folder / name).read_bytes()


def test_an_earlier_export_is_replaced(residual, tmp_path):
    for name in EXPORTED[:3]:
        (tmp_path / name).write_bytes(b"old")
    export(residual, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(EXPORTED)
    assert b"old" not in [path.read_bytes() for path in tmp_path.iterdir()]


def test_a_folder_with_anything_else_is_left_alone(residual):
    before = {path.name: path.read_bytes() for path in residual.iterdir()}
    with pytest.raises(ValueError, match="holds other files than an export's, such as model.keras"):
        export(residual, residual)
    assert {path.name: path.read_bytes() for path in residual.iterdir()} == before


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelFolderError, match="is no model folder: .* missing: model.keras, labels.json, card.json"):
        export(tmp_path, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_and_names_the_files(residual, tmp_path, capsys):
    assert main([str(residual), "--to", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said] == [str(tmp_path / "new" / "residual" / name) for name in EXPORTED]
    assert all((tmp_path / "new" / "residual" / name).is_file() for name in EXPORTED)


def test_the_command_says_what_is_wrong(residual, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), "--to", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "is no model folder" in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        main([str(residual), str(residual), "--to", str(tmp_path / "new")])
    assert stop.value.code == 2 and "different names, got residual, residual" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_command_exports_whatever_the_users_backend_is(residual, tmp_path):
    """Only TensorFlow can export."""
    done = subprocess.run(
        [sys.executable, "-m", "src.models.export", str(residual), "--to", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "residual").iterdir()) == sorted(EXPORTED)


def test_within_another_backend_the_export_is_refused(residual, tmp_path):
    code = "import sys; import src.keras_setup; from src.models.export import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(residual), "--to", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "TensorFlow" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
