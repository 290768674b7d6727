"""Doubted labels: what contradicts the model is doubted, what it expects is not, and nothing is dropped."""

import numpy as np
import pandas as pd
import pytest

from src.data.table import TABLE_COLUMNS, check_table
from src.evaluation.label_noise import label_doubts

YEARS = np.arange(101)


def faces(**columns):
    frame = pd.DataFrame(columns).reindex(columns=list(TABLE_COLUMNS)).assign(path="x.jpg", dataset="made")
    return check_table(frame)


def around(year, spread=4.0):
    weight = np.exp(-(((YEARS - year) / spread) ** 2) / 2)
    return weight / weight.sum()


def test_a_label_at_odds_with_the_model_is_doubted():
    table = faces(gender=["female", "female", "male", None], age_low=[30, 30, 70, pd.NA], age_high=[30, 30, 70, pd.NA])
    gender = np.array([[0.97, 0.03], [0.01, 0.99], [0.2, 0.8], [0.5, 0.5]])
    found = label_doubts(table, gender, np.array([around(30)] * 4))
    assert found["gender_doubt"][:3].tolist() == pytest.approx([0.03, 0.99, 0.2])
    assert found["age_doubt"][0] == 0 and found["age_doubt"][2] > 0.999
    assert found.iloc[3, :2].isna().all()
    assert found["suspect"].tolist() == [False, True, True, False]


def test_a_range_is_doubted_only_beyond_its_ends():
    ages = np.array([around(30)] * 3)
    table = faces(gender=["male"] * 3, age_low=[25, 0, 45], age_high=[34, 100, 110])
    doubt = label_doubts(table, np.full((3, 2), 0.5), ages)["age_doubt"]
    assert doubt[0] < 0.05 and doubt[1] == 0 and doubt[2] > 0.99


def test_the_further_off_the_label_the_more_it_is_doubted():
    years = [30, 33, 36, 39, 42]
    doubt = label_doubts(
        faces(gender=["male"] * 5, age_low=years, age_high=years), np.full((5, 2), 0.5), np.array([around(30)] * 5)
    )
    assert doubt["age_doubt"].is_monotonic_increasing and doubt["age_doubt"].iloc[-1] > 0.98


def test_probabilities_of_another_shape_are_refused():
    table = faces(gender=["male"], age_low=[3], age_high=[3])
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 101\), got \(1, 2\) and \(1, 8\)"):
        label_doubts(table, np.ones((1, 2)) / 2, np.ones((1, 8)) / 8)
