"""The figures carry their data and draw without a warning."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from experiments import plots as result_plots
from src.config import AGE_GROUPS
from src.data.table import TABLE_COLUMNS, TableAndLedger, split_rejects
from src.evaluation import calibration, metrics, plots

pytestmark = pytest.mark.filterwarnings("error")
GROUPS = AGE_GROUPS["four"]


@pytest.fixture(autouse=True)
def without_display():
    plt.switch_backend("Agg")


def texts(figure):
    """Every text of a figure once it is drawn; drawing must not warn either."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]


def faces(ages, genders=None):
    """A table of faces of exact ages (None: unknown)."""
    rows = pd.DataFrame({"path": [f"{i}.jpg" for i in range(len(ages))], "age_low": ages, "age_high": ages})
    return rows.assign(gender=genders if genders else pd.NA).reindex(columns=list(TABLE_COLUMNS)).astype(TABLE_COLUMNS)


def test_funnel_shows_every_reason_with_its_count():
    blurred, old = np.arange(200) < 30, np.arange(200) >= 190
    rows = pd.DataFrame({"path": [f"{i}.jpg" for i in range(200)]})
    figure = plots.funnel(split_rejects(rows, {"over 100 years": old, "blurred": blurred}, "x"))
    bars = figure.axes[0].patches
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 200), (170, 30), (160, 10), (0, 160)]
    shown = texts(figure)
    assert {"read", "blurred", "over 100 years", "kept", "200", "30 (15.0%)", "10 (5.0%)", "160 (80.0%)"} <= set(shown)


def test_funnel_of_nothing_dropped_and_of_nothing_read():
    table, ledger = faces([20, 30]), pd.DataFrame({"path": [], "reason": []}, dtype="string")
    assert {"2", "2 (100.0%)"} <= set(texts(plots.funnel(TableAndLedger(table, ledger))))
    assert texts(plots.funnel(TableAndLedger(table[:0], ledger))).count("0") == 2


def test_distribution_counts_faces_and_unknowns():
    table = faces([5, 6, 20, 60, None], ["female", "male", "male", None, None])
    table.loc[1, "age_high"] = 40  # touches Kid, Youth and Adult
    figure = plots.distribution(table, GROUPS)
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in figure.axes[0].containers}
    assert heights == {
        "female (1)": [1, 0, 0, 0, 0, 0],
        "male (2)": [0, 1, 0, 0, 0, 1],
        "unknown (2)": [0, 0, 0, 1, 1, 0],
    }
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Kid", "Youth", "Adult", "Old", "unknown", "several\ngroups"]
    assert "Age and gender of 5 faces" in texts(figure)
    assert "Age and gender of 0 faces" in texts(plots.distribution(table[:0], GROUPS))


def test_split_counts_add_up_to_the_table():
    table = pd.DataFrame({"label": [0, 0, 1, 1, 1, 0]})
    figure = plots.split_counts(table, ["train", "train", "train", "validation", "test", "test"], ["female", "male"])
    assert [[bar.get_width() for bar in axes.patches] for axes in figure.axes] == [[2, 1], [0, 1], [1, 1]]
    assert {"train: 3 faces", "validation: 1 faces", "test: 2 faces", "2 (67%)"} <= set(texts(figure))


def test_feature_maps_show_name_and_size():
    figure = plots.feature_maps({"input": np.eye(8), "pooled": np.ones((4, 3))}, heading="Smaller")
    assert {"input\n8 × 8", "pooled\n4 × 3", "Smaller"} <= set(texts(figure))
    assert [axes.images[0].get_array().shape for axes in figure.axes] == [(8, 8), (4, 3)]


def test_runs_are_compared_by_one_line_each():
    history = pd.DataFrame({"epoch": [1, 2], "val_loss": [2.0, 1.0]})
    figure = plots.compare_runs({"a": history, "b": history * 2}, heading="Loss")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[2, 1], [4, 2]]
    assert {"a", "b", "Loss", "validation loss"} <= set(texts(figure))


def test_gallery_shows_each_picture_under_its_title():
    pictures = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    figure = plots.gallery(pictures, [f"face {i}" for i in range(5)], columns=4)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"face {i}" for i in range(5)]
    assert all((axes.images[0].get_array() == picture).all() for axes, picture in zip(shown, pictures))
    assert texts(plots.gallery([])) == ["no images to show"]
    with pytest.raises(ValueError, match="5, got 2"):
        plots.gallery(pictures, ["a", "b"])


def test_curves_carry_the_history_and_mark_the_lowest_validation_loss():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "loss": [2.0, 1, 0.5],
            "val_loss": [2.0, 1.5, 1.75],
            "accuracy": [0.3, 0.5, 0.7],
            "val_accuracy": [0.25, 0.5, 0.625],
        }
    )
    figure = plots.curves(history, epochs=12)
    loss, accuracy = figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines[:2]] == [[2.0, 1, 0.5], [2.0, 1.5, 1.75]]
    assert accuracy.lines[1].get_ydata().tolist() == [0.25, 0.5, 0.625]
    assert "best epoch: 2" in texts(figure)
    assert loss.get_xlim() == (0.5, 12.5)
    assert plots.curves(history).axes[0].get_xlim() == (0.5, 3.5)
    assert "from scratch" in texts(plots.curves(history, heading="from scratch"))
    assert "best epoch: 1" in texts(plots.curves(history[:1]))
    assert "best epoch: 1" in texts(plots.curves(history[:1].assign(val_loss=np.nan)))  # training went wrong


