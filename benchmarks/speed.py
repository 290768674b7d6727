"""Model speed: how long a face takes on one CPU core in Keras, ONNX Runtime and LiteRT, one face at a time and 32 at once.

    python -m benchmarks.speed [MODEL_FOLDER ...] [--turns 9] [--csv FILE]

From aligned faces to probabilities; detection and alignment are not included. `both` runs all models at once, as `predict`
does: shared layers run only once. All models must take faces of one size. The runtimes take turns, so that other programs
on the machine slow all of them. `Keras, called` is `model(faces)`, which is not compiled; `Keras, predict_on_batch` and
`Keras, tf.function` are.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

from benchmarks.common import Clock, parser, report
from src.config import MODELS, SEED
from src.keras_setup import keras
from src.models.export import export
from src.models.model_folder import load_model
from src.predict.inference import build_runners

import tensorflow as tf  # isort: skip  # after src.keras_setup, which silences its start

BATCHES = (1, 32)
FACES = 64  # number of faces in a turn


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "folders", nargs="*", type=Path, default=[MODELS / "gender", MODELS / "age"], metavar="MODEL_FOLDER"
    )
    arguments.add_argument("--turns", type=int, default=9, help="measurements of each runtime (default: %(default)s)")
    options = arguments.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[dict] = []
    (size,) = {load_model(folder).alignment.size for folder in options.folders}
    for folder in options.folders:
        with tempfile.TemporaryDirectory() as temporary:
            rows += measure(folder.name, load_runtimes(folder, Path(temporary) / "exported"), size, options.turns)
    if len(options.folders) > 1:
        runners = build_runners({folder.name: load_model(folder) for folder in options.folders}).values()
        bytes_read = sum((folder / "model.keras").stat().st_size for folder in options.folders)
        runtimes = {"ONNX Runtime, as predict": (lambda faces: [run(faces) for run in runners], bytes_read)}
        rows += measure("both", runtimes, size, options.turns)
    report(rows, options.csv, 1)


def load_runtimes(folder: Path, exported: Path) -> dict[str, tuple[Callable, int]]:
    """Returns, by runtime, a function from faces to probabilities, and the size in bytes of its model file."""
    export(folder, exported)
    model, keras_size = load_model(folder).model, (folder / "model.keras").stat().st_size
    graph = tf.function(lambda faces: model(faces, training=False), [tf.TensorSpec(model.input_shape, tf.uint8)])
    onnx, litert = exported / "model.onnx", exported / "model.tflite"
    return {
        "Keras, called": (lambda faces: keras.ops.convert_to_numpy(model(faces, training=False)), keras_size),
        "Keras, predict_on_batch": (model.predict_on_batch, keras_size),
        "Keras, tf.function": (lambda faces: graph(faces).numpy(), keras_size),
        "ONNX Runtime": (onnx_model(onnx), onnx.stat().st_size),
        "LiteRT": (litert_model(litert), litert.stat().st_size),
    }


def onnx_model(file: Path) -> Callable:
    """Returns an ONNX file as a function from faces to probabilities."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (face,) = session.get_inputs()
    return lambda faces: session.run(None, {face.name: faces})[0]


def litert_model(file: Path) -> Callable:
    """Returns a LiteRT file as a function from faces to probabilities."""
    run = Interpreter(str(file), num_threads=1).get_signature_runner()
    (face,), (probability,) = run.get_input_details(), run.get_output_details()
    return lambda faces: run(**{face: faces})[probability]


def measure(name: str, runtimes: dict[str, tuple[Callable, int]], size: int, turns: int) -> list[dict]:
    """Returns a row per batch size and way: milliseconds per face (median and range of the turns), and the file in MB."""
    rows = []
    for batch in BATCHES:
        faces = np.random.default_rng(SEED).integers(0, 256, (batch, size, size, 3), np.uint8)
        times: dict[str, list[float]] = {runtime: [] for runtime in runtimes}
        for _ in range(turns + 1):
            for runtime, (run, _) in runtimes.items():
                with Clock() as clock:
                    for _ in range(FACES // batch):
                        run(faces)
                times[runtime].append(clock.wall * 1000 / FACES)
        for runtime, (_, size_in_bytes) in runtimes.items():
            found = times[runtime][1:]  # the first turn compiles the models
            row = {"model": name, "batch": batch, "runtime": runtime, "ms a face": np.median(found), "lowest": min(found)}
            rows.append(row | {"highest": max(found), "MB": size_in_bytes / 1e6})
    return rows


if __name__ == "__main__":
    main()
