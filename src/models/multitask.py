"""Both tasks on one trunk: labels of every kind, the losses that learn from them, and the heads.

A network of this module gives logits: two of gender (female, male), then one for each year of age from 0 to 100, then,
while it is taught, 128 numbers that imitate a face descriptor. Before it: `network`. After it: `train`.
"""

import numpy as np
import pandas as pd

from src.config import GENDERS, SEED, YEARS
from src.data.table import encode_gender
from src.keras_setup import keras, layers, ops

LOGITS = len(GENDERS) + YEARS
DESCRIPTOR = 128  # numbers in dlib's face descriptor
# The standard deviation of an age label's error, in years: a share of the age, within limits. Labels of one picture that two
# data sets or two files hold differ by half a year below seven and by 3-5 years above 15 (benchmarks/label_limits.py).
LABEL_ERROR_SHARE, SMALLEST_LABEL_ERROR, LARGEST_LABEL_ERROR = 0.15, 0.5, 3.0
UNKNOWN = -1.0
GENDER_WEIGHT = 3.0  # of the gender loss beside that of age, whose values are some ten times as large
TEACHER_WEIGHT = 0.5  # share of a taught loss that comes from the teacher, the rest from the label


def multitask_labels(table: pd.DataFrame, taught: np.ndarray | None = None) -> np.ndarray:
    """Labels for `joint_loss`: float32 (n, 3), or (n, 3 + m) with a teacher's answers for `taught_loss`.

    table: a table of faces. The columns are gender (0 female, 1 male, -1 unknown) and the age's lowest and highest year
    (-1 unknown). taught: float32 (n, m), a teacher's 2 + 101 probabilities and perhaps features to imitate, such as a face's
    descriptor, 128 standardised numbers.
    """
    gender = encode_gender(table["gender"])
    ages = [table[name].astype(float).fillna(UNKNOWN).clip(upper=YEARS - 1) for name in ("age_low", "age_high")]
    labels = np.column_stack([gender, *ages])
    return np.float32(labels if taught is None else np.hstack([labels, taught]))


def age_loss(low, high, log_probability):
    """Negative log-probability of the interval low to high that the age lies in; tensor (n, 1).

    low, high: tensors (n, 1), years. log_probability: tensor (n, 101), of the years 0-100. A range costs the logarithm of
    its years' sum. An exact age is the shortest interval, but labels err: it costs the cross-entropy to a Gaussian about it.
    To let a range reach softly over its ends would reward years between two ranges, which then count for both.
    """
    years = ops.arange(YEARS, dtype="float32")[None]
    inside = ops.logical_and(years >= low, years <= high)
    of_range = -ops.logsumexp(ops.where(inside, log_probability, -1e9), axis=1, keepdims=True)
    error = ops.clip(LABEL_ERROR_SHARE * low, SMALLEST_LABEL_ERROR, LARGEST_LABEL_ERROR)
    near = ops.softmax(-0.5 * ops.square((years - low) / error), axis=1)
    of_year = -ops.sum(near * log_probability, axis=1, keepdims=True)
    return ops.where(low == high, of_year, of_range)


@keras.saving.register_keras_serializable("age_and_gender")
def multitask_loss(labels, outputs):
    """Negative log-likelihood of gender plus `age_loss`, a tensor (n,).

    labels: (n, 3), see `joint_labels`; what is unknown adds nothing. outputs: (n, 103 or more) logits.
    """
    gender, low, high = labels[:, :1], labels[:, 1:2], labels[:, 2:3]
    female_male, years = _log_probabilities(outputs)
    of_gender = -ops.where(gender > 0.5, female_male[:, 1:], female_male[:, :1])
    of_age = age_loss(low, high, years)
    loss = GENDER_WEIGHT * ops.where(gender > UNKNOWN, of_gender, 0.0) + ops.where(low > UNKNOWN, of_age, 0.0)
    return loss[:, 0]


@keras.saving.register_keras_serializable("age_and_gender")
def distillation_loss(labels, outputs):
    """`joint_loss`, mixed with the cross-entropy to a teacher's probabilities, and the squared error of imitated features.

    labels: (n, 106 + features), see `joint_labels`. outputs: (n, 103 + features); there may be no features. Distillation
    after Hinton et al., "Distilling the knowledge in a neural network", 2015, at temperature 1.
    """
    probabilities, features = labels[:, 3 : 3 + LOGITS], labels[:, 3 + LOGITS :]
    female_male, years = _log_probabilities(outputs)
    of_gender = -ops.sum(probabilities[:, :2] * female_male, axis=1)
    of_age = -ops.sum(probabilities[:, 2:] * years, axis=1)
    loss = (1 - TEACHER_WEIGHT) * multitask_loss(labels, outputs) + TEACHER_WEIGHT * (GENDER_WEIGHT * of_gender + of_age)
    if outputs.shape[1] > LOGITS:
        loss += ops.mean(ops.square(outputs[:, LOGITS:] - features), axis=1)
    return loss


class _MeanWhereKnown(keras.metrics.Mean):
    """A mean over the faces that have a label for it."""

    def update_state(self, labels, outputs, sample_weight=None):
        values, known = self.score(labels, outputs)
        weight = ops.cast(known, "float32")
        return super().update_state(values, weight if sample_weight is None else weight * sample_weight)


@keras.saving.register_keras_serializable("age_and_gender")
class GenderAccuracy(_MeanWhereKnown):
    """The share of faces with a known gender that is told right."""

    def __init__(self, name: str = "gender_accuracy", **options):
        super().__init__(name, **options)

    def score(self, labels, outputs):
        return (outputs[:, 1] > outputs[:, 0]) == (labels[:, 0] > 0.5), labels[:, 0] > UNKNOWN


@keras.saving.register_keras_serializable("age_and_gender")
class AbsoluteError(_MeanWhereKnown):
    """Years between the median age and the label, where that is exact."""

    def __init__(self, name: str = "absolute_error", **options):
        super().__init__(name, **options)

    def score(self, labels, outputs):
        upto = ops.cumsum(ops.exp(_log_probabilities(outputs)[1]), axis=1)
        years = ops.sum(ops.cast(upto < 0.5, "float32"), axis=1)
        known = ops.logical_and(labels[:, 1] == labels[:, 2], labels[:, 1] > UNKNOWN)
        return ops.abs(years - labels[:, 1]), known


def _log_probabilities(outputs):
    return ops.log_softmax(outputs[:, :2], axis=1), ops.log_softmax(outputs[:, 2:LOGITS], axis=1)


def add_task_heads(first: keras.Model, taught: bool = False, dropout: float = 0.2, seed: int = SEED) -> keras.Model:
    """A level one and a linear level two for both tasks: uint8 faces to float32 logits (batch, 103), taught (batch, 231)."""
    photo = keras.Input(first.input_shape[1:], dtype="uint8", name="face")
    x = layers.Dropout(dropout, seed=seed, name="dropout")(first(photo))
    sizes = {"gender": len(GENDERS), "age": YEARS} | ({"descriptor": DESCRIPTOR} if taught else {})
    heads = [
        layers.Dense(size, kernel_initializer=keras.initializers.GlorotUniform(seed + i), dtype="float32", name=name)(x)
        for i, (name, size) in enumerate(sizes.items())
    ]
    return keras.Model(photo, layers.Concatenate(dtype="float32", name="logits")(heads), name="joint")
