"""The two-level CNN: level one extracts features, level two classifies; two Keras models inside one.

Four convolutions, then two dense layers, in the line of AlexNet (Krizhevsky et al. 2012) and of Levi and Hassner's network
for age and gender (CVPR Workshops 2015). The whole takes uint8 RGB faces and scales them itself, so that no caller can
feed it other numbers than it was trained on.
"""

import json

from src.backend import keras, layers
from src.config import FACE_SIZE, SEED

# filters, kernel, stride of level one's convolutions
CONVOLUTIONS = ((96, 7, 4), (256, 5, 1), (384, 3, 1), (256, 3, 1))
SMALLEST = 127  # pixels: below it nothing is left to pool


def level_one(size: int = FACE_SIZE, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """The feature extractor: uint8 (batch, size, size, 3), RGB, 0-255, to features (batch, n); 1,024 at size 227.

    Each convolution is followed by ReLU, batch normalisation and 3x3 max-pooling of stride 2. dtype: a Keras dtype
    policy, such as "mixed_bfloat16". seed: of the starting weights. Raises ValueError for a size too small for four poolings.
    """
    if size < SMALLEST:
        raise ValueError(f"the network needs faces of at least {SMALLEST} x {SMALLEST} pixels, got size {size}")
    photo = keras.Input((size, size, 3), dtype="uint8", name="face")
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype=dtype, name="scale")(photo)
    for i, (filters, kernel, stride) in enumerate(CONVOLUTIONS, start=1):
        padding = "valid" if stride > 1 else "same"
        x = layers.Conv2D(
            filters, kernel, stride, padding, activation="relu",
            kernel_initializer=keras.initializers.HeNormal(seed + i), dtype=dtype, name=f"convolution_{i}",
        )(x)  # fmt: skip
        x = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"normalisation_{i}")(x)
        x = layers.MaxPooling2D(3, 2, dtype=dtype, name=f"pooling_{i}")(x)
    return keras.Model(photo, layers.Flatten(dtype=dtype, name="features")(x), name="level_one")


def level_two(features: int, classes: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """The classifier: features (batch, n) to probabilities (batch, classes), float32, rows summing to 1."""
    given = keras.Input((features,), name="features")
    x = given
    for i in (1, 2):
        initial = keras.initializers.HeNormal(seed + 10 + i)
        x = layers.Dense(512, activation="relu", kernel_initializer=initial, dtype=dtype, name=f"dense_{i}")(x)
        x = layers.Dropout(0.5, seed=seed + i, dtype=dtype, name=f"dropout_{i}")(x)
    initial = keras.initializers.GlorotUniform(seed + 20)
    # Probabilities stay in full precision also where the rest is computed in bfloat16.
    x = layers.Dense(classes, activation="softmax", kernel_initializer=initial, dtype="float32", name="probability")(x)
    return keras.Model(given, x, name="level_two")


def two_level_cnn(
    classes: int, size: int = FACE_SIZE, first: keras.Model | None = None, dtype: str = "float32", seed: int = SEED
) -> keras.Model:
    """The whole network: uint8 faces (batch, size, size, 3), RGB, 0-255, to probabilities (batch, classes).

    first: another level one, of the user's own or from a trained model (`model.get_layer("level_one")`); set its
    `trainable` to False to freeze it.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    first = first or level_one(size, dtype, seed)
    photo = keras.Input(first.input_shape[1:], dtype="uint8", name="face")
    second = level_two(first.output_shape[-1], classes, dtype, seed)
    return keras.Model(photo, second(first(photo)), name="two_level_cnn")


def copied(model: keras.Model) -> keras.Model:
    """The same network and weights once more, without a loss and an optimiser."""
    return _rebuilt(model, model.to_json())


def in_full_precision(model: keras.Model) -> keras.Model:
    """A copy with every layer computing in float32 and no optimiser, as models are released."""
    return _rebuilt(model, model.to_json().replace('"mixed_bfloat16"', '"float32"'))


def _rebuilt(model: keras.Model, config: str) -> keras.Model:
    config = json.loads(config)
    config.pop("compile_config", None)
    copy = keras.models.model_from_json(json.dumps(config))
    copy.set_weights(model.get_weights())
    return copy


def layer_table(model: keras.Model) -> list[tuple[str, str, tuple, int]]:
    """Rows of (level, layer, output shape, parameters), read from the model."""
    rows = []
    for level in (model.get_layer("level_one"), model.get_layer("level_two")):
        rows += [(level.name, layer.name, tuple(layer.output.shape[1:]), layer.count_params()) for layer in level.layers]
    return rows
