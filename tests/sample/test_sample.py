"""The embedded sample: the real layouts, the same drawing every time, and faces that the detectors find."""

import hashlib
import shutil
from pathlib import Path

import cv2
import dlib
import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat

from src.faces.detect import DEFAULT_DETECTOR, detect
from src.faces.image_io import read_photo
from src.sample import draw, face_model

HEADER = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\tfiducial_yaw_angle\tfiducial_score\n"
FACES = draw.MIN_FACES
FIELDS = ("dob", "photo_taken", "full_path", "gender", "name", "face_location", "face_score", "second_face_score")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return draw.draw_sample(tmp_path_factory.mktemp("sample"), faces=FACES)


@pytest.fixture(scope="module")
def rows(drawn) -> pd.DataFrame:
    files = [drawn / "adience" / f"fold_{fold}_data.txt" for fold in range(5)]
    folds = [pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False).assign(fold=i) for i, file in enumerate(files)]
    return pd.concat(folds, ignore_index=True)


@pytest.fixture(scope="module")
def hog():
    return dlib.get_frontal_face_detector()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def records(drawn: Path, part: str) -> np.void:
    return loadmat(drawn / "imdb_wiki" / part / f"{part}.mat")[part][0, 0]


def test_fold_files_have_the_real_columns_and_their_images(drawn, rows):
    for fold in range(5):
        text = (drawn / "adience" / f"fold_{fold}_data.txt").read_bytes().decode()
        assert text.startswith(HEADER)
        assert {line.count("\t") for line in text.splitlines()} == {11}
    for row in rows.itertuples():
        name = f"{row.face_id}.{row.original_image}"
        assert (drawn / "adience/faces" / row.user_id / f"coarse_tilt_aligned_face.{name}").is_file()
    assert len(rows.drop_duplicates()) == FACES


def test_subjects_have_several_images_and_neither_subjects_nor_albums_cross_folds(rows):
    assert rows.groupby("face_id").size().min() >= 2
    assert (rows.groupby("face_id")["fold"].nunique() == 1).all()
    assert (rows.groupby("user_id")["fold"].nunique() == 1).all()
    assert (rows.groupby("face_id")["user_id"].nunique() == 1).all()


def test_every_fold_covers_the_labels_and_the_irregular_labels_are_there(rows):
    for _, fold in rows.groupby("fold"):
        assert {f"({low}, {high})" for low, high in face_model.GROUPS.years} <= set(fold["age"])
        assert {"f", "m"} <= set(fold["gender"])
    assert {"35", "(25, 23)", "None"} <= set(rows["age"])
    assert (rows.loc[rows["gender"] == "u", "age"] == "(0, 2)").all() and "u" in set(rows["gender"])
    assert "" in set(rows["gender"])
    assert rows.duplicated().any()


def test_a_drawing_is_byte_identical_and_is_not_repeated(drawn, tmp_path):
    before = digests(drawn)
    shutil.rmtree(shutil.copytree(drawn, tmp_path / "again") / "adience")
    assert digests(draw.draw_sample(tmp_path / "again", faces=FACES)) == before  # draws what is missing
    times = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    draw.draw_sample(drawn, faces=FACES)
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == times


@pytest.mark.slow
def test_an_incomplete_part_is_drawn_again(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "SAMPLE_FOLDERS", {"photos": draw.SAMPLE_FOLDERS["photos"]})
    photos = shutil.copytree(drawn / "photos", tmp_path / "photos")
    (photos / draw.SETTINGS_FILE).write_text("")
    (photos / "one_face.jpg").unlink()
    draw.draw_sample(tmp_path, faces=FACES)
    assert digests(photos) == digests(drawn / "photos")


def test_a_failed_drawing_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "SAMPLE_FOLDERS", {"photos": lambda *arguments: [(lambda: 1 / 0, (), {})]})
    with pytest.raises(ZeroDivisionError):
        draw.draw_sample(tmp_path, faces=FACES)
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize("part", ["imdb", "wiki"])
def test_mat_files_have_the_real_struct(drawn, part):
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


def test_boxes_lie_on_faces(drawn, hog):
    struct = records(drawn, "imdb")
    hits = []
    for path, box, score in zip(struct["full_path"][0], struct["face_location"][0], struct["face_score"][0], strict=True):
        file = drawn / "imdb_wiki/imdb" / str(path[0])
        image = cv2.imread(str(file)) if file.exists() and score > 1 else None
        for face in [] if image is None else hog(image, 0)[:1]:
            left, top, right, bottom = box[0]
            middle = face.center()
            hits.append(left < middle.x < right and top < middle.y < bottom)
    assert len(hits) > 10 and np.mean(hits) > 0.9


@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    [("one_face", 1, 1), ("three_faces", 3, 3), ("several_faces", 7, 7), ("twenty_faces", 18, 20), ("nobody", 0, 0)],
)
def test_the_detectors_find_the_people_in_the_photos(drawn, hog, name, fewest, most):
    photo = read_photo(drawn / "photos" / f"{name}.jpg")
    assert fewest <= len(hog(photo, 0)) <= most
    assert fewest <= len(detect(photo, DEFAULT_DETECTOR)) <= most


def test_hog_finds_the_drawn_faces(drawn, hog):
    files = sorted((drawn / "adience/faces").rglob("*.jpg"))
    assert np.mean([len(hog(read_photo(file), 0)) == 1 for file in files]) >= 0.93


def test_the_seed_decides_the_drawn_face():
    model = face_model.FaceModel.load()
    one, same, other = (
        model.texture(model.sample_coefficients(4, "male", np.random.default_rng(seed))) for seed in (5, 5, 6)
    )
    assert one.shape == (face_model.TEXTURE_SIZE,) * 2 + (3,)
    assert (one == same).all() and (one != other).any()


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least 160"):
        draw.draw_sample(tmp_path, faces=10)
    (tmp_path / "adience" / "faces").mkdir(parents=True)  # perhaps the real one
    with pytest.raises(ValueError, match="adience contains files that this program did not draw"):
        draw.draw_sample(tmp_path)
    assert (tmp_path / "adience" / "faces").is_dir() and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(face_model, "FILE", tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="no face model"):
        face_model.FaceModel.load()
