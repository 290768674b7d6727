"""Annotated copies: labels cover no face and no other label; crowds get numbers and a legend."""

import numpy as np
import pandas as pd
import pytest

from src.predict.annotate import Layout, annotate, layout

SIDES = ["left", "top", "right", "bottom"]


def predictions(boxes, **columns):
    """The rows of one photo with sure predictions; a box of None is unknown."""
    rows = pd.DataFrame([box or [pd.NA] * 4 for box in boxes], columns=SIDES, dtype="Int64")
    said = {"status": "ok", "gender": "female", "age_group": "25-32", "age_years": 25.4}
    said |= {"age_interval_low": 18, "age_interval_high": 34, "gender_unsure": False, "age_unsure": False}
    return rows.assign(**({"face": range(1, len(rows) + 1)} | said | columns))


def nothing_found():
    return predictions([None], status="no_face", face=pd.NA, **dict.fromkeys(
        ("gender", "age_group", "age_years", "age_interval_low", "age_interval_high", "gender_unsure", "age_unsure"), pd.NA
    ))  # fmt: skip


def grey(width, height):
    return np.full((height, width, 3), 128, np.uint8)


def crowd(size, seed, count=30, scale=1.0):
    """Random boxes, 20 to 90 pixels wide times the scale; some overlap, some reach over the edge."""
    rng = np.random.default_rng(seed)
    boxes = []
    for width in sorted(rng.uniform(20, 90, count) * scale, reverse=True):
        left, top = rng.uniform(-0.3 * width, np.array(size) - 0.6 * width)
        boxes.append(tuple(int(edge) for edge in (left, top, left + width, top + 1.25 * width)))
    return boxes


