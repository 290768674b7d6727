"""What `backend` imports, each case in a fresh process, since one imports a package only once."""

import os
import subprocess
import sys

from src.config import ROOT


def python(code: str, **variables: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"} | variables
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_whoever_predicts_does_not_wait_for_packages_that_only_training_needs():
    code = "import src.answers, sys; print(*sorted({'sklearn', 'jax', 'scipy.stats', 'scipy.optimize'} & set(sys.modules)))"
    assert python(code) == []


def test_packages_left_out_at_the_start_can_be_imported_later():
    code = "import src.backend, sklearn.metrics, jax, keras; print(sklearn.__name__, jax.__name__, keras.backend.backend())"
    assert python(code) == ["sklearn", "jax", "tensorflow"]


def test_the_backend_is_the_one_asked_for():
    assert python("from src.backend import keras; print(keras.backend.backend())", KERAS_BACKEND="jax") == ["jax"]
