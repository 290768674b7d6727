"""Worker processes end with the command that started them, however it ends; and where none may be started."""

import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from src.config import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals that Windows does not have")

COMMAND = """
import os, sys, time
from joblib.externals.loky import ProcessPoolExecutor
from src import processes

def main():
    pool = ProcessPoolExecutor(2, initializer=processes.end_with_parent, initargs=(os.getpid(),))
    try:
        print(*pool.map(time.sleep, [0.2, 0.2]), flush=True)
        list(pool.map(time.sleep, [60, 60]))
    finally:
        print("cleaned up", flush=True)

processes.run_command(main)
"""


def started(command, ignored=None, **options):
    """A process with default signal handlers, but for one that is ignored, and its worker processes."""

    def prepare():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number is ignored else signal.SIG_DFL)

    return subprocess.Popen(command, cwd=ROOT, preexec_fn=prepare, start_new_session=True, text=True, **options)


def ended(processes, seconds=10):
    return not psutil.wait_procs(processes, timeout=seconds)[1]


SLOW_SIGNALS = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, *SLOW_SIGNALS])
def test_no_worker_outlives_a_command_that_is_stopped(number):
    running = started([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.readline() == "None None\n", "the workers are there"
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 2
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert running.returncode == -number
    else:
        assert running.returncode == 128 + number and out == "cleaned up\n" and err == "\nstopped\n"
    assert ended(children)


def test_a_signal_that_is_ignored_stays_ignored():
    """Under nohup a command goes on when its terminal is closed."""
    code = (
        "import time; from src import processes; processes.run_command(lambda: print('begun', flush=True) or time.sleep(2))"
    )
    running = started([sys.executable, "-c", code], ignored=signal.SIGHUP, stdout=subprocess.PIPE)
    assert running.stdout.readline() == "begun\n"
    running.send_signal(signal.SIGHUP)
    assert running.wait(30) == 0


def work(folder, cache):
    """Predictions and aligned faces, made in a process that may start no others."""
    from src.data.table import TABLE_COLUMNS, check_table
    from src.faces.align import Alignment
    from src.faces.prepare import prepare
    from src.predict.predictor import predict

    assert multiprocessing.current_process().daemon
    table = predict(folder, gender_model=None, age_model=None, progress=False, detector="hog")
    rows = pd.DataFrame({"path": table["photo"].map(os.path.basename).astype(object), "dataset": "made"})
    prepared = prepare(check_table(rows.reindex(columns=list(TABLE_COLUMNS))), folder, Alignment(size=64), cache)
    return table["status"].tolist(), prepared.alignment_source.tolist()


@pytest.mark.slow
def test_many_photos_inside_a_worker_of_a_pool(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        Image.fromarray(np.full((60, 80, 3), i, np.uint8)).save(folder / f"{i}.png")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        statuses, how = pool.apply(work, (folder, tmp_path / "cache"))
    assert statuses == ["no_face"] * 10 and how == ["whole_photo"] * 10


@pytest.mark.slow
def test_a_fork_does_not_wait_for_its_parents_workers(tmp_path):
    """For example a web server's worker, forked after the parent has detected faces."""
    code = (
        "import os, sys; from pathlib import Path; from src.predict.extract_faces import Source, detect_faces_in_photos\n"
        "photos = [Source('nowhere.jpg', Path('nowhere.jpg'))] * 9\n"
        "detect = lambda: [row['message'] for rows in detect_faces_in_photos(photos, {}, 'none', 'hog', 2) for row in rows]\n"
        "first = detect(); child = os.fork()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "os._exit(detect() != first)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 0
