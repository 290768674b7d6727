"""The figures of notebooks 3 and 4 show what they are given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from src.evaluation.plots import MODEL_COLOURS
from src.faces.align import Alignment, Face
from src.predict import prediction_plots

GREY = np.full((90, 120, 3), 128, np.uint8)
ANGLES = np.linspace(0, 2 * np.pi, 68)
FACE = Face(
    (30.0, 20.0, 70.0, 70.0),
    0.875,
    50 + 20 * np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]),
    np.array([[40.0, 40], [60, 40]]),
)


@pytest.fixture(autouse=True)
def without_display():
    plt.switch_backend("Agg")


def texts(figure):
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(plt.Text) if text.get_visible()}


def test_a_photo_keeps_its_shape_and_shows_boxes_with_scores():
    figure = prediction_plots.photo(GREY)
    assert (figure.axes[0].images[0].get_array() == GREY).all()
    assert np.divide(*figure.get_size_inches()) == pytest.approx(4 / 3)
    figure = prediction_plots.photo(GREY, [FACE], "one face")
    assert {"0.88", "one face"} <= texts(figure)
    assert figure.axes[0].patches[0].get_bbox().extents.tolist() == [30, 20, 70, 70]


def test_alignment_steps_end_in_the_input_of_each_model():
    alignments = {"mine": Alignment(64), "released": Alignment(32, 0.5)}
    figure = prediction_plots.alignment_steps(GREY, FACE, alignments)
    assert [axes.images[0].get_array().shape[0] for axes in figure.axes] == [90, 90, 64, 32]
    assert "3 · released: 32 px\neyes 16 px apart, level" in texts(figure)


def test_models_stand_side_by_side():
    figure = prediction_plots.probability_bars(
        pd.DataFrame({"mine": [0.3, 0.7], "released": [0.1, 0.9]}, ["female", "male"]), "gender"
    )
    assert [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers] == [[0.3, 0.7], [0.1, 0.9]]
    assert {"female", "male", "30%", "90%", *MODEL_COLOURS} <= texts(figure)


def test_years_have_an_interval_only_where_there_is_one():
    columns = ["age_years", "age_interval_low", "age_interval_high"]
    released = pd.DataFrame([[30, 20, 45], [5, 2, 9]], columns=columns).astype("Int64")
    mine = released.assign(age_interval_low=pd.NA, age_interval_high=pd.NA).astype("Int64")
    axes = prediction_plots.years_with_intervals(pd.concat({"mine": mine, "released": released}, axis=1), "years").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mine", "released, 90% interval", "released"]
    lines, dots = axes.collections[2:]
    assert [segment[:, 0].tolist() for segment in lines.get_segments()] == [[20, 45], [2, 9]]
    assert dots.get_offsets()[:, 0].tolist() == [30, 5]
    empty = pd.concat({"released": released[:0]}, axis=1)
    texts(prediction_plots.years_with_intervals(empty, "nobody"))


def test_two_models_agree_on_the_diagonal():
    axes = prediction_plots.agreement(pd.Series([10.0, 20]), pd.Series([10, 40], dtype="Int64"), "years").axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[10, 10], [40, 20]]
