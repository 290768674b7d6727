"""The two-level CNN: level one turns a face into features, level two turns the features into class probabilities.

Four convolutions and three dense layers, similar to AlexNet (Krizhevsky et al. 2012) and to the age and gender network of
Levi and Hassner (CVPR Workshops 2015). The network scales the pixels itself, in training and in prediction alike.
"""

from src.config import FACE_SIZE, SEED
from src.keras_setup import keras, layers

MIN_SIZE = 127  # pixels; smaller faces reach the last pooling with less than its window of 3 x 3


def level_one(size: int = FACE_SIZE, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """Builds the feature extractor.

    Args:
        size: Height and width of the faces in pixels.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of the initial weights.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, 0-255, to features (batch, n); n is 1,024 for size 227.

    Raises:
        ValueError: The size is less than `MIN_SIZE`.
    """
    if size < MIN_SIZE:
        raise ValueError(f"the network requires faces of at least {MIN_SIZE} x {MIN_SIZE} pixels, got size {size}")

    def block(x, number, filters, kernel_size, strides=1, padding="same"):
        """Adds a convolution, batch normalisation and pooling, which halves the height and the width."""
        x = layers.Conv2D(
            filters, kernel_size, strides, padding, activation="relu",
            kernel_initializer=keras.initializers.HeNormal(seed + number), dtype=dtype, name=f"convolution_{number}",
        )(x)  # fmt: skip
        x = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"normalisation_{number}")(x)
        return layers.MaxPooling2D(pool_size=3, strides=2, dtype=dtype, name=f"pooling_{number}")(x)

    face = keras.Input((size, size, 3), dtype="uint8", name="face")  # height and width for size 227:
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype=dtype, name="scale")(face)  # 227, values from -1 to 1
    x = block(x, 1, filters=96, kernel_size=7, strides=4, padding="valid")  # 56 after the convolution, 27 after the pooling
    x = block(x, 2, filters=256, kernel_size=5)  # 13
    x = block(x, 3, filters=384, kernel_size=3)  # 6
    x = block(x, 4, filters=256, kernel_size=3)  # 2
    features = layers.Flatten(dtype=dtype, name="features")(x)  # 2 x 2 x 256 = 1,024
    return keras.Model(face, features, name="level_one")


def level_two(features: int, classes: int, dtype: str = "float32", seed: int = SEED) -> keras.Model:
    """Builds the classifier.

    Args:
        features: Number of features that level one returns for each face.
        classes: Number of classes.
        dtype: Keras dtype policy of all layers but the last, which computes in float32.
        seed: Seed of the initial weights and of dropout.

    Returns:
        A model from features (batch, features) to probabilities (batch, classes), float32. Each row sums to 1.
    """
    inputs = keras.Input((features,), name="features")
    x = inputs
    for i in (1, 2):
        initial = keras.initializers.HeNormal(seed + 10 + i)
        x = layers.Dense(512, activation="relu", kernel_initializer=initial, dtype=dtype, name=f"dense_{i}")(x)
        x = layers.Dropout(0.5, seed=seed + i, dtype=dtype, name=f"dropout_{i}")(x)
    initial = keras.initializers.GlorotUniform(seed + 20)
    x = layers.Dense(classes, activation="softmax", kernel_initializer=initial, dtype="float32", name="probability")(x)
    return keras.Model(inputs, x, name="level_two")


def two_level_cnn(
    classes: int, size: int = FACE_SIZE, level_one_model: keras.Model | None = None, dtype: str = "float32", seed: int = SEED
) -> keras.Model:
    """Builds the whole network.

    Args:
        classes: Number of classes.
        size: Height and width of the faces in pixels; without effect if `level_one_model` is given, which has its own size.
        level_one_model: Another level one, such as `model.get_layer("level_one")` of a trained model. To freeze it, set
            its `trainable` to False. None builds a new one with `level_one`.
        dtype: Keras dtype policy of the new layers; with `level_one_model`, of level two only.
        seed: Seed of the initial weights and of dropout.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, 0-255, to probabilities (batch, classes).

    Raises:
        ValueError: There are fewer than 2 classes, or the size is too small for `level_one`.
    """
    if classes < 2:
        raise ValueError(f"a classifier requires at least 2 classes, got {classes}")
    level_one_model = level_one_model or level_one(size, dtype, seed)
    level_two_model = level_two(level_one_model.output_shape[-1], classes, dtype, seed)
    face = keras.Input(level_one_model.input_shape[1:], dtype="uint8", name="face")
    return keras.Model(face, level_two_model(level_one_model(face)), name="two_level_cnn")


def layer_table(model: keras.Model) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Lists the layers of a two-level network.

    Args:
        model: A model with the layers `level_one` and `level_two`.

    Returns:
        Rows of (level, layer or operation, output shape without the batch such as (27, 27, 96), number of parameters).
    """
    rows = []
    for level in (model.get_layer("level_one"), model.get_layer("level_two")):
        for step in level.operations:
            inner = step.operations[1:] if isinstance(step, keras.Model) else [step]
            for x in inner:
                parameters = x.count_params() if hasattr(x, "count_params") else 0  # operations have none
                rows.append((level.name, x.name, tuple(x.output.shape[1:]), parameters))
    return rows
