"""Grad-CAM and occlusion find the place that a model was built to use; changed pictures of a face; uploaded files."""

import itertools
from datetime import datetime

import numpy as np
import pytest
import skimage.data

from experiments.training_steps import mirrored_level_one
from src.config import AGE_GROUPS
from src.faces.align import Alignment, find_faces
from src.keras_setup import keras, layers
from src.models import model_folder, residual, two_level_cnn
from src.models.model_folder import Labels, TrainedModel
from src.predict import explain, upload

SIZE = 128


def spot_finder(mirrored: bool) -> keras.Model:
    """A two-level network with chosen weights: the redder a place on a dark face, the more probable is class 1."""
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(face)
    convolution = layers.Conv2D(2, 8, 4, "same", use_bias=False)
    x = layers.ReLU()(layers.BatchNormalization()(convolution(x)))
    first = keras.Model(face, layers.Flatten()(x) if not mirrored else layers.GlobalAveragePooling2D()(x), name="level_one")
    kernel = np.zeros((8, 8, 3, 2), np.float32)
    kernel[..., 0, 0], kernel[..., 1, 0], kernel[..., 2, 0] = 0.05, -0.05, -0.05
    convolution.set_weights([kernel])
    if mirrored:
        first = mirrored_level_one(first)
    features = keras.Input(first.output_shape[1:])
    dense = layers.Dense(2, activation="softmax")
    model = keras.Model(face, keras.Model(features, dense(features), name="level_two")(first(face)))
    weights, bias = dense.get_weights()
    weights[:] = 0
    weights[(slice(0, None, 2) if not mirrored else slice(0, 1)), 1] = 0.5 if not mirrored else 60
    dense.set_weights([weights, np.float32([0.5, -0.5])])
    return model


def with_spot(place) -> np.ndarray:
    face = np.random.default_rng(1).integers(60, 80, (SIZE, SIZE, 3), np.uint8)
    y, x = place
    face[y - 10 : y + 10, x - 10 : x + 10] = (250, 20, 20)
    return face


@pytest.mark.parametrize("mirrored", [False, True], ids=["plain", "with its mirror image"])
def test_both_maps_find_the_place_that_the_model_uses(mirrored):
    model = spot_finder(mirrored)
    ways = [explain.grad_cam, lambda *inputs: explain.occlusion(*inputs).heat]
    for place, way in itertools.product([(28, 28), (100, 92)], ways):
        heat = way(model, with_spot(place), [1])
        assert heat.shape == (SIZE, SIZE) and heat.dtype == np.float32 and heat.min() == 0 and heat.max() == 1
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert np.hypot(y - place[0], x - place[1]) < 16, (place, way)
        away = heat[place[0] - 64 if place[0] > 64 else place[0] + 64]
        assert away.mean() < 0.25


def test_the_occlusion_map_is_not_shifted():
    place = (20, 110)  # near the edges, where a shift would show
    heat = explain.occlusion(spot_finder(False), with_spot(place), [1]).heat
    rows, columns = np.nonzero(heat > 0.5)
    middle = np.average(np.column_stack([rows, columns]) + 0.5, axis=0, weights=heat[rows, columns])
    assert np.abs(middle - place).max() < 1.5


def test_the_occlusion_map_of_a_certain_model_is_no_noise():
    model, place = spot_finder(False), (28, 28)
    weights, bias = model.get_layer("level_two").get_weights()
    model.get_layer("level_two").set_weights([weights, bias + np.float32([-15, 15])])
    result = explain.occlusion(model, with_spot(place), [1])
    assert result.probability - result.lowest < 1e-6, "the probability does not show what matters"
    assert np.hypot(*np.subtract(np.unravel_index(result.heat.argmax(), result.heat.shape), place)) < 16


