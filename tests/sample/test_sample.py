"""The embedded sample: true layouts, drawn once, the same every time, and faces that dlib finds."""

import functools
import hashlib
import json
import shutil
from pathlib import Path

import cv2
import dlib
import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat

from src.sample import draw, face_model

HEADER = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\tfiducial_yaw_angle\tfiducial_score\n"
FACES = 160
FIELDS = ("dob", "photo_taken", "full_path", "gender", "name", "face_location", "face_score", "second_face_score")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return draw.draw_sample(tmp_path_factory.mktemp("sample"), faces=FACES, seed=3)


@pytest.fixture(scope="module")
def rows(drawn) -> pd.DataFrame:
    files = [drawn / "adience" / f"fold_{fold}_data.txt" for fold in range(5)]
    folds = [pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False).assign(fold=i) for i, file in enumerate(files)]
    return pd.concat(folds, ignore_index=True)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@functools.cache
def detector():
    return dlib.get_frontal_face_detector()


def found(path: Path) -> int:
    return len(detector()(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), 0))


def records(drawn: Path, part: str) -> np.void:
    return loadmat(drawn / "imdb_wiki" / part / f"{part}.mat")[part][0, 0]


def test_fold_files_have_the_true_columns_and_their_pictures(drawn, rows):
    for fold in range(5):
        text = (drawn / "adience" / f"fold_{fold}_data.txt").read_bytes().decode()
        assert text.startswith(HEADER)
        assert {line.count("\t") for line in text.splitlines()} == {11}
    for row in rows.itertuples():
        name = f"{row.face_id}.{row.original_image}"
        assert (drawn / "adience/faces" / row.user_id / f"coarse_tilt_aligned_face.{name}").is_file()
        assert (drawn / "adience/aligned" / row.user_id / f"landmark_aligned_face.{name}").is_file()
    assert len(rows.drop_duplicates()) == FACES


def test_neither_subjects_nor_albums_cross_folds(rows):
    assert (rows.groupby("face_id")["fold"].nunique() == 1).all()
    assert (rows.groupby("user_id")["fold"].nunique() == 1).all()
    assert (rows.groupby("face_id")["user_id"].nunique() == 1).all()


def test_every_fold_covers_the_labels_and_the_oddities_are_there(rows):
    for _, fold in rows.groupby("fold"):
        labels = {f"({low}, {high})" for low, high in face_model.GROUPS.years}
        assert labels <= set(fold["age"])
        assert {"f", "m"} <= set(fold["gender"])
    assert {"35", "(25, 23)", "None"} <= set(rows["age"])
    assert (rows.loc[rows["gender"] == "u", "age"] == "(0, 2)").all() and "u" in set(rows["gender"])
    assert "" in set(rows["gender"])
    assert rows.duplicated().any()


def test_two_draws_are_byte_identical_and_another_seed_is_not(drawn, tmp_path, monkeypatch):
    again = draw.draw_sample(tmp_path / "again", faces=FACES, seed=3)
    assert digests(again) == digests(drawn)
    monkeypatch.setattr(draw, "PARTS", ("adience",))
    other = digests(draw.draw_sample(again, faces=FACES, seed=4))  # in the place of the first
    assert other["adience/fold_0_data.txt"] != digests(drawn)["adience/fold_0_data.txt"]


