"""How long does a face take on one CPU core? Keras, ONNX Runtime and LiteRT, one face at a time and 32 at once.

    python benchmarks/speed.py [MODEL_FOLDER ...] [--csv FILE]

From aligned faces to probabilities; finding and aligning faces is not in it. `both` are all the models at once, as
`predict` asks them: what they share is run once. The ways take turns, so that a busy machine
slows all of them. `Keras, called` is `model(faces)`, which is not compiled; `Keras, predict_on_batch` and `tf.function` are,
and serve any number of faces once they have seen two.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from ai_edge_litert.interpreter import Interpreter

from src.config import MODELS, SEED
from src.keras_setup import keras
from src.models.export import export
from src.models.model_folder import load_model
from src.predict.decode import build_networks

import tensorflow as tf  # isort: skip  # after src.keras_setup, which silences its start

BATCHES = (1, 32)
FACES = 64  # a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[MODELS / "gender", MODELS / "age"], metavar="MODEL_FOLDER")
    parser.add_argument("--turns", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args()
    use_one_core()
    rows = [row for folder in options.folders for row in measure(folder, options.turns)]
    if len(options.folders) > 1:
        rows += measure_both(options.folders, options.turns)
    table = pd.DataFrame(rows)
    print(table.round(2).to_string(index=False))
    if options.csv:
        table.to_csv(options.csv, index=False, float_format="%.3f")


def use_one_core() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(folder: Path, turns: int) -> list[dict]:
    """A row for each batch size and way: milliseconds a face, median and range of the turns, and the model file's size."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        exported = Path(temporary) / "exported"
        export(folder, exported)
        ways, size = ways_of(folder, exported), load_model(folder).alignment.size
        for batch in BATCHES:
            for name, spread in taken({name: way for name, (way, _) in ways.items()}, batch, size, turns).items():
                file = ways[name][1]
                rows.append({"model": folder.name, "batch": batch, "way": name, **spread, "MB": file.stat().st_size / 1e6})
    return rows


def measure_both(folders: list[Path], turns: int) -> list[dict]:
    """The same for the models asked together."""
    models = {folder.name: load_model(folder) for folder in folders}
    size, megabytes = models[folders[0].name].alignment.size, sum((f / "model.keras").stat().st_size for f in folders) / 1e6
    networks = build_networks(models).values()
    way = {"ONNX Runtime, as predict": lambda faces: [network(faces) for network in networks]}
    return [
        {"model": "both", "batch": batch, "way": name, **spread, "MB": megabytes}
        for batch in BATCHES
        for name, spread in taken(way, batch, size, turns).items()
    ]


def taken(ways: dict, batch: int, size: int, turns: int) -> dict[str, dict]:
    """By way: the median, lowest and highest milliseconds a face over the turns."""
    faces = np.random.default_rng(SEED).integers(0, 256, (batch, size, size, 3), np.uint8)
    # The first turn compiles and warms up.
    times = [[milliseconds(way, faces) for way in ways.values()] for _ in range(turns + 1)][1:]
    return {
        name: {"ms a face": np.median(mine), "lowest": min(mine), "highest": max(mine)}
        for name, mine in zip(ways, zip(*times, strict=True), strict=True)
    }


def ways_of(folder: Path, exported: Path) -> dict[str, tuple]:
    """By name: a function from faces to probabilities, both NumPy arrays, and the file that it was loaded from."""
    model, kept = load_model(folder).model, folder / "model.keras"
    graph = tf.function(lambda faces: model(faces, training=False), [tf.TensorSpec(model.input_shape, tf.uint8)])
    return {
        "Keras, called": (lambda faces: keras.ops.convert_to_numpy(model(faces, training=False)), kept),
        "Keras, predict_on_batch": (model.predict_on_batch, kept),
        "Keras, tf.function": (lambda faces: graph(faces).numpy(), kept),
        "ONNX Runtime": (onnx_runtime(exported / "model.onnx"), exported / "model.onnx"),
        "LiteRT": (litert(exported / "model.tflite"), exported / "model.tflite"),
    }


def onnx_runtime(file: Path):
    """An ONNX file as a function from faces to probabilities."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (face,) = session.get_inputs()
    return lambda faces: session.run(None, {face.name: faces})[0]


def litert(file: Path):
    """A LiteRT file as a function from faces to probabilities."""
    run = Interpreter(str(file), num_threads=1).get_signature_runner()
    (face,), (probability,) = run.get_input_details(), run.get_output_details()
    return lambda faces: run(**{face: faces})[probability]


def milliseconds(way, faces: np.ndarray) -> float:
    """What a face takes, over FACES of them."""
    start = time.perf_counter()
    for _ in range(FACES // len(faces)):
        way(faces)
    return (time.perf_counter() - start) * 1000 / FACES


if __name__ == "__main__":
    main()
