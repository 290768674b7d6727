"""What is said of the released models is what their files hold; no picture of a real person is shown."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments import results as findings
from src.config import AGE_GROUPS, MODELS, YEARS
from src.data.table import TABLE_COLUMNS, split
from src.models import model_folder, two_level_cnn


@pytest.fixture(scope="module")
def models(standins):
    return findings.load_released(standins.gender, standins.age)


@pytest.fixture(scope="module")
def results(standins):
    return findings.read_results("released_results", standins.results)


def table_of(dataset, ages, genders, subjects=None, fold=None):
    rows = pd.DataFrame(
        {"path": [f"{i}.jpg" for i in range(len(ages))], "age_low": ages, "age_high": ages, "gender": genders}
    )
    rows = rows.assign(subject=subjects if subjects else pd.NA, fold=fold if fold else pd.NA, dataset=dataset)
    return rows.reindex(columns=list(TABLE_COLUMNS)).astype(TABLE_COLUMNS)


def judged(dataset="sample", subjects=("a", "b", "c", "c")):
    """Four faces: the first right in all; the others are called male at 90, 80 and 99%, the third and fourth of 30 years."""
    table = table_of(dataset, [30, 30, 50, 50], ["male", "female", "female", "female"], list(subjects))
    gender = np.array([[0.3, 0.7], [0.1, 0.9], [0.2, 0.8], [0.01, 0.99]])
    age = np.eye(YEARS)[[30, 30, 30, 30]] * 0.9 + 0.1 / YEARS
    faces = np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3).astype(np.uint8)
    return findings.Evaluation(table, faces, {"gender": gender, "age": age}, pd.DataFrame())


@pytest.mark.parametrize("name", findings.FILES)
def test_a_missing_file_is_one_sentence_with_the_way_out(tmp_path, name):
    with pytest.raises(findings.ResultsMissing, match=f"^{name}.csv is missing in .*: .*(makes it|repository)$"):
        findings.read_results(name, tmp_path)


def test_a_file_that_is_not_whole_is_named(tmp_path, standins):
    file = tmp_path / "released_history.csv"
    for text, said in (("", "is no table"), ("epoch,loss\n1,2\n", "lacks the column val_loss"), ("a\n", "lacks the column")):
        file.write_text(text)
        with pytest.raises(findings.ResultsMissing, match=said):
            findings.read_results("released_history", tmp_path)
    head = (standins.results / "released_history.csv").read_text().split("\n")[0]
    file.write_text(head + "\n")
    with pytest.raises(findings.ResultsMissing, match="lacks any row"):
        findings.read_results("released_history", tmp_path)


def test_only_models_of_the_released_kind_are_taken(models, standins, tmp_path):
    assert list(models) == ["gender", "age"]
    with pytest.raises(model_folder.ModelFolderError, match="holds a model for age, not for gender"):
        findings.load_released(standins.age, standins.age)
    with pytest.raises(model_folder.ModelFolderError, match="not a model folder"):
        findings.load_released(tmp_path, standins.age)
    plain, trained = tmp_path / "gender", models["gender"]
    shutil.copytree(standins.gender, plain)
    model_folder.save_model(plain, trained.model, trained.labels, trained.alignment, {}, [])
    with pytest.raises(model_folder.ModelFolderError, match="no calibration"):
        findings.load_released(plain, standins.age)
    groups, trained = AGE_GROUPS["adience"], models["age"]
    labels = model_folder.Labels("age", groups.names, groups.years, tuple(first for first, _ in groups.years))
    network_of_groups = two_level_cnn.two_level_cnn(len(groups.names), first=trained.model.get_layer("level_one"))
    calibration = dataclasses.asdict(findings.calibration_of(trained))
    of_groups = model_folder.save_model(
        tmp_path / "groups", network_of_groups, labels, trained.alignment, {}, [], calibration
    )
    with pytest.raises(model_folder.ModelFolderError, match="its classes must be the years 0 to 100"):
        findings.load_released(standins.gender, of_groups)


def test_parts_count_every_parameter(models):
    table = findings.parts(models["age"])
    assert table["parameters"].sum() == models["age"].model.count_params()
    assert list(table["part"])[:3] == ["face", "scale", "pooling"]
    assert [name for name in table["part"] if "block" in name] == [f"block_{i}" for i in range(1, 8)]
    assert table["part"].iloc[-1] == "probability" and len(table) < 16


def test_overall_and_by_groups_say_what_the_rows_hold(results):
    table = findings.overall(results)
    assert list(table.columns) == ["UTKFace", "FairFace"]
    assert table.loc["gender accuracy"].tolist() == ["95.0% (93.1–96.9)"] * 2
    assert table.loc["absolute error"].tolist() == ["4.50 (4.41–4.59) years", ""]
    assert table.loc["gender calibration error", "UTKFace"] == "1.2%"
    groups = findings.by_groups(results, "utkface").set_index("group")
    assert groups.loc["female", ["by", "faces", "gender accuracy"]].tolist() == ["gender", "100", "85.5% (83.8–87.2)"]
    assert "nine ranges exact" not in groups


@pytest.mark.parametrize(
    ("measure", "by", "said"),
    [
        (
            "gender accuracy",
            "age",
            "worst for ages 0–6, 85.5% (83.8–87.2, n = 100), against 95.0% (93.1–96.9) over all faces.",
        ),
        ("absolute error", "gender", "worst for female faces, 4.95 years"),
        ("gender accuracy", "race", "worst for faces labelled White, 85.5%"),
    ],
)
def test_the_worst_group_is_named_in_words(results, measure, by, said):
    assert findings.worst_words(results, "utkface", measure, by).startswith(f"UTKFace, {measure}: {said}")


def test_no_worst_is_named_among_few_faces(results):
    few = results.assign(n=results["n"].where(results["by"] == "all", 29))
    assert "no age band has 30 faces" in findings.worst_words(few, "utkface", "gender accuracy", "age")


def test_beside_puts_ours_first_and_keeps_the_others_digits(results, standins):
    plain, others = (findings.read_results(name, standins.results) for name in ("plain", "others"))
    compared = findings.compare_models(results, plain, others)
    assert list(dict.fromkeys(compared["kind"])) == ["ours", "plain", "others"]
    assert compared[compared["kind"] != "ours"][["low", "high"]].isna().all(axis=None)
    table = findings.comparison_table(compared)
    assert table.index[0] == findings.OURS and len(table) == 2 + len(others)
    assert table.iloc[0].tolist()[:2] == ["95.0% (93.1–96.9)", "4.50 (4.41–4.59)"]
    assert table.iloc[1].tolist() == ["91.2%", "6.11", "64.1%", "95.0%", "–", "–"]
    assert table.loc["InsightFace gender-age"].tolist() == ["86.2%", "7.2", "52.5%", "91.7%", "75.6%", "33.5%"]


def test_unsure_counts_what_lies_below():
    curve = pd.DataFrame({"confidence": [0.3, 0.6, 0.95], "accuracy": [0.25, 0.5, 0.9], "n": [20, 20, 60]})
    assert findings.unsure(curve, 0.75) == pytest.approx((0.4, 0.375, 0.9))
    none = findings.unsure(curve, 0.1)
    assert none.share == 0 and np.isnan(none.accuracy) and none.otherwise == pytest.approx(0.69)


def test_unsure_share_is_by_the_cards_limits(models):
    assert findings.unsure_share(judged(), models) == {"gender": 0.25, "age": 0}


def test_surest_wrong_is_sorted_and_one_picture_a_person():
    wrong = findings.most_confident_errors(judged(), "gender")
    assert wrong[["row", "truth", "answer"]].to_numpy().tolist() == [[3, "female", "male"], [1, "female", "male"]]
    assert wrong["confidence"].tolist() == [0.99, 0.9]
    assert len(findings.most_confident_errors(judged(), "gender", count=1)) == 1
    nobody = findings.most_confident_errors(judged("utkface", [None] * 4), "gender")
    assert nobody["row"].tolist() == [3, 1, 2]
    ages = findings.most_confident_errors(judged(), "age")
    assert ages[["row", "truth", "answer"]].to_numpy().tolist() == [[2, "48-53", "25-32"]]


def test_the_gallery_shows_drawn_faces_only():
    figure = findings.failure_gallery(judged())
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == [
        "drawn female\nsaid male, 99%",
        "drawn female\nsaid male, 90%",
        "drawn 48-53\nsaid 25-32, " + findings.most_confident_errors(judged(), "age")["confidence"].map("{:.0%}".format)[0],
    ]
    for dataset in ("utkface", "fairface", "adience", "imdb_wiki"):
        with pytest.raises(ValueError, match=f"drawn sample are shown, got {dataset}"):
            findings.failure_gallery(judged(dataset))


def test_unseen_leaves_out_faces_with_a_twin():
    count = 200
    table = table_of("utkface", [30] * count, ["male"] * count)
    faces = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    test = np.flatnonzero(split(table) == "test")
    training = np.flatnonzero(split(table) == "train")[0]
    assert np.flatnonzero(findings.is_unseen(table, faces)).tolist() == test.tolist()
    faces[test[0]] = faces[training]
    assert np.flatnonzero(findings.is_unseen(table, faces)).tolist() == test[1:].tolist()


def test_unseen_is_the_first_fold_where_there_are_folds():
    count = 60
    table = table_of(
        "adience", [30] * count, ["male"] * count, [f"p{i}" for i in range(count)], [i % 5 for i in range(count)]
    )
    assert (findings.is_unseen(table, np.zeros((count, 8, 8, 3), np.uint8)) == (table["fold"] == 0)).all()


def test_the_released_folders_are_the_default():
    if not (MODELS / "age" / "card.json").exists():
        pytest.skip("no released models here")
    assert findings.megabytes(MODELS / "age") > 1
