"""Training on several devices at once: four that the CPU pretends to be, with the JAX backend, in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from src.config import ROOT
from src.train import FaceBatches, Settings

TRAIN = """
import json, sys
from pathlib import Path
import numpy as np
from src.backend import devices, keras, layers, over_all_devices
from src.train import FaceBatches, Settings, fit, predict

rng = np.random.default_rng(1)
labels = np.arange(74) % 2
faces = np.uint8(np.clip(rng.normal(110, 30, (74, 24, 24, 3)) + 50 * labels[:, None, None, None], 0, 255))
part = np.array(["train"] * 51 + ["validation"] * 23, object)  # neither is a multiple of four
face = keras.Input((24, 24, 3), dtype="uint8")
start = keras.initializers.HeNormal(1)
x = layers.Conv2D(4, 5, 3, activation="relu", kernel_initializer=start)(layers.Rescaling(1 / 255)(face))
x = layers.BatchNormalization()(layers.Flatten()(x))
model = keras.Model(face, layers.Dense(2, activation="softmax", kernel_initializer=start)(x))
settings = Settings(epochs=int(sys.argv[2]), batch_size=16, learning_rate=1e-2, patience=99)
model, history = fit(model, faces, np.arange(74), labels, part, settings, states=Path(sys.argv[1]))
with over_all_devices():
    several = devices()
    across = predict(keras.models.clone_model(model), faces, np.arange(74), 16).shape
probability = predict(model, faces, np.arange(74), 16)
print(json.dumps({"devices": several, "across": across, "history": history.to_dict("list"), "said": probability.tolist()}))
"""


def train(folder, devices, epochs=3):
    env = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), str(epochs)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return train(tmp_path_factory.mktemp("four"), 4)


def test_four_devices_learn_and_answer_for_every_face(four):
    assert four["devices"] == 4 and four["across"] == [74, 2]
    said = np.array(four["said"])
    assert said.shape == (74, 2) and np.allclose(said.sum(axis=1), 1, atol=1e-5)
    assert four["history"]["val_accuracy"][-1] > 0.9
    # The validation part's 23 faces all count, and once: each share is a multiple of 1 / 23.
    shares = np.array(four["history"]["val_accuracy"]) * 23
    assert np.allclose(shares, shares.round(), atol=1e-3)


def test_four_devices_go_on_where_they_stopped(four, tmp_path):
    train(tmp_path, 4, 3)
    again = train(tmp_path, 4, 3)
    assert np.allclose(again["said"], four["said"], atol=1e-5)


def test_four_devices_learn_what_one_learns(tmp_path, monkeypatch, four):
    """But for the three faces an epoch that wait, one of which stands in the next one."""
    one = train(tmp_path, 1)
    assert one["devices"] == 1
    assert np.abs(np.array(one["history"]["val_loss"]) - four["history"]["val_loss"]).max() < 0.1
    assert np.mean(np.argmax(one["said"], axis=1) == np.argmax(four["said"], axis=1)) > 0.95


def test_batches_for_several_devices(monkeypatch):
    monkeypatch.setattr("src.train.devices", lambda: 4)
    faces, labels = np.zeros((10, 8, 8, 3), np.uint8), np.arange(10)
    held = [FaceBatches(faces, np.arange(10), labels, 8)[i] for i in range(2)]
    assert [len(batch[0]) for batch in held] == [8, 4]
    assert held[1][2].tolist() == [1, 1, 0, 0] and held[1][1][:2].tolist() == [8, 9]
    training = FaceBatches(faces, np.arange(10), labels, 8, Settings())
    seen = [set(training.order)]
    for _ in range(20):
        training.on_epoch_end()
        seen.append(set(training.order))
    assert {len(epoch) for epoch in seen} == {8} and set.union(*seen) == set(range(10))
    with pytest.raises(ValueError, match="multiple of the 4 devices, got 6"):
        FaceBatches(faces, np.arange(10), labels, 6)
