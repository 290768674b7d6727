"""MobileNetV1 for faces, in the two variants of the pretrained networks in `teachers`.

Source: Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017.
Batch normalisation is folded into kernels and biases, so each convolution is followed by a bias and an activation only.
"""

import functools
from collections.abc import Sequence

from src.keras_setup import keras, layers, ops

STEM_FILTERS = 32  # number of filters of the first convolution
# For each block, the filters of the pointwise convolution and the stride of the depthwise one before it.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


@keras.saving.register_keras_serializable("age_and_gender")
class BiasPReLU(layers.Layer):
    """Adds a bias to each channel, then PReLU: maps (batch, height, width, channels) of any float type to the same shape.

    On TensorFlow, training uses one compiled kernel forward and one backward. Separate kernels for the bias, the
    activation and their gradients took half of the training time of SFace on a CPU, because each reads and writes the whole
    map. Compilation takes some seconds for each new batch size.
    """

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.bias = self.add_weight(shape=channels, initializer="zeros", name="bias")
        self.slope = self.add_weight(shape=channels, initializer=keras.initializers.Constant(0.25), name="slope")

    def call(self, inputs, training=None):
        bias, slope = (ops.cast(weights, self.compute_dtype) for weights in (self.bias, self.slope))
        if training and keras.backend.backend() == "tensorflow":
            return _compiled_prelu()(inputs, bias, slope)
        x = inputs + bias
        return ops.where(x > 0, x, slope * x)


@functools.cache  # layers with maps of one shape share the compiled functions
def _compiled_prelu():
    """Returns a function (x, bias, slope) -> PReLU(x + bias) with its own gradient."""
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def forward(x, bias, slope):
        x = x + bias
        return tf.where(x > 0, x, slope * x)

    @tf.function(jit_compile=True)
    def backward(x, bias, slope, upstream):
        x = x + bias
        return tf.where(x > 0, upstream, slope * upstream), upstream * tf.minimum(x, tf.zeros_like(x))

    def sum_per_channel(values):
        # A matrix product is much faster than TensorFlow's reduction kernel.
        flat = tf.reshape(values, (-1, values.shape[-1]))
        return tf.matmul(tf.ones((1, tf.shape(flat)[0]), flat.dtype), flat)[0]

    @tf.custom_gradient
    def prelu(x, bias, slope):
        def gradient(upstream):
            x_gradient, slope_gradient = backward(x, bias, slope, upstream)
            return x_gradient, sum_per_channel(x_gradient), sum_per_channel(slope_gradient)

        return forward(x, bias, slope), gradient

    return prelu


def mobilenet(
    size: int,
    *,
    stem_stride: int,
    prelu: bool,
    scale: float,
    offset: float | Sequence[float],
    dtype: str = "float32",
) -> keras.Model:
    """Builds the convolutions of MobileNetV1 1.0 with random weights.

    Args:
        size: Height and width of the faces in pixels.
        stem_stride: Stride of the first convolution, 1 or 2.
        prelu: True for PReLU and padding by one pixel on all sides (MXNet's rule), False for ReLU6 and padding by
            TensorFlow's rule, which for stride 2 pads at the bottom and at the right only.
        scale: Factor for the pixels 0-255.
        offset: Added after scaling; one number or one for each of red, green and blue.
        dtype: Keras dtype policy, such as "mixed_bfloat16". Depthwise convolutions always compute in float32: in
            bfloat16, TensorFlow's CPU gradient for stride 2 took five times as long.

    Returns:
        A model from uint8 faces (batch, size, size, 3), RGB, 0-255, to a map (batch, rows, columns, 1024) in the compute
        dtype of the policy.
    """

    def stage(x, kind: type[layers.Layer], name: str, stride: int = 1, **options):
        """Adds a convolution, its bias and its activation."""
        symmetric = prelu and stride == 2
        if symmetric:
            x = layers.ZeroPadding2D(1, dtype=dtype)(x)
        padding = "valid" if symmetric else "same"
        options = {"dtype": dtype} | options
        x = kind(strides=stride, padding=padding, use_bias=not prelu, name=name, **options)(x)
        if prelu:
            return BiasPReLU(dtype=dtype, name=f"{name}_activation")(x)
        return layers.ReLU(6, dtype=dtype, name=f"{name}_activation")(x)

    face = keras.Input((size, size, 3), dtype="uint8", name="face")
    x = layers.Rescaling(scale, offset, dtype=dtype, name="scale")(face)
    x = stage(x, layers.Conv2D, "stem", stem_stride, filters=STEM_FILTERS, kernel_size=3)
    for number, (filters, stride) in enumerate(BLOCKS, start=1):
        x = stage(x, layers.DepthwiseConv2D, f"depthwise_{number}", stride, kernel_size=3, dtype="float32")
        x = stage(x, layers.Conv2D, f"pointwise_{number}", filters=filters, kernel_size=1)
    return keras.Model(face, x, name="mobilenet")
