"""Models in ONNX Runtime: the same probabilities as in Keras, and every layer that is not known is left to Keras."""

import os
import subprocess
import sys

import numpy as np
import pytest

from src.config import ROOT
from src.faces.align import Alignment
from src.keras_setup import keras, layers, ops
from src.models import model_folder
from src.models.model_folder import Labels
from src.models.onnx_graph import UnsupportedModel, read_network, run_together
from src.models.two_level_cnn import residual_level_one, two_level_cnn, with_mirror_image
from src.predict.decode import build_networks, load_models

SIZE = 127
GENDER = Labels("gender", ("female", "male"))


def faces_of(size, count=5):
    """Noise about a different colour for each face: all noise looks the same to a network."""
    rng = np.random.default_rng(1)
    return np.uint8(rng.integers(0, 200, (count, 1, 1, 3)) + rng.integers(0, 56, (count, size, size, 3)))


def shaken(model):
    """The model with other normalisations than those of a fresh network, which change nothing."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weights.shape) for weights in layer.get_weights()])
    return model


def content_of(model, folder):
    model.save(folder / "model.keras")
    return (folder / "model.keras").read_bytes()


def assert_same(model, folder):
    """ONNX Runtime gives Keras's probabilities for one face and for several."""
    run = run_together({"gender": read_network(content_of(model, folder))}, threads=1)
    faces = faces_of(model.input_shape[1])
    expected = model.predict(faces, verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the faces must be predicted differently"
    for count in (5, 1, 3):
        given = run(faces[:count])["gender"]
        assert given.shape == (count, model.output_shape[-1]) and given.dtype == np.float32
        np.testing.assert_allclose(given, expected[:count], atol=1e-4, rtol=0)


def classifier(features):
    return layers.Dense(2, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=0.05, seed=1))(
        features
    )


def own_level_one(*steps):
    """A level one of a user's own, as a Sequential model."""
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    return keras.Sequential([face, layers.Rescaling(1 / 255), *steps], name="level_one")


# --- known layers -----------------------------------------------------------------------------------------------------


def test_the_released_models():
    models = load_models()
    ((tasks, run),) = models.networks.items()
    faces = faces_of(models.trained["age"].alignment.size)
    probabilities = run(faces)
    assert tasks == ("gender", "age") == tuple(probabilities)
    for task, trained in models.trained.items():
        expected = trained.model.predict(faces, verbose=0)
        np.testing.assert_allclose(probabilities[task], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [SIZE, 150])
def test_the_plain_two_level_cnn(size, tmp_path):
    assert_same(shaken(two_level_cnn(2, size)), tmp_path)


