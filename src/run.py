"""Runs the numbered notebooks, one after another, as a person would: `make run`.

    python -m src.run [--dataset sample] [--data FOLDER] [--notebooks 1 2 3 4 5 6 7] [--save]

The executed notebooks go to runs/DATASET/; the ones under notebooks/ stay as they are unless --save is given, which is
how their committed outputs are made.

Before it: the notebooks. After it: nothing.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError

from src.config import MODELS, NOTEBOOKS, ROOT, RUNS, keras_backend
from src.data import NAMES
from src.files import write_text

QUIET = ["--IPKernelApp.log_level=40"]  # each kernel would warn that it talks to this program in the clear


def run(dataset: str, data: str, numbers: list[int], save: bool = False) -> None:
    """Executes notebooks by their numbers; papermill's error shows the failing cell where one fails."""
    parameters = {} if dataset == "sample" else {"DATASET": dataset, "DATA": data and str(Path(data).expanduser().resolve())}
    os.chdir(ROOT)  # so that the paths papermill notes are relative ones
    target = (RUNS / dataset).relative_to(ROOT)
    target.mkdir(parents=True, exist_ok=True)
    made, began = [], time.time()
    for notebook in find(numbers):
        start = time.monotonic()
        print(f"\n{notebook.name}", flush=True)
        known = {name: parameters[name] for name in papermill.inspect_notebook(notebook) if name in parameters}
        papermill.execute_notebook(
            notebook.relative_to(ROOT), target / notebook.name, known, cwd=notebook.parent, extra_arguments=QUIET
        )
        made.append((target / notebook.name, (time.monotonic() - start) / 60))
        if save:
            _keep(target / notebook.name, notebook)
    print("\nMade, all paths from the repository's folder:")
    for path, minutes in made:
        print(f"  {path}  ({minutes:.1f} min; open it with `make lab` or any notebook viewer)")
    for card in sorted(MODELS.glob("*/card.json")):
        if card.stat().st_mtime >= began:
            print(f"  {card.parent.relative_to(ROOT)}/  a trained model")
    for file in sorted(target.glob("*.csv")):
        if file.stat().st_mtime >= began:
            print(f"  {file}  a table")


def find(numbers: list[int]) -> list[Path]:
    """The notebooks of these numbers; ValueError where there is none of a number."""
    found = {int(path.name.split("_")[0]): path for path in sorted(NOTEBOOKS.glob("[0-9]*_*.ipynb"))}
    unknown = [number for number in numbers if number not in found]
    if unknown:
        raise ValueError(f"notebooks are numbered {', '.join(map(str, found))}, got {unknown[0]}")
    return [found[number] for number in numbers]


def _keep(executed: Path, notebook: Path) -> None:
    """Puts an executed notebook in the place of its source, without papermill's notes on when and where it ran."""
    content = nbformat.read(executed, as_version=4)
    content.metadata.pop("papermill", None)
    for cell in content.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    write_text(notebook, nbformat.writes(content) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.run", description="Runs the notebooks.")
    parser.add_argument("--dataset", default="sample", choices=NAMES)
    parser.add_argument("--data", default="", help="the data set's folder; data/README.md says what it holds")
    parser.add_argument("--notebooks", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 7])
    parser.add_argument("--save", action="store_true", help="write the outputs into notebooks/ too")
    options = parser.parse_args()
    keras_backend()  # a notebook would report an unsupported one after a minute, in a traceback
    if options.save and options.dataset != "sample":
        print("error: --save is for the sample: outputs that show real people are not to be kept", file=sys.stderr)
        return 2
    if options.dataset != "sample" and not (options.data and Path(options.data).expanduser().is_dir()):
        print(
            f"error: {options.dataset} needs its folder, got {options.data!r}; run: make run DATASET={options.dataset} "
            "DATA=/path (data/README.md says what it holds)",
            file=sys.stderr,
        )
        return 2
    try:
        run(options.dataset, options.data, options.notebooks, options.save)
    except DeadKernelError:
        print(
            "error: the notebook's process died, perhaps for lack of memory; what is done is kept: run again", file=sys.stderr
        )
        return 1
    except (ValueError, OSError, papermill.PapermillExecutionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
