"""New photos and videos: how many faces are found, and how long it takes, beside the original's pipeline, in one run.

    python benchmarks/photos.py [DATA] [--n 300] [--only detectors photo fresh folder small many original video] [--csv FILE]

DATA holds UTKFace/ and FairFace/; without it, detectors are measured on drawn photos only. `wall` is the time that went
by, `cpu` the time that the cores worked on it: on a machine with other work beside, the second tells what the first would be
alone. Each part has a process of its own.
Figures of one core are taken with one thread on one core. The original's pipeline: non-local means on the photo, dlib's
detector at full size, the same alignment, one `Model.predict` a face and model.
"""

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
import dlib
import imageio_ffmpeg
import numpy as np
import pandas as pd
import psutil

from src import faces as face_tools
from src import looking, video
from src.answers import answered, load_models
from src.config import GENDERS, ROOT, SEED
from src.datasets import scenes
from src.datasets.portraits import new_person
from src.datasets.sample import write_jpeg
from src.face_space import FaceSpace
from src.photos import list_photos, read_photo

FRESH = 5  # new processes that are timed


class Clock:
    """Wall and CPU seconds of what runs inside, processes that have ended in it included."""

    def __enter__(self):
        self.start = time.perf_counter(), sum(os.times()[:4])
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.start[0], sum(os.times()[:4]) - self.start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--n", type=int, default=300, help="photos of each kind (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    for part in options.only:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows += process.submit(measured, part, options.data, options.n).result()
    if options.csv:
        pd.DataFrame(rows).to_csv(options.csv, index=False, float_format="%.4f")


def measured(part: str, data: Path | None, n: int) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in PARTS[part](data, n, Path(folder)):
            rows.append({"part": part} | row)
            print({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return rows


def one_core() -> None:
    import tensorflow as tf

    cv2.setNumThreads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def drawn(n: int, shape: tuple[int, int], size: int) -> list[np.ndarray]:
    """Photos of one drawn person each: width and height in pixels, and the size of the face."""
    space, rng = FaceSpace.load(), np.random.default_rng(SEED)
    people = [new_person(space, int(rng.integers(1, 8)), GENDERS[i % 2], rng) for i in range(n)]
    return [scenes.snapshot(space, [person], shape, size, rng)[0] for person in people]


def written(photos: list[np.ndarray], folder: Path) -> list[Path]:
    paths = [folder / f"{i:05d}.jpg" for i in range(len(photos))]
    for path, photo in zip(paths, photos):
        write_jpeg(path, photo)
    return paths


def turned(photo: np.ndarray, degrees: float) -> np.ndarray:
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def detectors(data: Path | None, n: int, folder: Path):
    """The share of photos in which a face is found, and the milliseconds that a photo takes."""
    sets = {}
    rng = np.random.default_rng(SEED)
    for name in ("UTKFace", "FairFace") if data else ():
        files = list_photos([data / name])
        sets[name] = [read_photo(files[i]) for i in rng.choice(len(files), min(n, len(files)), replace=False)]
    few = drawn(max(1, n // 6), (640, 480), 200)
    for degrees in (0, 20, 35, 50):
        sets[f"drawn, turned {degrees}°"] = [turned(photo, degrees) for photo in few]
    for share in (0.5, 0.3, 0.2):
        sets[f"drawn, a face of {200 * share:.0f} pixels"] = [
            cv2.copyMakeBorder(
                cv2.resize(photo, None, fx=share, fy=share, interpolation=cv2.INTER_AREA),
                *[round(480 * (1 - share) / 2)] * 2, *[round(640 * (1 - share) / 2)] * 2, cv2.BORDER_REPLICATE,
            )
            for photo in few
        ]  # fmt: skip
    for name, photos in sets.items():
        for detector in face_tools.DETECTORS:
            with Clock() as clock:
                found = np.mean([bool(face_tools.find_faces(photo, detector)) for photo in photos])
            yield {"photos": name, "way": detector, "n": len(photos), "found": found, "cpu ms a photo": ms(clock.cpu, photos)}


def one_photo(data, n: int, folder: Path):
    """From file to both answers in a process that has answered before, on one core."""
    one_core()
    paths, models = written(drawn(max(3, n // 10), (1280, 960), 360), folder / "one"), load_models()
    ask(paths[:2], models)
    times = []
    for path in paths:
        with Clock() as clock:
            ask([path], models)
        times.append((clock.wall, clock.cpu))
    wall, cpu = np.median(times, axis=0) * 1000
    yield {
        "photos": "1280x960",
        "way": "warm, one photo, one core",
        "n": len(paths),
        "wall ms a photo": wall,
        "cpu ms a photo": cpu,
    }


def fresh(data, n: int, folder: Path):
    (path,) = written(drawn(1, (1280, 960), 360), folder / "fresh")
    times = []
    for _ in range(FRESH):
        with Clock() as clock:
            subprocess.run([sys.executable, "-m", "src.predict", str(path)], cwd=ROOT, check=True, capture_output=True)
        times.append((clock.wall, clock.cpu))
    wall, cpu = np.median(times, axis=0)
    yield {"photos": "1280x960", "way": "a new process", "n": FRESH, "wall s": wall, "cpu s": cpu,
           "longest, s": max(times)[0]}  # fmt: skip


def whole_folder(data, n: int, folder: Path):
    """Processes against threads, all cores; started before the clock, as in a folder of ten thousand it hardly counts."""
    paths, models = written(drawn(n, (1280, 960), 360), folder / "folder"), load_models()
    list(looking.looked(paths[:8], models.alignments, "none", "hog", -1))
    with Clock() as clock:
        rows = [row for some in looking.looked(paths, models.alignments, "none", "hog+cnn", -1) for row in some]
        answered(rows, models)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield {"photos": "1280x960", "way": f"folder, {cores} processes", "n": n, "photos a second": n / clock.wall}
    with Clock() as clock, ThreadPoolExecutor(cores) as pool:
        looks = pool.map(lambda path: looking.look(path, models.alignments), paths)
        answered([row for some in looks for row in some], models)
    yield {"photos": "1280x960", "way": f"folder, {cores} threads", "n": n, "photos a second": n / clock.wall,
           "cpu ms a photo": ms(clock.cpu, paths)}  # fmt: skip


def small_photos(data, n: int, folder: Path):
    one_core()
    paths, models = written(drawn(n, (250, 250), 130), folder / "small"), load_models()
    ask(paths[:8], models)
    with Clock() as clock:
        ask(paths, models)
    yield {"photos": "250x250", "way": "folder, one core", "n": n, "photos a second": n / clock.wall,
           "photos a second of cpu": n / clock.cpu, "cpu ms a photo": ms(clock.cpu, paths)}  # fmt: skip


def many(data, n: int, folder: Path):
    """The command on a hundred times `n` photos, 10,000 for n = 100: its rate, and its memory on the way."""
    drawn_once = written(drawn(n, (250, 250), 130), folder / "drawn")
    (folder / "many").mkdir()
    for i in range(100 * n):
        os.link(drawn_once[i % n], folder / "many" / f"{i:06d}.jpg")
    csv, memory = folder / "many.csv", []
    command = [sys.executable, "-m", "src.predict", str(folder / "many"), "--csv", str(csv)]
    with (
        Clock() as clock,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running,
    ):
        while running.poll() is None:
            done = csv.read_bytes().count(b"\n") if csv.exists() else 0
            memory.append((done, _mebibytes(psutil.Process(running.pid))))
            time.sleep(1)
    rows = pd.read_csv(csv)
    done, used = np.array(memory).T
    yield {"photos": "250x250", "way": "python -m src.predict FOLDER", "n": 100 * n, "photos a second": 100 * n / clock.wall,
           "photos answered": rows["photo"].nunique(), "MiB, first half": np.median(used[(done > 0) & (done < 50 * n)]),
           "MiB, second half": np.median(used[done >= 50 * n])}  # fmt: skip


def _mebibytes(process: psutil.Process) -> float:
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            total += one.memory_info().rss
    return total / 2**20


def original(data, n: int, folder: Path):
    """Ours and the original's way on the same photos, in turn, on one core; the ratio is of CPU time."""
    one_core()
    n = max(2, n // 50)
    paths, models = written(drawn(n, (1280, 960), 360), folder / "original"), load_models()
    detector = dlib.get_frontal_face_detector()
    ask(paths[:2], models)
    spent = {"ours": 0.0, "the original's": 0.0}
    for path in paths:
        with Clock() as clock:
            ask([path], models)
        spent["ours"] += clock.cpu
        with Clock() as clock:
            photo = face_tools.denoise(read_photo(path))
            for box in detector(photo, 1):
                points = face_tools._predictor()(photo, box).parts()
                landmarks = np.array([(point.x, point.y) for point in points], float)
                for some in models.trained.values():
                    face = face_tools.align(photo, landmarks, some.alignment)
                    some.model.predict(face[None], verbose=0)
        spent["the original's"] += clock.cpu
    for way, cpu in spent.items():
        yield {"photos": "1280x960", "way": way, "n": n, "cpu ms a photo": ms(cpu, paths), "times ours": cpu / spent["ours"]}


def film(data, n: int, folder: Path):
    """640x480, three people, from file to annotated file, in a process that has answered before."""
    frames, path, models = max(100, 3 * n), folder / "street.mp4", load_models()
    _, pictures = scenes.street(FaceSpace.load(), np.random.default_rng(SEED), frames)
    writer = imageio_ffmpeg.write_frames(str(path), (640, 480), fps=25, codec="libx264")
    writer.send(None)
    for picture, _ in pictures:
        writer.send(np.ascontiguousarray(picture))
    writer.close()
    video.process(path, folder / "before", models, progress=False)
    with Clock() as clock:
        video.process(path, folder / "out", models, progress=False)
    yield {"photos": "640x480 video", "way": "followed and drawn", "n": frames, "frames a second": frames / clock.wall,
           "cpu ms a photo": clock.cpu * 1000 / frames}  # fmt: skip


def ask(paths: list[Path], models) -> list[dict]:
    return answered([row for path in paths for row in looking.look(path, models.alignments)], models)


def ms(seconds: float, photos: list) -> float:
    return seconds * 1000 / len(photos)


PARTS = {
    "detectors": detectors, "photo": one_photo, "fresh": fresh, "folder": whole_folder, "video": film, "small": small_photos,
    "many": many, "original": original,
}  # fmt: skip

if __name__ == "__main__":
    main()
