"""Preparation at scale: N synthetic photos at the paths of an imdb.mat, prepared without and with interruptions.

    python -m benchmarks.scale /path/to/folder/with/wiki.mat [--faces 2000] [--workers 2] [--folder PLACE]
                               [--csv docs/results/scale.csv] [--plot docs/figures/scale.png]

Every second it records the faces done, the processor time and the memory of all processes. The second run is killed with
SIGKILL three times at random moments; both runs must end with the same bytes. A line is fitted to the cost and extended to
523,051 faces. The photos stay in --folder for the next time; without it they are deleted.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
from joblib import Parallel, delayed
from matplotlib import pyplot as plt

from benchmarks.cleaning import make_imdb
from benchmarks.common import parser, report
from src.config import GENDERS, ROOT, SEED
from src.data import imdb_wiki
from src.faces.prepare import CHUNK
from src.sample import scene
from src.sample.face_model import GROUPS, FaceModel
from src.sample.person import new_person

ALL = 523_051  # images of IMDB-WIKI
KEPT = 0.4  # cleaning keeps at least this share of the records, so more are generated
PHOTOS_PER_TASK = 50
RUN = """
import sys
from pathlib import Path
import pandas as pd
from src.faces.prepare import prepare
from src.data.table import check_table
prepare(check_table(pd.read_pickle(sys.argv[1])), sys.argv[2], cache=Path(sys.argv[3]), workers=int(sys.argv[4]))
"""


def draw(folder: Path, wiki: Path, count: int) -> pd.DataFrame:
    """Draws those of `count` photos that are missing in imdb_crop/ and returns their table of faces."""
    crops = folder / "imdb_crop"
    crops.mkdir(parents=True, exist_ok=True)
    if not (crops / "imdb.mat").exists():
        make_imdb(crops / "imdb.mat", wiki, int(count / KEPT) + 2000)
    table = imdb_wiki.load(folder, check_images=False).table.head(count)
    if len(table) < count:
        raise ValueError(f"expected {count:,} faces, but {folder} was made for {len(table):,}: choose another --folder")
    missing = [(i, path) for i, path in enumerate(table["path"]) if not (folder / path).exists()]
    groups = [missing[i : i + PHOTOS_PER_TASK] for i in range(0, len(missing), PHOTOS_PER_TASK)]
    Parallel(n_jobs=-1)(delayed(_draw)(folder, group) for group in groups)
    return table


def _draw(folder: Path, group: list[tuple[int, str]]) -> None:
    cv2.setNumThreads(1)
    model = FaceModel.load()
    for i, path in group:
        rng = np.random.default_rng([SEED, i])
        person = new_person(model, i % len(GROUPS.years), GENDERS[i // len(GROUPS.years) % 2], rng)
        scene.write_jpeg(folder / path, scene.snapshot(model, [person], (250, 300), int(rng.integers(125, 160)), rng)[0])


def start(table: Path, folder: Path, cache: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, str(table), str(folder), str(cache), str(workers)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)


def watch(running: subprocess.Popen, cache: Path, total: int) -> pd.DataFrame:
    """Returns one row a second until the end: seconds, faces, processor seconds and memory in MiB of all its processes."""
    rows, began, whole = [], time.monotonic(), psutil.Process(running.pid)
    spent = {}
    while running.poll() is None:
        memory = 0
        try:
            for process in [whole, *whole.children(recursive=True)]:
                memory += process.memory_info().rss
                spent[process.pid] = sum(process.cpu_times()[:2])
        except psutil.Error:  # a process has just ended
            pass
        done = min(total, CHUNK * len(list(cache.glob("*/chunks/[0-9]*.json"))))
        rows.append((time.monotonic() - began, done, sum(spent.values()), memory / 2**20))
        time.sleep(1)
    if running.returncode:
        raise RuntimeError(f"the preparation ended with {running.returncode}")
    return pd.DataFrame(rows, columns=["seconds", "faces", "processor_seconds", "memory_mib"])


def through_kills(table: Path, folder: Path, cache: Path, workers: int, chunks: int, kills: int = 3) -> list[int]:
    """Prepares in runs that are killed after a random number of chunks, and a last one that is not; returns these numbers."""
    moments = sorted(np.random.default_rng(SEED).choice(np.arange(1, chunks), kills, replace=False).tolist())
    for moment in moments:
        running = start(table, folder, cache, workers)
        while running.poll() is None and len(list(cache.glob("*/chunks/[0-9]*.json"))) < moment:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    if start(table, folder, cache, workers).wait():
        raise RuntimeError("the run after the kills failed")
    return moments


def digest(cache: Path) -> str:
    """Returns the SHA-256 of the names and contents of all prepared files."""
    total = hashlib.sha256()
    for path in sorted(cache.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def plot(curve: pd.DataFrame, cost: np.ndarray, file: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    axes[0].plot(curve["faces"], curve["processor_seconds"], "o", markersize=3, color="#0072B2", label="measured")
    ends = np.array([0, curve["faces"].max()])
    axes[0].plot(ends, np.polyval(cost, ends), color="#E69F00", label=f"{1 / cost[0]:,.0f} faces a second and core")
    axes[0].legend(frameon=False)
    axes[1].plot(curve["faces"], curve["memory_mib"], color="#009E73")
    for one, label in zip(axes, ("processor seconds", "memory of all processes, MiB")):
        one.set(xlabel="faces prepared", ylabel=label, xlim=(0, None), ylim=(0, None))
        one.spines[["top", "right"]].set_visible(False)
        one.xaxis.set_major_formatter("{x:,.0f}")
        one.yaxis.set_major_formatter("{x:,.0f}")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def measure(place: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Returns the table of results."""
    table = draw(place, options.wiki / "wiki.mat", options.faces)
    file, caches = place / "table.pickle", [place / "quiet", place / "killed"]
    table.to_pickle(file)
    for cache in caches:
        shutil.rmtree(cache, ignore_errors=True)
    curve = watch(start(file, place, caches[0], options.workers), caches[0], len(table))
    moments = through_kills(file, place, caches[1], options.workers, -(-len(table) // CHUNK))
    if digest(caches[0]) != digest(caches[1]):
        raise RuntimeError("the result of the killed runs differs from that of the uninterrupted run")
    steady = curve[curve["faces"].between(0.1 * len(table), 0.95 * len(table))]
    steady = steady if len(steady) > 2 else curve
    cost = np.polyfit(steady["faces"], steady["processor_seconds"], 1)
    halves = steady["memory_mib"].iloc[: len(steady) // 2].median(), steady["memory_mib"].iloc[len(steady) // 2 :].median()
    hours = np.polyval(cost, ALL) / 3600
    wall = np.ptp(steady["faces"]) / np.ptp(steady["seconds"])
    rows = {
        "faces": f"{len(table):,}",
        "workers": f"{options.workers}",
        "faces a second and core, of processor time": f"{1 / cost[0]:.0f}",
        "faces a second, by the clock": f"{wall:.0f}",
        "memory of all processes, median of the first half, MiB": f"{halves[0]:.0f}",
        "median of the second half, MiB": f"{halves[1]:.0f}",
        "killed after this number of chunks": f"{', '.join(map(str, moments))} of {-(-len(table) // CHUNK):,}",
        "result after the kills": "the same bytes",
        f"core hours for {ALL:,} faces": f"{hours:.2f}",
        "cores for that in an hour": f"{np.ceil(hours):.0f}",
    }
    if options.plot:
        plot(curve, cost, options.plot)
    return pd.DataFrame({"what": list(rows), "measured": list(rows.values())})


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("wiki", type=Path, help="folder of the real wiki.mat")
    arguments.add_argument("--faces", type=int, default=2000)
    arguments.add_argument("--workers", type=int, default=os.cpu_count())
    arguments.add_argument("--folder", type=Path, help="keeps the photos")
    arguments.add_argument("--plot", type=Path)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report(measure((options.folder or Path(temporary)).absolute(), options), options.csv)


if __name__ == "__main__":
    main()