def test_confusion_shows_counts_and_shares_of_the_rows():
    figure = plots.confusion([[3, 1], [0, 0]], ["female", "male"])
    assert figure.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    shown = texts(figure)
    assert {"75%\n3", "25%\n1", "3 of 4 faces correct", "female", "male"} <= set(shown)
    assert shown.count("0") == 2


def test_accuracy_by_draws_each_interval():
    frame = metrics.metric_by_group(["a"] * 8 + ["b"] * 8, [1] * 6 + [0] * 2 + [1] * 8, order=["a", "b", "nobody"])
    axes = plots.accuracy_by_group(frame).axes[0]
    np.testing.assert_allclose(axes.collections[1].get_offsets()[:, 0], frame["value"])
    drawn = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments() if len(segment)]
    assert drawn == frame[["low", "high"]].dropna().to_numpy().tolist()
    assert {"75.0%   n = 8", "100.0%   n = 8", "n = 0"} <= set(texts(axes.figure))


def test_probabilities_fill_the_panel_and_mark_the_prediction():
    figure = plots.probabilities(np.zeros((8, 8, 3), np.uint8), np.array([0.2, 0.3, 0.5]), ["a", "b", "c"], 1)
    right = figure.axes[1]
    assert [bar.get_width() for bar in right.patches] == [0.2, 0.3, 0.5]
    assert right.get_xlim()[1] < 0.7
    assert [bar.get_facecolor() == right.patches[1].get_facecolor() for bar in right.patches] == [False, True, False]
    assert {"Prediction: b", "50.0%"} <= set(texts(figure))


def test_fold_scores_show_each_fold_and_the_spread():
    truth = np.repeat([0, 1, 2, 3], 10)
    folds = {}
    for name, wrong in (("first", 4), ("second", 8), ("third", 12)):
        answers = np.where(np.arange(40) < wrong, 3, truth)
        folds[name] = metrics.headline_metrics("age", truth, np.eye(4)[answers], truth * 20.0, [0, 20, 40, 60])
    figure = plots.fold_scores(folds)
    assert figure.axes[0].collections[1].get_offsets().tolist() == pytest.approx(np.array([[0.9, 0], [0.8, 1], [0.7, 2]]))
    assert len(figure.axes) == 3
    assert {"accuracy\n80.0 ± 10.0%", "fold first", "fold third", "years"} <= set(texts(figure))
    assert "accuracy\n90.0%" in texts(plots.fold_scores({0: folds["first"]}))


def test_reliability_shows_each_task_beside_the_diagonal():
    tables = {
        "gender": calibration.reliability([[0.9, 0.1]] * 4 + [[0.7, 0.3]] * 4, [0, 0, 0, 1, 0, 0, 1, 1]),
        "age": calibration.reliability([[0.2, 0.8]] * 2, [1, 1], ordered=True),
    }
    axes = result_plots.reliability(tables, fewest=2).axes[0]
    diagonal, gender, age = axes.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    np.testing.assert_allclose(gender.get_xydata(), [[0.7, 0.5], [0.9, 0.75]])
    np.testing.assert_allclose(age.get_xydata(), [[0.8, 1]])
    assert {"gender (n = 8)", "age (n = 2)", "confidence", "accuracy"} <= set(texts(axes.figure))
    sizes = tables["gender"].assign(n=[30, 70])
    few, many = result_plots.reliability({"age": sizes}).axes[0].collections[0].get_sizes()
    assert few < many


def test_reliability_leaves_out_what_few_faces_say_but_counts_them():
    table = pd.DataFrame({"confidence": [0.2, 0.6, 0.9], "accuracy": [0.0, 0.7, 0.9], "n": [29, 30, 90]})
    axes = result_plots.reliability({"age": table}).axes[0]
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0.6, 0.7], [0.9, 0.9]])
    assert "age (n = 149)" in texts(axes.figure)


def test_accuracy_coverage_shows_each_curve_and_its_end():
    curves = {
        "gender": calibration.coverage_curve([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0]),
        "age": calibration.coverage_curve([0.9, 0.8], [1, 0]),
    }
    axes = result_plots.accuracy_coverage(curves).axes[0]
    for line, curve in zip(axes.lines, curves.values()):
        np.testing.assert_allclose(line.get_xydata(), curve)
    assert {"gender: 75.0% of all", "age: 50.0% of all"} <= set(texts(axes.figure))


def test_ages_keep_every_known_age_in_view():
    before = np.array([-900, 30, 30.5, 2000, np.nan])
    figure = plots.ages_before_after(before, [30, 30.5])
    heights = [[bar.get_height() for bar in bars] for bars in figure.axes[0].containers]
    assert [sum(row) for row in heights] == [4, 2]
    assert heights[0][0] == heights[0][-1] == 1
    assert {"before cleaning: 4 ages", "after cleaning: 2 ages"} <= set(texts(figure))
    texts(plots.ages_before_after([], []))


