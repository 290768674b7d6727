"""Ablations: their paired differences, their networks, and the command on synthetic faces."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments import ablations, train_released
from experiments.multitask import distillation_loss, multitask_loss
from src.config import YEAR_COUNT
from src.keras_setup import keras


def test_baselines_come_first():
    names = list(ablations.VARIANTS)
    for name, variant in ablations.VARIANTS.items():
        assert name == "as released" or names.index(variant.baseline) < names.index(name)


def test_the_constant_error_changes_the_loss_of_exact_ages_only():
    rng = np.random.default_rng(1)
    targets = np.hstack([rng.dirichlet(np.ones(2), 3), rng.dirichlet(np.ones(YEAR_COUNT), 3)])
    labels = np.float32(np.hstack([[[1, 40, 40], [0, 10, 10], [-1, 20, 29]], targets]))  # 10 years: an error of 1.5 anyway
    logits = np.float32(rng.normal(size=(3, 2 + YEAR_COUNT)))
    changed, unchanged = (
        keras.ops.convert_to_numpy(loss(labels, logits)) for loss in (ablations.constant_error_loss, distillation_loss)
    )
    assert np.isclose(changed, unchanged, atol=1e-5).tolist() == [False, True, True]


def test_imitated_features_add_their_distance_to_the_loss():
    rng = np.random.default_rng(1)
    labels = np.float32(np.hstack([[[1, 40, 40], [-1, 20, 29]], rng.normal(size=(2, 5))]))
    logits = np.float32(rng.normal(size=(2, 2 + YEAR_COUNT)))
    alone = keras.ops.convert_to_numpy(multitask_loss(labels[:, :3], logits))
    same, other = (
        keras.ops.convert_to_numpy(ablations.imitation_loss(labels, np.hstack([logits, labels[:, 3:] + [[error]]])))
        for error in (np.float32(0), np.float32(2))
    )
    assert same == pytest.approx(alone) and other - alone == pytest.approx([4 * ablations.FEATURE_WEIGHT] * 2, rel=1e-5)


@pytest.mark.parametrize("start", ["wider", "deeper"])
def test_larger_networks_are_within_the_limit_of_released_files(start):
    larger, smallest = (ablations._build_network(name, 1, None, 112).count_params() for name in (start, "residual"))
    assert smallest < larger < 30e6 / 2 / 4  # two files of float32 weights fit into 30 MB


def test_random_weights_distinguish_faces():
    faces = np.random.default_rng(1).integers(0, 256, (4, 128, 128, 3), np.uint8)
    faces[:2] //= 2
    features = ablations._build_network("random", 1, None, 128).get_layer("level_one").predict(faces, verbose=0)
    assert np.isfinite(features).all() and 0.1 < np.abs(features).mean() < 10 and features.std(axis=0).mean() > 0.01


def test_differences_are_paired():
    mine = pd.DataFrame({("utkface", "gender accuracy"): [1, 1, 0, np.nan], ("utkface", "absolute error"): [2.0, 4, 6, 8]})
    baseline = mine - [0.5, 1]
    rows = ablations.summarise_scores(mine, baseline, np.array(list("abcd"), object)).set_index("metric")
    assert rows["value"].tolist() == pytest.approx([2 / 3, 5]) and rows["n"].tolist() == [3, 4]
    for name in ablations.DIFFERENCE_COLUMNS:  # the same for each face, so the interval is a point
        assert rows[name].tolist() == pytest.approx([0.5, 1])
    assert ablations.summarise_scores(mine, None, np.array(list("abcd"), object))["difference"].isna().all()


@pytest.mark.slow
def test_the_command_continues_its_file(pictures, untrained_faceres, tmp_path, monkeypatch, capsys):
    teacher = replace(train_released.TEACHERS["faceres"], epochs=1, batch_size=16)
    monkeypatch.setattr(train_released, "TEACHERS", {"faceres": teacher})
    csv = tmp_path / "ablations.csv"
    arguments = [str(pictures), "--runs", str(tmp_path), "--epochs", "1", "--faces", "100", "--csv", str(csv), "--only"]
    ablations.main([*arguments, "no alignment", "gender alone"])
    first = pd.read_csv(csv)
    baselines = ["as released", "no teacher", "original FaceRes, labels only"]  # the second is the baseline of the third
    assert first["variant"].unique().tolist() == [*baselines[:2], "no alignment", baselines[2], "gender alone"]
    assert first["difference"].isna().equals(first["variant"] == "as released")
    assert set(first["dataset"]) == {"utkface", "fairface", "allagefaces"}
    assert not first[first["variant"] == "gender alone"]["metric"].str.contains("error|exact").any()
    new = ["young and old faces twice", "mirrored predictions averaged", "residual level one, labels only"]
    new += ["deeper residual, 112 pixels", "without UTKFace"]
    ablations.main([*arguments, *new, "no alignment"])
    table = pd.read_csv(csv)
    pd.testing.assert_frame_equal(table[: len(first)], first)
    added = table[len(first) :]
    assert set(added["variant"]) == set(new)
    assert added["difference"].notna().all() and (added["faces"] == 100).all()
    assert "young and old faces twice" in capsys.readouterr().out
