"""The multi-task network: losses and metrics worked out by hand, and learning from labels of every kind."""

import numpy as np
import pandas as pd
import pytest

from experiments import multitask
from experiments.multitask import (
    AbsoluteError,
    GenderAccuracy,
    distillation_loss,
    multitask_labels,
    multitask_loss,
)
from src.config import YEAR_COUNT
from src.keras_setup import keras, layers, ops
from src.models import train

NOTHING_KNOWN = (-1, -1, -1)
SIZE = 32


def outputs(years, male=0.5):
    """Logits of one face, float32 (1, 103): the probabilities of some years, which may not add up to 1."""
    probability = np.zeros(YEAR_COUNT)
    probability[list(years)] = list(years.values())
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(np.hstack([1 - male, male, probability])), -40) + 3.0  # any constant may be added
    return np.float32(logits)[None]


def loss(labels, said, kind=multitask_loss):
    labels = ops.convert_to_tensor(np.float32([labels] if np.ndim(labels) == 1 else labels))
    return ops.convert_to_numpy(kind(labels, ops.convert_to_tensor(said)))


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_of_a_table():
    table = pd.DataFrame(
        {
            "gender": pd.array(["female", "male", None, "male"], dtype="string"),
            "age_low": pd.array([30, 70, None, 116], dtype="Int64"),
            "age_high": pd.array([30, 100, None, 116], dtype="Int64"),
        }
    )
    labels = multitask_labels(table)
    assert labels.dtype == np.float32
    assert labels.tolist() == [[0, 30, 30], [1, 70, 100], [-1, -1, -1], [1, 100, 100]]
    targets = np.random.default_rng(1).random((4, 103))
    both = multitask_labels(table, targets)
    assert both.shape == (4, 106) and both.dtype == np.float32
    assert np.array_equal(both[:, :3], labels) and both[:, 3:] == pytest.approx(targets)


# --- the loss from labels ---------------------------------------------------------------------------------------------


def softened(age, error):
    """An exact age with the error of its label: a Gaussian over the years 0-100."""
    near = np.exp(-0.5 * ((np.arange(YEAR_COUNT) - age) / error) ** 2)
    return near / near.sum()


@pytest.mark.parametrize(("age", "error"), [(0, 0.5), (2, 0.5), (9, 1.35), (30, 2.0), (91, 2.0)])
def test_loss_of_an_exact_age_by_hand(age, error):
    """Labels of small children are precise, those of adults less so."""
    probability = np.random.default_rng(3).dirichlet(np.ones(YEAR_COUNT))
    said = outputs(dict(enumerate(probability)))
    assert loss((-1, age, age), said) == pytest.approx(-softened(age, error) @ np.log(probability), abs=1e-4)
    same = loss((-1, age, age), said, lambda labels, logits: multitask_loss(labels, logits, label_error=1.5))
    assert same == pytest.approx(-softened(age, 1.5) @ np.log(probability), abs=1e-4)


def test_a_range_counts_every_year_inside_and_none_outside():
    said = outputs({30: 0.5, 31: 0.3, 60: 0.2})
    assert loss((-1, 30, 39), said) == pytest.approx(-np.log(0.8), abs=1e-5)
    assert loss((-1, 31, 39), said) == pytest.approx(-np.log(0.3), abs=1e-5)
    assert loss((-1, 0, 100), said) == pytest.approx(0, abs=1e-5)
    for inside in ({30: 1}, {39: 1}, dict.fromkeys(range(30, 40), 0.1)):
        assert loss((-1, 30, 39), outputs(inside)) == pytest.approx(0, abs=1e-5)


def test_loss_of_gender_by_hand():
    said = outputs({30: 1}, male=0.8)
    assert loss((1, -1, -1), said) == pytest.approx(-multitask.GENDER_WEIGHT * np.log(0.8), abs=1e-5)
    assert loss((0, -1, -1), said) == pytest.approx(-multitask.GENDER_WEIGHT * np.log(0.2), abs=1e-5)


def test_what_is_unknown_adds_nothing():
    said = outputs({30: 0.5, 31: 0.3, 60: 0.2}, male=0.8)
    assert loss(NOTHING_KNOWN, said) == 0
    whole = loss((1, 30, 30), said)
    assert whole == pytest.approx(loss((1, -1, -1), said) + loss((-1, 30, 30), said), abs=1e-6)
    other = outputs({7: 1}, male=0.1)
    assert loss([(1, -1, -1), (-1, 30, 39)], np.vstack([said, other])) == pytest.approx(
        [loss((1, -1, -1), said)[0], loss((-1, 30, 39), other)[0]]
    ), "each face has its own"


# --- the loss from a teacher ------------------------------------------------------------------------------------------


def teacher_labels(label, male, years):
    probability = np.zeros(YEAR_COUNT)
    probability[list(years)] = list(years.values())
    return np.hstack([label, 1 - male, male, probability])


