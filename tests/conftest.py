"""What several tests share: stand-ins for the released models and their result files."""

import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from experiments import teachers, training_steps
from experiments.multitask import add_task_heads
from src.config import RESULTS
from src.data import utkface
from src.evaluation.calibration import INTERVAL_BANDS, Calibration
from src.evaluation.subgroups import RESULT_COLUMNS
from src.keras_setup import keras, layers
from src.models.residual import residual_level_one

METRICS = {
    "gender accuracy": (0.95, "share"),
    "eight groups exact": (0.66, "share"),
    "eight groups one-off": (0.97, "share"),
    "nine ranges exact": (0.55, "share"),
    "absolute error": (4.5, "years"),
    "90% interval covers": (0.91, "share"),
    "90% interval width": (16.0, "years"),
}
WITH_YEARS = [name for name in METRICS if "nine" not in name]
OF = {"utkface": WITH_YEARS, "fairface": ["gender accuracy", "nine ranges exact"], "allagefaces": WITH_YEARS}
GROUPS = {
    "all": ["all"],
    "age": ["0-6", "20-29", "70-100"],
    "gender": ["female", "male"],
    "race": [*utkface.RACES.values(), "Latino_Hispanic"],
}


def results() -> pd.DataFrame:
    """Rows as `assess` gives them. The first group of each kind is the worst; 70-100 is worse still, of too few faces."""
    rows = []
    for dataset, metrics in OF.items():
        for metric in metrics:
            value, unit = METRICS[metric]
            for by, groups in GROUPS.items():
                if dataset == "allagefaces" and by == "race":
                    continue
                for i, group in enumerate(groups):
                    worse = 0.2 if group == "70-100" else 0 if by == "all" else 0.1 / (i + 1)
                    mine = value * (1 + worse if "error" in metric else 1 - worse)
                    n = 1000 if by == "all" else 29 if group == "70-100" else 100 + i
                    rows.append((dataset, metric, by, group, mine, mine * 0.98, mine * 1.02, n, unit))
        rows.append((dataset, "gender calibration error", "all", "all", 0.012, np.nan, np.nan, 1000, "share"))
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


@pytest.fixture(scope="session")
def standins(tmp_path_factory):
    """Folders `gender`, `age` (untrained models of the released kind) and `results` (made-up files)."""
    folder = tmp_path_factory.mktemp("released")
    joint = add_task_heads(residual_level_one(training_steps.ALIGNMENT.size))
    calibration = {"gender": Calibration(0.75), "age": Calibration(0.4, INTERVAL_BANDS, (1.5,) * len(INTERVAL_BANDS))}
    table = pd.DataFrame({"dataset": ["utkface"] * 6 + ["fairface"] * 3 + ["allagefaces"] * 3})
    part = np.array([*["train"] * 3, *["train", "validation", "test"] * 3], object)
    models = {task: training_steps.extract_task_model(joint, task) for task in calibration}
    trained_on = {"dataset": "utkface, fairface and allagefaces", "epochs": 7, "seed": 1}
    data = training_steps.PreparedData(table, None, None, part, None)
    training_steps.save_task_models(data, models, calibration, results(), trained_on, folder)
    curves = [
        pd.DataFrame({"confidence": [0.3, 0.6, 0.95], "accuracy": [0.25, 0.5, 0.9], "n": [20, 20, 60]}).assign(**which)
        for which in ({"dataset": d, "task": t} for d in OF for t in ("gender", "age"))
    ]
    shares = np.linspace(0.01, 1, 20)
    covered = [
        pd.DataFrame({"coverage": shares, "score": 1 - 0.2 * shares}).assign(dataset=d, task=t)
        for d in OF
        for t in ("gender", "age")
    ]
    epoch = np.arange(1, 8)
    history = pd.DataFrame({"epoch": epoch, "loss": 3 / epoch, "val_loss": [3, 2, 1.5, 1.2, 1.1, 1.0, 1.05]})
    for name in ("gender_accuracy", "absolute_error"):
        history[name] = history[f"val_{name}"] = 0.9 - 0.1 / epoch if name == "gender_accuracy" else 5 + 3 / epoch
    speed = pd.DataFrame(
        [
            (model, batch, runtime, 7.0 + batch / 100, 6.0, 9.0, 12.8)
            for model in calibration
            for batch in (1, 32)
            for runtime in ("Keras", "LiteRT")
        ],
        columns=["model", "batch", "runtime", "ms a face", "lowest", "highest", "MB"],
    )
    made = {
        "released_results": results(),
        "released_reliability": pd.concat(curves),
        "released_coverage": pd.concat(covered),
        "released_history": history,
        "speed": speed,
    }
    files = folder / "results"
    files.mkdir()
    for name, frame in made.items():
        frame.to_csv(files / f"{name}.csv", index=False)
    for name in ("plain", "others"):
        (files / f"{name}.csv").write_bytes((RESULTS / f"{name}.csv").read_bytes())
    return SimpleNamespace(gender=folder / "gender", age=folder / "age", results=files)


@pytest.fixture(scope="session")
def mobilenet_model():
    """An untrained network with the layers of the released age model."""
    convolutions = teachers.faceres_convolutions(training_steps.ALIGNMENT.size)
    pooled = layers.GlobalAveragePooling2D(name="pooled")(convolutions.output)
    features = layers.Rescaling(2.0, name="features")(pooled)
    level_one = keras.Model(convolutions.input, features, name="level_one")
    return training_steps.extract_task_model(add_task_heads(training_steps.mirrored_level_one(level_one)), "age")


@pytest.fixture
def mounted(tmp_path):
    """Mounts a small file system in memory, which needs root; gives a function of its options."""
    point = tmp_path / "mounted"
    point.mkdir()

    def mount(*options):
        command = shutil.which("mount")
        if command is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("a full disk needs a file system of its own, which only root may mount")
        made = subprocess.run([command, *options, "-t", "tmpfs", "tmpfs", str(point)], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"a full disk needs a file system of its own, which cannot be mounted here: {made.stderr.strip()}")
        return point

    yield mount
    if os.path.ismount(point):
        subprocess.run(["umount", "-l", str(point)], check=True)
