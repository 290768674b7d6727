"""Is batch normalisation by one kernel worth it? Training steps of the released models' network with and without.

    python benchmarks/normalisation.py [--turns 5] [--steps 10]

Both ways take turns in one run, on the same batch, so that a busy machine slows both.
"""

import argparse
import statistics
import time
from contextlib import nullcontext

import numpy as np

from experiments.release import ALIGNMENT
from experiments.train_residual import STUDENT_SIZE
from src.config import SEED
from src.keras_setup import fused_normalisation, keras
from src.models.multitask import add_task_heads, multitask_loss
from src.models.residual import residual_level_one
from src.models.train import TrainingSettings, compile_model, fast_dtype


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="batches a turn (default: %(default)s)")
    options = parser.parse_args()
    settings, rng = TrainingSettings(), np.random.default_rng(SEED)
    faces = rng.integers(0, 256, (settings.batch_size, ALIGNMENT.size, ALIGNMENT.size, 3), np.uint8)
    labels = np.float32(np.column_stack([rng.integers(0, 2, len(faces)), *[rng.integers(0, 100, len(faces))] * 2]))
    ways = {"Keras's steps": nullcontext, "one kernel": fused_normalisation}
    models = {name: add_task_heads(residual_level_one(inner=STUDENT_SIZE, dtype=fast_dtype())) for name in ways}
    rates = {name: [] for name in ways}
    for model in models.values():
        compile_model(model, options.steps * len(faces), settings, multitask_loss, ())
    for _ in range(options.turns + 1):
        for name, way in ways.items():
            with way():
                rates[name].append(rate(models[name], faces, labels, options.steps))
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found[1:]):.1f} faces a second")  # the first turn sets everything up
    ratios = sorted(b / a for a, b in list(zip(*rates.values()))[1:])
    print(f"ratio: median {statistics.median(ratios):.2f}, range {ratios[0]:.2f} to {ratios[-1]:.2f}")


def rate(model: keras.Model, faces: np.ndarray, labels: np.ndarray, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(faces, labels)
    return steps * len(faces) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
