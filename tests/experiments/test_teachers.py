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

from experiments import teacher_files, teachers, train_released
from experiments.mobilenet import BiasPReLU, mobilenet
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
    """Two synthetic faces and one image of noise: uint8 (3, 112, 112, 3)."""
    model, rng = FaceModel.load(), np.random.default_rng(1)
    drawn = [
        np.uint8(model.texture(model.sample_coefficients(group, gender, rng)))
        for group, gender in ((1, "female"), (6, "male"))
    ]
    noise = rng.integers(0, 256, (112, 112, 3), np.uint8)
    return np.stack([*(cv2.resize(face, (112, 112), interpolation=cv2.INTER_AREA) for face in drawn), noise])


def assert_close(actual, expected):
    assert actual.shape == expected.shape and expected.std() > 0
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


# --- with the original weights ----------------------------------------------------------------------------------------


def test_sface_gives_what_onnx_runtime_gives(faces):
    original = onnx.load(found(teacher_files.sface_file))
    # The file lists its weights as inputs too, which ONNX Runtime would ask for. "bn1" is the last map.
    data = [value for value in original.graph.input if value.name == "data"]
    (last_map,) = [node.output[0] for node in original.graph.node if node.name == "bn1"]
    del original.graph.input[:], original.graph.output[:]
    original.graph.input.extend(data)
    original.graph.output.append(onnx.helper.make_empty_tensor_value_info(last_map))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(original.SerializeToString(), options)
    channels_first = faces.transpose(0, 3, 1, 2).astype(np.float32)
    expected = np.concatenate([session.run(None, {"data": face[None]})[0] for face in channels_first]).mean(axis=(2, 3))
    assert_close(teachers.sface(112).predict(faces, verbose=0), expected)


def test_faceres_gives_what_tensorflow_js_gives(faces):
    file = found(teacher_files.faceres_file)
    node = shutil.which("node")
    if node is None or not (TFJS_MODULES / "@tensorflow" / "tfjs-converter").exists():
        pytest.skip("Node or TensorFlow.js is not installed")
    pixels = faces[..., ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    command = [node, str(RUN_TFJS), str(TFJS_MODULES.resolve()), str(file), "112"]
    done = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True, timeout=300)
    assert_close(teachers.faceres(112).predict(faces, verbose=0), np.array(json.loads(done.stdout)))


@pytest.mark.parametrize("name", ["sface", "faceres"])
def test_the_student_and_the_teachers_can_be_trained_completely(name):
    found({"sface": teacher_files.sface_file, "faceres": teacher_files.faceres_file}[name])
    teacher = teachers.build_teacher(name, 128)
    assert teacher.output_shape == (None, 103) and not teacher.non_trainable_weights
    if name == "faceres":
        student = train_released.build_student(128)
        student.set_weights(teacher.get_weights())
        assert not student.non_trainable_weights


# --- the networks, with random weights --------------------------------------------------------------------------------


def test_the_convolutions_have_the_shapes_of_the_files():
    model = teachers.faceres_convolutions(128)
    # As many as the manifest lists, less the dense layers and one normalisation factor for each depthwise channel.
    assert model.count_params() == 3_484_389 - (1024 * 256 + 256) - (256 + 1) - (256 * 100 + 100)
    assert model.output_shape == (None, 4, 4, 1024)
    model = mobilenet(112, stem_stride=1, prelu=True, scale=1 / 128, offset=-127.5 / 128)
    assert model.output_shape == (None, 7, 7, 1024)
    assert sum(isinstance(layer, BiasPReLU) for layer in model.layers) == 27


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


def test_a_missing_package_is_named_with_the_file_that_has_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_files, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="faceres-deep.json and the .bin file.*requirements-training.txt"):
        teacher_files.faceres_file()


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
    model, rng = FaceModel.load(), np.random.default_rng(4)
    genders = ["female", "male"] * 20
    pictures = [np.uint8(model.texture(model.sample_coefficients(i % 8, gender, rng))) for i, gender in enumerate(genders)]
    small = np.stack([cv2.resize(picture, (128, 128)) for picture in pictures])
    table = pd.DataFrame({"gender": genders, "age_low": np.arange(40), "age_high": np.arange(40)})
    part = np.array((["train"] * 3 + ["validation"]) * 10, object)
    data = PreparedData(table, small, np.full(40, "landmarks"), part, tmp_path)
    settings = replace(teachers.FINETUNING_SETTINGS, epochs=1, batch_size=10)
    first = teachers.teacher_probabilities("faceres", data, settings, tmp_path)
    assert first.shape == (40, 103) and first.dtype == np.float32
    assert first[:, :2].sum(axis=1) == pytest.approx(1, abs=1e-4) and first[:, 2:].sum(axis=1) == pytest.approx(1, abs=1e-4)
    (kept,) = tmp_path.glob("teacher-faceres-*.npy")
    assert np.array_equal(teachers.teacher_probabilities("faceres", data, settings, tmp_path), first)
    kept.unlink()
    assert np.array_equal(teachers.teacher_probabilities("faceres", data, settings, tmp_path), first)
    assert len(list((tmp_path / "training").iterdir())) == 1, "the complete training is loaded, not repeated"
