"""Training: what the input pipeline costs. Faces per second of `train.fit`'s batches against a batch in memory.

    python -m benchmarks.training [--dataset sample --folder ""] [--steps 12] [--turns 5] [--csv FILE]

The two ways use the same network and batch size and take turns, so that other programs on the machine slow both.
"""

from pathlib import Path

import numpy as np

from benchmarks.common import Clock, parser, report
from src import data
from src.config import CACHE
from src.data import table as tables
from src.faces import prepare
from src.keras_setup import fused_normalisation
from src.models import train, two_level_cnn


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dataset", choices=data.NAMES, default="sample")
    arguments.add_argument("--folder", type=Path, default="")
    arguments.add_argument("--steps", type=int, default=12, help="batches a turn (default: %(default)s)")
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--runs", type=Path, default=CACHE, help="where aligned faces are kept (default: %(default)s)")
    options = arguments.parse_args()
    folder = data.resolve_folder(options.dataset, options.folder)
    table = data.load(options.dataset, folder).table
    prepared, labelled = prepare.prepare(table, folder, cache=options.runs), tables.task_labels(table, "gender").table
    settings = train.TrainingSettings()
    model = two_level_cnn.two_level_cnn(2, dtype=train.fast_dtype())
    train.compile_model(model, len(labelled), settings)
    rows = np.resize(labelled.index.to_numpy(), options.steps * settings.batch_size)
    labels = np.resize(labelled["label"].to_numpy(), len(rows))
    batches = train.FaceBatches(prepared.faces, rows, labels, settings.batch_size, settings)
    shape = (settings.batch_size, *prepared.faces.shape[1:])
    faces = np.random.default_rng(settings.seed).integers(0, 256, shape, np.uint8)
    rates = []
    with fused_normalisation():  # as in `train.fit`
        for _ in range(options.turns + 1):
            with Clock() as pipeline:
                model.fit(batches, shuffle=False, verbose=0)
            with Clock() as memory:
                for _ in range(options.steps):
                    model.train_on_batch(faces, labels[: settings.batch_size])
            rates.append((len(rows) / pipeline.wall, len(rows) / memory.wall))
    pipeline, memory = np.array(rates[1:]).T  # the first turn compiles the model
    ratio = pipeline / memory
    row = {"prepared faces a second": np.median(pipeline), "faces in memory a second": np.median(memory)}
    report([row | {"ratio": np.median(ratio), "lowest": ratio.min(), "highest": ratio.max()}], options.csv)


if __name__ == "__main__":
    main()