@pytest.mark.parametrize("size, inner", [(100, None), (97, 71), (64, 96)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_residual_network(size, inner, mirrored, tmp_path):
    """At odd sizes, windows at the edge hold fewer pixels; `inner` scales faces down or up within the network."""
    first = residual_level_one(size, inner)
    first = shaken(with_mirror_image(first) if mirrored else first)
    head = layers.Dense(2, activation="softmax")
    model = keras.Model(first.input, head(first.output))
    features = first.predict(faces_of(size), verbose=0)
    kernel = np.random.default_rng(1).normal(0, 0.1, head.kernel.shape) / features.std(axis=0).max()
    head.set_weights([kernel, -features.mean(axis=0) @ kernel])  # neither gender is certain
    assert_same(model, tmp_path)


@pytest.mark.parametrize(
    "steps",
    [
        [
            layers.Conv2D(4, (5, 3), 3, activation="tanh"),
            layers.MaxPooling2D((3, 2), padding="same"),
            layers.Flatten(),
        ],
        [layers.Conv2D(4, 7, (4, 3), "same"), layers.BatchNormalization(scale=False), layers.GlobalAveragePooling2D()],
        [layers.AveragePooling2D(7, 4, "same"), layers.Activation("sigmoid"), layers.Flatten(), layers.BatchNormalization()],
        [layers.Rescaling([1.0, 2.0, 0.5], [0.1, -0.3, 0.0]), layers.ReLU(max_value=0.5), layers.GlobalAveragePooling2D()],
        [layers.Rescaling(0.5, [0.1, -0.3, 0.0]), layers.DepthwiseConv2D((5, 3), 2, "same"), layers.GlobalAveragePooling2D()],
        [layers.DepthwiseConv2D(7, 4, use_bias=False, activation="relu"), layers.Flatten()],
    ],
)
def test_a_level_one_of_the_users_own(steps, tmp_path):
    assert_same(shaken(two_level_cnn(2, first=own_level_one(*steps))), tmp_path)


def test_models_that_share_a_level_one_run_it_once(tmp_path):
    first = residual_level_one(64)
    networks = {}
    for task, classes in (("gender", 2), ("age", 8)):
        networks[task] = read_network(content_of(two_level_cnn(classes, first=first), tmp_path))
    other = read_network(content_of(two_level_cnn(2, first=residual_level_one(64, seed=2)), tmp_path))
    shared = networks["gender"].nodes.keys() & networks["age"].nodes.keys()
    convolutions = [node for node in networks["age"].nodes.values() if node.op_type == "Conv"]
    assert len(convolutions) > 15 and {node.name for node in convolutions} <= shared
    assert not shared & {name for name, node in other.nodes.items() if node.op_type == "Conv"}


def test_other_faces_are_refused(tmp_path):
    run = run_together({"gender": read_network(content_of(two_level_cnn(2, SIZE), tmp_path))})
    faces = faces_of(SIZE)
    for wrong in (np.float32(faces / 255), faces[:, :50], faces[0], faces[:0]):
        with pytest.raises(ValueError, match=r"faces must be uint8 \(1 or more, 127, 127, 3\)"):
            run(wrong)


# --- what is left to Keras --------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("test")
class ReLU(layers.Layer):
    """A user's own layer that happens to have the name of one of Keras's."""

    def call(self, inputs):
        return -inputs


def from_pixels(*steps):
    """A model whose steps are given unscaled uint8 pixels."""
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = face
    for step in (*steps, layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D()):
        x = step(x)
    return keras.Model(face, classifier(x))


def called_in_training():
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.BatchNormalization()(layers.Rescaling(1 / 255)(face), training=True)
    return keras.Model(face, classifier(layers.GlobalAveragePooling2D()(x)))


UNSUPPORTED = {
    "another activation": lambda: own_level_one(layers.Conv2D(4, 7, 7, activation="gelu"), layers.Flatten()),
    "another layer": lambda: own_level_one(layers.SeparableConv2D(4, 7, 7), layers.Flatten()),
    "a ReLU with a threshold": lambda: own_level_one(layers.ReLU(threshold=0.2), layers.GlobalAveragePooling2D()),
    "a depth multiplier": lambda: own_level_one(layers.DepthwiseConv2D(7, 7, depth_multiplier=2), layers.Flatten()),
    "a leaky ReLU": lambda: own_level_one(layers.ReLU(negative_slope=0.1), layers.GlobalAveragePooling2D()),
    "a dilated convolution": lambda: own_level_one(layers.Conv2D(4, 7, dilation_rate=2), layers.GlobalAveragePooling2D()),
    "groups of channels": lambda: own_level_one(layers.Conv2D(6, 7, 7, groups=3), layers.GlobalAveragePooling2D()),
    "the user's own layer": lambda: own_level_one(ReLU(), layers.GlobalAveragePooling2D()),
    "another axis": lambda: own_level_one(layers.BatchNormalization(axis=1), layers.GlobalAveragePooling2D()),
    "another precision": lambda: own_level_one(layers.Conv2D(4, 7, 7, dtype="mixed_bfloat16"), layers.Flatten()),
    "a scale per column": lambda: own_level_one(layers.Rescaling([[1.0]] * SIZE), layers.GlobalAveragePooling2D()),
    "kept dimensions": lambda: own_level_one(layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten()),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unknown_layer_or_setting_runs_in_keras_with_the_same_probabilities(name, tmp_path):
    model = two_level_cnn(2, first=UNSUPPORTED[name]())
    folder = model_folder.save_model(tmp_path / "gender", model, GENDER, Alignment(size=SIZE), {}, [])
    with pytest.raises(UnsupportedModel):
        read_network((folder / "model.keras").read_bytes())
    (run,) = build_networks({"gender": model_folder.load_model(folder)}).values()
    faces = faces_of(SIZE)
    np.testing.assert_allclose(run(faces)["gender"], model.predict(faces, verbose=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "make",
    [
        called_in_training,
        lambda: from_pixels(layers.AveragePooling2D(2)),  # of integers, Keras's mean is an integer too
        lambda: from_pixels(lambda face: ops.add(face, face)),  # beyond 255, uint8 begins again at 0
        lambda: from_pixels(lambda face: ops.image.resize(face, (64, 64), antialias=True)),
    ],
)
def test_other_uses_of_known_layers_are_left_to_keras(make, tmp_path):
    with pytest.raises(UnsupportedModel):
        read_network(content_of(make(), tmp_path))


@pytest.mark.parametrize("options", [{"antialias": True}, {"interpolation": "nearest"}, {"pad_to_aspect_ratio": True}])
def test_only_plain_bilinear_scaling_is_known(options, tmp_path):
    def model(**options):
        face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
        x = ops.image.resize(layers.Rescaling(1 / 255)(face), (64, 80), **options)
        return keras.Model(face, classifier(layers.GlobalAveragePooling2D()(x)))

    read_network(content_of(model(), tmp_path))
    with pytest.raises(UnsupportedModel, match="Resize"):
        read_network(content_of(model(**options), tmp_path))


def test_models_that_need_keras_run_one_by_one(tmp_path):
    first = own_level_one(layers.Conv2D(4, 7, 7, activation="gelu"), layers.GlobalAveragePooling2D())
    labels = {"gender": GENDER, "age": Labels("age", ("0-9", "10-99"), ((0, 9), (10, 99)), (5.0, 40.0))}
    models = {}
    for task, mine in labels.items():
        saved = model_folder.save_model(tmp_path / task, two_level_cnn(2, first=first), mine, Alignment(size=SIZE), {}, [])
        models[task] = model_folder.load_model(saved)
    networks = build_networks(models)
    assert list(networks) == [("gender",), ("age",)]
    faces = faces_of(SIZE)
    for (task,), run in networks.items():
        expected = models[task].model.predict(faces, verbose=0)
        np.testing.assert_allclose(run(faces)[task], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("damage", [b"", b"PK", b"x" * 1000])
def test_damaged_files(damage):
    with pytest.raises(UnsupportedModel):
        read_network(damage)


# --- no Keras ---------------------------------------------------------------------------------------------------------


def test_the_released_models_predict_without_keras():
    """Its import takes seconds; a command for one photo would take several times as long."""
    code = (
        "import sys, numpy as np; from src.predict.decode import load_models\n"
        "said = load_models().probabilities([dict.fromkeys(('gender', 'age'), np.zeros((128, 128, 3), np.uint8))] * 40)\n"
        "print(*(values.shape for values in said.values()), *{'keras', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    env = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(40, 2) (40, 101)\n", "")
