"""Tables and sentences repeat the figures of the result files, and no picture of a real person is shown."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments import results
from src.config import AGE_GROUPS, YEAR_COUNT
from src.data.table import TABLE_COLUMNS, split
from src.models import model_folder, two_level_cnn


@pytest.fixture(scope="module")
def models(standins):
    return results.load_released(standins.gender, standins.age)


@pytest.fixture(scope="module")
def rows(standins):
    return results.read_results("released_results", standins.results)


def table_of(dataset, ages, genders, subjects=None, fold=None):
    rows = pd.DataFrame(
        {"path": [f"{i}.jpg" for i in range(len(ages))], "age_low": ages, "age_high": ages, "gender": genders}
    )
    rows = rows.assign(subject=subjects if subjects else pd.NA, fold=fold if fold else pd.NA, dataset=dataset)
    return rows.reindex(columns=list(TABLE_COLUMNS)).astype(TABLE_COLUMNS)


def evaluation(dataset="sample", subjects=("a", "b", "c", "c")):
    """Four faces. The first is correct; the others are predicted male with 90, 80 and 99%, two of them with a wrong age."""
    table = table_of(dataset, [30, 30, 50, 50], ["male", "female", "female", "female"], list(subjects))
    gender = np.array([[0.3, 0.7], [0.1, 0.9], [0.2, 0.8], [0.01, 0.99]])
    age = np.eye(YEAR_COUNT)[[30, 30, 30, 30]] * 0.9 + 0.1 / YEAR_COUNT
    faces = np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3).astype(np.uint8)
    return results.Evaluation(table, faces, {"gender": gender, "age": age}, pd.DataFrame())


# --- result files and models ------------------------------------------------------------------------------------------


def test_a_missing_or_incomplete_file_is_an_error_that_names_its_source(tmp_path, standins):
    for name in results.FILES:
        with pytest.raises(results.ResultsMissingError, match=f"^{name}.csv is missing in .*: .*(writes it|repository)$"):
            results.read_results(name, tmp_path)
    file = tmp_path / "released_history.csv"
    head = (standins.results / file.name).read_text().split("\n")[0]
    for text in ("", "epoch,loss\n1,2\n", head + "\n"):
        file.write_text(text)
        with pytest.raises(
            results.ResultsMissingError, match="must have rows with the columns epoch, loss, .*train_released"
        ):
            results.read_results("released_history", tmp_path)


@pytest.mark.slow
def test_only_models_of_the_released_kind_are_accepted(models, standins, tmp_path):
    assert list(models) == ["gender", "age"]
    with pytest.raises(model_folder.ModelFolderError, match="contains a model for age, not for gender"):
        results.load_released(standins.age, standins.age)
    plain, trained = tmp_path / "gender", models["gender"]
    shutil.copytree(standins.gender, plain)
    model_folder.save_model(plain, trained.model, trained.labels, trained.alignment, {}, [])
    with pytest.raises(model_folder.ModelFolderError, match="has no calibration"):
        results.load_released(plain, standins.age)
    groups, trained = AGE_GROUPS["adience"], models["age"]
    labels = model_folder.Labels("age", groups.names, groups.years, tuple(first for first, _ in groups.years))
    network = two_level_cnn.two_level_cnn(len(groups.names), level_one_model=trained.model.get_layer("level_one"))
    calibration = results.calibration_of(trained)
    folder = model_folder.save_model(tmp_path / "groups", network, labels, trained.alignment, {}, [], calibration)
    with pytest.raises(model_folder.ModelFolderError, match="its classes must be the years 0 to 100"):
        results.load_released(standins.gender, folder)


def test_the_layer_summary_counts_every_parameter(models, mobilenet_model):
    table = results.layer_summary(dataclasses.replace(models["age"], keras_loader=lambda: mobilenet_model))
    assert table["parameters"].sum() == mobilenet_model.count_params()
    assert [name for name in table["layer"] if "block" in name] == [f"block_{i}" for i in range(1, 14)]
    assert {"face", "stem", "probability"} <= set(table["layer"]) and len(table) < 25


# --- tables and sentences ---------------------------------------------------------------------------------------------


def test_tables_repeat_the_rows(rows):
    table = results.overall_table(rows)
    assert list(table.columns) == ["UTKFace", "FairFace", "All-Age-Faces"]
    assert table.loc["gender accuracy"].tolist() == ["95.0% (93.1–96.9)"] * 3
    assert table.loc["absolute error"].tolist() == ["4.50 (4.41–4.59) years", "", "4.50 (4.41–4.59) years"]
    assert table.loc["gender calibration error", "UTKFace"] == "1.2%"
    groups = results.group_table(rows, "utkface").set_index("group")
    assert groups.loc["female", ["by", "faces", "gender accuracy"]].tolist() == ["gender", "100", "85.5% (83.8–87.2)"]
    assert "nine ranges exact" not in groups


@pytest.mark.parametrize(
    ("metric", "by", "expected"),
    [
        ("gender accuracy", "age", "ages 0–6, 85.5% (83.8–87.2, n = 100), against 95.0% (93.1–96.9) over all faces."),
        ("absolute error", "gender", "female faces, 4.95 years"),
        ("gender accuracy", "race", "faces labelled White, 85.5%"),
    ],
)
def test_the_worst_group_is_named(rows, metric, by, expected):
    sentence = results.describe_worst_group(rows, "utkface", metric, by)
    assert sentence.startswith(f"UTKFace, {metric}: worst for {expected}")


def test_no_worst_group_is_named_among_small_groups(rows):
    few = rows.assign(n=rows["n"].where(rows["by"] == "all", 29))
    assert "no age band has 30 faces" in results.describe_worst_group(few, "utkface", "gender accuracy", "age")


def test_the_comparison_has_ours_first_and_keeps_the_digits_of_others(rows, standins):
    plain, others = (results.read_results(name, standins.results) for name in ("plain", "others"))
    compared = results.join_comparisons(rows, plain, others)
    assert list(dict.fromkeys(compared["kind"])) == ["ours", "plain", "others"]
    assert compared[compared["kind"] != "ours"][["low", "high"]].isna().all(axis=None)
    table = results.comparison_table(compared)
    assert table.index[0] == results.RELEASED_MODELS and len(table) == 2 + len(others)
    assert table.iloc[0].tolist()[:2] == ["95.0% (93.1–96.9)", "4.50 (4.41–4.59)"]
    assert table.iloc[1].tolist() == ["91.2%", "6.11", "64.1%", "95.0%", "–", "–"]
    assert table.loc["InsightFace gender-age"].tolist() == ["86.2%", "7.2", "52.5%", "91.7%", "75.6%", "33.5%"]


def test_a_markdown_table_marks_missing_cells_and_aligns_numbers():
    frame = pd.DataFrame({"name\nof it": ["a", None], "n": [1, 2]})
    assert results.markdown_table(frame) == "| name of it | n |\n| --- | ---: |\n| a | 1 |\n| – | 2 |"


def test_unsure_accuracy_counts_what_lies_below():
    curve = pd.DataFrame({"confidence": [0.3, 0.6, 0.95], "accuracy": [0.25, 0.5, 0.9], "n": [20, 20, 60]})
    assert results.unsure_accuracy(curve, 0.75) == pytest.approx((0.4, 0.375, 0.9))
    assert results.unsure_accuracy(curve, 0.1) == pytest.approx((0, np.nan, 0.69), nan_ok=True)


# --- errors on a data set ---------------------------------------------------------------------------------------------


def test_confident_errors_are_sorted_and_one_picture_a_person():
    wrong = results.most_confident_errors(evaluation(), "gender")
    assert wrong[["row", "truth", "prediction"]].to_numpy().tolist() == [[3, "female", "male"], [1, "female", "male"]]
    assert wrong["confidence"].tolist() == [0.99, 0.9]
    unknown = results.most_confident_errors(evaluation("utkface", [None] * 4), "gender")
    assert unknown["row"].tolist() == [3, 1, 2]
    ages = results.most_confident_errors(evaluation(), "age")
    assert ages[["row", "truth", "prediction"]].to_numpy().tolist() == [[2, "48-53", "25-32"]]


def test_the_gallery_shows_synthetic_faces_only():
    titles = [axes.get_title() for axes in results.failure_gallery(evaluation()).axes if axes.images]
    assert titles[:2] == [f"labelled female\npredicted male\n{share}" for share in ("99%", "90%")] and len(titles) == 3
    for dataset in ("utkface", "fairface", "adience", "imdb_wiki"):
        with pytest.raises(ValueError, match=f"synthetic sample are shown, got {dataset}"):
            results.failure_gallery(evaluation(dataset))


def test_unseen_faces_are_test_faces_without_near_duplicates():
    count = 200
    table = table_of("utkface", [30] * count, ["male"] * count)
    faces = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    test = np.flatnonzero(split(table) == "test")
    assert np.flatnonzero(results.test_mask(table, faces)).tolist() == test.tolist()
    faces[test[0]] = faces[np.flatnonzero(split(table) == "train")[0]]
    assert np.flatnonzero(results.test_mask(table, faces)).tolist() == test[1:].tolist()
    subjects, folds = [f"p{i}" for i in range(count)], [i % 5 for i in range(count)]
    table = table_of("adience", [30] * count, ["male"] * count, subjects, folds)
    assert (results.test_mask(table, faces) == (table["fold"] == 0)).all()
