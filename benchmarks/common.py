"""What the benchmarks share: arguments, time measurement, synthetic photos and the output of results."""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from src.config import GENDERS, SEED
from src.faces.detect import Photo
from src.faces.image_io import list_photos
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person


class Clock:
    """Measures the wall and processor seconds of a `with` block, including processes that ended in it."""

    def __enter__(self):
        self._start = time.perf_counter(), _processor_seconds()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self._start[0], _processor_seconds() - self._start[1]


def _processor_seconds() -> float:
    return time.process_time() + sum(os.times()[2:4])  # os.times: of ended child processes, to 1/100 s


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns an argument parser with the option --csv. The description keeps its line breaks."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--csv", type=Path, metavar="FILE", help="write the results to this file too")
    return made


def report(rows: pd.DataFrame | list[dict], csv: Path | None, digits: int = 3) -> None:
    """Prints a table of results and writes it to a CSV file, if one is named."""
    table = pd.DataFrame(rows)
    print(table.round(digits).to_string(index=False), flush=True)
    if csv:
        table.to_csv(csv, index=False, float_format=f"%.{digits + 2}f", lineterminator="\n")


def print_row(row: dict) -> dict:
    """Prints one result as soon as it is measured, and returns it."""
    print({name: round(float(value), 3) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return row


def synthetic_photos(n: int, size: tuple[int, int], face: int) -> list[Photo]:
    """Returns photos of one synthetic person each; `size` is (width, height), and `face` the size of the face, in pixels."""
    model, rng = FaceModel.load(), np.random.default_rng(SEED)
    people = [new_person(model, int(rng.integers(1, 8)), GENDERS[i % 2], rng) for i in range(n)]
    return [scene.snapshot(model, [person], size, face, rng)[0] for person in people]


def write_photos(photos: list[Photo], folder: Path) -> list[Path]:
    """Writes photos as JPEG files; returns their paths."""
    paths = [folder / f"{i:05d}.jpg" for i in range(len(photos))]
    for path, photo in zip(paths, photos):
        scene.write_jpeg(path, photo)
    return paths


def random_files(data: Path | None, names: tuple[str, ...], n: int) -> dict[str, list[Path]]:
    """Returns up to n random images of each data set that is in the folder, by its name."""
    rng, chosen = np.random.default_rng(SEED), {}
    for name in names:
        if data and (data / name).is_dir():
            files = list_photos([data / name])
            chosen[name] = [files[i] for i in rng.choice(len(files), min(n, len(files)), replace=False)]
    return chosen
