"""Imports Keras with the chosen backend and without TensorFlow's start-up messages. Other modules take Keras from here."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from src.config import require_keras_backend

__all__ = ["data_parallel", "device_count", "fused_normalisation", "keras", "layers", "ops"]


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = require_keras_backend()  # takes precedence over ~/.keras/keras.json
# Keras imports scikit-learn and TensorFlow imports JAX for features that are not used here. None in sys.modules makes these
# optional imports fail, so that Keras starts a third faster.
_skipped = {"sklearn", "jax"} - {os.environ["KERAS_BACKEND"]} - set(sys.modules)
sys.modules.update(dict.fromkeys(_skipped))  # type: ignore[arg-type]
_stderr = os.dup(2)
with open(os.devnull, "w") as _null:
    os.dup2(_null.fileno(), 2)  # TensorFlow's C++ code logs before it reads any setting
try:
    import keras
    from keras import layers, ops
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
for _package in _skipped:
    del sys.modules[_package]
# A user's ~/.keras/keras.json may set other defaults, which would change every layer.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
# Hides warnings of retracing when several models are trained in turn. The import of TensorFlow resets this level.
logging.getLogger("tensorflow").setLevel("ERROR")


@contextmanager
def fused_normalisation() -> Iterator[None]:
    """Makes BatchNormalization use TensorFlow's fused kernel in networks that are compiled for training inside the block.

    On a CPU, the layer's many small steps take nearly half of a residual network's training time. The results are
    the same, except for a factor n / (n - 1) in the moving variance. With other backends this has no effect, because they
    fuse the steps themselves.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    layer = layers.BatchNormalization
    keras_call = layer.call

    def call(self, inputs, training=None, mask=None):
        is_usual = self.scale and self.center and self.axis in (-1, 3) and mask is None
        if not (training and self.trainable and len(inputs.shape) == 4 and is_usual):
            return keras_call(self, inputs, training=training, mask=mask)
        scale, offset = (tf.cast(weights.value, tf.float32) for weights in (self.gamma, self.beta))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=offset, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        for moving, current in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + current * (1 - self.momentum))
        return outputs

    layer.call = call
    try:
        yield
    finally:
        layer.call = keras_call


@contextmanager
def data_parallel() -> Iterator[None]:
    """Makes models that are built inside the block train on all devices of this machine, which share each batch.

    This has no effect with a backend other than JAX, with one device, or if a distribution is already set.
    """
    found = keras.distribution.list_devices() if keras.backend.backend() == "jax" else []
    if len(found) < 2 or keras.distribution.distribution() is not None:
        yield
        return
    with keras.distribution.DataParallel(devices=found, auto_shard_dataset=False).scope():
        yield


def device_count() -> int:
    """Returns the number of devices that share each batch."""
    distribution = keras.distribution.distribution()
    return distribution.num_model_replicas if distribution else 1
