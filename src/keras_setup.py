"""Keras, imported without the pages that TensorFlow logs while it starts; other modules take it from here.

Before it: `config`. After it: every module that holds or trains a network.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from src.config import keras_backend


@contextmanager
def _silent_stderr() -> Iterator[None]:
    # TensorFlow's first messages come from C++, before any of its own settings on logging are heeded.
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextmanager
def _without(*packages: str) -> Iterator[None]:
    """While it lasts, importing these packages fails, unless one has been imported already."""
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: the way to forbid an import
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = keras_backend()  # it takes precedence over the backend in ~/.keras/keras.json
# Keras imports scikit-learn, and TensorFlow JAX, where they can, for bridges that nothing here crosses: a quarter of the
# time that the first answer waits for them.
_NEEDLESS = {"sklearn", "jax"} - {os.environ["KERAS_BACKEND"]}
with _silent_stderr(), _without(*_NEEDLESS):
    import keras
    from keras import layers, ops
# A user's ~/.keras/keras.json may set other defaults, which would change every layer that is made or loaded.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
# It warns of retracing where several models are trained in turn; after the import, which in a notebook sets another level.
logging.getLogger("tensorflow").setLevel("ERROR")

__all__ = ["devices", "fused_normalisation", "keras", "layers", "ops", "over_all_devices"]


@contextmanager
def fused_normalisation() -> Iterator[None]:
    """While it lasts, a network that is set up for training on TensorFlow normalises its batches by one kernel.

    Keras computes batch normalisation of pictures in many small steps, in float32, which took nearly half of a residual
    network's training on a CPU (benchmarks/normalisation.py). Layer, weights and results stay the same. Other
    backends fuse such steps themselves and are left alone.
    """
    layer = layers.BatchNormalization
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    plain = layer.call

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and len(inputs.shape) == 4):
            return plain(self, inputs, training=training, mask=mask)
        scale, offset = (tf.cast(weights.value, tf.float32) for weights in (self.gamma, self.beta))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=offset, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs

    layer.call = call
    try:
        yield
    finally:
        layer.call = plain


@contextmanager
def over_all_devices() -> Iterator[None]:
    """Within it, models that are made train on all of this machine's devices at once, where there are several.

    Each batch is divided among them, every device has all the weights (data parallelism, `keras.distribution`). With the
    JAX backend only; elsewhere, and with one device, nothing changes. A distribution that is set already stays.
    """
    found = keras.distribution.list_devices() if keras.backend.backend() == "jax" else []
    if len(found) < 2 or keras.distribution.distribution() is not None:
        yield
        return
    with keras.distribution.DataParallel(devices=found, auto_shard_dataset=False).scope():
        yield


def devices() -> int:
    """Among how many devices each batch is divided."""
    distribution = keras.distribution.distribution()
    return distribution.num_model_replicas if distribution else 1
