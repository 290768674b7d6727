"""Probabilities to the columns of the table of predictions, and the functions that run the models."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from src.config import AGE_GROUPS
from src.evaluation.calibration import Calibration, prediction_interval
from src.faces.align import Alignment
from src.models.model_folder import Labels, TrainedModel
from src.predict.inference import Models, build_runners, load_models, predict_faces

GROUPS = AGE_GROUPS["adience"]
YEAR_COUNT = tuple(range(101))
LABELS = {
    "gender": Labels("gender", ("female", "male")),
    "years": Labels("age", tuple(map(str, YEAR_COUNT)), tuple((year, year) for year in YEAR_COUNT), YEAR_COUNT),
    "groups": Labels("age", GROUPS.names, GROUPS.years, (1, 5, 10, 17, 28, 40, 50, 68)),
}
ALWAYS_SURE, ALWAYS_UNSURE = Calibration(0.0), Calibration(1.0)
INTERVALS = Calibration(0.0, (0, 30), (1.4, 1.3))


def columns_of(labels: str, probability, calibration=None) -> list[dict]:
    trained = TrainedModel(None, LABELS[labels], Alignment(), {}, calibration)
    task = trained.labels.task
    return Models({task: trained}, {}).to_rows({task: np.asarray(probability)})


def around(year: int) -> np.ndarray:
    """The probabilities of single years for a face of about this age."""
    weights = np.exp(-np.abs(np.arange(101) - year) / 6)
    return weights / weights.sum()


@pytest.mark.parametrize("year", [1, 30, 72])
def test_single_years_give_a_group_the_median_and_an_interval(year):
    probability = around(year)
    (row,) = columns_of("years", [probability], INTERVALS)
    sums = np.add.reduceat(probability, GROUPS.starts)
    best = (sums.cumsum() < 0.5).sum()
    assert row["age_group"] == GROUPS.names[best] and row["age_group_probability"] == pytest.approx(sums[best], abs=1e-4)
    assert row["age_years"] == (probability.cumsum() < 0.5).sum()
    expected = prediction_interval(probability[None], Calibration(0, (0, 30), (1.4, 1.3)))[0].tolist()
    assert [row["age_interval_low"], row["age_interval_high"]] == expected
    assert row["age_interval_low"] <= row["age_years"] <= row["age_interval_high"]


def test_no_interval_without_quantiles_and_none_from_groups():
    (years,) = columns_of("years", [around(30)], ALWAYS_SURE)
    (groups,) = columns_of("groups", np.eye(8)[[4]], INTERVALS)
    assert "age_interval_low" not in years and "age_interval_low" not in groups
    assert groups["age_group"] == GROUPS.names[4] and groups["age_years"] == 28


def test_a_gender_is_the_likelier_one_and_probabilities_are_normalised():
    female, male = columns_of("gender", [[0.7, 0.2], [0.1, 0.8]])
    assert (female["gender"], male["gender"]) == ("female", "male")
    assert [female["p_male"], male["p_male"]] == pytest.approx([2 / 9, 8 / 9], abs=1e-4)
    assert not female["gender_unsure"] and female["message"] is None


def test_a_prediction_is_unsure_below_the_limit_in_the_card():
    for limit, unsure in ((0.699, False), (0.701, True)):
        (row,) = columns_of("gender", [[0.7, 0.3]], Calibration(limit))
        assert row["gender_unsure"] == unsure and row["message"] == ("unsure of gender" if unsure else None)


@pytest.mark.parametrize(
    ("gender", "age", "message"),
    [
        (ALWAYS_UNSURE, ALWAYS_UNSURE, "unsure of gender and age"),
        (ALWAYS_UNSURE, ALWAYS_SURE, "unsure of gender"),
        (None, ALWAYS_UNSURE, "unsure of age"),
    ],
)
def test_the_message_names_unsure_predictions_after_that_of_the_detection(gender, age, message):
    trained = {
        task: TrainedModel(None, LABELS[labels], Alignment(), {}, calibration)
        for task, labels, calibration in (("gender", "gender", gender), ("age", "years", age))
    }
    probabilities = {"gender": np.full((2, 2), 0.5), "age": np.tile(around(9), (2, 1))}
    models = Models(trained, {("gender", "age"): lambda faces: probabilities})
    faces = [{"aligned": dict.fromkeys(trained, np.zeros((8, 8, 3), np.uint8))} for _ in range(2)]
    faces[1]["message"] = fallback = "no face found; the photo's central square was used instead"
    table = predict_faces([*faces, {"message": "no such file"}], models)
    assert table["message"].tolist() == [message, f"{fallback}; {message}", "no such file"]
    unsure = table[["gender_unsure", "age_unsure"]]
    assert unsure.loc[2].isna().all() and (unsure.dtypes == "boolean").all()
    assert unsure.loc[0].tolist() == [gender == ALWAYS_UNSURE, age == ALWAYS_UNSURE]
    assert pd.isna(table.loc[2, "age_years"]) and table.loc[:1, "age_years"].notna().all()


def test_models_with_the_same_alignment_run_together():
    trained = load_models().trained
    together = build_runners(trained)
    other = replace(trained["age"], alignment=replace(trained["age"].alignment, gamma=True))
    apart = build_runners(trained | {"age": other})
    assert list(together) == [("gender", "age")] and list(apart) == [("gender",), ("age",)]
    faces = np.random.default_rng(1).integers(0, 256, (5, *[trained["age"].alignment.size] * 2, 3), np.uint8)
    expected = together["gender", "age"](faces)
    for (task,), run in apart.items():
        np.testing.assert_allclose(run(faces)[task], expected[task], atol=1e-5)
