"""Does feeding real faces slow training down? Images per second of `train.fit`'s batches against arrays in memory.

    python benchmarks/training.py [--dataset sample --folder ""] [--steps 12]

The same network, batch size and run; the two ways take turns, so that a busy machine slows both.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from src import data
from src.config import CACHE
from src.data import table as tables
from src.faces import prepare
from src.keras_setup import fused_normalisation
from src.models import train, two_level_cnn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=data.NAMES, default="sample")
    parser.add_argument("--folder", type=Path, default="")
    parser.add_argument("--steps", type=int, default=12, help="batches a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=CACHE, help="where aligned faces are kept (default: %(default)s)")
    options = parser.parse_args()
    folder = data.resolve_folder(options.dataset, options.folder)
    table = data.load(options.dataset, folder).table
    prepared = prepare.prepare(table, folder, cache=options.runs)
    labelled = tables.task_labels(table, "gender").table
    settings = train.TrainingSettings()
    model = two_level_cnn.two_level_cnn(2, dtype=train.fast_dtype())
    train.compile_model(model, len(labelled), settings)
    count = options.steps * settings.batch_size
    rows = np.resize(labelled.index.to_numpy(), count)
    labels = np.resize(labelled["label"].to_numpy(), count)
    fed = train.FaceBatches(prepared.faces, rows, labels, settings.batch_size, settings)
    rng = np.random.default_rng(settings.seed)
    memory = rng.integers(0, 256, (settings.batch_size, *prepared.faces.shape[1:]), np.uint8), labels[: settings.batch_size]
    with fused_normalisation():  # as `train.fit` does
        turns = [(rate(model, fed, count), rate_in_memory(model, memory, count)) for _ in range(options.turns + 1)][1:]
    ours, theirs = (statistics.median(column) for column in zip(*turns, strict=True))
    ratios = sorted(one / other for one, other in turns)
    print(f"prepared faces, augmented: {ours:.1f} images a second; random arrays in memory: {theirs:.1f}")
    print(f"ratio: median {statistics.median(ratios):.1%}, range {ratios[0]:.1%} to {ratios[-1]:.1%}, {len(turns)} turns")


def rate(model, batches: train.FaceBatches, count: int) -> float:
    start = time.perf_counter()
    model.fit(batches, shuffle=False, verbose=0)
    return count / (time.perf_counter() - start)


def rate_in_memory(model, batch: tuple, count: int) -> float:
    """The quickest there is: the same batch again and again, nothing to be fetched."""
    start = time.perf_counter()
    for _ in range(count // len(batch[1])):
        model.train_on_batch(*batch)
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
