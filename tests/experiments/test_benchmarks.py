"""Each benchmark runs from start to end, on a few synthetic faces; its results do not matter."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from benchmarks.common import synthetic_photos
from benchmarks.photos import PARTS
from src.config import AGE_GROUPS, ROOT
from src.sample.scene import write_jpeg

pytestmark = pytest.mark.slow

FACES = 64  # of each data set
RECORDS = 2000  # of wiki.mat


def run(name, *arguments):
    """What a benchmark, or a module with a dot in its name, prints; it must end without an error."""
    module = name if "." in name else f"benchmarks.{name}"
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, errors="replace",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with UTKFace/, FairFace/ and AllAgeFaces/ in the layouts of these data sets."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "FairFace" / "train").mkdir(parents=True)
    (folder / "UTKFace").mkdir()
    (folder / "AllAgeFaces").mkdir()
    images = synthetic_photos(3 * FACES, (200, 200), 110)
    years = AGE_GROUPS["fairface"].years
    labels = []
    for i, image in enumerate(images[:FACES]):
        write_jpeg(folder / "UTKFace" / f"{5 + i}_{i % 2}_{i % 5}_2017{i:013d}.jpg.chip.jpg", image)
    for i, image in enumerate(images[2 * FACES :]):
        write_jpeg(folder / "AllAgeFaces" / f"{7350 + i:05d}A{5 + i:02d}.jpg", image)
    for i, image in enumerate(images[FACES : 2 * FACES]):
        write_jpeg(folder / "FairFace" / "train" / f"{i}.jpg", image)
        low, high = years[i % len(years)]
        age = "more than 70" if high == 100 else f"{low}-{high}"
        labels.append((f"train/{i}.jpg", age, ["Male", "Female"][i % 2], ["White", "Black", "Indian"][i % 3], "True"))
    columns = ["file", "age", "gender", "race", "service_test"]
    pd.DataFrame(labels, columns=columns).to_csv(folder / "FairFace" / "fairface_label_train.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """A folder with a photo of two people and the file that counts them."""
    folder = tmp_path_factory.mktemp("groups")
    write_jpeg(folder / "two.jpg", np.hstack(synthetic_photos(2, (240, 240), 130)))
    (folder / "counts.csv").write_text("photo,clear,partial,note\ntwo.jpg,2,0,\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Where the benchmarks keep what they prepare, so that faces are aligned once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def wiki(tmp_path_factory):
    """A folder with a wiki.mat of made-up records."""
    folder, rng = tmp_path_factory.mktemp("wiki"), np.random.default_rng(1)

    def cells(values):
        made = np.empty((1, RECORDS), object)
        made[0] = np.fromiter(values, object, RECORDS)
        return made

    born, photo = rng.integers(1930, 1990, RECORDS), rng.integers(1995, 2015, RECORDS)
    scores = np.where(rng.random(RECORDS) < 0.2, -np.inf, rng.uniform(0.5, 5, RECORDS))
    struct = {
        "dob": (np.array([pd.Timestamp(f"{year}-06-15").toordinal() for year in born]) + 366.0)[None],
        "photo_taken": photo[None].astype(np.uint16),
        "gender": rng.choice([0.0, 1.0, np.nan], RECORDS)[None],
        "face_score": scores[None],
        "second_face_score": np.where(rng.random(RECORDS) < 0.1, 2.0, np.nan)[None],
        "full_path": cells(np.array([f"{i % 100:02d}/{i}_{born[i]}-06-15_{photo[i]}.jpg"]) for i in range(RECORDS)),
        "name": cells(np.array([f"Somebody {i // 3}"]) for i in range(RECORDS)),
        "face_location": cells(np.array([[10.0, 20.0, 110.0, 120.0]]) for _ in range(RECORDS)),
    }
    savemat(folder / "wiki.mat", {"wiki": struct})
    return folder


def test_every_benchmark_has_a_test():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"common"} <= tested


def test_photos(data, tmp_path):
    """All its parts in one run."""
    run("photos", data, "--n", 1, "--csv", tmp_path / "photos.csv")
    table = pd.read_csv(tmp_path / "photos.csv")
    assert set(table["part"]) == set(PARTS)
    one = table[table["part"] == "photo"].set_index("photos")
    assert one.loc["1280x960, one face", "found"] == 1 and one.loc["1280x960, no face", "found"] == 0
    assert {"224x224, UTKFace", "224x224, FairFace"} <= set(table["photos"])
    assert (table["photos predicted"].dropna() == 100).all()


def test_alignment(data, tmp_path):
    run("alignment", data, "--n", 30, "--csv", tmp_path / "alignment.csv")
    table = pd.read_csv(tmp_path / "alignment.csv")
    assert {"boxes", "mapping"} == set(table["part"]) and table["eye distance"].dropna().between(0.3, 0.6).all()


def test_cleaning(wiki, tmp_path):
    run("cleaning", wiki, "--records", 3000, "--hashes", 3000, "--csv", tmp_path / "cleaning.csv")
    measured = pd.read_csv(tmp_path / "cleaning.csv").set_index("what")["value"]
    assert measured["records"] == 3000 + RECORDS


def test_detection(data, groups, tmp_path):
    """All its parts in one run."""
    run("detection", data, "--groups", groups, "--n", 6, "--csv", tmp_path / "detection.csv")
    table = pd.read_csv(tmp_path / "detection.csv")
    assert set(table["part"]) == {"faces", "groups", "nobody", "cost"}
    found = table[table["part"] == "faces"].set_index(["photos", "detector"])["found"]
    assert found["UTKFace", "yunet"] == found["FairFace", "yunet"] == 1
    group = table[(table["part"] == "groups") & (table["detector"] == "yunet")].iloc[0]
    assert group["clear"] == group["clear found"] == 2 and group["extra"] == 0


def test_funnels(data, tmp_path):
    run("funnels", f"utkface={data}", f"fairface={data}", "--csv", tmp_path / "funnels.csv")
    table = pd.read_csv(tmp_path / "funnels.csv").set_index(["dataset", "step"])["rows"]
    assert table["utkface", "kept"] == table["fairface", "kept"] == FACES


def test_held_out(data, runs, tmp_path):
    run("held_out", data, "--runs", runs, "--csv", tmp_path / "held_out.csv")
    assert {"gender accuracy", "absolute error"} <= set(pd.read_csv(tmp_path / "held_out.csv")["metric"])


def test_label_limits(data, runs, tmp_path):
    """There are no near-duplicates here, so the table is empty."""
    run("label_limits", data, "--runs", runs, "--csv", tmp_path / "limits.csv")
    assert list(pd.read_csv(tmp_path / "limits.csv"))[:3] == ["dataset", "ages", "metric"]


def test_label_noise(data, runs):
    assert "flagged at" in run("label_noise", data / "UTKFace", "--wrong", 0.5, "--runs", runs)


def test_scale(wiki, tmp_path):
    arguments = ["--faces", 256, "--folder", tmp_path / "drawn", "--csv", tmp_path / "scale.csv"]
    run("scale", wiki, *arguments, "--plot", tmp_path / "scale.png")
    measured = pd.read_csv(tmp_path / "scale.csv").set_index("what")["measured"]
    assert measured["result after the kills"] == "the same bytes" and (tmp_path / "scale.png").stat().st_size


def test_speed(standins, tmp_path):
    run("speed", standins.gender, standins.age, "--turns", 1, "--csv", tmp_path / "speed.csv")
    table = pd.read_csv(tmp_path / "speed.csv")
    assert {"gender", "age", "both"} == set(table["model"]) and {"Keras, predict_on_batch", "LiteRT"} <= set(table["runtime"])