def test_figures_are_closed_and_leave_the_style_alone():
    place, open_figures = plt.rcParams["axes.titlelocation"], plt.get_fignums()
    plots.confusion([[1, 0], [0, 1]], ["a", "b"])
    assert plt.get_fignums() == open_figures
    assert plt.rcParams["axes.titlelocation"] == place


def rows_of(dataset, metric, groups, unit="share"):
    """Rows of results: `groups` gives (by, group, value, low, high, n)."""
    columns = ["by", "group", "value", "low", "high", "n"]
    return pd.DataFrame(groups, columns=columns).assign(dataset=dataset, metric=metric, unit=unit)


def group_results():
    whole, young = ("all", "all", 0.9, 0.88, 0.92, 2000), ("age", "0-6", 0.7, 0.6, 0.8, 80)
    error = [("all", "all", 4.5, 4.2, 4.8, 1900), ("race", "Latino_Hispanic", 5.0, 4.0, 6.0, 70)]
    return pd.concat(
        [
            rows_of("utkface", "gender accuracy", [whole, young, ("gender", "female", 0.91, 0.9, 0.92, 999)]),
            rows_of("fairface", "gender accuracy", [whole]),
            rows_of("utkface", "absolute error", error, "years"),
        ]
    )


def test_by_group_draws_a_panel_for_each_data_set_and_measure():
    figure = result_plots.by_group(group_results(), ["gender accuracy", "absolute error"], {"absolute error": 4.0})
    assert [axes.get_title("left") for axes in figure.axes] == [
        "UTKFace:\ngender accuracy",
        "FairFace:\ngender accuracy",
        "UTKFace:\nabsolute error",
    ]
    first, _, error = figure.axes
    lines, dots = first.collections
    assert dots.get_offsets()[:, 0].tolist() == [0.9, 0.7, 0.91]
    assert [segment[:, 0].tolist() for segment in lines.get_segments()] == [[0.88, 0.92], [0.6, 0.8], [0.9, 0.92]]
    assert first.lines[0].get_xdata() == [0.9, 0.9] and error.lines[0].get_xdata() == [4.0, 4.0]
    assert {"all faces", "0–6 years", "female", "Latino Hispanic", "2,000", "years"} <= set(texts(figure))
    assert len(result_plots.by_group(group_results(), "absolute error").axes) == 1
    of_groups = group_results().query("by != 'all'")
    assert not result_plots.by_group(of_groups, "gender accuracy").axes[0].lines, "a group's value is not that of all"


def test_by_group_names_the_measures_there_are():
    with pytest.raises(ValueError, match="one of beauty, got gender accuracy, absolute error"):
        result_plots.by_group(group_results(), "beauty")


def test_model_comparison_shows_each_model_where_it_has_a_value():
    nothing = np.nan
    compared = pd.DataFrame(
        [
            ("released models", "ours", "gender", 0.95, 0.94, 0.96, "share"),
            ("other", "others", "gender", 0.85, nothing, nothing, "share"),
            ("released models", "ours", "years", 4.5, 4.2, 4.8, "years"),
            ("other", "others", "years", nothing, nothing, nothing, "years"),
        ],
        columns=["model", "kind", "column", "value", "low", "high", "unit"],
    )
    figure = result_plots.model_comparison(compared, {"gender": "UTKFace\ngender", "years": "UTKFace\nyears off"})
    dots = [axes.collections[1].get_offsets().tolist() for axes in figure.axes]
    assert dots == [[[0.95, 0], [0.85, 1]], [[4.5, 0]]]
    assert {"released models", "other", "95.0", "85.0", "4.50", "per cent", "years"} <= set(texts(figure))


def test_curves_of_the_multitask_training():
    history = pd.DataFrame({"epoch": [1, 2, 3, 4], "loss": [4.0, 3, 2, 1], "val_loss": [3.0, 1.0, 2.0, 1.5]})
    for name, values in {"gender_accuracy": [0.7, 0.8, 0.85, 0.9], "absolute_error": [9.0, 8, 7, 6]}.items():
        history[name] = history[f"val_{name}"] = values
    figure = plots.curves(history)
    titles = [axes.get_title("left").removesuffix(" in validation") for axes in figure.axes]
    assert [title.split("\nbest epoch: ") for title in titles] == [
        ["Loss", "1.00"],
        ["Gender accuracy", "80.0%"],
        ["Absolute error of the age, years", "8.00"],
    ]


def test_unknown_data_sets_keep_their_names_as_titles():
    assert [result_plots.dataset_title(name) for name in ("utkface", "sample", "mine")] == [
        "UTKFace",
        "synthetic sample",
        "mine",
    ]


def test_a_figure_of_photographs_is_small():
    figure = plots.gallery(list(np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)))
    shown = plots.as_jpeg(figure)
    assert Image.open(io.BytesIO(shown.data)).format == "JPEG" and shown._repr_mimebundle_()[0].keys() == {"image/jpeg"}
