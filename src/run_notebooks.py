"""Runs the numbered notebooks: `make run`.

    python -m src.run_notebooks [--dataset sample] [--data FOLDER] [--notebooks 1 2 3 4 5 6 7] [--solutions] [--save]

The executed notebooks go to runs/DATASET/. On the sample, two run at once; a notebook waits for those before it whose files
it reads.
With --save, they run one after the other, and their outputs also replace those of the files in notebooks/.
With --solutions, the solutions of the exercises in notebooks/solutions/ run instead.
"""

import argparse
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError

from src.config import MODELS, NOTEBOOKS, ROOT, RUNS, require_keras_backend
from src.data import DATASETS, resolve_folder
from src.files import write_text
from src.processes import run_command, worker_pool

READS = {2: (1,), 3: (1, 2), 4: (1, 2)}  # the notebooks whose files a notebook reads on the sample, where two run at once
WIDGET = "application/vnd.jupyter.widget-view+json"  # an output that needs a running kernel, such as a progress bar
SHARED_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # for TensorFlow and JAX


def run_notebooks(dataset: str, data: str, numbers: list[int], save: bool = False, folder: Path = NOTEBOOKS) -> None:
    """Executes notebooks and prints the files that they wrote.

    Args:
        dataset: Name of the data set.
        data: The data set's folder; "" selects data/DATASET.
        numbers: Numbers of the notebooks, in the order to run them; none for all.
        save: Whether to replace the outputs in `folder`.
        folder: Folder of the notebooks.

    Raises:
        ValueError: No notebook has one of the numbers.
        papermill.PapermillExecutionError: A cell failed; the message shows the cell.
    """
    folder_parameter = str(Path(data).expanduser().resolve()) if data else ""  # notebooks run in their own folder
    parameters = {} if dataset == "sample" else {"DATASET": dataset, "DATA": folder_parameter}
    os.chdir(ROOT)  # papermill then records relative paths
    target = (RUNS / dataset / folder.relative_to(NOTEBOOKS)).relative_to(ROOT)
    target.mkdir(parents=True, exist_ok=True)
    began = time.time()
    waiting, running = find_notebooks(numbers, folder), dict[Future, Path]()
    at_once = 2 if dataset == "sample" and not save else 1  # real data may need all memory for one
    for name, value in SHARED_GPU.items():
        os.environ.setdefault(name, value)
    with worker_pool(at_once) as pool:
        while waiting or running:
            for notebook in list(waiting):
                # Notebooks that are running or come earlier may still write a file that this one reads.
                unfinished = {_number(other) for other in [*running.values(), *waiting[: waiting.index(notebook)]]}
                if len(running) < at_once and unfinished.isdisjoint(READS.get(_number(notebook), ())):
                    print(f"{notebook.name} …", flush=True)
                    waiting.remove(notebook)
                    running[pool.submit(_run, notebook, target / notebook.name, parameters, save)] = notebook
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                print(f"{running.pop(future).name}: done in {future.result():.0f} s", flush=True)
    print("\nWritten, with paths relative to the repository (`make lab` opens the notebooks):")
    cards = [path.relative_to(ROOT) for path in sorted(MODELS.glob("[!.]*/card.json"))]
    for path in [*sorted(target.glob("*.ipynb")), *sorted(target.glob("*.csv")), *cards]:
        if path.stat().st_mtime >= began:
            print(f"  {path.parent}/  (a trained model)" if path in cards else f"  {path}")


def find_notebooks(numbers: list[int], folder: Path = NOTEBOOKS) -> list[Path]:
    """Returns a folder's notebooks with these numbers, by default all; ValueError for a number without a notebook."""
    found = {_number(path): path for path in sorted(folder.glob("[0-9]*_*.ipynb"))}
    numbers = numbers or list(found)
    for number in numbers:
        if number not in found:
            raise ValueError(f"the number of a notebook must be one of {', '.join(map(str, found))}, got {number}")
    return [found[number] for number in numbers]


def _run(notebook: Path, executed: Path, parameters: dict[str, str], save: bool) -> float:
    """Executes a notebook and returns how many seconds it took."""
    start = time.monotonic()
    accepted = {name: parameters[name] for name in papermill.inspect_notebook(notebook) if name in parameters}
    # The log level hides a warning that the connection to the kernel is not encrypted.
    papermill.execute_notebook(
        notebook.relative_to(ROOT), executed, accepted, cwd=notebook.parent, progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=40"],
    )  # fmt: skip
    if save:
        _save_outputs(executed, notebook)
    return time.monotonic() - start


def _number(notebook: Path) -> int:
    return int(notebook.name.split("_")[0])


def _save_outputs(executed: Path, notebook: Path) -> None:
    """Replaces a notebook by its executed copy, without papermill's metadata and without progress bars."""
    content = nbformat.read(executed, as_version=4)
    for state in ("papermill", "widgets"):
        content.metadata.pop(state, None)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    write_text(notebook, nbformat.writes(content) + "\n")


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m src.run_notebooks", description="Runs the notebooks.")
    parser.add_argument("--dataset", default="sample", choices=DATASETS)
    parser.add_argument("--data", default="", help="the data set's folder (default: data/DATASET); see data/README.md")
    parser.add_argument("--notebooks", type=int, nargs="+", default=[], help="their numbers; by default all")
    parser.add_argument("--solutions", action="store_true", help="run the solutions of the exercises instead")
    parser.add_argument("--save", action="store_true", help="also write the outputs to notebooks/ (sample only)")
    options = parser.parse_args()
    require_keras_backend()  # before a notebook shows the same error as a traceback
    if options.save and options.dataset != "sample":
        parser.error("--save requires the sample, because saved outputs must not show real people")
    if options.dataset != "sample" or options.data:
        resolve_folder(options.dataset, options.data)
    try:
        folder = NOTEBOOKS / "solutions" if options.solutions else NOTEBOOKS
        run_notebooks(options.dataset, options.data, options.notebooks, options.save, folder)
    except (DeadKernelError, BrokenProcessPool):
        problem = "a notebook's process died, perhaps because memory ran out; finished work is kept, so run again"
        raise ValueError(problem) from None
    except papermill.PapermillExecutionError as error:
        raise ValueError(str(error)) from None
    return 0


if __name__ == "__main__":
    run_command(main)