def shared(one, other):
    """The area that two rectangles share, in square pixels."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(0, width) * max(0, height)


def area(box):
    return shared(box, box)


def apart(places):
    return all(not shared(one, other) for i, one in enumerate(places) for other in places[:i])


def within(place, size):
    return 0 <= place[0] < place[2] <= size[0] and 0 <= place[1] < place[3] <= size[1]


def assert_whole(plan: Layout, size, faces):
    """Every face has a label, or a number and, where there is a legend, its line; all of it whole and apart."""
    shown = plan.labels + plan.numbers
    assert sorted(text.number for text in shown) == list(range(1, faces + 1))
    assert all(within(text.box, size) for text in shown)
    assert apart([text.box for text in shown + plan.legend])
    if plan.legend:
        assert [text.number for text in plan.legend] == sorted(text.number for text in plan.numbers)
        assert all(within(text.box, plan.canvas) and not shared(text.box, (0, 0, *size)) for text in plan.legend)
    for label in plan.labels:
        assert not any(shared(label.box, box) for box in plan.boxes.values()), "a label covers a face"


def assert_faces_free(plan: Layout):
    """Numbers cover no other face, and of their own a small corner at most."""
    for text in plan.numbers:
        for number, box in plan.boxes.items():
            covered = shared(text.box, box)
            assert covered == 0 or (number == text.number and covered <= area(box) / 9), (text, box)


def touches(text, plan: Layout):
    """Whether a text touches the box of its own face."""
    return shared((text.box[0] - 1, text.box[1] - 1, text.box[2] + 1, text.box[3] + 1), plan.boxes[text.number]) > 0


SIZES = {"portrait": (600, 800), "landscape": (1000, 700), "panorama": (2400, 500)}


@pytest.mark.parametrize("shape", SIZES)
def test_a_crowd_has_numbers_and_a_legend(shape):
    size = SIZES[shape]
    plan = layout(size, predictions(crowd(size, 0)))
    assert_whole(plan, size, 30)
    assert plan.numbers and not plan.labels and all(touches(number, plan) for number in plan.numbers)
    assert [line.text for line in plan.legend] == ["female, 25 (18–34)"] * 30
    assert plan.canvas[0] >= size[0] and plan.canvas[1] >= size[1]


@pytest.mark.parametrize("shape", SIZES)
def test_a_frame_of_a_video_keeps_its_size(shape):
    size = SIZES[shape]
    plan = layout(size, predictions(crowd(size, 0), person=range(1, 31)), legend=False)
    assert plan.canvas == size and not plan.legend
    assert_whole(plan, size, 30)
    assert plan.labels and all(label.text == f"person {label.number}: female, 25 (18–34)" for label in plan.labels)
    assert all(touches(text, plan) for text in plan.labels + plan.numbers)


@pytest.mark.parametrize("size", [(600, 800), (800, 600), (1600, 400)])
@pytest.mark.parametrize("legend", [True, False])
def test_rows_of_faces(size, legend):
    """Three rows of ten faces close together, as in a photo of a school class."""
    step, height = size[0] // 10, size[1] // 3
    side = min(step - 10, height // 2)
    places = [(step * i + 5, height * row + height // 3) for row in range(3) for i in range(10)]
    plan = layout(size, predictions([(x, y, x + side, y + side) for x, y in places]), legend)
    assert_whole(plan, size, 30)
    assert_faces_free(plan)


@pytest.mark.parametrize("size", [(900, 700), (4000, 3000), (700, 900)])
def test_a_few_faces_have_their_labels_beside_them(size):
    width = size[0] // 10
    boxes = [(x, y, x + width, y + width) for x in (width, 7 * width) for y in (2 * width, 5 * width)]
    plan = layout(size, predictions(boxes))
    assert_whole(plan, size, 4)
    assert len(plan.labels) == 4 and plan.canvas == size
    assert all(touches(text, plan) for text in plan.labels)


@pytest.mark.parametrize(
    "box", [(-60, -60, 100, 100), (740, 540, 900, 700), (-9, 250, 300, 330), (350, -50, 420, 40), (790, 0, 800, 9)]
)
def test_a_face_at_the_edge_has_a_whole_label(box):
    plan = layout((800, 600), predictions([box]))
    assert_whole(plan, (800, 600), 1)
    assert len(plan.labels) == 1


def test_overlapping_boxes_have_numbers_of_their_own():
    nested = [(200, 200, 400, 450), (250, 260, 300, 320), (380, 430, 500, 580), (200, 200, 400, 450), (390, 440, 420, 480)]
    for legend in (True, False):
        assert_whole(layout((600, 700), predictions(nested), legend), (600, 700), 5)


@pytest.mark.parametrize("box", [(8, 8, 32, 34), (0, 0, 40, 40), (-5, -5, 60, 60), (14, 30, 26, 40)])
def test_one_face_in_a_tiny_photo_has_its_line_outside(box):
    plan = layout((40, 40), predictions([box]))
    assert not plan.labels and not plan.numbers
    (line,) = plan.legend
    assert line.text == "female, 25 (18–34)" and within(line.box, plan.canvas)
    assert not shared(line.box, (0, 0, 40, 40))
    frame = layout((40, 40), predictions([box]), legend=False)
    assert frame.canvas == (40, 40) and all(within(text.box, (40, 40)) for text in frame.labels + frame.numbers)


def test_several_faces_in_a_tiny_photo():
    boxes = [(2, 2, 16, 18), (22, 2, 38, 20), (4, 24, 14, 36)]
    plan = layout((40, 40), predictions(boxes))
    assert_whole(plan, (40, 40), 3)
    assert len(plan.numbers) == len(plan.legend) == 3


@pytest.mark.parametrize("legend", [True, False])
def test_a_photo_full_of_faces_still_has_every_number(legend):
    boxes = crowd((320, 240), 1, count=30)
    plan = layout((320, 240), predictions(boxes), legend)
    assert_whole(plan, (320, 240), 30)


def test_a_large_face_without_room_beside_it():
    """In a photo the line is outside; in a video it is on the edge of the box."""
    size, box = (640, 480), (-10, 5, 640, 478)
    assert layout(size, predictions([box])).legend[0].text == "female, 25 (18–34)"
    plan = layout(size, predictions([box], person=2), legend=False)
    (label,) = plan.labels
    assert label.text == "person 2: female, 25 (18–34)" and within(label.box, size)
    assert shared(label.box, (96, 72, 544, 408)) == 0, "the middle of the face is free"


@pytest.mark.parametrize("size", [(3000, 5000), (9000, 2000)])
def test_a_large_photo_stays_readable_at_1280_pixels(size):
    scale = max(size) / 1280
    for boxes in (crowd(size, 2, scale=scale), crowd(size, 2, 60, scale / 2), crowd(size, 3, 1, 2 * scale)):
        plan = layout(size, predictions(boxes))
        sizes = [text.font_size * 1280 / max(plan.canvas) for text in plan.labels + plan.numbers + plan.legend]
        assert min(sizes) >= 11 and max(sizes) <= 50


def test_labels_grow_with_the_face():
    sizes = [
        layout((1280, 960), predictions([(400, 300, 400 + width, 300 + width)])).labels[0].font_size
        for width in (40, 200, 500)
    ]
    assert sizes[0] < sizes[1] <= sizes[2] < 3 * sizes[0]


@pytest.mark.parametrize(
    "columns, line",
    [
        ({}, "female, 25 (18–34)"),
        ({"gender_unsure": True}, "female?, 25 (18–34)"),
        ({"age_unsure": True}, "female, 25? (18–34)"),
        ({"gender_unsure": pd.NA, "age_unsure": pd.NA}, "female, 25 (18–34)"),
        ({"age_interval_low": pd.NA, "age_interval_high": pd.NA}, "female, 25-32"),
        ({"age_interval_low": pd.NA, "age_interval_high": pd.NA, "age_unsure": True}, "female, 25-32?"),
        ({"gender": pd.NA}, "25 (18–34)"),
        ({"age_group": pd.NA, "age_years": pd.NA, "age_interval_low": pd.NA, "age_interval_high": pd.NA}, "female"),
        ({"person": 2}, "person 2: female, 25 (18–34)"),
        ({"status": "whole_photo"}, "whole photo: female, 25 (18–34)"),
        ({"message": "unsure of gender and age"}, "female, 25 (18–34)"),  # the message is for people
    ],
)
def test_the_line_of_a_face(columns, line):
    (label,) = layout((800, 600), predictions([(300, 200, 400, 320)], **columns)).labels
    assert label.text == line


def test_numbers_are_those_of_the_table():
    rows = predictions(crowd((400, 500), 4)).iloc[10:]
    plan = layout((400, 500), rows)
    assert [line.number for line in plan.legend] == list(range(11, 31))
    assert sorted(text.text for text in plan.numbers) == sorted(str(number) for number in range(11, 31))


def test_only_boxes_and_labels_are_drawn():
    photo = grey(800, 600)
    rows = predictions([(300, 200, 460, 360)])
    drawn = annotate(photo, rows)
    assert drawn.shape == photo.shape and drawn.dtype == np.uint8 and (photo == 128).all()
    changed = (drawn != photo).any(axis=2)
    (label,) = layout((800, 600), rows).labels
    left, top, right, bottom = label.box
    assert changed[top:bottom, left:right].all()
    assert changed[200:360, 300].all() and changed[359, 300:460].all() and changed[200, 300:460].all()
    changed[top:bottom, left:right] = changed[200:360, 300:460] = False
    assert not changed.any()
    assert (drawn[205:355, 305:455] == 128).all(), "nothing is drawn on the face"


def test_the_legend_is_drawn_beside_an_unchanged_photo():
    size = (600, 800)
    boxes = crowd(size, 1)
    plan, drawn = layout(size, predictions(boxes)), annotate(grey(*size), predictions(boxes))
    assert drawn.shape == (plan.canvas[1], plan.canvas[0], 3)
    for text in plan.legend + plan.numbers:
        left, top, right, bottom = text.box
        part = drawn[top:bottom, left:right]
        assert (part < 60).all(axis=2).sum() > 5, "something is written"
    outside = np.ones(drawn.shape[:2], bool)
    outside[: size[1], : size[0]] = False
    for left, top, right, bottom in (text.box for text in plan.legend):
        outside[top:bottom, left:right] = False
    assert (drawn[outside] == 255).all()
    assert (drawn[: size[1], : size[0]] == 128).all(axis=2).mean() > 0.8


def test_a_photo_without_a_face_says_so():
    drawn = annotate(grey(640, 480), nothing_found())
    rows, columns = np.where((drawn != 128).any(axis=2))
    assert (rows.min(), columns.min()) == (0, 0) and rows.max() < 60 and columns.max() < 320
    (line,) = layout((30, 24), nothing_found()).legend
    assert line.text == "no face found"


@pytest.mark.parametrize("legend", [True, False])
def test_no_rows_change_nothing(legend):
    photo = grey(50, 40)
    assert (annotate(photo, predictions([(1, 1, 9, 9)])[:0], legend) == photo).all()


def test_a_wrong_array_is_refused():
    photo = grey(50, 50)
    for wrong in (photo / 255, photo[..., 0], np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8 RGB"):
            annotate(wrong, nothing_found())
