"""Exported models: ONNX Runtime and LiteRT give the probabilities of Keras, and no other files are overwritten."""

import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from src.config import MODELS, ROOT
from src.faces.align import Alignment
from src.keras_setup import keras, layers
from src.models import model_folder
from src.models.export import EXPORTED_FILES, export, main
from src.models.model_folder import Labels, ModelFolderError

SIZE = 16


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder with a small network."""
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="face")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, 2)(layers.Rescaling(1 / 255)(face)))
    model = keras.Model(face, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))
    folder = tmp_path_factory.mktemp("models") / "gender"
    return model_folder.save_model(folder, model, Labels("gender", ("female", "male")), Alignment(size=SIZE), {}, [])


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """The folder that the command wrote, over an earlier export."""
    target = tmp_path_factory.mktemp("exported")
    (target / "gender").mkdir()
    (target / "gender" / "model.onnx").write_bytes(b"old")
    assert main([str(saved), "--to", str(target)]) == 0
    return target / "gender"


def run_onnx(file, faces):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: faces})[0]


def run_litert(file, faces):
    run = Interpreter(str(file)).get_signature_runner()
    (face,), (probability,) = run.get_input_details(), run.get_output_details()
    return run(**{face: faces})[probability]


def assert_equal_probabilities(folder, target):
    model = model_folder.load_model(folder).model
    faces = np.random.default_rng(1).integers(0, 256, (5, *model.input_shape[1:]), np.uint8)
    expected = np.asarray(model(faces, training=False))
    for count in (1, 5):
        for probability in (
            run_onnx(target / "model.onnx", faces[:count]),
            run_litert(target / "model.tflite", faces[:count]),
        ):
            assert probability.shape == (count, model.output_shape[-1]) and probability.dtype == np.float32
            np.testing.assert_allclose(probability, expected[:count], atol=1e-3, rtol=0)


def test_exported_models_give_the_probabilities_of_keras(saved, exported):
    assert sorted(path.name for path in exported.iterdir()) == sorted(EXPORTED_FILES)
    for name in ("labels.json", "card.json"):
        assert (exported / name).read_bytes() == (saved / name).read_bytes()
    assert_equal_probabilities(saved, exported)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["gender", "age"])
def test_the_released_models_can_be_exported(task, tmp_path):
    assert export(MODELS / task, tmp_path) == [tmp_path / name for name in EXPORTED_FILES]
    assert_equal_probabilities(MODELS / task, tmp_path)


def test_what_cannot_be_exported_changes_nothing(saved, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(ValueError, match="contains other files than an export, such as model.keras"):
        export(saved, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    with pytest.raises(ModelFolderError, match="is not a model folder"):
        export(tmp_path, tmp_path / "exported")
    with pytest.raises(SystemExit) as stop:
        main([str(saved), str(saved), "--to", str(tmp_path / "new")])
    assert stop.value.code == 2 and "different names, got gender, gender" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_exports_whatever_the_users_backend_is(saved, tmp_path):
    env = os.environ | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-m", "src.models.export", str(saved), "--to", str(tmp_path / "exported")]
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    assert sorted(path.name for path in (tmp_path / "exported" / "gender").iterdir()) == sorted(EXPORTED_FILES)
    code = "import src.keras_setup; import src.processes as p; from src.models.export import main; p.run_command(main)"
    command = [sys.executable, "-c", code, str(saved), "--to", str(tmp_path / "jax")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: export requires Keras with TensorFlow, got jax")
    assert not (tmp_path / "jax").exists()
