"""Near-duplicates: copies of a drawn picture are found, other people are not, and no split parts them."""

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks import label_limits
from src.config import GENDERS
from src.data.table import split, split_rejects
from src.faces import duplicates
from src.faces.align import Alignment, align_face, find_faces
from src.faces.duplicates import duplicates_as_subjects, group_similar_hashes, near_duplicates, perceptual_hash
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person

ALIGNMENT = Alignment(size=128, eye_distance=0.36, eye_height=0.35)
PEOPLE = 24


def encoded(picture, suffix, *options):
    return cv2.imdecode(cv2.imencode(suffix, picture, list(options))[1], cv2.IMREAD_COLOR)


def turned(picture):
    matrix = cv2.getRotationMatrix2D((95.5, 95.5), 6, 1.0)
    return cv2.warpAffine(picture, matrix, (192, 192), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


COPIES = {
    "as it is": lambda picture: picture,
    "JPEG": lambda picture: encoded(picture, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 50),
    "WebP": lambda picture: encoded(picture, ".webp", cv2.IMWRITE_WEBP_QUALITY, 50),
    "cropped": lambda picture: picture[5:-3, 4:-7],
    "brighter": lambda picture: cv2.convertScaleAbs(picture, alpha=1.25),
    "smaller": lambda picture: cv2.resize(picture, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA),
    "turned": turned,
    "grey": lambda picture: cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
}


def aligned(picture):
    return align_face(picture, find_faces(picture)[0], ALIGNMENT)


@pytest.fixture(scope="module")
def pictures():
    """Drawn people, one picture each."""
    model, rng = FaceModel.load(), np.random.default_rng(1)
    people = [new_person(model, i % 8, GENDERS[i % 2], rng) for i in range(PEOPLE)]
    return [scene.snapshot(model, [person], (192, 192), 120, rng)[0] for person in people]


@pytest.fixture(scope="module")
def faces(pictures):
    return np.stack([aligned(picture) for picture in pictures])


def test_different_people_are_no_duplicates(faces):
    assert len(set(near_duplicates(faces))) == PEOPLE


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_a_picture_is_found(kind, pictures, faces):
    copies = np.stack([aligned(COPIES[kind](picture)) for picture in pictures[:8]])
    group = near_duplicates(np.concatenate([faces, copies]))
    assert group[PEOPLE:].tolist() == group[:8].tolist()
    assert len(set(group)) == PEOPLE


def test_the_order_and_the_chunks_do_not_matter(faces, monkeypatch):
    many = np.concatenate([faces[:5], faces, faces[3:7]])
    expected = np.r_[:5, :PEOPLE, 3:7]

    def same_partition(group, wanted):
        return ((group[:, None] == group) == (wanted[:, None] == wanted)).all()

    assert same_partition(near_duplicates(many), expected)
    order = np.random.default_rng(1).permutation(len(many))
    assert same_partition(near_duplicates(many[order]), expected[order])
    monkeypatch.setattr(duplicates, "ROWS_PER_BLOCK", 4)
    assert same_partition(near_duplicates(many), expected)


def test_rows_without_a_face_are_alone(faces):
    """Where there is no face, `prepare` leaves zeros."""
    group = near_duplicates(np.concatenate([np.zeros_like(faces[:3]), faces[:2]]))
    assert len(set(group)) == 5


def table_of(paths, subjects=None):
    rows = pd.DataFrame({"path": paths, "subject": subjects, "age_low": 30, "age_high": 30, "gender": "male"})
    return split_rejects(rows, {}, "made").table


def test_the_first_path_names_a_group():
    table = table_of(["b/2.jpg", "a/1.jpg", "c/3.jpg", "d/4.jpg"])
    subject = duplicates_as_subjects(table, np.array([7, 7, 0, 3]))["subject"]
    assert subject[:2].tolist() == ["a/1.jpg", "a/1.jpg"] and subject[2:].isna().all()
    assert table["subject"].isna().all(), "the table given must stay as it was"


def test_who_is_known_stays_known():
    subject = duplicates_as_subjects(table_of(["1.jpg", "2.jpg", "3.jpg"], ["she", "she", None]), np.array([0, 1, 2]))[
        "subject"
    ]
    assert subject[:2].tolist() == ["she", "she"] and subject[2:].isna().all()


def test_a_group_is_never_parted_and_the_others_stay_where_they_were():
    rng = np.random.default_rng(1)
    table = table_of([f"UTKFace/{i}.jpg" for i in range(600)] + [f"FairFace/train/x{i}.jpg" for i in range(600)])
    group = np.arange(1200)
    group[rng.permutation(1200)[:600]] = rng.integers(2000, 2200, 600)
    plain, part = split(table), split(duplicates_as_subjects(table, group))
    parts = pd.Series(part).groupby(group).nunique()
    assert pd.Series(plain).groupby(group).nunique().max() > 1, "without groups they would be parted: this tests nothing"
    assert parts.max() == 1
    alone = pd.Series(group).groupby(group).transform("size").to_numpy() == 1
    assert (part[alone] == plain[alone]).all()
    shuffled = rng.permutation(1200)
    again = split(duplicates_as_subjects(table.iloc[shuffled].reset_index(drop=True), group[shuffled]))
    assert (again == part[shuffled]).all()


@pytest.mark.parametrize("bits", [0, 1, 3, 6])
def test_alike_finds_what_comparing_all_pairs_finds(bits, monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_HASH_DISTANCE", bits)
    rng = np.random.default_rng(bits)
    hashes = rng.integers(2**64, size=400, dtype=np.uint64)
    for _ in range(12):  # chains of hashes that differ in one bit after another, some beyond the limit
        hashes[200:] = np.where(
            rng.random(200) < 0.4, hashes[:200] ^ (np.uint64(1) << np.uint64(rng.integers(64))), hashes[200:]
        )
    pairs = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
    expected = duplicates._linked_groups(np.argwhere(pairs), len(hashes))
    found = group_similar_hashes(hashes)
    assert len(set(found)) == len(set(expected)) == len(set(zip(found, expected)))


def test_alike_bears_half_a_million_equal_hashes_and_none():
    assert len(set(group_similar_hashes(np.full(500_000, 7, np.uint64)))) == 1
    assert len(group_similar_hashes(np.empty(0, np.uint64))) == 0


@pytest.mark.parametrize("kind", ["as it is", "JPEG", "WebP", "smaller"])
def test_a_stored_copy_has_nearly_the_same_hash_and_another_person_has_not(kind, pictures):
    first = np.array([perceptual_hash(picture) for picture in pictures], np.uint64)
    copies = np.array([perceptual_hash(COPIES[kind](picture)) for picture in pictures], np.uint64)
    group = group_similar_hashes(np.concatenate([first, copies]))
    assert len(set(group[:PEOPLE])) == PEOPLE
    assert np.mean(group[PEOPLE:] == group[:PEOPLE]) >= 0.9


def test_labels_of_one_picture_are_compared_in_pairs_only(monkeypatch):
    monkeypatch.setattr(label_limits, "MIN_PAIRS", 1)
    rows = [("utkface", g, a, k) for g, a, k in (("male", 3, 0), ("female", 4, 0), ("male", 30, 1), ("male", 36, 1))]
    rows += [("utkface", "male", 50, 2), *[("utkface", g, 20, 3) for g in ("male", "female", "male")]]  # no pairs
    rows += [("fairface", "male", 20, 4), ("fairface", pd.NA, 20, 4)]  # a pair, but not of two genders
    table = pd.DataFrame(rows, columns=["dataset", "gender", "age_low", "group"]).assign(age_high=lambda t: t["age_low"])
    table["gender"] = table["gender"].astype("string")
    found = {(row["dataset"], row["ages"], row["metric"]): row for row in label_limits.agreement(table)}
    assert found["utkface", "all", "other gender"]["value"] == 0.5 and found["utkface", "0–6", "years apart"]["value"] == 1
    assert found["utkface", "all", "years apart"]["value"] == 3.5 and found["utkface", "all", "years apart"]["n"] == 2
    assert ("fairface", "all", "other gender") not in found and ("fairface", "all", "years apart") in found
