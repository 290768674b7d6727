"""Training on several devices with the JAX backend: four virtual devices of the CPU, and two processes as hosts."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from src.config import ROOT

pytestmark = pytest.mark.slow

TRAIN = """
import json, sys
from pathlib import Path
import numpy as np
from src.keras_setup import data_parallel, device_count, keras, layers
from src.models.train import TrainingSettings, fit, predict_probabilities

hosts, number = sys.argv[2], int(sys.argv[3])
count = hosts.count(",") + 1
if hosts:
    keras.distribution.initialize(hosts, count, number)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
rng = np.random.default_rng(1)
labels = np.arange(71) % 2
faces = np.uint8(np.clip(rng.normal(110, 30, (71, 24, 24, 3)) + 90 * labels[:, None, None, None], 0, 255))
split = np.array(["train"] * 48 + ["validation"] * 23, object)  # 23 is no multiple of four
face = keras.Input((24, 24, 3), dtype="uint8")
start = keras.initializers.HeNormal(1)
x = layers.Conv2D(4, 5, 3, activation="relu", kernel_initializer=start)(layers.Rescaling(1 / 127.5, offset=-1)(face))
x = layers.BatchNormalization(momentum=0.5)(layers.Flatten()(x))
model = keras.Model(face, layers.Dense(2, activation="softmax", kernel_initializer=start)(x))
settings = TrainingSettings(epochs=6, batch_size=16 // count, learning_rate=2e-2, patience=99)
rows = np.arange(71)
mine = rows[rows // 2 % count == number]
model, history = fit(model, faces, mine, labels[mine], split[mine], settings, checkpoint_folder=Path(sys.argv[1]))
found = {"history": history.to_dict("list"), "weights": [weights.tolist() for weights in model.get_weights()]}
with data_parallel():
    found["devices"] = device_count()
    if not hosts:
        found["across"] = predict_probabilities(keras.models.clone_model(model), faces, rows).shape
if not hosts:
    found["probability"] = predict_probabilities(model, faces, rows).tolist()
print(json.dumps(found))
"""


def start(folder, devices, hosts="", number=0):
    env = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", TRAIN, str(folder), hosts, str(number)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(running):
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return result_of(start(tmp_path_factory.mktemp("four"), 4))


def test_four_devices_learn_and_predict_every_face(four):
    assert four["devices"] == 4 and four["across"] == [71, 2]
    probability = np.array(four["probability"])
    assert probability.shape == (71, 2) and np.allclose(probability.sum(axis=1), 1, atol=1e-5)
    assert four["history"]["val_accuracy"][-1] > 0.9
    # The 23 validation faces all count, and once: each share is a multiple of 1 / 23.
    shares = np.array(four["history"]["val_accuracy"]) * 23
    assert np.allclose(shares, shares.round(), atol=1e-3)


def test_four_devices_learn_what_one_learns(four, tmp_path):
    one = result_of(start(tmp_path, 1))
    assert one["devices"] == 1
    for name in ("loss", "accuracy", "val_accuracy"):
        assert np.allclose(one["history"][name], four["history"][name], atol=0.02), name
    assert np.abs(np.array(one["probability"]) - four["probability"]).max() < 0.05


def test_two_hosts_train_one_network(tmp_path):
    """Two processes as two hosts, as in docs/training.md: each has half of the faces, both end with the same network."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        hosts = ",".join(f"127.0.0.1:{place.getsockname()[1]}" for place in (one, other))
    first, second = [result_of(host) for host in [start(tmp_path / f"{i}", 1, hosts, i) for i in (0, 1)]]
    assert first["devices"] == second["devices"] == 2
    assert first["weights"] == second["weights"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert first["history"][name] == second["history"][name], name
    assert first["history"]["val_accuracy"][-1] > 0.9
