"""Measures how long predictions of photos and videos take, from the file to the table.

    python -m benchmarks.photos [DATA] [--n 300] [--only PART …] [--csv FILE]

DATA is a folder with UTKFace/ and FairFace/; without it, synthetic photos are used.

| part | what it measures |
|---|---|
| small | photos of 224x224 and 250x250 on one core, in a folder |
| photo | photos of 1280x960 with one face and without a face, one at a time on one core |
| folder | a folder of 1280x960 photos on two cores, with processes and with threads |
| fresh | a new process: start, import, models, one photo |
| many | the command on a hundred times --n photos of 250x250: its rate, and its memory on the way |
| video | 640x480 with three people, from the file to the annotated file |

`wall` is elapsed time, `cpu` processor time, which is more reliable if other programs run. Each part runs in a process of its
own. Measurements on one core use one thread.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil

from benchmarks.common import Clock, parser, print_row, random_files, report, synthetic_photos, write_photos
from src.config import ROOT, SEED
from src.faces.detect import VIDEO_DETECTOR
from src.faces.image_io import read_photo
from src.predict import video
from src.predict.extract_faces import Source, Status, detect_faces_in_photo, start_workers
from src.predict.inference import predict_faces
from src.predict.predictor import Predictor
from src.sample import scene

FRESH = 5  # number of new processes that are timed
CORES = 2  # number of cores for the part "folder"
LARGE, LARGE_FACE = (1280, 960), 360  # pixels: width and height of a photo, size of its face


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path, nargs="?")
    arguments.add_argument("--n", type=int, default=300, help="photos of each kind (default: %(default)s)")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = arguments.parse_args()
    rows: list[dict] = []
    for part in options.only:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows += process.submit(measure, part, options.data, options.n).result()
    report(rows, options.csv)


def measure(part: str, data: Path | None, n: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        return [print_row({"part": part} | row) for row in PARTS[part](data, n, Path(folder))]


def use_cores(count: int) -> None:
    """Keeps this process and those that it starts on so many cores, where the system allows it."""
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def one_core_predictor() -> Predictor:
    """Returns a predictor that works in this process, on one core and with one thread."""
    cv2.setNumThreads(1)
    use_cores(1)
    return Predictor(workers=1)


def small_photos(data: Path | None, n: int, folder: Path) -> Iterator[dict]:
    sets = random_files(data, ("UTKFace", "FairFace"), n)
    originals = {name: [read_photo(file) for file in files] for name, files in sets.items()} or {
        "synthetic": synthetic_photos(n, (250, 250), 130)
    }
    predictor = one_core_predictor()
    for (name, pixels), side in product(originals.items(), (224, 250)):
        paths = write_photos([cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in pixels], folder)
        predictor.predict(paths[:8], progress=False)
        with Clock() as clock:
            table = predictor.predict(paths, progress=False)
        found = table.loc[table["status"] == Status.OK, "photo"].nunique() / len(paths)
        yield {"photos": f"{side}x{side}, {name}", "method": "folder, one core", "n": len(paths), "found": found,
               "photos a second": len(paths) / clock.wall, "cpu ms a photo": clock.cpu * 1000 / len(paths)}  # fmt: skip


def one_photo(data: Path | None, n: int, folder: Path) -> Iterator[dict]:
    predictor, rng, count = one_core_predictor(), np.random.default_rng(SEED), max(3, n // 10)
    photos = {
        "one face": synthetic_photos(count, LARGE, LARGE_FACE),
        "no face": [scene.backdrop(*LARGE, rng) for _ in range(count)],
    }
    for name, pixels in photos.items():
        (folder / name).mkdir()
        paths = write_photos(pixels, folder / name)
        predictor.predict(paths[:2], progress=False)
        times = []
        for path in paths:
            with Clock() as clock:
                table = predictor.predict(path, progress=False)
            times.append((clock.wall, clock.cpu, table["status"][0] == Status.OK))
        wall, cpu, _ = np.median(times, axis=0) * 1000
        yield {"photos": f"1280x960, {name}", "method": "one photo, one core", "n": len(paths),
               "found": np.mean(times, axis=0)[2], "wall ms a photo": wall, "cpu ms a photo": cpu}  # fmt: skip


def whole_folder(data: Path | None, n: int, folder: Path) -> Iterator[dict]:
    use_cores(CORES)
    paths, predictor = write_photos(synthetic_photos(n, LARGE, LARGE_FACE), folder), Predictor(workers=CORES)
    start_workers(CORES)  # their start hardly counts in a large folder and is not measured
    predictor.predict(paths[:8], progress=False)
    with Clock() as clock:
        predictor.predict(paths, progress=False)
    yield {"photos": "1280x960", "method": f"folder, {CORES} cores, processes", "n": n, "photos a second": n / clock.wall}
    with Clock() as clock, ThreadPoolExecutor(CORES) as pool:
        found = pool.map(lambda path: detect_faces_in_photo(Source(str(path), path), predictor.models.alignments), paths)
        predict_faces([row for rows in found for row in rows], predictor.models)
    yield {"photos": "1280x960", "method": f"folder, {CORES} cores, threads", "n": n, "photos a second": n / clock.wall}


def fresh_process(data: Path | None, n: int, folder: Path) -> Iterator[dict]:
    (path,) = write_photos(synthetic_photos(1, LARGE, LARGE_FACE), folder)
    times = []
    for _ in range(min(FRESH, n)):
        with Clock() as clock:
            subprocess.run([sys.executable, "-m", "src.predict", str(path)], cwd=ROOT, check=True, capture_output=True)
        times.append((clock.wall, clock.cpu))
    wall, cpu = np.median(times, axis=0)
    yield {"photos": "1280x960", "method": "a new process", "n": len(times), "wall s": wall, "cpu s": cpu,
           "longest s": max(times)[0]}  # fmt: skip


def many_photos(data: Path | None, n: int, folder: Path) -> Iterator[dict]:
    photos = write_photos(synthetic_photos(n, (250, 250), 130), folder)
    (folder / "many").mkdir()
    for i in range(100 * n):
        os.link(photos[i % n], folder / "many" / f"{i:06d}.jpg")
    csv, memory = folder / "many.csv", []
    command = [sys.executable, "-m", "src.predict", str(folder / "many"), "--csv", str(csv)]
    with Clock() as clock, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None:
            done = csv.read_bytes().count(b"\n") if csv.exists() else 0
            memory.append((done, _mebibytes(psutil.Process(run.pid))))
            time.sleep(1)
    done, used = np.array(memory).T
    yield {"photos": "250x250", "method": "python -m src.predict FOLDER", "n": 100 * n,
           "photos a second": 100 * n / clock.wall,
           "photos predicted": pd.read_csv(csv)["photo"].nunique(),
           "MiB, first half": np.median(used[(done > 0) & (done < 50 * n)]),
           "MiB, second half": np.median(used[done >= 50 * n])}  # fmt: skip


def _mebibytes(process: psutil.Process) -> float:
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # the process has just ended
            total += one.memory_info().rss
    return total / 2**20


def whole_video(data: Path | None, n: int, folder: Path) -> Iterator[dict]:
    frames, path, predictor = max(25, 3 * n), folder / "street.mp4", Predictor(detector=VIDEO_DETECTOR)
    images = scene.street(np.random.default_rng(SEED), frames)
    video.write_video((image for image, _ in images), (640, 480), 25, path)
    video.process_video(path, folder / "before.mp4", predictor, progress=False)
    with Clock() as clock:
        video.process_video(path, folder / "out.mp4", predictor, progress=False)
    yield {"photos": "640x480 video", "method": "tracked and annotated", "n": frames, "frames a second": frames / clock.wall,
           "cpu ms a photo": clock.cpu * 1000 / frames}  # fmt: skip


PARTS = {
    "small": small_photos, "photo": one_photo, "folder": whole_folder, "fresh": fresh_process, "many": many_photos,
    "video": whole_video,
}  # fmt: skip

if __name__ == "__main__":
    main()
