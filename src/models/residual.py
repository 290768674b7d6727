"""A level one of residual blocks, deeper than the plain one. Notebook 1 has it as an exercise."""

import itertools
from collections.abc import Sequence

from src.config import SEED
from src.keras_setup import keras, layers

BLOCKS = ((48, 1), (48, 1), (96, 2), (96, 1), (192, 2), (192, 1), (256, 2))  # filters and stride of each residual block


def residual_level_one(
    size: int = 128, dtype: str = "float32", seed: int = SEED, blocks: Sequence[tuple[int, int]] = BLOCKS
) -> keras.Model:
    """Builds a residual feature extractor. The shapes of its weights do not depend on the size of the faces.

    Sources: He et al., "Deep residual learning for image recognition", CVPR 2016; for shortcuts with average pooling,
    He et al., "Bag of tricks for image classification", CVPR 2019.

    Args:
        size: Height and width of the faces in pixels.
        dtype: Keras dtype policy, such as "mixed_bfloat16".
        seed: Seed of the initial weights.
        blocks: Number of filters and stride of each residual block.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, 0-255, to features (batch, n): the filters of the last block.
    """
    seeds = itertools.count(seed + 1)  # one for each convolution

    def convolution(x, filters, kernel_size, strides=1, gamma="ones"):
        """Adds a convolution and batch normalisation to a map (batch, height, width, channels)."""
        initial = keras.initializers.HeNormal(next(seeds))
        x = layers.Conv2D(filters, kernel_size, strides, "same", use_bias=False, kernel_initializer=initial, dtype=dtype)(x)
        return layers.BatchNormalization(momentum=0.9, gamma_initializer=gamma, dtype=dtype)(x)

    def relu(x, name=None):
        return layers.ReLU(dtype=dtype, name=name)(x)

    face = keras.Input((size, size, 3), dtype="uint8", name="face")
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype=dtype, name="scale")(face)
    x = relu(convolution(x, 32, 5, strides=2))
    x = layers.MaxPooling2D(3, 2, "same", dtype=dtype, name="pooling")(x)
    for i, (filters, strides) in enumerate(blocks, start=1):
        y = relu(convolution(x, filters, 3, strides))
        y = convolution(y, filters, 3, gamma="zeros")  # gamma 0: blocks start as identities
        if strides > 1:
            x = layers.AveragePooling2D(strides, padding="same", dtype=dtype)(x)
        if x.shape[-1] != filters:
            x = convolution(x, filters, 1)
        x = relu(layers.Add(dtype=dtype)([x, y]), name=f"block_{i}")
    features = layers.GlobalAveragePooling2D(dtype=dtype, name="features")(x)
    return keras.Model(face, features, name="level_one")