def test_a_second_call_draws_nothing(drawn):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    draw.draw_sample(drawn, faces=FACES, seed=3)
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_a_half_finished_part_is_redone_and_nothing_is_left_over(drawn, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(drawn, folder)
    photos = folder / "photos"
    (photos / draw.MARKER).write_text("")
    (photos / "one_face.jpg").unlink()
    draw.draw_sample(folder, faces=FACES, seed=3)
    assert digests(folder) == digests(drawn)


def test_a_killed_drawing_is_never_taken_for_a_complete_one(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "PARTS", ("photos",))
    monkeypatch.setattr(draw.scenes, "landscape", lambda rng: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw.draw_sample(tmp_path, faces=FACES)
    assert list(tmp_path.iterdir()) == []


def test_another_process_that_was_done_first_keeps_its_drawing(drawn, tmp_path):
    shutil.copytree(drawn / "photos", tmp_path / "photos")
    shutil.copytree(drawn / "photos", tmp_path / "new")
    settings = json.loads((drawn / "photos" / draw.MARKER).read_text())
    before = (tmp_path / "photos").stat().st_ino
    draw._install(tmp_path / "new", tmp_path / "photos", settings)
    assert (tmp_path / "photos").stat().st_ino == before


@pytest.mark.parametrize("part", ["imdb", "wiki"])
def test_mat_files_have_the_true_struct(drawn, part):
    struct = records(drawn, part)
    assert struct.dtype.names == FIELDS + (("celeb_names", "celeb_id") if part == "imdb" else ())
    dtypes = {"dob": "int32", "photo_taken": "uint16", "gender": "float64", "face_score": "float64"}
    dtypes |= {"second_face_score": "float64", "full_path": "O", "name": "O", "face_location": "O"}
    for name, dtype in dtypes.items():
        assert struct[name].dtype == dtype and struct[name].shape == struct["dob"].shape == (1, struct["dob"].size)
    assert struct["full_path"][0, 0].dtype.kind == "U" and struct["full_path"][0, 0].shape == (1,)
    assert struct["face_location"][0, 0].shape == (1, 4)
    if part == "imdb":
        names = [str(name[0]) for name in struct["celeb_names"][0]]
        assert [names[i - 1] for i in struct["celeb_id"][0]] == [str(name[0]) for name in struct["name"][0]]


@pytest.mark.parametrize("part", ["imdb", "wiki"])
def test_every_kind_of_bad_record_is_there(drawn, part):
    struct = records(drawn, part)
    score, dob = struct["face_score"][0], struct["dob"][0]
    paths = [str(path[0]) for path in struct["full_path"][0]]
    files = [drawn / "imdb_wiki" / part / path for path in paths]
    age = struct["photo_taken"][0] - dob / 365.2425
    assert all(box.tolist() == [[1, 1, 250, 300]] for box in struct["face_location"][0][np.isneginf(score)])
    assert np.isneginf(score).any()
    assert ((score > 0) & (score < 1)).any()
    assert np.isfinite(struct["second_face_score"]).any()
    assert np.isnan(struct["gender"]).any()
    assert (dob < 366).any()
    assert any(path.split("_")[-2].split("-")[-1] in ("0", "00") for path in paths)
    assert (age < 0).any()
    assert ((age > 100) & (dob > 366)).any()
    assert not all(file.exists() for file in files)
    assert any(cv2.imread(str(file)) is None for file in files if file.exists())


def test_boxes_lie_on_faces(drawn):
    struct = records(drawn, "imdb")
    hits = []
    for path, box, score in zip(struct["full_path"][0], struct["face_location"][0], struct["face_score"][0], strict=True):
        file = drawn / "imdb_wiki/imdb" / str(path[0])
        picture = cv2.imread(str(file)) if file.exists() and score > 1 else None
        for face in [] if picture is None else detector()(picture, 0)[:1]:
            left, top, right, bottom = box[0]
            middle = face.center()
            hits.append(left < middle.x < right and top < middle.y < bottom)
    assert len(hits) > 10 and np.mean(hits) > 0.9


@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    [("one_face", 1, 1), ("three_faces", 3, 3), ("several_faces", 7, 7), ("twenty_faces", 18, 20), ("nobody", 0, 0)],
)
def test_dlib_finds_the_people_in_the_photos(drawn, name, fewest, most):
    assert fewest <= found(drawn / "photos" / f"{name}.jpg") <= most


def test_dlib_finds_the_drawn_faces(drawn):
    files = sorted((drawn / "adience/faces").rglob("*.jpg"))
    assert np.mean([found(file) == 1 for file in files]) >= 0.93


def test_face_space_is_small_and_needs_no_pickle():
    assert face_model.FILE.stat().st_size <= 4e6
    with np.load(face_model.FILE, allow_pickle=False) as file:
        assert {"mean", "components", "scales", "group_means", "group_factors"} == set(file.files)


def test_a_drawn_face_is_a_small_rgb_picture_and_the_seed_decides_it():
    space = face_model.FaceSpace.load()
    one, same, other = (space.picture(space.draw(4, "male", np.random.default_rng(seed))) for seed in (5, 5, 6))
    assert one.shape == (64, 64, 3) and one.dtype == np.uint8
    assert (one == same).all() and (one != other).any()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    space, rng = face_model.FaceSpace.load(), np.random.default_rng(0)
    with pytest.raises(ValueError, match="age group must be 0 to 7, got 8"):
        space.draw(8, "female", rng)
    with pytest.raises(ValueError, match="gender must be one of"):
        space.draw(0, "u", rng)
    with pytest.raises(ValueError, match="at least 160"):
        draw.draw_sample(tmp_path, faces=10)
    (tmp_path / "adience" / "faces").mkdir(parents=True)  # the real one, perhaps
    with pytest.raises(ValueError, match="adience was not drawn here"):
        draw.draw_sample(tmp_path)
    assert (tmp_path / "adience" / "faces").is_dir() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError, match="no face space"):
        face_model.FaceSpace.load(tmp_path / "none.npz")
