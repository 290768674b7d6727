"""A saved model for other programs: ONNX and LiteRT files that give Keras's answers without Keras or TensorFlow.

    python -m src.models.export MODEL_FOLDER… --to FOLDER

Each model gets a folder of its own name in FOLDER, with `model.onnx`, `model.tflite`, `labels.json` and `card.json`. What the
files take and give is what the model does: uint8 faces, RGB, aligned as the card says, to probabilities.

Before it: `model_folder`.
"""

import argparse
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

from src.files import atomic_folder
from src.models.model_folder import ModelFolderError, load_model

EXPORTED = ("model.onnx", "model.tflite", "labels.json", "card.json")


def export(folder: str | Path, target: str | Path) -> list[Path]:
    """Writes the files named in EXPORTED to the folder `target`, whole or not at all; gives their paths.

    folder: a model folder (see `model_folder`). target: may hold an earlier export, which is replaced. Both models take any
    number of faces at once, in LiteRT once the input is resized, as `litert_model` does.

    Raises ModelFolderError for a model folder that can't be used, and ValueError if `target` holds anything else or Keras
    runs with another backend than TensorFlow, which alone can export.
    """
    from src.keras_setup import keras

    if (backend := keras.backend.backend()) != "tensorflow":
        raise ValueError(
            f"the export needs Keras with TensorFlow, got {backend}; run `python -m src.models.export`, which sets it"
        )
    folder, target = Path(folder), Path(target)
    model = load_model(folder).model
    model.trainable = False  # else Keras's ONNX export takes nested batch normalisation for training's
    strange = {path.name for path in target.iterdir()} - set(EXPORTED) if target.exists() else ()
    if strange:
        raise ValueError(f"{target} holds other files than an export's, such as {min(strange)}; name another folder")
    with atomic_folder(target) as new:
        with warnings.catch_warnings():
            # Keras looks whether NumPy is old in a way that NumPy warns of.
            warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
            model.export(new / "model.onnx", format="onnx", input_signature=model.inputs, verbose=False)
        model.export(new / "model.tflite", format="litert", input_signature=model.inputs, verbose=False)
        for name in ("labels.json", "card.json"):
            shutil.copyfile(folder / name, new / name)
    return [target / name for name in EXPORTED]


def onnx_model(file: str | Path, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file as a function: uint8 faces (n, size, size, 3), RGB, 0-255, to float32 probabilities (n, classes).

    n is 1 or more and may differ from call to call. The function raises ValueError for other faces than these.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (face,) = session.get_inputs()
    return lambda faces: session.run(None, {face.name: _checked(faces, face.shape[1:])})[0]


def litert_model(file: str | Path, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """A LiteRT file as a function, as `onnx_model` gives one; not to be called from two threads at once."""
    run = Interpreter(str(file), num_threads=threads).get_signature_runner()  # resizes the input to the faces that come
    ((name, face),) = run.get_input_details().items()
    (probability,) = run.get_output_details()
    return lambda faces: run(**{name: _checked(faces, face["shape_signature"][1:])})[probability]


def _checked(faces: np.ndarray, shape) -> np.ndarray:
    # LiteRT would answer for faces of another size, where the network's layers fit any.
    if faces.dtype != np.uint8 or faces.shape[1:] != tuple(shape) or not len(faces):
        raise ValueError(f"the model takes uint8 (1 or more, {', '.join(map(str, shape))}), got {faces.dtype} {faces.shape}")
    return faces


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.models.export", description="Saved models as ONNX and LiteRT files.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="each model gets a folder in it")
    parser.error = lambda message: parser.exit(2, f"error: {message}; --help tells more\n")
    options = parser.parse_args(arguments)
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's is: no other can export
    names = [folder.resolve().name for folder in options.folders]
    if len(set(names)) < len(names):
        parser.error(f"model folders must have different names, got {', '.join(names)}")
    try:
        for folder, name in zip(options.folders, names, strict=True):
            for path in export(folder, options.to / name):
                print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    except (ModelFolderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
