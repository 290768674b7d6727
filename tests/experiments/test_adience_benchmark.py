"""The protocol from end to end on drawn pictures; its figures mean nothing, its bookkeeping does."""

import numpy as np
import pandas as pd
import pytest

from experiments import adience_benchmark
from experiments.adience_benchmark import compare_with_published, load_adience, main, on_sample, run
from src.data.table import split, task_labels


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return on_sample(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def results(plan):
    return run(plan, ("four groups, mapped",), (0, 1), told=lambda line: None)


def test_a_fold_is_tested_and_not_done_again(plan, results, monkeypatch):
    frames = results["four groups, mapped"]
    assert list(frames) == [0, 1]
    for frame in frames.values():
        assert list(frame.index) == ["accuracy", "one-off accuracy"]
        assert frame["value"].between(0, 1).all() and (frame["n"] > 100).all()
    monkeypatch.setattr(adience_benchmark, "predict", lambda *_: pytest.fail("a fold was done again"))
    again = run(plan, ("four groups, mapped",), (0, 1), told=lambda line: None)
    for fold, frame in frames.items():
        pd.testing.assert_frame_equal(again["four groups, mapped"][fold], frame)


def test_both_readings_share_their_faces_and_no_subject_crosses(plan):
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


def test_other_settings_or_data_have_another_name(plan, results):
    data = load_adience(plan)["strict"]
    table = data.table
    start = adience_benchmark.two_level_cnn(4, plan.alignment.size)
    names = {adience_benchmark._name(plan, start, table, data.faces[:4], "age", "four", fold) for fold in (0, 1)}
    names.add(adience_benchmark._name(plan, start, table.iloc[1:], data.faces[:4], "age", "four", 0))
    names.add(adience_benchmark._name(on_sample(epochs=2, cache=plan.cache), start, table, data.faces[:4], "age", "four", 0))
    names.add(
        adience_benchmark._name(
            plan, adience_benchmark.two_level_cnn(4, plan.alignment.size, seed=2), table, data.faces[:4], "age", "four", 0
        )
    )
    assert len(names) == 5


def test_the_table_sets_ours_beside_the_published(results):
    table = compare_with_published(results, drawn=True)
    ours = table[table["method"].str.contains("means nothing")]
    assert ours["labels"].tolist() == ["strict", "mapped"]
    mean = 100 * np.mean([frame["value"]["accuracy"] for frame in results["four groups, mapped"].values()])
    assert ours["four groups"].tolist()[0] == "–" and ours["four groups"].tolist()[1].startswith(f"{mean:.1f} ± ")
    levi = table[table["method"].str.startswith("Levi & Hassner")].iloc[0]
    assert levi[["gender", "eight groups", "one off", "four groups"]].tolist() == ["86.8", "50.7", "84.7", "–"]


def test_one_folder_alone_is_one_sentence(tmp_path, capsys):
    for option in ("--adience", "--imdb-wiki"):
        assert main([option, str(tmp_path)]) == 1
        said = "error: both folders are needed, IMDB-WIKI's and Adience's, or neither: the drawn sample\n"
        assert capsys.readouterr().err == said


def test_an_unknown_experiment_is_refused(plan):
    with pytest.raises(ValueError, match="must be among gender; eight groups, strict.* got 'weight'"):
        run(plan, ("weight",))
