"""The two-level CNN: its architecture as its description states it, and what may be reused, frozen and converted."""

import numpy as np
import pytest

from src.keras_setup import keras
from src.models import train, two_level_cnn

SMALL = 127  # the smallest size that the network takes
SETTINGS = train.TrainingSettings(epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(1).integers(0, 256, (16, SMALL, SMALL, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return two_level_cnn.two_level_cnn(2, SMALL)


def trained(model, faces, folder):
    """The model after one epoch on half of the faces."""
    part = np.repeat(["train", "validation"], len(faces) // 2)
    return train.fit(model, faces, np.arange(len(faces)), np.arange(len(faces)) % 2, part, SETTINGS, states=folder)[0]


def same(one, other):
    return [np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)]


def of_kind(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_level_one_is_as_described():
    model = two_level_cnn.two_level_cnn(8)
    assert model.input_shape == (None, 227, 227, 3) and model.output_shape == (None, 8)
    assert model.inputs[0].dtype == "uint8" and model.outputs[0].dtype == "float32"
    levels = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert [level.name for level in levels] == ["level_one", "level_two"]
    first = levels[0]
    convolutions = of_kind(first, keras.layers.Conv2D)
    told = [(layer.filters, layer.kernel_size, layer.strides) for layer in convolutions]
    assert told == [(96, (7, 7), (4, 4)), (256, (5, 5), (1, 1)), (384, (3, 3), (1, 1)), (256, (3, 3), (1, 1))]
    assert all(layer.activation is keras.activations.relu and layer.use_bias for layer in convolutions)
    pools = of_kind(first, keras.layers.MaxPooling2D)
    assert [(layer.pool_size, layer.strides) for layer in pools] == [((3, 3), (2, 2))] * 4
    assert [layer.output.shape[1:] for layer in pools] == [(27, 27, 96), (13, 13, 256), (6, 6, 384), (2, 2, 256)]
    kinds = [type(layer).__name__ for layer in first.layers]
    assert kinds == ["InputLayer", "Rescaling", *["Conv2D", "BatchNormalization", "MaxPooling2D"] * 4, "Flatten"]


def test_level_two_is_as_described():
    second = two_level_cnn.level_two(1024, 8)
    kinds = [type(layer).__name__ for layer in second.layers]
    assert kinds == ["InputLayer", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    dense = of_kind(second, keras.layers.Dense)
    assert [layer.units for layer in dense] == [512, 512, 8]
    assert [layer.activation.__name__ for layer in dense] == ["relu", "relu", "softmax"]
    assert [layer.rate for layer in of_kind(second, keras.layers.Dropout)] == [0.5, 0.5]


def test_the_layer_table_counts_every_parameter(model):
    table = two_level_cnn.layer_table(model)
    assert sum(row[3] for row in table) == model.count_params()
    assert [row[0] for row in table] == ["level_one"] * 15 + ["level_two"] * 6
    assert ("level_two", "probability", (2,), 2 * 512 + 2) in table


def test_sizes_and_classes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^the network needs faces of at least 127 x 127 pixels, got size 126$"):
        two_level_cnn.two_level_cnn(2, 126)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        two_level_cnn.two_level_cnn(1, SMALL)


def test_answers_are_probabilities(model, faces):
    said = model.predict(faces, verbose=0)
    assert said.shape == (16, 2) and said.dtype == np.float32
    assert (said >= 0).all() and said.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_scaling_is_inside_and_survives_saving(model, faces, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert np.array_equal(loaded.predict(faces, verbose=0), model.predict(faces, verbose=0))
    scale = keras.Model(model.get_layer("level_one").inputs, model.get_layer("level_one").get_layer("scale").output)
    ends = scale.predict(np.array([0, 255], np.uint8)[:, None, None, None] * np.ones((SMALL, SMALL, 3), np.uint8), verbose=0)
    assert ends[0] == pytest.approx(-1) and ends[1] == pytest.approx(1)
    everything = [*model.layers, *model.get_layer("level_one").layers, *model.get_layer("level_two").layers]
    assert not [layer for layer in everything if isinstance(layer, keras.layers.Lambda)]


def test_every_new_network_starts_from_the_same_weights(model):
    assert all(same(model, two_level_cnn.two_level_cnn(2, SMALL)))
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    assert len(kernels) == 7 and all(kernel.std() > 0 for kernel in kernels)


def test_a_frozen_level_one_keeps_its_weights_and_statistics(faces, tmp_path):
    first = two_level_cnn.level_one(SMALL)
    before = first.get_weights()
    assert len(before) == 4 * (2 + 4)  # of each convolution, and of each normalisation with its statistics
    first.trainable = False
    model = two_level_cnn.two_level_cnn(2, first=first)
    after = trained(model, faces, tmp_path)
    assert all(map(np.array_equal, before, after.get_layer("level_one").get_weights()))
    assert not any(same(model.get_layer("level_two"), after.get_layer("level_two")))


def test_an_open_level_one_learns(model, faces, tmp_path):
    before = model.get_weights()
    after = trained(model, faces, tmp_path)
    assert not any(same(model.get_layer("level_one"), after.get_layer("level_one")))
    assert all(map(np.array_equal, before, model.get_weights())), "the network given must stay as it was"


def test_level_one_of_a_trained_gender_model_serves_an_age_model(model, faces, tmp_path):
    gender = trained(model, faces, tmp_path)
    gender.save(tmp_path / "gender.keras")
    first = keras.models.load_model(tmp_path / "gender.keras").get_layer("level_one")
    age = two_level_cnn.two_level_cnn(8, first=first)
    assert age.output_shape == (None, 8)
    features = first.predict(faces, verbose=0)
    assert features == pytest.approx(gender.get_layer("level_one").predict(faces, verbose=0))
    assert age.predict(faces, verbose=0) == pytest.approx(age.get_layer("level_two").predict(features, verbose=0), abs=1e-5)


def test_another_level_one_takes_its_place(faces):
    own = keras.Sequential([keras.Input((64, 64, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    model = two_level_cnn.two_level_cnn(3, first=own)
    assert model.input_shape == (None, 64, 64, 3)
    assert model.predict(faces[:, :64, :64], verbose=0).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_full_precision_of_a_bfloat16_network(faces):
    half = two_level_cnn.two_level_cnn(2, SMALL, dtype="mixed_bfloat16")
    half.compile("adam", "sparse_categorical_crossentropy")
    full = two_level_cnn.to_float32(half)
    layers = [*full.get_layer("level_one").layers, *full.get_layer("level_two").layers]
    assert {layer.compute_dtype for layer in layers if layer.weights} == {"float32"}
    assert "bfloat16" not in full.to_json() and {str(w.dtype) for w in full.weights} == {"float32"}
    assert "bfloat16" in half.to_json() and half.compiled and not full.compiled
    assert all(same(half, full))
    assert full.predict(faces, verbose=0) == pytest.approx(half.predict(faces, verbose=0), abs=0.05)


# --- the residual level one -------------------------------------------------------------------------------------------


def test_residual_level_one_is_as_described(faces):
    first = two_level_cnn.residual_level_one()
    assert first.name == "level_one" and first.input_shape == (None, 128, 128, 3) and first.inputs[0].dtype == "uint8"
    assert first.output_shape == (None, 256)
    kernels = [layer.kernel_size for layer in of_kind(first, keras.layers.Conv2D)]
    # The stem, two convolutions a block, and one in the shortcut where the number of filters changes.
    assert (
        kernels.count((5, 5)) == 1 and kernels.count((3, 3)) == 2 * len(two_level_cnn.BLOCKS) and kernels.count((1, 1)) == 4
    )
    assert "Lambda" not in {type(layer).__name__ for layer in first.layers}
    small = two_level_cnn.residual_level_one(64)
    features = small.predict(faces[:, :64, :64], verbose=0)
    assert features.shape == (16, 256) and np.isfinite(features).all() and features.std(axis=0).max() > 0


def test_a_residual_block_begins_as_its_shortcut(faces):
    first = two_level_cnn.residual_level_one(64)
    through = keras.Model(first.inputs, [first.get_layer("block_1").output, first.get_layer("block_2").output])
    before, after = through.predict(faces[:4, :64, :64], verbose=0)
    assert np.array_equal(before, after) and before.max() > 0


def test_residual_weights_of_quick_epochs_serve_the_full_size():
    """What is learnt at 96 pixels inside is the network for 96 pixels, and its weights fit the one for 128."""
    quick, full, own = (
        two_level_cnn.residual_level_one(128, inner=96),
        two_level_cnn.residual_level_one(128),
        two_level_cnn.residual_level_one(96),
    )
    rng = np.random.default_rng(3)
    # Normalisations as after some training, so that every block takes part.
    weights = [w if w.ndim == 4 else np.abs(w + rng.normal(0.3, 0.1, w.shape)) for w in quick.get_weights()]
    for model in (quick, full, own):
        model.set_weights(weights)
    assert all(same(quick, full)) and quick.output_shape == full.output_shape == (None, 256)
    colours = rng.integers(0, 256, (4, 1, 1, 3), np.uint8)  # the same at every size

    def features(model, size):
        return model.predict(np.tile(colours, (1, size, size, 1)), verbose=0)

    expected = features(own, 96)
    assert expected.std(axis=0).max() > 0.01 * expected.max()
    assert features(quick, 128) == pytest.approx(expected, rel=1e-3, abs=1e-3 * float(expected.max()))
    assert np.abs(features(full, 128) - expected).max() > 0.01 * expected.max(), "it has more pixels to look at"


def test_residual_level_one_in_bfloat16_and_by_seed(faces):
    half, full = two_level_cnn.residual_level_one(64, dtype="mixed_bfloat16"), two_level_cnn.residual_level_one(64)
    assert all(same(half, full)) and half.get_layer("block_1").compute_dtype == "bfloat16"
    other = two_level_cnn.residual_level_one(64, seed=2)
    kernels = [is_same for weights, is_same in zip(full.get_weights(), same(full, other)) if weights.ndim == 4]
    assert len(kernels) == 19 and not any(kernels)


def test_a_face_and_its_mirror_image_give_the_mean_of_both():
    first = two_level_cnn.residual_level_one(64, seed=3)
    both = two_level_cnn.with_mirror_image(first)
    faces = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    mirrored = faces[:, :, ::-1]
    said = both.predict(faces, verbose=0)
    mean = (first.predict(faces, verbose=0) + first.predict(mirrored, verbose=0)) / 2
    assert said == pytest.approx(mean, abs=1e-5) and said == pytest.approx(both.predict(mirrored, verbose=0), abs=1e-6)
    assert both.count_params() == first.count_params() and both.name == "level_one"


def test_a_network_that_is_merely_called_does_not_train():
    """Not told whether it trains, it must not: batch normalisation would answer by the batch, and change its statistics."""
    model = two_level_cnn.with_mirror_image(two_level_cnn.residual_level_one(SMALL, inner=32))
    before = [weights.copy() for weights in model.get_weights()]
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (4, SMALL, SMALL, 3), np.uint8)
    called = np.asarray(model(pictures))
    assert called.std() > 0 and called == pytest.approx(model.predict_on_batch(pictures), abs=1e-4)
    assert all(map(np.array_equal, before, model.get_weights()))
