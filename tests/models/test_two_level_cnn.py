"""The two-level CNN and the residual level one: architecture, initial weights, freezing and reuse."""

import numpy as np
import pytest

from experiments.training_steps import mirrored_level_one
from src.keras_setup import keras, layers
from src.models import residual, train, two_level_cnn

SIZE = two_level_cnn.MIN_SIZE
SMALL = 64  # pixels; enough for the residual network


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return two_level_cnn.two_level_cnn(2, SIZE)


@pytest.fixture(scope="module")
def small():
    return residual.residual_level_one(SMALL)


def same_weights(one, other):
    return [np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)]


def of_kind(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


# --- the two-level CNN ------------------------------------------------------------------------------------------------


def test_architecture():
    model = two_level_cnn.two_level_cnn(8)
    assert model.input_shape == (None, 227, 227, 3) and model.output_shape == (None, 8)
    assert model.inputs[0].dtype == "uint8" and model.outputs[0].dtype == "float32"
    first, second = (layer for layer in model.layers if isinstance(layer, keras.Model))
    assert (first.name, second.name) == ("level_one", "level_two")
    kinds = [type(layer).__name__ for layer in first.layers]
    assert kinds == ["InputLayer", "Rescaling", *["Conv2D", "BatchNormalization", "MaxPooling2D"] * 4, "Flatten"]
    convolutions = [(layer.filters, layer.kernel_size, layer.strides) for layer in of_kind(first, layers.Conv2D)]
    assert convolutions == [(96, (7, 7), (4, 4)), (256, (5, 5), (1, 1)), (384, (3, 3), (1, 1)), (256, (3, 3), (1, 1))]
    shapes = [layer.output.shape[1:] for layer in of_kind(first, layers.MaxPooling2D)]
    assert shapes == [(27, 27, 96), (13, 13, 256), (6, 6, 384), (2, 2, 256)]
    dense = [(layer.units, layer.activation.__name__) for layer in of_kind(second, layers.Dense)]
    assert dense == [(512, "relu"), (512, "relu"), (8, "softmax")]
    assert [layer.rate for layer in of_kind(second, layers.Dropout)] == [0.5, 0.5]


def test_the_layer_table_counts_every_parameter(model):
    table = two_level_cnn.layer_table(model)
    assert sum(row[3] for row in table) == model.count_params()
    assert [row[0] for row in table] == ["level_one"] * 15 + ["level_two"] * 6
    assert ("level_two", "probability", (2,), 2 * 512 + 2) in table


def test_sizes_and_classes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="faces of at least 127 x 127 pixels, got size 126"):
        two_level_cnn.two_level_cnn(2, 126)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        two_level_cnn.two_level_cnn(1, SIZE)


def test_the_network_scales_pixels_itself_and_gives_probabilities(model, faces):
    probability = model.predict(faces, verbose=0)
    assert probability.shape == (4, 2) and probability.dtype == np.float32
    assert (probability >= 0).all() and probability.sum(axis=1) == pytest.approx(1, abs=1e-5)
    first = model.get_layer("level_one")
    scaled = np.asarray(keras.Model(first.inputs, first.get_layer("scale").output)(faces))
    assert scaled == pytest.approx(faces / 127.5 - 1, abs=1e-6)


def test_a_frozen_level_one_keeps_its_weights_and_statistics(faces, tmp_path):
    face = keras.Input((SMALL, SMALL, 3), dtype="uint8")
    x = layers.BatchNormalization()(layers.Conv2D(4, 8, 8)(layers.Rescaling(1 / 255)(face)))
    first = keras.Model(face, layers.Flatten()(x), name="level_one")
    before = first.get_weights()
    first.trainable = False
    model = two_level_cnn.two_level_cnn(2, level_one_model=first)
    settings, split = train.TrainingSettings(epochs=1, batch_size=2), np.array(["train", "train", "validation", "validation"])
    images = np.ascontiguousarray(faces[:, :SMALL, :SMALL])
    after, _ = train.fit(model, images, np.arange(4), np.array([0, 1, 0, 1]), split, settings, checkpoint_folder=tmp_path)
    assert all(map(np.array_equal, before, after.get_layer("level_one").get_weights()))
    assert not any(same_weights(model.get_layer("level_two"), after.get_layer("level_two")))


def test_a_bfloat16_network_converts_to_float32(faces):
    half = two_level_cnn.two_level_cnn(2, SIZE, dtype="mixed_bfloat16")
    half.compile("adam", "sparse_categorical_crossentropy")
    full = train.to_float32(half)
    assert "bfloat16" in half.to_json() and "bfloat16" not in full.to_json() and not full.compiled
    assert all(same_weights(half, full))
    assert full.predict(faces, verbose=0) == pytest.approx(half.predict(faces, verbose=0), abs=0.05)


# --- the residual level one -------------------------------------------------------------------------------------------


def test_residual_architecture(small, faces):
    first = residual.residual_level_one()
    assert first.name == "level_one" and first.input_shape == (None, 128, 128, 3) and first.inputs[0].dtype == "uint8"
    assert first.output_shape == (None, 256)
    kernels = [layer.kernel_size for layer in of_kind(first, layers.Conv2D)]
    # The stem, two convolutions in each block, and one in each shortcut that changes the number of filters.
    assert [kernels.count((side, side)) for side in (5, 3, 1)] == [1, 14, 4]
    outputs = [small.get_layer("block_1").output, small.get_layer("block_2").output, small.output]
    before, after, features = keras.Model(small.inputs, outputs).predict(faces[:, :SMALL, :SMALL], verbose=0)
    assert np.array_equal(before, after) and before.max() > 0, "a new block changes nothing"
    assert np.isfinite(features).all() and features.std(axis=0).max() > 0


def test_a_face_and_its_mirror_image_give_the_mean_of_both(small, faces):
    both = mirrored_level_one(small)
    images = faces[:, :SMALL, :SMALL]
    mirrored = images[:, :, ::-1]
    features = both.predict(images, verbose=0)
    mean = (small.predict(images, verbose=0) + small.predict(mirrored, verbose=0)) / 2
    assert features == pytest.approx(mean, abs=1e-5)
    assert features == pytest.approx(both.predict(mirrored, verbose=0), abs=1e-6)
    assert both.count_params() == small.count_params() and both.name == "level_one"


def test_a_network_that_is_called_without_a_mode_does_not_train(faces):
    """In training mode, batch normalisation would use the batch's statistics and change its own."""
    model = mirrored_level_one(residual.residual_level_one(SIZE))
    before = [weights.copy() for weights in model.get_weights()]
    features = np.asarray(model(faces))
    assert features.std() > 0 and features == pytest.approx(model.predict_on_batch(faces), abs=1e-4)
    assert all(map(np.array_equal, before, model.get_weights()))
