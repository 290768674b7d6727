"""The benchmark from end to end on the synthetic sample; its results say nothing about people."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments import adience_benchmark
from experiments.adience_benchmark import compare_with_published, load_adience, main, make_plan, run
from src.data.table import split, task_labels

EXPERIMENT = "four groups, mapped"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return replace(make_plan(), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def results(plan):
    return run(plan, (EXPERIMENT,), (0, 1))


@pytest.mark.slow
def test_a_fold_is_tested_and_not_trained_again(plan, results):
    assert list(results[EXPERIMENT]) == [0, 1]
    for frame in results[EXPERIMENT].values():
        assert list(frame.index) == ["accuracy", "one-off accuracy"]
        assert frame["value"].between(0, 1).all() and (frame["n"] > 100).all()
    states = {path: path.stat().st_mtime_ns for path in (plan.cache / "training").rglob("state.keras")}
    again = run(plan, (EXPERIMENT,), (0, 1))
    assert {path: path.stat().st_mtime_ns for path in (plan.cache / "training").rglob("state.keras")} == states
    for fold, frame in results[EXPERIMENT].items():
        pd.testing.assert_frame_equal(again[EXPERIMENT][fold], frame)


@pytest.mark.slow
def test_both_label_sets_share_their_faces_and_no_subject_crosses(plan):
    adience = load_adience(plan)
    strict, mapped = adience["strict"], adience["mapped"]
    assert strict.faces is mapped.faces
    assert strict.table["age_low"].notna().sum() < mapped.table["age_low"].notna().sum()
    by_path = dict(zip(mapped.table["path"], mapped.rows))
    assert [by_path[path] for path in strict.table["path"]] == strict.rows.tolist()
    for data in adience.values():
        table = task_labels(data.table, "gender").table
        for fold in adience_benchmark.FOLDS:
            people = table["subject"].groupby(split(table, fold)).agg(set)
            assert not people["test"] & (people["train"] | people["validation"])


def test_the_table_has_ours_below_the_published():
    frames = [pd.DataFrame({"value": [share], "unit": "share"}, ["accuracy"]) for share in (0.5, 0.6)]
    table = compare_with_published({EXPERIMENT: dict(enumerate(frames))}, is_sample=True)
    ours = table[table["method"].str.contains("synthetic sample")]
    assert ours["labels"].tolist() == ["strict", "mapped"] == table["labels"].tolist()[-2:]
    assert ours["four groups"].tolist() == ["–", f"55.0 ± {100 * np.std([0.5, 0.6], ddof=1):.1f}"]
    levi = table[table["method"].str.startswith("Levi & Hassner")].iloc[0]
    assert levi[["gender", "eight groups", "one off", "four groups"]].tolist() == ["86.8", "50.7", "84.7", "–"]


def test_wrong_arguments_are_refused(tmp_path):
    for option in ("--adience", "--imdb-wiki"):
        with pytest.raises(ValueError, match="^expected the folders of IMDB-WIKI and Adience, got only one"):
            main([option, str(tmp_path)])
    with pytest.raises(ValueError, match="must be among gender; eight groups, strict.* got 'weight'"):
        run(make_plan("imdb", "adience"), ("weight",))
