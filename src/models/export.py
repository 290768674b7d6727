"""Exports saved models to ONNX and LiteRT files, for programs without Keras and TensorFlow.

    python -m src.models.export MODEL_FOLDER… --to FOLDER

Each model gets a folder with `model.onnx`, `model.tflite`, `labels.json` and `card.json`. Both models take any number of
uint8 faces (n, size, size, 3), RGB, 0-255, aligned as the card describes, and return float32 probabilities (n, classes).
"""

import argparse
import os
import shutil
import warnings
from pathlib import Path

from src.files import atomic_folder
from src.models.model_folder import load_model
from src.processes import run_command

EXPORTED_FILES = ("model.onnx", "model.tflite", "labels.json", "card.json")


def export(folder: str | Path, target: str | Path) -> list[Path]:
    """Exports the model of a model folder, with float32 weights, to the folder `target`, and returns the paths of the files.

    The files are written together or not at all, and replace an earlier export.
    """
    from src.keras_setup import keras

    folder, target = Path(folder), Path(target)
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ValueError(f"export requires Keras with TensorFlow, got {backend}; set KERAS_BACKEND=tensorflow")
    if target.exists() and (others := {path.name for path in target.iterdir()} - set(EXPORTED_FILES)):
        raise ValueError(f"{target} contains other files than an export, such as {min(others)}; choose another folder")
    model = load_model(folder).model
    model.trainable = False  # otherwise Keras exports nested batch normalisation in training mode
    with atomic_folder(target) as new, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # caused by Keras
        for name, kind in (("model.onnx", "onnx"), ("model.tflite", "litert")):
            model.export(new / name, format=kind, input_signature=model.inputs, verbose=False)
        for name in ("labels.json", "card.json"):
            shutil.copyfile(folder / name, new / name)
    return [target / name for name in EXPORTED_FILES]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m src.models.export", description="Exports models to ONNX and LiteRT.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="the exports go into one subfolder per model"
    )
    options = parser.parse_args(arguments)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the only backend that can export; has no effect if Keras is already imported
    names = [folder.resolve().name for folder in options.folders]
    if len(set(names)) < len(names):
        parser.error(f"model folders must have different names, got {', '.join(names)}")
    for folder, name in zip(options.folders, names):
        for path in export(folder, options.to / name):
            print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    run_command(main)
