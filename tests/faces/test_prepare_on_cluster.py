"""Preparation on a Dask cluster: a scheduler and two workers, each a process of its own on this machine."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import skimage.data
from PIL import Image

from src import config
from src.data.table import TABLE_COLUMNS, check_table
from src.faces import prepare as prepare_module
from src.faces.align import Alignment
from src.faces.detect import DEFAULT_DETECTOR
from src.faces.prepare import main, prepare

pytestmark = pytest.mark.slow

SMALL = Alignment(size=64)
CHUNK, COUNT = 4, 120


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures, some of them of no use, and their table."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    names = [f"{i:03d}.jpg" for i in range(COUNT)]
    for i, name in enumerate(names):
        top, left, side = rng.integers((20, 110, 190), (45, 145, 220))
        Image.fromarray(skimage.data.astronaut()[top : top + side, left : left + side]).save(folder / name)
        if i % 17 == 3:
            (folder / name).write_text("no picture")
    return folder, check_table(pd.DataFrame({"path": names, "dataset": "made"}).reindex(columns=list(TABLE_COLUMNS)))


def process(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", *arguments, "--no-dashboard"], cwd=config.ROOT, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def cluster():
    """The scheduler's address and its two workers, of which the last test that uses it kills one."""
    scheduler = process("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
    address = next(found[1] for line in scheduler.stderr if (found := re.search(r"Scheduler at:\s+(tcp://\S+)", line)))
    workers = [process("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny") for _ in range(2)]
    everyone = [scheduler, *workers]
    for one in everyone:  # a full pipe would stop it
        threading.Thread(target=one.stderr.read, daemon=True).start()
    yield address, workers
    for one in everyone:
        one.kill()
        one.wait()


def files(folder):
    """Every finished file below, with what it holds."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_the_command_takes_a_schedulers_address(pictures, cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare_module, "CACHE", tmp_path / "cache")
    (tmp_path / "UTKFace").mkdir()
    for i in range(6):
        shutil.copy(pictures[0] / f"{i:03d}.jpg", tmp_path / "UTKFace" / f"2{i}_0_2_20170116184028385.jpg.chip.jpg")
    assert main(["--dataset", "utkface", "--data", str(tmp_path / "UTKFace"), "--scheduler", cluster[0]]) == 0
    assert "6 faces are in" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no SIGKILL")
def test_a_killed_worker_costs_nothing(pictures, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", CHUNK)
    folder, table = pictures
    alone = prepare(table, folder, SMALL, tmp_path / "alone", workers=1)
    address, workers = cluster

    def kill_midway():
        while len(list((tmp_path / "cluster").glob("*/chunks/[0-9]*.json"))) < 8:
            time.sleep(0.005)
        workers[0].kill()

    killer = threading.Thread(target=kill_midway, daemon=True)
    killer.start()
    together = prepare(table, folder, SMALL, tmp_path / "cluster", scheduler=address)
    killer.join()
    assert workers[0].wait() == -9 and workers[1].poll() is None
    assert files(together.folder) == files(alone.folder)
    assert np.array_equal(together.faces, alone.faces) and together.reason.tolist() == alone.reason.tolist()


def test_no_cluster_is_one_sentence(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "CONNECT_TIMEOUT", 1)
    folder, table = pictures
    with pytest.raises(ValueError, match="no Dask scheduler with a worker answers at tcp://127.0.0.1:9 within 1 s") as caught:
        prepare(table, folder, SMALL, tmp_path, scheduler="tcp://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_a_worker_of_another_version_is_refused(pictures, tmp_path):
    folder, table = pictures
    settings = prepare_module._settings(SMALL, DEFAULT_DETECTOR) | {"dlib": "1.0"}
    common = prepare_module._ChunkSettings(folder, tmp_path, SMALL, DEFAULT_DETECTOR, settings, 128)
    with pytest.raises(ValueError, match="got dlib 1.0 here, .* there: install the same"):
        prepare_module._prepare_chunk(common, 0, table.head(2))
