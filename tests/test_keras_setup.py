"""Keras's settings: what is imported with it, its backend, and a user's own keras.json; each case in a fresh process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from src.config import MODELS, ROOT
from src.faces.align import Alignment
from src.keras_setup import keras, layers
from src.models import model_folder, two_level_cnn
from src.models.model_folder import Labels


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"} | variables
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def python(code: str, *arguments: str, **variables: str) -> list[str]:
    done = run_python("-c", code, *arguments, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.fixture(scope="module")
def keras_only(tmp_path_factory):
    """A model folder with an activation that only Keras knows."""
    face = keras.Input((64, 64, 3), dtype="uint8", name="face")
    x = layers.Conv2D(4, 7, 7, activation="gelu")(layers.Rescaling(1 / 255)(face))
    first = keras.Model(face, layers.Flatten()(x), name="level_one")
    folder = tmp_path_factory.mktemp("models") / "gender"
    return model_folder.save_model(
        folder, two_level_cnn.two_level_cnn(2, first=first), Labels("gender", ("female", "male")), Alignment(size=64), {}, []
    )


def test_whoever_predicts_does_not_wait_for_packages_that_only_training_needs():
    names = "{'sklearn', 'jax', 'scipy.stats', 'scipy.optimize'}"
    code = f"import sys, src.predict.predictor; print(*sorted({names} & set(sys.modules)))"
    assert python(code) == []


def test_packages_left_out_at_the_start_can_be_imported_later():
    code = (
        "import src.keras_setup, sklearn.metrics, jax, keras; print(sklearn.__name__, jax.__name__, keras.backend.backend())"
    )
    assert python(code) == ["sklearn", "jax", "tensorflow"]


def test_the_backend_is_the_one_asked_for():
    assert python("from src.keras_setup import keras; print(keras.backend.backend())", KERAS_BACKEND="jax") == ["jax"]


LOADED = """
import sys, numpy as np
from src import model_folder
for folder in sys.argv[1:]:
    model = model_folder.load(folder).model
    faces = np.random.default_rng(1).integers(0, 256, (2, *model.input_shape[1:]), np.uint8)
    print(*model.predict(faces, verbose=0)[:, 0])
"""


def test_a_users_keras_json_changes_no_model(keras_only, tmp_path):
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "torch", "epsilon": 0.1}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    folders = [str(MODELS / "gender"), str(keras_only)]
    given = python(LOADED, *folders, KERAS_HOME=str(tmp_path))
    expected: list[float] = []
    for folder in folders:
        model = model_folder.load_model(folder).model
        faces = np.random.default_rng(1).integers(0, 256, (2, *model.input_shape[1:]), np.uint8)
        expected += model.predict(faces, verbose=0)[:, 0].tolist()
    assert [float(number) for number in given] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("backend", ["torch", "openvino", "nonsense"])
def test_an_unsupported_backend_is_one_sentence(backend, keras_only, tmp_path):
    commands = {
        "run": ("-m", "src.run", "--notebooks", "1"),
        "train_residual": ("-m", "experiments.train_residual", "--help"),
        "predict": ("-m", "src.predict", str(tmp_path), "--gender-model", str(keras_only)),
    }
    for name in commands if backend == "nonsense" else ["predict"]:
        done = run_python(*commands[name], KERAS_BACKEND=backend)
        assert done.returncode == 2, name
        assert done.stderr.count("\n") == 1 and "must be tensorflow or jax" in done.stderr and repr(backend) in done.stderr


def test_released_models_need_no_backend_and_predict_whatever_it_is(tmp_path):
    done = run_python("-m", "src.predict", str(tmp_path), KERAS_BACKEND="nonsense")
    assert done.returncode == 0 and "no photo found" in done.stdout