@pytest.mark.parametrize("first", [two_level_cnn.level_one(227), mirrored_level_one(residual.residual_level_one(SIZE))])
def test_the_projects_own_networks_have_a_last_convolution(first):
    model = two_level_cnn.two_level_cnn(4, level_one_model=first)
    size = first.input_shape[1]
    face = np.random.default_rng(2).integers(0, 256, (size, size, 3), np.uint8)
    heats = [explain.grad_cam(model, face, classes) for classes in ([0, 1], [2, 3])]  # what speaks against one, for the other
    assert heats[0].shape == (size, size) and max(heat.max() for heat in heats) == 1
    trunk = next((layer for layer in first.layers if isinstance(layer, keras.Model)), first)
    assert explain._last_feature_map(trunk).shape[1:] == ((6, 6, 256) if size == 227 else (4, 4, 256))


def test_hiding_what_does_not_matter_costs_nothing():
    model = spot_finder(False)
    model.get_layer("level_two").set_weights([np.zeros((2048, 2), np.float32), np.zeros(2, np.float32)])
    result = explain.occlusion(model, with_spot((64, 64)), [1])
    assert result.heat.max() == 0
    assert result.probability == pytest.approx(0.5, abs=1e-6) and result.lowest == pytest.approx(0.5, abs=1e-6)
    assert explain.grad_cam(model, with_spot((64, 64)), [1]).max() == 0


def test_a_predicted_group_stands_for_all_its_years(standins):
    trained = model_folder.load_model(standins.age)
    name, classes = explain.predicted_class(trained, with_spot((64, 64)))
    groups = AGE_GROUPS["adience"]
    starts = [*groups.starts, 101]
    place = groups.names.index(name)
    assert classes == list(range(starts[place], starts[place + 1]))
    gender = TrainedModel(lambda: spot_finder(False), Labels("gender", ("female", "male")), Alignment(size=SIZE), {})
    assert explain.predicted_class(gender, with_spot((30, 30))) == ("male", [1])


def test_overlays_keep_the_face_and_colour_the_heat():
    face, heat = with_spot((64, 64)), np.zeros((SIZE, SIZE), np.float32)
    heat[:20] = 1
    shown = explain.overlay(face, heat)
    assert shown.shape == face.shape and shown.dtype == np.uint8
    assert shown[:20, :, 0].mean() > shown[60:, :, 0].mean() + 80


def test_variants_are_the_same_face_changed():
    photo = skimage.data.astronaut()
    (found,) = find_faces(photo)
    faces = explain.variants(photo, found, Alignment(size=SIZE))
    plain = faces["as it is"].astype(int)
    assert all(face.shape == (SIZE, SIZE, 3) and face.dtype == np.uint8 for face in faces.values())
    assert (faces["flipped"] == plain[:, ::-1]).all()
    assert faces["darker"].mean() < plain.mean() < faces["brighter"].mean()
    assert np.abs(np.diff(faces["blurred"].astype(int), axis=1)).mean() < 0.7 * np.abs(np.diff(plain, axis=1)).mean()
    for name, factor in (("tighter", 1.15), ("wider", 0.85)):
        again = find_faces(np.pad(faces[name], ((40, 40), (40, 40), (0, 0)), mode="edge"), "cnn")
        eyes = [again[0].landmarks[eye].mean(axis=0) for eye in (slice(36, 42), slice(42, 48))]
        assert np.linalg.norm(eyes[1] - eyes[0]) == pytest.approx(0.39 * factor * SIZE, rel=0.1)


def test_uploads_are_saved_under_their_own_names_and_shown(tmp_path):
    shown = []
    (tmp_path / "a.jpg").write_bytes(b"another")
    chooser = upload.button(tmp_path, shown.extend).children[0]
    file = {"type": "image/jpeg", "size": 1, "content": b"1", "last_modified": datetime.now()}
    chooser.value = ({"name": "a.jpg", **file}, {"name": "../../etc/é x.jpg", **file})
    assert shown == [tmp_path / "a-2.jpg", tmp_path / "é x.jpg"]
    assert shown[0].read_bytes() == b"1" and (tmp_path / "a.jpg").read_bytes() == b"another"
    chooser.value = ({"name": "a.jpg", **file, "size": 2},)
    assert shown[2:] == [tmp_path / "a-2.jpg"], "the same file again"
