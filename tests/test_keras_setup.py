"""Keras's settings: what is imported with it, its backend, and a user's own keras.json; each case in a fresh process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from src.config import ROOT
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


def test_prediction_does_not_import_what_only_training_needs():
    names = "{'sklearn', 'jax', 'scipy.stats', 'scipy.optimize'}"
    code = f"import sys, src.predict.predictor; print(*sorted({names} & set(sys.modules)))"
    assert python(code) == []


@pytest.mark.slow
def test_packages_that_keras_skips_can_be_imported_later():
    code = (
        "import src.keras_setup, sklearn.metrics, jax, keras; print(sklearn.__name__, jax.__name__, keras.config.backend())"
    )
    assert python(code) == ["sklearn", "jax", "tensorflow"]


@pytest.mark.slow
def test_a_users_keras_json_changes_no_setting_and_the_environment_chooses_the_backend(tmp_path):
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "torch", "epsilon": 0.1}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = (
        "from src.keras_setup import keras; c = keras.config; "
        "print(c.backend(), c.image_data_format(), c.floatx(), c.epsilon())"
    )
    for backend in ("", "jax"):
        found = python(code, KERAS_HOME=str(tmp_path), KERAS_BACKEND=backend)
        assert found == [backend or "tensorflow", "channels_last", "float32", "1e-07"]


@pytest.fixture(scope="module")
def keras_only(tmp_path_factory):
    """A model folder with an activation that only Keras knows."""
    face = keras.Input((64, 64, 3), dtype="uint8", name="face")
    x = layers.Conv2D(4, 7, 7, activation="gelu")(layers.Rescaling(1 / 255)(face))
    network = two_level_cnn.two_level_cnn(2, level_one_model=keras.Model(face, layers.Flatten()(x), name="level_one"))
    folder, labels = tmp_path_factory.mktemp("models") / "gender", Labels("gender", ("female", "male"))
    return model_folder.save_model(folder, network, labels, Alignment(size=64), {}, [])


LOAD = """
import sys, numpy as np
from src.models import model_folder
model = model_folder.load_model(sys.argv[1]).model
faces = np.random.default_rng(1).integers(0, 256, (2, *model.input_shape[1:]), np.uint8)
print(*model.predict(faces, verbose=0)[:, 0])
"""


@pytest.mark.slow
def test_a_model_gives_the_same_on_both_backends(keras_only):
    results = [python(LOAD, str(keras_only), KERAS_BACKEND=backend) for backend in ("tensorflow", "jax")]
    one, other = (np.array(result, float) for result in results)
    assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.slow
def test_an_unsupported_backend_is_one_sentence(keras_only, tmp_path):
    commands = [("-m", "src.run_notebooks"), ("-m", "src.predict", str(tmp_path), "--gender-model", str(keras_only))]
    for command in commands:
        done = run_python(*command, KERAS_BACKEND="torch")
        assert done.returncode == 2, command
        assert done.stderr.count("\n") == 1 and "must be tensorflow or jax, got 'torch'" in done.stderr


def test_released_models_predict_without_keras(tmp_path):
    done = run_python("-m", "src.predict", str(tmp_path), KERAS_BACKEND="nonsense")
    assert done.returncode == 0 and "no photo found" in done.stdout
