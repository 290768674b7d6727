"""Ablations: their losses, their paired differences, and the command on drawn faces."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments import ablations, train_residual, training_steps
from src.config import SEED, YEARS
from src.keras_setup import keras
from src.models.multitask import DESCRIPTOR_SIZE, LOGIT_COUNT, UNKNOWN, distillation_loss, multitask_loss


@pytest.fixture(scope="module")
def batch():
    """Labels of an adult man, a girl, and a face with an age range only, with a teacher's targets; and logits."""
    rng = np.random.default_rng(1)
    labels = [[1, 40, 40], [0, 5, 5], [UNKNOWN, 20, 29]]
    targets = np.hstack(
        [rng.dirichlet(np.ones(2), 3), rng.dirichlet(np.ones(YEARS), 3), rng.normal(size=(3, DESCRIPTOR_SIZE))]
    )
    return np.float32(np.hstack([labels, targets])), np.float32(rng.normal(size=(3, LOGIT_COUNT + DESCRIPTOR_SIZE)))


def value(loss, labels, outputs):
    return keras.ops.convert_to_numpy(loss(labels, outputs))


def test_losses_differ_in_what_they_are_named_after(batch):
    labels, outputs = batch
    whole, no_teacher = value(distillation_loss, labels, outputs), value(multitask_loss, labels, outputs)
    imitation = value(ablations.descriptor_loss, labels, outputs) - no_teacher
    assert (imitation > 0).all()
    assert np.allclose(value(ablations.probabilities_loss, labels, outputs[:, :LOGIT_COUNT]) + imitation, whole, atol=1e-4)
    assert (value(ablations.children_loss, labels, outputs) > whole + 1e-3).tolist() == [False, True, False]
    soft = value(ablations.soft_ends_loss, labels, outputs)
    assert soft[2] < no_teacher[2], "years beside the range count a little"


def test_hidden_labels_are_unknown(batch):
    labels = batch[0]
    assert (ablations.hide_labels(labels, "gender")[:, 0] == UNKNOWN).all()
    assert (ablations.hide_labels(labels, "age")[:, 1:3] == UNKNOWN).all()
    assert (ablations.hide_labels(labels, "ranges")[:, 1] == UNKNOWN).tolist() == [False, False, True]
    assert np.array_equal(ablations.hide_labels(labels, ""), labels)


def test_differences_are_paired():
    mine = pd.DataFrame({("utkface", "gender accuracy"): [1, 1, 0, np.nan], ("utkface", "absolute error"): [2.0, 4, 6, 8]})
    baseline = mine - [0.5, 1]
    rows = ablations.summarise_scores(mine, baseline, np.array(list("abcd"), object)).set_index("measure")
    assert rows["value"].tolist() == pytest.approx([2 / 3, 5]) and rows["n"].tolist() == [3, 4]
    for name in ablations.DIFFERENCE_COLUMNS:  # the same for each face, so the interval is a point
        assert rows[name].tolist() == pytest.approx([0.5, 1])
    assert ablations.summarise_scores(mine, None, np.array(list("abcd"), object))["difference"].isna().all()


@pytest.mark.slow
def test_the_command_continues_its_file(pictures, tmp_path, capsys):
    data, rng = training_steps.load_data(pictures, tmp_path), np.random.default_rng(1)
    # Random targets stand in for the teacher, whose training takes long.
    name = hashlib.sha256(repr(replace(train_residual.TEACHER, seed=SEED)).encode()).hexdigest()[:8]
    np.save(data.folder / f"teacher-{name}.npy", rng.dirichlet(np.ones(LOGIT_COUNT), len(data.table)).astype(np.float32))
    np.save(data.folder / "descriptors.npy", rng.standard_normal((len(data.table), DESCRIPTOR_SIZE)).astype(np.float32))
    csv = tmp_path / "ablations.csv"
    arguments = [str(pictures), "--runs", str(tmp_path), "--epochs", "1", "--faces", "64", "--csv", str(csv), "--only"]
    ablations.main([*arguments, "adaptive gamma", "alignment on 68 landmarks"])
    first = pd.read_csv(csv)
    assert set(first["variant"]) == {"as released", "adaptive gamma", "alignment on 68 landmarks"}
    ablations.main([*arguments, "mirrored predictions averaged", "adaptive gamma"])
    table = pd.read_csv(csv)
    pd.testing.assert_frame_equal(table[: len(first)], first)
    assert set(table["variant"][len(first) :]) == {"mirrored predictions averaged"}
    assert table["difference"].isna().tolist() == table["against"].isna().tolist()
    assert "adaptive gamma" in capsys.readouterr().out
