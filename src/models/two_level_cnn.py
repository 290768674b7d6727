"""The two-level CNN: level one extracts features, level two classifies; two Keras models inside one.

Four convolutions, then two dense layers, in the line of AlexNet (Krizhevsky et al. 2012) and of Levi and Hassner's network
for age and gender (CVPR Workshops 2015). The whole takes uint8 RGB faces and scales them itself, so that no caller can
feed it other numbers than it was trained on.

Before it: `config`. After it: `joint` and `train`.
"""

import json

from src.config import FACE_SIZE, SEED
from src.keras_setup import keras, layers, ops

# filters, kernel, stride of level one's convolutions
CONVOLUTIONS = ((96, 7, 4), (256, 5, 1), (384, 3, 1), (256, 3, 1))
# filters and stride of the residual blocks of the stronger level one
BLOCKS = ((48, 1), (48, 1), (96, 2), (96, 1), (192, 2), (192, 1), (256, 2))
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


def residual_level_one(size: int = 128, inner: int | None = None, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """A stronger feature extractor: uint8 (batch, size, size, 3), RGB, 0-255, to 256 features.

    Residual blocks of two 3x3 convolutions (He et al., "Deep residual learning for image recognition", CVPR 2016), the
    shortcut averaged where the picture shrinks (He et al., "Bag of tricks", CVPR 2019), and a mean over the picture, so that
    the weights fit any size. inner: scale faces to this size first, for quick early epochs.
    """
    make = _Builder(dtype, seed)
    photo = keras.Input((size, size, 3), dtype="uint8", name="face")
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype=dtype, name="scale")(photo)
    if inner:
        x = resize_images(x, inner)
    x = make.convolution(x, 32, 5, 2)
    x = layers.MaxPooling2D(3, 2, "same", dtype=dtype, name="pooling")(x)
    for i, (filters, stride) in enumerate(BLOCKS, start=1):
        x = make.block(x, filters, stride, f"block_{i}")
    x = layers.GlobalAveragePooling2D(dtype=dtype, name="features")(x)
    return keras.Model(photo, x, name="level_one")


def resize_images(pictures, size: int):
    """Pictures (batch, height, width, 3) scaled to size x size, within a network.

    Not by the layer `Resizing`: that one says that it trains, and a network that is called without saying whether it does
    then takes all that follows for training, batch normalisation too.
    """
    return ops.image.resize(pictures, (size, size))


def with_mirror_image(first: keras.Model) -> keras.Model:
    """A level one that looks at a face and at its mirror image, and gives the mean of what it sees in both."""
    config = first.get_config() | {"name": "trunk"}
    trunk = keras.Model.from_config(config)
    trunk.set_weights(first.get_weights())
    photo = keras.Input(first.input_shape[1:], dtype="uint8", name="face")
    features = layers.Average(name="mean_of_both")([trunk(photo), trunk(ops.flip(photo, axis=2))])
    return keras.Model(photo, features, name="level_one")


class _Builder:
    """Makes the parts of a residual network, each with starting weights of its own."""

    def __init__(self, dtype: str, seed: int):
        self.dtype, self.seed = dtype, seed

    def convolution(self, x, filters: int, kernel: int, stride: int = 1, relu: bool = True, start: str = "ones"):
        self.seed += 1
        initial = keras.initializers.HeNormal(self.seed)
        x = layers.Conv2D(
            filters, kernel, stride, "same", use_bias=False, kernel_initializer=initial, dtype=self.dtype
        )(x)  # fmt: skip
        x = layers.BatchNormalization(momentum=0.9, gamma_initializer=start, dtype=self.dtype)(x)
        return layers.ReLU(dtype=self.dtype)(x) if relu else x

    def block(self, x, filters: int, stride: int, name: str):
        y = self.convolution(x, filters, 3, stride)
        # Starting at zero, a block lets everything pass unchanged, so that training begins with a shallow network.
        y = self.convolution(y, filters, 3, relu=False, start="zeros")
        if stride > 1:
            x = layers.AveragePooling2D(stride, padding="same", dtype=self.dtype)(x)
        if x.shape[-1] != filters:
            x = self.convolution(x, filters, 1, relu=False)
        return layers.ReLU(dtype=self.dtype, name=name)(layers.Add(dtype=self.dtype)([x, y]))


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
    `trainable` to False to freeze it. Raises ValueError for fewer than 2 classes, or a size too small for `level_one`.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    first = first or level_one(size, dtype, seed)
    photo = keras.Input(first.input_shape[1:], dtype="uint8", name="face")
    second = level_two(first.output_shape[-1], classes, dtype, seed)
    return keras.Model(photo, second(first(photo)), name="two_level_cnn")


def copy_model(model: keras.Model) -> keras.Model:
    """The same network and weights once more, without a loss and an optimiser."""
    return _rebuilt(model, model.to_json())


def to_float32(model: keras.Model) -> keras.Model:
    """A copy with every layer computing in float32 and no optimiser, as models are released."""
    return _rebuilt(model, model.to_json().replace('"mixed_bfloat16"', '"float32"'))


def _rebuilt(model: keras.Model, config: str) -> keras.Model:
    config = json.loads(config)
    config.pop("compile_config", None)
    copy = keras.models.model_from_json(json.dumps(config))
    copy.set_weights(model.get_weights())
    return copy


def _steps(model: keras.Model) -> list:
    return getattr(model, "operations", model.layers)  # of a Sequential model, the layers


def layer_table(model: keras.Model) -> list[tuple[str, str, tuple, int]]:
    """Rows of (level, layer or operation, output shape, parameters), read from the model."""
    rows = []
    for level in (model.get_layer("level_one"), model.get_layer("level_two")):
        nested = [_steps(step)[1:] if isinstance(step, keras.Model) else [step] for step in _steps(level)]
        for step in sum(nested, []):
            parameters = step.count_params() if isinstance(step, keras.Layer) else 0  # an operation has none
            rows.append((level.name, step.name, tuple(step.output.shape[1:]), parameters))
    return rows
