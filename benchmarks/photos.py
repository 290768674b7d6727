"""Photos and videos: how many faces are found, and how long predictions take.

    python benchmarks/photos.py [DATA] [--groups FOLDER] [--n 300] [--only PART …] [--csv FILE]

DATA is a folder with UTKFace/ and FairFace/. FOLDER holds photos of several people and counts.csv (photo, clear, partial,
note): how many faces in each photo are clear, and how many only partly visible. What is not given is left out, or drawn.

| part | what it measures |
|---|---|
| detectors | the share of single-face pictures in which each detector finds a face: UTKFace, FairFace, drawn, turned, small |
| groups | the boxes that each detector finds in each group photo, beside the number of clear faces |
| tiny | 224x224 pictures of UTKFace and FairFace (or drawn ones), from file to prediction on one core |
| small | the same for drawn pictures of 250x250 |
| photo | the same for photos of 1280x960 with one face, and without a face, in a process that is warm |
| folder | a folder of 1280x960 photos on two cores, with processes and with threads |
| fresh | a new process: start, import, models, one photo |
| many | the command on 100 n photos: its rate and its memory |
| video | 640x480 with three people, from file to annotated file |
| original | the same photos by the steps of the original pipeline, beside ours |

`wall` is elapsed time, `cpu` the processor time that was used. Where other programs run beside the benchmark, `cpu` is the
better figure. Each part runs in a process of its own. Figures for one core use one thread on one core. The steps of the
original pipeline: non-local means on the photo, dlib's detector at full size, alignment, one `Model.predict` for each face
and model.
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
from typing import NamedTuple

import cv2
import dlib
import numpy as np
import pandas as pd
import psutil

from src.config import GENDERS, ROOT, SEED
from src.faces import align as face_tools
from src.faces.detect import DETECTORS, MOVING
from src.faces.image_io import list_photos, read_photo
from src.predict import video
from src.predict.decode import predict_faces
from src.predict.detection import Source, detect_faces_in_photo, start_workers
from src.predict.predictor import Predictor
from src.sample import scene
from src.sample.draw import write_jpeg
from src.sample.face_model import FaceSpace
from src.sample.person import new_person

FRESH = 5  # new processes that are timed
CORES = 2  # of the folder


class Sources(NamedTuple):
    """Where real pictures are; None: nowhere. data: holds UTKFace/ and FairFace/. groups: holds counts.csv and its photos."""

    data: Path | None
    groups: Path | None


class Clock:
    """Wall and CPU seconds of what runs inside, processes that have ended in it included."""

    def __enter__(self):
        self.start = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.start[0], _cpu_seconds() - self.start[1]


def _cpu_seconds() -> float:
    return time.process_time() + sum(os.times()[2:4])  # the latter of child processes, in hundredths of a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--groups", type=Path, metavar="FOLDER", help="photos of several people, with counts.csv")
    parser.add_argument("--n", type=int, default=300, help="photos of each kind (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    for part in options.only:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows += process.submit(measured, part, Sources(options.data, options.groups), options.n).result()
    if options.csv:
        pd.DataFrame(rows).to_csv(options.csv, index=False, float_format="%.4f")


def measured(part: str, sources: Sources, n: int) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in PARTS[part](sources, n, Path(folder)):
            rows.append({"part": part} | row)
            print(
                {name: round(float(value), 3) if isinstance(value, float) else value for name, value in row.items()},
                flush=True,
            )
    return rows


def on_one_core() -> Predictor:
    """A predictor that works in this process, on one core and with one thread."""
    cv2.setNumThreads(1)
    on_cores(1)
    return Predictor(workers=1)


def on_cores(count: int) -> None:
    """Keeps this process and those that it starts on so many cores, where the system allows it."""
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def drawn(n: int, shape: tuple[int, int], size: int) -> list[np.ndarray]:
    """Photos of one drawn person each: width and height in pixels, and the size of the face."""
    space, rng = FaceSpace.load(), np.random.default_rng(SEED)
    people = [new_person(space, int(rng.integers(1, 8)), GENDERS[i % 2], rng) for i in range(n)]
    return [scene.snapshot(space, [person], shape, size, rng)[0] for person in people]


def written(photos: list[np.ndarray], folder: Path) -> list[Path]:
    paths = [folder / f"{i:05d}.jpg" for i in range(len(photos))]
    for path, photo in zip(paths, photos):
        write_jpeg(path, photo)
    return paths


def turned(photo: np.ndarray, degrees: float) -> np.ndarray:
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def chosen(data: Path | None, n: int) -> dict[str, list[Path]]:
    """By data set: up to n pictures chosen at random; none without data."""
    rng, sets = np.random.default_rng(SEED), {}
    for name in ("UTKFace", "FairFace") if data else ():
        files = list_photos([data / name])
        sets[name] = [files[i] for i in rng.choice(len(files), min(n, len(files)), replace=False)]
    return sets


def detectors(sources: Sources, n: int, folder: Path):
    """The share of photos in which a face is found, and the milliseconds that a photo takes."""
    sets = {name: [read_photo(file) for file in files] for name, files in chosen(sources.data, n).items()}
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
    for detector in DETECTORS:
        face_tools.find_faces(few[0], detector)  # reads the detector's file
    for name, photos in sets.items():
        for detector in DETECTORS:
            with Clock() as clock:
                found = np.mean([bool(face_tools.find_faces(photo, detector)) for photo in photos])
            yield {"photos": name, "way": detector, "n": len(photos), "found": found, "cpu ms a photo": ms(clock.cpu, photos)}


def groups(sources: Sources, n: int, folder: Path):
    """Boxes found in photos of several people. Nobody has marked where the faces are: a box may also be a wrong one.

    `clear found` is thus the most clear faces that the boxes can hold; `extra` is how many boxes cannot be on any face.
    """
    if sources.groups is None:
        return
    counts = pd.read_csv(sources.groups / "counts.csv")
    for detector in DETECTORS:
        total = dict.fromkeys(("clear", "clear found", "boxes", "extra"), 0)
        face_tools.find_faces(np.zeros((100, 100, 3), np.uint8), detector)  # reads the detector's file
        for row in counts.itertuples():
            photo = read_photo(sources.groups / row.photo)
            with Clock() as clock:
                boxes = len(face_tools.find_faces(photo, detector))
            mine = {"clear": row.clear, "clear found": min(boxes, row.clear), "boxes": boxes,
                    "extra": max(0, boxes - row.clear - row.partial)}  # fmt: skip
            total = {name: total[name] + mine[name] for name in total}
            yield {"photos": row.photo, "way": detector, "n": 1, **mine, "cpu ms a photo": clock.cpu * 1000}
        yield {"photos": "all group photos", "way": detector, "n": len(counts), **total}


def one_photo(sources: Sources, n: int, folder: Path):
    """From file to both predictions, in a process that has made some before, on one core; with a face and without one."""
    predictor, rng = on_one_core(), np.random.default_rng(SEED)
    count = max(3, n // 10)
    faces = written(drawn(count, (1280, 960), 360), folder / "face")
    empty = written([scene.backdrop(1280, 960, rng) for _ in range(count)], folder / "empty")
    for what, paths in (("1280x960, one face", faces), ("1280x960, no face", empty)):
        predictor.predict(paths[:2], progress=False)
        times = []
        for path in paths:
            with Clock() as clock:
                table = predictor.predict(path, progress=False)
            times.append((clock.wall, clock.cpu, table["status"][0] == "ok"))
        wall, cpu, _ = np.median(times, axis=0) * 1000
        yield {"photos": what, "way": "warm, one photo, one core", "n": len(paths), "found": np.mean(times, axis=0)[2],
               "wall ms a photo": wall, "cpu ms a photo": cpu}  # fmt: skip


def fresh(sources: Sources, n: int, folder: Path):
    """A photo in a process of its own, as on the command line."""
    (path,) = written(drawn(1, (1280, 960), 360), folder / "fresh")
    times = []
    for _ in range(min(FRESH, n)):
        with Clock() as clock:
            subprocess.run([sys.executable, "-m", "src.predict", str(path)], cwd=ROOT, check=True, capture_output=True)
        times.append((clock.wall, clock.cpu))
    wall, cpu = np.median(times, axis=0)
    yield {"photos": "1280x960", "way": "a new process", "n": len(times), "wall s": wall, "cpu s": cpu,
           "longest, s": max(times)[0]}  # fmt: skip


def whole_folder(sources: Sources, n: int, folder: Path):
    """Processes against threads on two cores; the processes start before the clock, which in a large folder hardly counts."""
    on_cores(CORES)
    paths, predictor = written(drawn(n, (1280, 960), 360), folder / "folder"), Predictor(workers=CORES)
    start_workers(CORES)  # their start, which hardly counts in a large folder, is not measured
    predictor.predict(paths[:8], progress=False)
    with Clock() as clock:
        predictor.predict(paths, progress=False)
    yield {"photos": "1280x960", "way": f"folder, {CORES} cores, processes", "n": n, "photos a second": n / clock.wall}
    with Clock() as clock, ThreadPoolExecutor(CORES) as pool:
        looks = pool.map(lambda path: detect_faces_in_photo(Source(str(path), path), predictor.models.alignments), paths)
        predict_faces([row for some in looks for row in some], predictor.models)
    yield {"photos": "1280x960", "way": f"folder, {CORES} cores, threads", "n": n, "photos a second": n / clock.wall,
           "cpu ms a photo": ms(clock.cpu, paths)}  # fmt: skip


def tiny_photos(sources: Sources, n: int, folder: Path):
    """Pictures of a face, as data sets and face crops are: 224x224."""
    sets = {}
    for name, files in chosen(sources.data, n).items():
        sets[name] = [cv2.resize(read_photo(file), (224, 224), interpolation=cv2.INTER_AREA) for file in files]
    yield from from_file(sets or {"drawn": drawn(n, (224, 224), 130)}, "224x224", folder)


def small_photos(sources: Sources, n: int, folder: Path):
    yield from from_file({"drawn": drawn(n, (250, 250), 130)}, "250x250", folder)


def from_file(sets: dict[str, list[np.ndarray]], size: str, folder: Path):
    """From file to prediction on one core. sets: by name, the photos."""
    predictor = on_one_core()
    for name, photos in sets.items():
        paths = written(photos, folder / name)
        predictor.predict(paths[:8], progress=False)
        with Clock() as clock:
            table = predictor.predict(paths, progress=False)
        found = table.loc[table["status"] == "ok", "photo"].nunique() / len(paths)
        yield {"photos": f"{size}, {name}", "way": "folder, one core", "n": len(paths), "found": found,
               "photos a second": len(paths) / clock.wall, "photos a second of cpu": len(paths) / clock.cpu,
               "cpu ms a photo": ms(clock.cpu, paths)}  # fmt: skip


def many(sources: Sources, n: int, folder: Path):
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


def original(sources: Sources, n: int, folder: Path):
    """Ours and the original's way on the same photos, in turn, on one core; the ratio is of CPU time."""
    predictor = on_one_core()
    _keras_on_one_thread()
    n = max(2, n // 50)
    paths, models = written(drawn(n, (1280, 960), 360), folder / "original"), predictor.models
    detector = dlib.get_frontal_face_detector()
    predictor.predict(paths[:2], progress=False)
    spent = {"ours": 0.0, "the original's": 0.0}
    for path in paths:
        with Clock() as clock:
            predictor.predict(path, progress=False)
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


def film(sources: Sources, n: int, folder: Path):
    """640x480, three people, from file to annotated file, in a process that has answered before."""
    frames, path, predictor = max(25, 3 * n), folder / "street.mp4", Predictor(detector=MOVING)
    _, pictures = scene.street(FaceSpace.load(), np.random.default_rng(SEED), frames)
    video.write((picture for picture, _ in pictures), (640, 480), 25, path)
    video.process_video(path, folder / "before.mp4", predictor, progress=False)
    with Clock() as clock:
        video.process_video(path, folder / "out.mp4", predictor, progress=False)
    yield {"photos": "640x480 video", "way": "followed and drawn", "n": frames, "frames a second": frames / clock.wall,
           "cpu ms a photo": clock.cpu * 1000 / frames}  # fmt: skip


def _keras_on_one_thread() -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def ms(seconds: float, photos: list) -> float:
    return seconds * 1000 / len(photos)


PARTS = {
    "detectors": detectors, "groups": groups, "tiny": tiny_photos, "small": small_photos, "photo": one_photo,
    "folder": whole_folder, "fresh": fresh, "many": many, "video": film, "original": original,
}  # fmt: skip

if __name__ == "__main__":
    main()
