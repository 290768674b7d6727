"""New photos: one table for good, bad and odd ones, the same from Python and from the command line."""

import io
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut

from src.config import AGE_GROUPS
from src.evaluation.calibration import prediction_interval
from src.faces import align as face_tools
from src.faces.align import Alignment
from src.keras_setup import keras, layers
from src.models import model_folder, two_level_cnn
from src.models.model_folder import Labels, ModelFolderError
from src.predict.__main__ import main
from src.predict.decode import build_networks
from src.predict.predictor import TOGETHER, predict

COLUMNS = [
    "photo", "status", "face", "left", "top", "right", "bottom", "detection_score", "gender", "p_male",
    "age_group", "age_group_probability", "age_years", "message",
    "age_interval_low", "age_interval_high", "gender_unsure", "age_unsure",
]  # fmt: skip
ANSWERS = ["gender", "p_male", "age_group", "age_group_probability", "age_years"]
PLACE = ["left", "top", "right", "bottom"]
HEAD = (slice(0, 260), slice(90, 350))  # of the portrait: the face with some room around it
GROUPS = AGE_GROUPS["adience"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small networks that have not learnt anything, as `predict` and as `main` take them."""
    folder = tmp_path_factory.mktemp("models")
    gender = Labels("gender", ("female", "male"))
    age = Labels("age", GROUPS.names, GROUPS.years, (1, 5, 10, 17, 28, 40, 50, 68))
    for labels, size in ((gender, 127), (age, 131)):
        model = two_level_cnn.two_level_cnn(len(labels.classes), size)
        model_folder.save_model(folder / labels.task, model, labels, Alignment(size=size), {}, [])
    return {"gender_model": folder / "gender", "age_model": folder / "age"}


@pytest.fixture(scope="module")
def head():
    return astronaut()[HEAD]


@pytest.fixture(scope="module")
def answer(models, head, tmp_path_factory):
    """The row of the head alone."""
    (row,) = rows_of([save(tmp_path_factory.mktemp("head") / "head.png", head)], models)
    return row


def flat(value=128, shape=(90, 120)):
    return np.full((*shape, 3), value, np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def table_of(photos, models, **options):
    table = predict(photos, **models, progress=False, **options)
    assert list(table.columns) == COLUMNS
    return table


def rows_of(photos, models, **options):
    return table_of(photos, models, **options).to_dict("records")


def like(row, other, pixels=0):
    """Whether two rows find the same face and say the same about it, whatever their photos are called."""
    near = all(abs(row[side] - other[side]) <= pixels for side in PLACE)
    numbers = all(abs(row[name] - other[name]) < 0.02 + pixels for name in ("p_male", "age_group_probability"))
    return row["status"] == other["status"] == "ok" and near and numbers


def told(capfd, arguments):
    """(exit code, stdout, stderr) of the command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capfd.readouterr()


def command(models):
    return ["--gender-model", models["gender_model"], "--age-model", models["age_model"]]


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_row_for_whatever_comes(models, tmp_path):
    portrait = save(tmp_path / "portrait.png", astronaut())
    jpeg = save(tmp_path / "jpeg.jpg", astronaut())
    empty_wall = save(tmp_path / "wall.png", flat())
    text, empty, missing = tmp_path / "text.jpg", tmp_path / "empty.jpg", tmp_path / "missing.jpg"
    text.write_text("no picture")
    empty.touch()
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(jpeg.read_bytes()[:9000])
    thin = save(tmp_path / "thin.png", np.zeros((1, 5000, 3), np.uint8))
    dot = save(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    photos = [missing, portrait, text, empty_wall, empty, cut, thin, dot]
    table = table_of(photos, models)
    assert table["photo"].tolist() == [str(photo) for photo in photos]
    assert table["status"].tolist() == [
        "unreadable", "ok", "unreadable", "no_face", "unreadable", "unreadable", "no_face", "no_face",
    ]  # fmt: skip
    said = table["message"].tolist()
    assert said[0] == "no such file" and said[2] == "not a picture in a format that can be read"
    assert said[3] == "no face found" and said[4] == "the file is empty" and said[5].startswith("damaged picture")
    without = table.drop(index=1).drop(columns=["photo", "status", "message"])
    assert without.isna().all(axis=None), "what was not seen must not be answered"
    row = table.iloc[1]
    assert row["face"] == 1 and pd.isna(row["message"])
    assert 200 < (row["left"] + row["right"]) / 2 < 250 and 80 < (row["top"] + row["bottom"]) / 2 < 150
    assert row["detection_score"] > 0.5 and row["gender"] == ("male" if row["p_male"] > 0.5 else "female")
    assert row["age_group"] in GROUPS.names and 1 / 8 <= row["age_group_probability"] <= 1 and 1 <= row["age_years"] <= 68


def test_the_whole_photo_is_used_only_on_request(models, tmp_path):
    wall, portrait = save(tmp_path / "wall.png", flat(shape=(90, 120))), save(tmp_path / "portrait.png", astronaut())
    photos = [wall, tmp_path / "missing.jpg", portrait]
    table = table_of(photos, models, fallback="whole-photo")
    assert table["status"].tolist() == ["whole_photo", "unreadable", "ok"]
    assert table.loc[0, PLACE].tolist() == [0, 0, 120, 90] and pd.isna(table.loc[0, "detection_score"])
    assert table.loc[0, ANSWERS].notna().all() and "the whole photo was used instead" in table.loc[0, "message"]
    assert table.loc[1, ANSWERS].isna().all()


def test_several_faces_largest_first(models, head, tmp_path):
    small = np.asarray(Image.fromarray(head).resize((170, 170)))
    picture = flat(shape=(300, 600))
    picture[20:190, 20:190], picture[20:280, 300:560] = small, head
    table = table_of([save(tmp_path / "two.png", picture), save(tmp_path / "one.png", head)], models)
    assert table["face"].tolist() == [1, 2, 1] and (table["status"] == "ok").all()
    large, little, alone = table.to_dict("records")
    assert large["left"] > 300 > little["right"] and large["right"] - large["left"] > little["right"] - little["left"]
    assert abs(large["left"] - 300 - alone["left"]) < 12 and abs(large["top"] - 20 - alone["top"]) < 12


def test_photos_keep_the_order_given_and_folders_are_sorted(models, tmp_path):
    folder = tmp_path / "album"
    for name in ("b/2.png", "b/10.PNG", "a/x.jpg", "z.webp", "c.tif", ".hidden/no.png", "b/.no.png"):
        save(folder / name, flat(shape=(20, 20)))
    (folder / "notes.txt").write_text("x")
    last, first = save(tmp_path / "a_last.png", flat()), save(tmp_path / "z_first.png", flat())
    table = table_of([first, folder, last, first], models)
    inside = [str(folder / name) for name in ("a/x.jpg", "b/10.PNG", "b/2.png", "c.tif", "z.webp")]
    assert table["photo"].tolist() == [str(first), *inside, str(last), str(first)]
    assert (table["status"] == "no_face").all()


@pytest.mark.parametrize("workers", [0, -2])
def test_the_number_of_workers_is_checked(models, workers):
    with pytest.raises(ValueError, match=f"workers must be -1, for one per core, or at least 1, got {workers}"):
        table_of([], models, workers=workers)


def test_no_photos_give_an_empty_table(models, tmp_path):
    table = table_of([tmp_path], models)
    assert len(table) == 0 and table_of([], models).dtypes.equals(table.dtypes)


@pytest.mark.parametrize("orientation, turn", [(6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)])
def test_a_turned_photo_is_looked_at_upright(models, answer, head, tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = save(tmp_path / "turned.png", Image.fromarray(head).transpose(turn), exif=exif)
    assert np.asarray(Image.open(photo))[0, 0].tolist() != head[0, 0].tolist(), "the file itself is turned"
    (row,) = rows_of([photo], models)
    assert like(row, answer)


def test_every_colour_mode(models, answer, head, tmp_path):
    picture = Image.fromarray(head)
    grey = np.asarray(picture.convert("L"))
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.where(np.indices(grey.shape)[0] < 5, 0, 255).astype(np.uint8)))
    photos = [
        save(tmp_path / "grey.png", grey),
        save(tmp_path / "grey_16.png", grey.astype(np.uint16) * 257),
        save(tmp_path / "alpha.png", alpha),
        save(tmp_path / "cmyk.jpg", picture.convert("CMYK"), quality=95),
        save(tmp_path / "palette.gif", picture.quantize(256)),
        save(tmp_path / "plain.bmp", picture),
    ]
    rows = rows_of(photos, models)
    assert [row["status"] for row in rows] == ["ok"] * 6
    assert all(like(row, answer, pixels=12) for row in rows)
    assert like(rows[-1], answer) and like(rows[1], rows[0])


def test_a_face_is_answered_the_same_alone_and_among_others(models, answer, head, tmp_path):
    """More photos than go through the networks at once, without a face in every second one."""
    face, mirrored = save(tmp_path / "face.png", head), save(tmp_path / "mirrored.png", head[:, ::-1])
    wall, missing = save(tmp_path / "wall.png", flat(shape=(20, 20))), tmp_path / "missing.png"
    photos = [mirrored, missing, wall, face] * (TOGETHER // 4 + 1)
    table = table_of(photos, models)
    assert table["photo"].tolist() == [str(photo) for photo in photos]
    assert table["status"].tolist() == ["ok", "unreadable", "no_face", "ok"] * (TOGETHER // 4 + 1)
    assert table.loc[table["status"] != "ok", [*ANSWERS, *PLACE]].isna().all(axis=None)
    exact = [*PLACE, "gender", "age_group"]
    for row in table[table["photo"] == str(face)].to_dict("records"):
        assert [row[name] for name in exact] == [answer[name] for name in exact]
        for name in ("p_male", "age_group_probability", "detection_score"):
            assert row[name] == pytest.approx(answer[name], abs=2e-4)
    other = table.iloc[0]
    assert other["p_male"] != pytest.approx(answer["p_male"], abs=1e-3), "another face, another answer"


def test_one_model_is_enough(models, head, tmp_path):
    (row,) = rows_of([save(tmp_path / "head.png", head)], models | {"age_model": None})
    assert row["gender"] in ("female", "male") and all(pd.isna(row[name]) for name in ANSWERS[2:])


def test_models_and_fallbacks_that_do_not_exist(models, tmp_path):
    photo = save(tmp_path / "wall.png", flat())
    with pytest.raises(ModelFolderError, match="^the gender model's folder holds a model for age$"):
        predict([photo], models["age_model"], models["age_model"])
    with pytest.raises(ModelFolderError, match="is not a model folder"):
        predict([photo], tmp_path, None)
    with pytest.raises(ValueError, match="fallback must be one of none, whole-photo, got 'guess'"):
        predict([photo], **models, fallback="guess")


# --- models of single years, and what their cards say of trusting them ------------------------------------------------

YEARS = tuple((year, year) for year in range(101))
IN_YEARS = Labels("age", tuple(str(year) for year in range(101)), YEARS, tuple(range(101)))
UNSURE = {"unsure_below": 1.0}  # always
SURE = {"unsure_below": 0.0}  # never
INTERVALS = {"bands": (0, 30), "quantiles": (1.4, 1.3)}


def small_level_one(seed, size=64):
    face = keras.Input((size, size, 3), dtype="uint8", name="face")
    start = keras.initializers.HeNormal(seed)
    x = layers.Rescaling(1 / 127.5, offset=-1, name="scale")(face)
    x = layers.Conv2D(8, 5, 4, activation="relu", kernel_initializer=start, name="convolution")(x)
    x = layers.BatchNormalization(name="normalisation")(x)
    x = layers.MaxPooling2D(4, name="pooling")(x)
    return keras.Model(face, layers.Flatten(name="features")(x), name="level_one")


def released(folder, first, labels, calibration=None, alignment=None):
    """A model folder in the manner of the released ones: a linear level two on a level one."""
    face = keras.Input(first.input_shape[1:], dtype="uint8")
    start = keras.initializers.GlorotUniform(len(labels.classes))
    second = layers.Dense(len(labels.classes), activation="softmax", kernel_initializer=start, name="level_two")
    alignment = alignment or Alignment(size=first.input_shape[1])
    return model_folder.save_model(folder, keras.Model(face, second(first(face))), labels, alignment, {}, [], calibration)


GENDER = Labels("gender", ("female", "male"))


@pytest.fixture(scope="module")
def of_years(tmp_path_factory):
    """A release: gender and single years on the same level one."""
    folder, first = tmp_path_factory.mktemp("release"), small_level_one(3)
    return {
        "gender_model": released(folder / "gender", first, GENDER, SURE),
        "age_model": released(folder / "age", first, IN_YEARS, SURE | INTERVALS),
    }


def networks_of(models):
    return build_networks({name.split("_")[0]: model_folder.load_model(folder) for name, folder in models.items()})


def test_single_years_give_one_of_eight_groups_and_an_interval(of_years, head, tmp_path):
    (row,) = rows_of([save(tmp_path / "head.png", head)], of_years)
    trained = model_folder.load_model(of_years["age_model"])
    photo = Image.open(tmp_path / "head.png")
    (found,) = face_tools.find_faces(np.asarray(photo))
    face = face_tools.align(np.asarray(photo), found.landmarks, trained.alignment)
    probability = np.asarray(trained.model(face[None]), float)
    sums = np.add.reduceat(probability[0], GROUPS.starts)
    best = (sums.cumsum() < 0.5).sum()
    assert row["age_group"] == GROUPS.names[best] and row["age_group_probability"] == pytest.approx(sums[best], abs=1e-3)
    assert row["age_years"] == (probability[0].cumsum() < 0.5).sum()
    assert [row["age_interval_low"], row["age_interval_high"]] == prediction_interval(probability, (1.4, 1.3), (0, 30))[
        0
    ].tolist()
    assert 0 <= row["age_interval_low"] < row["age_interval_high"] <= 100 and pd.isna(row["message"])


def test_no_interval_without_quantiles_and_none_from_groups(models, of_years, head, tmp_path):
    photo, first = save(tmp_path / "head.png", head), small_level_one(3)
    without = released(tmp_path / "age", first, IN_YEARS, SURE)
    groups = released(
        tmp_path / "groups", first, Labels("age", GROUPS.names, GROUPS.years, tuple(range(8))), SURE | INTERVALS
    )
    for other in (without, groups, models["age_model"]):
        table = table_of([photo], of_years | {"age_model": other})
        ends = table[["age_interval_low", "age_interval_high"]]
        assert ends.isna().all(axis=None) and table["age_group"].isin(GROUPS.names).all()
        assert (ends.dtypes == "Int64").all()


@pytest.mark.parametrize(
    "gender, age, said",
    [(UNSURE, UNSURE, "unsure of gender and age"), (UNSURE, SURE, "unsure of gender"), (None, UNSURE, "unsure of age")],
)
def test_an_unsure_answer_says_so(head, tmp_path, gender, age, said):
    first = small_level_one(3)
    unsure = {"gender_model": released(tmp_path / "models" / "gender", first, GENDER, gender),
              "age_model": released(tmp_path / "models" / "age", first, IN_YEARS, age)}  # fmt: skip
    photos = [save(tmp_path / "head.png", head), save(tmp_path / "wall.png", flat()), tmp_path / "missing.png"]
    table = table_of(photos, unsure, fallback="whole-photo")
    used = "no face found; the whole photo was used instead; "
    assert table["message"].tolist() == [said, used + said, "no such file"]
    assert table.loc[:1, ANSWERS].notna().all(axis=None)
    marks = table[["gender_unsure", "age_unsure"]]
    assert (marks.dtypes == "boolean").all() and marks.loc[2].isna().all()
    assert marks.loc[0].tolist() == marks.loc[1].tolist() == [gender == UNSURE, age == UNSURE]


def test_unsure_is_what_is_less_probable_than_the_card_says(head, tmp_path):
    photo, first = save(tmp_path / "head.png", head), small_level_one(3)
    for task, labels in (("gender", GENDER), ("age", IN_YEARS)):
        for above, unsure in ((-0.001, False), (0.001, True)):
            models = {"gender_model": None, "age_model": None}
            models[f"{task}_model"] = released(tmp_path / task, first, labels)
            (row,) = rows_of([photo], models)
            confidence = row["age_group_probability"] if task == "age" else max(row["p_male"], 1 - row["p_male"])
            models[f"{task}_model"] = released(tmp_path / task, first, labels, {"unsure_below": confidence + above})
            (row,) = rows_of([photo], models)
            assert row[f"{task}_unsure"] == unsure and pd.notna(row["message"]) == unsure
            assert pd.isna(row["age_unsure" if task == "gender" else "gender_unsure"])


def test_a_shared_level_one_runs_once_and_says_the_same(of_years):
    joint = networks_of(of_years)
    assert list(joint) == [("gender", "age")]
    apart = [alone for name in of_years for alone in networks_of({name: of_years[name]}).values()]
    faces = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), np.uint8)
    said = joint["gender", "age"](faces)
    for alone in apart:
        for task, probability in alone(faces).items():
            np.testing.assert_allclose(said[task], probability, atol=1e-6)
    assert said["gender"].shape == (5, 2) and said["age"].shape == (5, 101)


def test_level_ones_that_differ_are_not_shared(models, of_years, head, tmp_path):
    """Another weight, another setting, another alignment, another network: each model answers for itself."""
    weight, setting = small_level_one(3), small_level_one(3)
    weight.get_layer("normalisation").moving_mean.assign(np.full(8, 0.5))
    setting.get_layer("scale").offset = 0
    others = [
        released(tmp_path / "weight", weight, GENDER),
        released(tmp_path / "setting", setting, GENDER),
        released(tmp_path / "alignment", small_level_one(3), GENDER, alignment=Alignment(size=64, gamma=True)),
        models["gender_model"],
    ]
    same = of_years | {"gender_model": released(tmp_path / "same", small_level_one(3), GENDER)}
    assert list(networks_of(same)) == [("gender", "age")]
    photo = save(tmp_path / "head.png", head)
    for other in others:
        mixed = of_years | {"gender_model": other}
        apart = model_folder.load_model(other).alignment != model_folder.load_model(of_years["age_model"]).alignment
        assert list(networks_of(mixed)) == ([("gender",), ("age",)] if apart else [("gender", "age")])
        (row,), (alone,) = rows_of([photo], mixed), rows_of([photo], mixed | {"age_model": None})
        assert row["p_male"] == pytest.approx(alone["p_male"], abs=1e-4)


# --- annotated copies -------------------------------------------------------------------------------------------------


def test_annotated_copies_leave_the_photos_alone(models, head, tmp_path):
    photos = [
        save(tmp_path / "in" / "one" / "face.jpg", head, quality=95),
        save(tmp_path / "in" / "two" / "face.jpg", flat(shape=(200, 300))),
        save(tmp_path / "in" / "wall.gif", flat(shape=(200, 300))),
        tmp_path / "in" / "broken.jpg",
    ]
    photos[3].write_text("no picture")
    before = {path: path.read_bytes() for path in photos}
    table_of(photos, models, annotate=tmp_path / "out" / "deep")
    assert {path: path.read_bytes() for path in photos} == before
    out = sorted((tmp_path / "out" / "deep").glob("[!.]*"))
    assert [path.name for path in out] == ["face-2.jpg", "face.jpg", "wall.gif.jpg"]
    copies = [np.asarray(Image.open(path)).astype(int) for path in out]
    shapes = [np.array(copy.shape) for copy in copies]
    assert shapes[0].tolist() == shapes[2].tolist() == [200, 300, 3] and (shapes[1] >= (260, 260, 3)).all()
    same = copies[1][:260, :260] - np.asarray(Image.open(photos[0]))
    assert (np.abs(same).max(axis=2) > 60).mean() > 0.01, "something is drawn"
    assert (np.abs(copies[0] - 128).max(axis=2) > 60).mean() > 0.005, '"no face found" is said'


@pytest.mark.parametrize("given", ["one/same.png", "two/same.png", "both", "all"])
def test_annotated_copies_never_replace_a_photo(models, tmp_path, given):
    """Also not the photo of the same name in another of the folders."""
    one, two = (save(tmp_path / name / "same.png", flat(shape=(30, 30))) for name in ("one", "two"))
    photos = {"both": [one, two], "all": [tmp_path]}.get(given) or [tmp_path / given]
    before = [path.read_bytes() for path in (one, two)]
    folder = photos[0].parent if len(photos) == 1 and given != "all" else tmp_path / "two"
    with pytest.raises(ValueError, match="must not replace"):
        predict(photos, **models, annotate=folder, progress=False)
    assert [path.read_bytes() for path in (one, two)] == before


def test_annotated_copies_replace_nothing_but_earlier_copies(models, tmp_path):
    photo, other = (save(tmp_path / name / "same.png", flat(shape=(30, 30))) for name in ("in", "other"))
    before = other.read_bytes()
    with pytest.raises(ValueError, match="must not replace .*same.png"):  # though it is no photo of this call
        predict(photo, **models, annotate=other.parent, progress=False)
    assert other.read_bytes() == before
    drawn = photo.parent / "drawn" / photo.name
    for _ in range(2):  # the second time the folder of photos holds the first one's copy
        table = predict(photo.parent, **models, annotate=drawn.parent, progress=False)
        assert table["photo"].tolist() == [str(photo)] and drawn.is_file()
        drawn.write_bytes(before)
    with pytest.raises(ValueError, match="must not replace"):  # a copy that is asked for by name is a photo
        predict(drawn, **models, annotate=drawn.parent, progress=False)
    assert drawn.read_bytes() == before
    assert len(predict(photo.parent, **models, progress=False)) == 2


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_same_table(models, head, tmp_path):
    folder = tmp_path / "my photos"
    names = ["a 'quoted' \"name\", really.png", "größe 😀.png", "plain.png", "wall.png"]
    for name in names:
        save(folder / name, flat() if name == "wall.png" else head)
    (folder / "broken.jpg").write_text("no picture")
    photos = [folder, "my photos/plain.png", "nowhere.jpg"]
    arguments = ["--csv", "made/out.csv", "--annotate", "drawn", *command(models)]
    done = subprocess.run(
        [sys.executable, "-m", "src.predict", *photos, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7 photos, 7 rows (4 ok, 2 unreadable, 1 no_face) written to made/out.csv\n"
    table = table_of(photos, models)
    read = pd.read_csv(tmp_path / "made" / "out.csv", encoding="utf-8").astype(table.dtypes.to_dict())
    assert list(read.columns) == COLUMNS and [row.rpartition(os.sep)[2] for row in read["photo"][:3]] == names[:1] + [
        "broken.jpg", names[1],
    ]  # fmt: skip
    here = read["photo"] != "my photos/plain.png"  # the test's own working directory is another
    pd.testing.assert_frame_equal(read[here], table[here], atol=2e-4, rtol=0)
    assert sorted(path.name for path in (tmp_path / "drawn").glob("[!.]*")) == sorted([*names, "plain-2.png"])


def test_without_a_file_the_table_is_printed(models, tmp_path, capfd):
    photo = save(tmp_path / "wall 😀.png", flat())
    code, out, _ = told(capfd, [photo, tmp_path / "missing.jpg", *command(models)])
    lines = out.splitlines()
    assert code == 0 and len(lines) == 3 and lines[0].split() == COLUMNS
    assert str(photo) in lines[1] and "no_face" in lines[1] and "unreadable" in lines[2] and "<NA>" not in out
    (tmp_path / "none").mkdir()
    assert told(capfd, [tmp_path / "none", *command(models)])[:2] == (0, "no photo found\n")


def test_a_dash_is_standard_output(models, tmp_path, capfd):
    wall = save(tmp_path / "wall.png", flat())
    code, out, _ = told(capfd, [wall, "--csv", "-", *command(models)])
    header, row = out.splitlines()
    assert code == 0 and header.split(",") == COLUMNS and row.startswith(f"{wall},no_face")


@pytest.mark.parametrize("option", ["--csv", "--annotate"])
def test_an_empty_name_is_refused(models, tmp_path, capfd, option):
    code, out, err = told(capfd, [save(tmp_path / "wall.png", flat()), option, "", *command(models)])
    assert code == 2 and not out and f"{option} requires a name" in err


def test_copies_need_a_folder(models, tmp_path, capfd):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        code, _, err = told(capfd, [save(tmp_path / "wall.png", flat()), "--annotate", folder, *command(models)])
        assert code == 2 and "need a folder" in err and "Errno" not in err


def test_names_that_a_terminal_or_a_file_cannot_hold(models, tmp_path, monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding="ascii", write_through=True))
    photos = [str(tmp_path / "😀.png"), os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")]
    assert main([*photos, *map(str, command(models))]) == 0
    assert b"\\U0001f600.png" in stream.getvalue() and b"\\udcff.png" in stream.getvalue()
    assert main([*photos, "--csv", str(tmp_path / "out.csv"), *map(str, command(models))]) == 0
    assert [path.rpartition("/")[2] for path in pd.read_csv(tmp_path / "out.csv")["photo"]] == ["😀.png", "\\udcff.png"]


@pytest.mark.parametrize(
    "change, said",
    [
        (["--fallback", "guess"], "guess"),
        (["--gender-model", "nowhere"], "nowhere is not a model folder"),
        (["--gender-model", "AGE"], "the gender model's folder holds a model for age"),
        (["--age-model", "GENDER"], "the age model's folder holds a model for gender"),
        (["--annotate", "PHOTOS"], "must not replace"),
        (["--csv", "PHOTOS"], "PHOTOS"),
        (["--csv", "WALL"], "the picture"),
        (["--csv", "other.JPG"], "the picture other.JPG"),
        (["--wrong"], "--wrong"),
    ],
)
def test_mistakes_are_told_in_one_line(models, tmp_path, capfd, change, said):
    photo = save(tmp_path / "wall.png", flat(shape=(20, 20)))
    places = {"AGE": models["age_model"], "GENDER": models["gender_model"], "PHOTOS": tmp_path, "WALL": photo}
    code, out, err = told(capfd, [photo, *command(models), *[places.get(word, word) for word in change]])
    err = [line for line in err.splitlines() if "predicting:" not in line and line.strip()]  # the progress bar's lines
    assert code == 2 and out == ""
    assert len(err) == 1 and err[0].startswith("error: ") and str(places.get(said, said)) in err[0]


def test_no_photos_named(capfd):
    code, out, err = told(capfd, [])
    assert (code, out) == (2, "") and err.startswith("error: ") and "PHOTO_OR_FOLDER" in err and err.count("\n") == 1
