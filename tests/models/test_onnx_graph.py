"""Models in ONNX Runtime: the same probabilities as in Keras, and anything unknown is left to Keras."""

import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.training_steps import mirrored_level_one
from src.config import MODELS, ROOT
from src.faces.align import Alignment
from src.keras_setup import keras, layers, ops
from src.models import model_folder
from src.models.model_folder import Labels
from src.models.onnx_graph import UnsupportedModelError, compile_graphs, read_graph
from src.models.residual import residual_level_one
from src.models.two_level_cnn import level_two, two_level_cnn
from src.predict.inference import build_runners

SIZE = 33  # odd, so that windows at the edge hold fewer pixels


def faces_of(size):
    """Noise around another colour for each face; to a network, all noise looks the same."""
    rng = np.random.default_rng(1)
    return np.uint8(rng.integers(0, 200, (5, 1, 1, 3)) + rng.integers(0, 56, (5, size, size, 3)))


def network(*steps, size=SIZE):
    """A classifier whose level one consists of the given steps."""
    face = keras.Input((size, size, 3), dtype="uint8")
    x = face
    for step in steps:
        x = step(x)
    return with_level_two(keras.Model(face, x, name="level_one"))


def with_level_two(first, classes=2, seed=1):
    initial = keras.initializers.RandomNormal(stddev=0.05, seed=seed)
    second = layers.Dense(classes, activation="softmax", kernel_initializer=initial, name="level_two")
    face = keras.Input(first.input_shape[1:], dtype="uint8")
    return keras.Model(face, second(first(face)))