def test_distillation_loss_by_hand():
    said = outputs({30: 0.5, 31: 0.3, 60: 0.2}, male=0.8)
    label = (1, 30, 39)
    labels = teacher_labels(label, 0.6, {30: 0.25, 60: 0.75})
    from_teacher = (
        -multitask.GENDER_WEIGHT * (0.6 * np.log(0.8) + 0.4 * np.log(0.2)) - 0.25 * np.log(0.5) - 0.75 * np.log(0.2)
    )
    expected = (1 - multitask.TEACHER_WEIGHT) * loss(label, said)[0] + multitask.TEACHER_WEIGHT * from_teacher
    assert loss(labels, said, distillation_loss) == pytest.approx(expected, rel=1e-5)


# --- metrics ----------------------------------------------------------------------------------------------------------


def figure(metric, *batches):
    for labels, said in batches:
        metric.update_state(ops.convert_to_tensor(np.float32(labels)), ops.convert_to_tensor(said))
    return float(metric.result())


def test_gender_accuracy_counts_only_faces_with_a_gender():
    said = np.vstack([outputs({30: 1}, male) for male in (0.9, 0.9, 0.2, 0.9)])
    labels = [(1, 30, 30), (0, -1, -1), (0, 20, 29), (-1, 30, 30)]
    assert figure(GenderAccuracy(), (labels, said)) == pytest.approx(2 / 3)
    assert figure(GenderAccuracy(), (labels[:1], said[:1]), (labels[1:], said[1:])) == pytest.approx(2 / 3)
    assert figure(GenderAccuracy(), ([NOTHING_KNOWN] * 4, said)) == 0


def test_absolute_error_counts_only_exact_ages():
    said = np.vstack([outputs({20: 0.5, 40: 0.5}), outputs({50: 1}), outputs({90: 1}), outputs({90: 1})])
    labels = [(1, 33, 33), (-1, 49, 49), (0, 30, 39), NOTHING_KNOWN]
    assert figure(AbsoluteError(), (labels, said)) == (13 + 1) / 2, "between the label and the median"
    assert figure(AbsoluteError(), (labels[2:], said[2:]), (labels[:2], said[:2])) == 7
    assert figure(AbsoluteError(), (labels[2:], said[2:])) == 0


# --- learning ---------------------------------------------------------------------------------------------------------


def averaging():
    """A level one that only averages: sixteen squares of the picture, so that an epoch takes no time."""
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="face")
    means = layers.AveragePooling2D(SIZE // 4, name="means")(layers.Rescaling(1 / 127.5, offset=-1, name="scale")(face))
    return keras.Model(face, layers.Flatten(name="features")(means), name="level_one")


@pytest.fixture(scope="module")
def task():
    """(faces, labels, split): the upper half is bright for men, the lower one the brighter the older.

    A third has no gender, a third no age, a third of the ages is a range.
    """
    rng, count = np.random.default_rng(1), 240
    male, age = rng.integers(0, 2, count), rng.integers(10, 90, count)
    faces = rng.integers(0, 40, (count, SIZE, SIZE, 3), np.uint8)
    faces[:, : SIZE // 2] += np.uint8(150 * male)[:, None, None, None]
    faces[:, SIZE // 2 :] += np.uint8(2 * age)[:, None, None, None]
    labels = np.float32(np.column_stack([male, age, age]))
    labels[0::3, 0] = -1
    labels[1::3, 1:] = -1
    labels[2::6, 1:] = labels[2::6, 1:] // 10 * 10 + (0, 9)
    return faces, labels, np.repeat(["train", "validation"], [180, 60])


SETTINGS = train.TrainingSettings(epochs=12, batch_size=16, learning_rate=0.03, rotation=0, zoom=0, shift=0, brightness=0)


@pytest.mark.slow
def test_it_learns_from_labels_of_every_kind_and_resumes_with_its_loss_and_metrics(task, tmp_path):
    faces, labels, split = task

    def fitted(on_epoch=lambda history: None):
        model, rows = multitask.add_task_heads(averaging(), dropout=0.1), np.arange(len(faces))
        metrics = (GenderAccuracy, AbsoluteError)
        return train.fit(model, faces, rows, labels, split, SETTINGS, on_epoch, tmp_path, multitask_loss, metrics)

    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(stop)
    model, history = fitted()
    assert history["epoch"].tolist() == list(range(1, len(history) + 1)) and history.notna().all(axis=None)
    assert history["val_gender_accuracy"].iloc[-1] >= 0.95
    assert history["val_absolute_error"].iloc[-1] < 0.6 * history["val_absolute_error"].iloc[0]
    assert history["val_loss"].iloc[-1] < 0.8 * history["val_loss"].iloc[0]
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


# --- the heads --------------------------------------------------------------------------------------------------------


def test_heads(task):
    first = averaging()
    model = multitask.add_task_heads(first)
    assert model.input_shape == (None, SIZE, SIZE, 3) and model.inputs[0].dtype == "uint8"
    assert model.output_shape == (None, 103) and model.outputs[0].dtype == "float32"
    features, said = (network.predict(task[0][:5], verbose=0) for network in (first, model))
    for name, part in (("gender", np.s_[:2]), ("age", np.s_[2:])):
        kernel, bias = model.get_layer(name).get_weights()
        assert said[:, part] == pytest.approx(features @ kernel + bias, abs=1e-4), name
