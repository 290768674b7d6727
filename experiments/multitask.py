"""One network for gender and age: its output layers, its labels and its losses.

The network returns logits: two for gender (female, male) and 101 for the years of age from 0 to 100. A face whose label is
unknown adds nothing to the loss of that label.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import GENDERS, SEED, YEAR_COUNT
from src.data.table import encode_gender
from src.keras_setup import keras, layers, ops

LABEL_COUNT = 3  # columns of `multitask_labels` before the targets of a teacher
UNKNOWN = -1.0  # marks an unknown label
GENDER_WEIGHT = 3.0  # weight of the gender loss; the age loss is about ten times as large
TEACHER_WEIGHT = 0.5  # share of the teacher in `distillation_loss`; the labels have the rest
# Standard deviation of an age label's error: a share of the age, between a minimum and a maximum. Two labels of the same
# image differ by half a year below the age of 7 and by 3-5 years above 15 (benchmarks/label_limits.py).
LABEL_ERROR_SHARE = 0.15
MIN_LABEL_ERROR = 0.5  # years
MAX_LABEL_ERROR = 2.0  # years; the measured 3-5 years would make predictions for adults too unsure


class LabelColumns(NamedTuple):
    """The columns of `multitask_labels` by name, tensors (n, columns)."""

    gender: Any  # (n, 1): 0 female, 1 male
    first_year: Any  # (n, 1): the first year of the age
    last_year: Any  # (n, 1): the last year, inclusive; equal to the first one for an exact age
    teacher: Any  # (n, 103): the teacher's probabilities of the genders and years


def multitask_labels(table: pd.DataFrame, targets: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
    """Returns the labels for the losses of this module.

    Args:
        table: Table of faces.
        targets: A teacher's targets for `distillation_loss`, floats (n, 103): the probabilities of the genders and years.

    Returns:
        float32 (n, 3) or, with targets, (n, 106), with the columns of `LabelColumns` side by side. Unknown labels are
        `UNKNOWN`. Ages above 100 count as 100.
    """
    gender = encode_gender(table["gender"])
    ages = [table[name].astype(float).fillna(UNKNOWN).clip(upper=YEAR_COUNT - 1) for name in ("age_low", "age_high")]
    labels = np.column_stack([gender, *ages])
    return np.float32(labels if targets is None else np.hstack([labels, targets]))


def label_columns(labels) -> LabelColumns:
    """Names the columns of labels, a tensor (n, 3 or 106). Without targets, `teacher` has no column."""
    return LabelColumns(labels[:, :1], labels[:, 1:2], labels[:, 2:LABEL_COUNT], labels[:, LABEL_COUNT:])


def _age_loss(low, high, log_probability, label_error: float | None):
    """Returns the negative log-likelihood (n, 1) of ages from the years `low` to `high` (n, 1).

    An age range costs the logarithm of the summed probability of its years. An exact age costs the cross-entropy to a
    Gaussian around it, because labels have errors. The ends of ranges are not softened in this way, because soft ends reward
    ages between two ranges.
    """
    years = ops.arange(YEAR_COUNT, dtype="float32")[None]
    inside = ops.logical_and(years >= low, years <= high)
    range_loss = -ops.logsumexp(ops.where(inside, log_probability, -1e9), axis=1, keepdims=True)
    error = label_error or ops.clip(LABEL_ERROR_SHARE * low, MIN_LABEL_ERROR, MAX_LABEL_ERROR)
    gaussian = ops.softmax(-0.5 * ops.square((years - low) / error), axis=1)
    exact_loss = -ops.sum(gaussian * log_probability, axis=1, keepdims=True)
    return ops.where(low == high, exact_loss, range_loss)


@keras.saving.register_keras_serializable("age_and_gender")
def multitask_loss(labels, logits, label_error: float | None = None):
    """Returns the negative log-likelihood of gender and age.

    Args:
        labels: Tensor (n, 3 or 106); see `multitask_labels`.
        logits: Tensor (n, 103).
        label_error: Standard deviation of exact ages in years; None makes it depend on the age.

    Returns:
        Tensor (n,).
    """
    gender, first_year, last_year, *_ = label_columns(labels)
    gender_log, years_log = _log_probabilities(logits)
    gender_loss = -ops.where(gender > 0.5, gender_log[:, 1:], gender_log[:, :1])
    gender_loss = ops.where(gender > UNKNOWN, gender_loss, 0.0)
    age_loss = ops.where(first_year > UNKNOWN, _age_loss(first_year, last_year, years_log, label_error), 0.0)
    return (GENDER_WEIGHT * gender_loss + age_loss)[:, 0]


@keras.saving.register_keras_serializable("age_and_gender")
def distillation_loss(labels, logits, label_error: float | None = None):
    """Returns `multitask_loss`, averaged with the cross-entropy to a teacher's probabilities.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015, with temperature 1.

    Args:
        labels: Tensor (n, 106) with a teacher's targets; see `multitask_labels`.
        logits: Tensor (n, 103).
        label_error: See `multitask_loss`.

    Returns:
        Tensor (n,).
    """
    teacher = label_columns(labels).teacher
    gender_log, years_log = _log_probabilities(logits)
    gender_loss = -ops.sum(teacher[:, :2] * gender_log, axis=1)
    teacher_loss = GENDER_WEIGHT * gender_loss - ops.sum(teacher[:, 2:] * years_log, axis=1)
    return (1 - TEACHER_WEIGHT) * multitask_loss(labels, logits, label_error) + TEACHER_WEIGHT * teacher_loss


def _log_probabilities(logits):
    """Returns the log-probabilities of the genders (n, 2) and of the years (n, 101)."""
    return ops.log_softmax(logits[:, :2], axis=1), ops.log_softmax(logits[:, 2:], axis=1)


@keras.saving.register_keras_serializable("age_and_gender")
class GenderAccuracy(keras.metrics.Mean):
    """Share of the faces with a known gender whose gender is predicted correctly."""

    def __init__(self, name: str = "gender_accuracy", **options):
        super().__init__(name, **options)

    def update_state(self, labels, logits, sample_weight=None):
        gender = label_columns(labels).gender[:, 0]
        correct = (logits[:, 1] > logits[:, 0]) == (gender > 0.5)
        return super().update_state(correct, _weight(gender > UNKNOWN, sample_weight))


@keras.saving.register_keras_serializable("age_and_gender")
class AbsoluteError(keras.metrics.Mean):
    """Mean difference in years between the median age and the label, over the faces with an exact age."""

    def __init__(self, name: str = "absolute_error", **options):
        super().__init__(name, **options)

    def update_state(self, labels, logits, sample_weight=None):
        cumulative = ops.cumsum(ops.exp(_log_probabilities(logits)[1]), axis=1)
        median = ops.sum(ops.cast(cumulative < 0.5, "float32"), axis=1)
        columns = label_columns(labels)
        first_year, last_year = columns.first_year[:, 0], columns.last_year[:, 0]
        exact = ops.logical_and(first_year == last_year, first_year > UNKNOWN)
        return super().update_state(ops.abs(median - first_year), _weight(exact, sample_weight))


def _weight(known, sample_weight):
    known = ops.cast(known, "float32")
    return known if sample_weight is None else known * sample_weight


def add_task_heads(level_one: keras.Model, dropout: float = 0.2, seed: int = SEED) -> keras.Model:
    """Adds a linear output layer (head) for each task to a level one.

    Args:
        level_one: From uint8 faces (batch, size, size, 3), RGB, 0-255, to features (batch, n).
        dropout: Share of the features that training drops.
        seed: Seed of the initial weights and of dropout.

    Returns:
        A model from uint8 faces to float32 logits (batch, 103).
    """
    face = keras.Input(level_one.input_shape[1:], dtype="uint8", name="face")
    x = layers.Dropout(dropout, seed=seed, name="dropout")(level_one(face))
    heads = [
        layers.Dense(size, kernel_initializer=keras.initializers.GlorotUniform(seed + i), dtype="float32", name=name)(x)
        for i, (name, size) in enumerate({"gender": len(GENDERS), "age": YEAR_COUNT}.items())
    ]
    return keras.Model(face, layers.Concatenate(dtype="float32", name="logits")(heads), name="multitask")