def with_random_statistics(model):
    """Changes the batch normalisation of a new network, which does nothing otherwise."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weights.shape) for weights in layer.get_weights()])
    return model


def content_of(model, folder):
    model.save(folder / "model.keras")
    return (folder / "model.keras").read_bytes()


def assert_equal_probabilities(model, folder, tolerance=1e-5):
    run = compile_graphs({"gender": read_graph(content_of(model, folder))})
    faces = faces_of(model.input_shape[1])
    expected = np.asarray(model(faces, training=False))
    assert np.ptp(expected, axis=0).max() > 1e-4, "the faces must be predicted differently"
    for count in (5, 1, 3):
        probability = run(faces[:count])["gender"]
        assert probability.shape == (count, model.output_shape[-1]) and probability.dtype == np.float32
        np.testing.assert_allclose(probability, expected[:count], atol=tolerance, rtol=0)


# --- known layers -----------------------------------------------------------------------------------------------------


def test_the_released_models_give_the_probabilities_of_keras():
    models = {task: model_folder.load_model(MODELS / task) for task in ("gender", "age")}
    ((tasks, run),) = build_runners(models).items()
    faces = faces_of(models["age"].alignment.size)
    probabilities = run(faces)
    assert tasks == ("gender", "age") == tuple(probabilities)
    for task, trained in models.items():
        np.testing.assert_allclose(probabilities[task], trained.model(faces, training=False), atol=1e-5, rtol=0)


def test_the_two_level_cnn(tmp_path):
    assert_equal_probabilities(with_random_statistics(two_level_cnn(2, 127)), tmp_path, 1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_residual_network(mirrored, tmp_path):
    first = residual_level_one(97)
    model = with_level_two(mirrored_level_one(first) if mirrored else first)
    model.get_layer("level_two").set_weights([weights / 20 for weights in model.get_layer("level_two").get_weights()])
    assert_equal_probabilities(with_random_statistics(model), tmp_path, 1e-4)


SCALED = layers.Rescaling(1 / 127.5, -1.0)
SUPPORTED = [
    [SCALED, layers.Conv2D(4, (5, 3), 3, activation="tanh"), layers.MaxPooling2D((3, 2), padding="same"), layers.Flatten()],
    [SCALED, layers.Conv2D(4, 7, (4, 3), "same"), layers.BatchNormalization(), layers.GlobalAveragePooling2D()],
    [SCALED, layers.AveragePooling2D(7, 4, "same"), layers.Activation("relu"), layers.Flatten(), layers.BatchNormalization()],
    [layers.Rescaling([0.01, 0.02, 0.005], [0.1, -0.3, 0.0]), layers.ReLU(0.5), layers.GlobalAveragePooling2D()],
    [SCALED, layers.DepthwiseConv2D((5, 3), 2, "same", use_bias=False), layers.Flatten(), layers.Dropout(0.5)],
    [lambda face: ops.flip(face, axis=1), SCALED, layers.Conv2D(4, 7, 7), layers.Flatten()],
]  # fmt: skip


@pytest.mark.parametrize("steps", SUPPORTED)
def test_supported_layers(steps, tmp_path):
    assert_equal_probabilities(with_random_statistics(network(*steps)), tmp_path)


def test_models_that_share_a_level_one_run_it_once(tmp_path):
    first, other = residual_level_one(64), residual_level_one(64, seed=2)
    gender, age, different = (
        read_graph(content_of(keras.Model(level.input, level_two(256, classes)(level.output)), tmp_path))
        for level, classes in ((first, 2), (first, 8), (other, 2))
    )
    convolutions = {name for name, node in age.nodes.items() if node.op_type == "Conv"}
    assert len(convolutions) > 15 and convolutions <= gender.nodes.keys()
    assert not convolutions & different.nodes.keys()


def test_other_faces_are_refused(tmp_path):
    run = compile_graphs({"gender": read_graph(content_of(network(*SUPPORTED[0]), tmp_path))})
    faces = faces_of(SIZE)
    for wrong in (np.float32(faces / 255), faces[:, :20], faces[0], faces[:0]):
        with pytest.raises(ValueError, match=r"faces must be uint8 \(1 or more, 33, 33, 3\)"):
            run(wrong)


# --- what is left to Keras --------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("test")
class ReLU(layers.Layer):
    """A user's own layer that has the name of one of Keras's."""

    def call(self, inputs):
        return -inputs


UNSUPPORTED = {
    "activation": [SCALED, layers.Conv2D(4, 7, 7, activation="gelu"), layers.Flatten()],
    "layer": [SCALED, layers.SeparableConv2D(4, 7, 7), layers.Flatten()],
    "threshold": [SCALED, layers.ReLU(threshold=0.2), layers.Flatten()],
    "dilation": [SCALED, layers.Conv2D(4, 7, dilation_rate=2), layers.Flatten()],
    "own layer": [SCALED, ReLU(), layers.Flatten()],
    "axis": [SCALED, layers.BatchNormalization(axis=1), layers.Flatten()],
    "precision": [SCALED, layers.Conv2D(4, 7, 7, dtype="mixed_bfloat16"), layers.Flatten()],
    "scale for each column": [layers.Rescaling([[1.0]] * SIZE), layers.Flatten()],
    "training mode": [SCALED, lambda x: layers.BatchNormalization()(x, training=True), layers.Flatten()],
    "resizing": [SCALED, lambda x: ops.image.resize(x, (20, 20)), layers.Flatten()],
    "overflow of uint8": [lambda face: ops.add(face, face), SCALED, layers.Flatten()],
    "constant": [SCALED, lambda x: ops.add(x, np.float32(1)), layers.Flatten()],
}


@pytest.mark.parametrize("steps", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unknown_layers_and_settings_are_left_to_keras(steps, tmp_path):
    with pytest.raises(UnsupportedModelError):
        read_graph(content_of(network(*steps), tmp_path))


def test_a_model_that_only_keras_can_run_predicts_beside_another(tmp_path):
    gender = network(*UNSUPPORTED["activation"])
    age = network(*SUPPORTED[0])
    labels = Labels("gender", ("female", "male")), Labels("age", ("0-9", "10-99"), ((0, 9), (10, 99)), (5.0, 40.0))
    models = {}
    for task, model in zip(labels, (gender, age)):
        folder = model_folder.save_model(tmp_path / task.task, model, task, Alignment(size=SIZE), {}, [])
        models[task.task] = model_folder.load_model(folder)
    networks = build_runners(models)
    assert models["gender"].graph is None and sorted(networks) == [("age",), ("gender",)]
    for (task,), run in networks.items():
        np.testing.assert_allclose(run(faces_of(SIZE))[task], models[task].model(faces_of(SIZE)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("damage", [b"", b"PK", b"x" * 1000])
def test_damaged_files(damage):
    with pytest.raises(UnsupportedModelError):
        read_graph(damage)


def test_the_released_models_predict_without_keras():
    """Its import takes seconds; a command for one photo would take several times as long."""
    code = (
        "import sys, numpy as np; from src.predict.inference import load_models\n"
        "said = load_models().probabilities([dict.fromkeys(('gender', 'age'), np.zeros((128, 128, 3), np.uint8))] * 20)\n"
        "print(*(values.shape for values in said.values()), *{'keras', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    env = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(20, 2) (20, 101)\n", "")
