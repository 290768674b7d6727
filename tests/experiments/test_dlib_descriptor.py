"""The descriptor network against dlib's own, on faces of the embedded sample's face model."""

import cv2
import dlib
import numpy as np
import pytest

from experiments import dlib_descriptor
from src.faces.landmark_file import packaged_file
from src.models.train import to_float32
from src.sample.face_model import FaceModel


@pytest.fixture(scope="module")
def chips():
    """Eight faces, one of each age group and with background around them: uint8 (8, 150, 150, 3)."""
    space, rng = FaceModel.load(), np.random.default_rng(1)
    chips = []
    for group in range(8):
        face = np.uint8(space.texture(space.draw(group, ("female", "male")[group % 2], rng)))
        chips.append(cv2.copyMakeBorder(cv2.resize(face, (110, 110)), 20, 20, 20, 20, cv2.BORDER_REFLECT))
    return np.stack(chips)


@pytest.fixture(scope="module")
def model():
    return dlib_descriptor.descriptor_network()


@pytest.fixture(scope="module")
def content():
    return packaged_file(dlib_descriptor.FILE_NAME).read_bytes()


def resized(chips, size):
    return np.stack([cv2.resize(chip, (size, size), interpolation=cv2.INTER_AREA) for chip in chips])


def predicted(model, faces):
    return model.predict(faces, verbose=0)


def test_descriptors_are_dlibs_own(model, chips):
    original = dlib.face_recognition_model_v1(str(packaged_file(dlib_descriptor.FILE_NAME)))
    noise = np.random.default_rng(2).integers(0, 256, (2, 150, 150, 3), np.uint8)
    pictures = np.concatenate([chips, noise])
    expected = np.array([original.compute_face_descriptor(picture) for picture in pictures])
    assert np.linalg.norm(expected[0] - expected[1]) > 0.2, "the faces are all alike: this tests little"
    found = predicted(model, pictures)
    assert found.shape == (10, 128) and found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("size", [dlib_descriptor.MIN_SIZE, 144])
def test_other_sizes_give_finite_descriptors(size, chips):
    model = dlib_descriptor.descriptor_network(size)
    found = predicted(model, resized(chips, size))
    assert model.input_shape == (None, size, size, 3)
    assert found.shape == (8, 128) and np.isfinite(found).all() and (found.std(axis=0) > 0).all()


def test_a_size_too_small_is_refused():
    with pytest.raises(ValueError, match=r"at least 103 x 103 pixels, got size 102"):
        dlib_descriptor.descriptor_network(102)


@pytest.mark.slow
def test_bfloat16_stays_close_and_converts_back(model, chips):
    half = dlib_descriptor.descriptor_network(dtype="mixed_bfloat16")
    assert half.get_layer("convolution_1").compute_dtype == "bfloat16" and half.outputs[0].dtype == "float32"
    assert np.abs(predicted(half, chips) - predicted(model, chips)).max() < 0.05
    assert np.abs(predicted(to_float32(half), chips) - predicted(model, chips)).max() < 1e-5


@pytest.mark.parametrize("share", [0, 0.001, 0.5])
def test_a_truncated_file_is_refused(share, content, tmp_path):
    (tmp_path / "cut.dat").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"^cut\.dat is not dlib's face-recognition network: at byte \d+, "):
        dlib_descriptor.read_parameters(tmp_path / "cut.dat")


@pytest.mark.parametrize("kind", ["noise", "stride", "landmarks"])
def test_a_file_of_another_network_is_refused(kind, content, tmp_path):
    stride = content.index(b"con_4") + 16 + 4 * 4736 + 7  # after the first convolution's weights
    assert content[stride : stride + 2] == b"\x02\x01", "the file is laid out differently: this tests nothing"
    other = {
        "noise": np.random.default_rng(3).bytes(100_000),
        "stride": content[:stride] + b"\x01" + content[stride + 1 :],
        "landmarks": packaged_file("shape_predictor_5_face_landmarks.dat").read_bytes(),
    }[kind]
    (tmp_path / "other.dat").write_bytes(other)
    with pytest.raises(ValueError, match=r"^other\.dat is not dlib's face-recognition network: at byte \d+, "):
        dlib_descriptor.read_parameters(tmp_path / "other.dat")
