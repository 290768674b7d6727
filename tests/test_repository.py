"""The repository as a whole: one-way imports, clean notebooks, commands that say what is wrong."""

import ast
import json
import re
import subprocess
import sys

import nbformat
import pytest

import src
from src import run_notebooks
from src.config import NOTEBOOKS, ROOT

# The rooms in the order in which data flows. `experiments`, `benchmarks` and `tools` come after all of them.
ROOMS = [*re.findall(r"^- `(\w+)`", src.__doc__, re.MULTILINE), "experiments", "benchmarks", "tools"]
MODULES = sorted(path for room in ("src", "experiments", "benchmarks", "tools") for path in (ROOT / room).rglob("*.py"))


def dotted(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


def room(name):
    parts = name.split(".")
    return parts[1] if parts[0] == "src" and len(parts) > 1 else parts[0]


def imports(path):
    """The names of the repository's modules that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in NAMES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_map_names_each_room_once():
    rooms = {path.stem if path.parent == ROOT / "src" else path.parent.name for path in (ROOT / "src").rglob("*.py")}
    assert sorted(ROOMS[:-3]) == sorted(rooms - {"__init__"})


@pytest.mark.parametrize("path", [path for path in MODULES if path != ROOT / "src" / "__init__.py"], ids=dotted)
def test_a_module_imports_only_from_its_own_room_and_rooms_before_it(path):
    own = ROOMS.index(room(dotted(path)))
    later = [name for name in imports(path) if name in NAMES and name != "src" and ROOMS.index(room(name)) > own]
    assert not later, f"{dotted(path)} imports {later}, which come after it"


def test_modules_do_not_import_each_other_in_circles():
    known = {dotted(path): {name for name in imports(path) if name in NAMES} - {dotted(path)} for path in MODULES}
    while known:
        free = {name for name, needed in known.items() if not needed & set(known)}
        assert free, f"these import each other: {sorted(known)}"
        known = {name: needed for name, needed in known.items() if name not in free}


NUMBERED, SOLUTIONS = (sorted(folder.glob("[0-9]*.ipynb")) for folder in (NOTEBOOKS, NOTEBOOKS / "solutions"))


@pytest.mark.parametrize("path", [*NUMBERED, *SOLUTIONS], ids=lambda path: str(path.relative_to(NOTEBOOKS).with_suffix("")))
def test_a_committed_notebook_is_a_clean_run_from_top_to_bottom(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert code[0].metadata.get("tags") == ["parameters"]
    assert cells[0].cell_type == "markdown" and "**Purpose.**" in cells[0].source
    outputs = [output for cell in code for output in cell.outputs]
    assert path in SOLUTIONS or any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    needs_kernel = [kind for output in outputs for kind in output.get("data", {}) if "widget" in kind]
    assert not needs_kernel, "a saved progress bar shows nothing; save the outputs with run_notebooks --save"
    assert all(len(cell.source.splitlines()) <= 15 for cell in code)
    texts = [{kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text/")} for output in outputs]
    printed = json.dumps([texts, [output.get("text", "") for output in outputs]])
    assert not re.search(r"/(?:home|root|work|Users|tmp)/|WARNING", printed)


def test_there_are_seven_notebooks():
    assert [path.name.split("_")[0] for path in NUMBERED] == list("1234567")
    assert {path.name for path in SOLUTIONS} <= {path.name for path in NUMBERED}


def test_an_unknown_notebook_is_refused():
    with pytest.raises(ValueError, match="1, 2, 3, 4, 5, 6, 7, got 9"):
        run_notebooks.find_notebooks([9])


def test_run_on_real_data_requires_its_folder():
    command = [sys.executable, "-m", "src.run_notebooks", "--dataset", "adience"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "make data DATASET=adience" in done.stderr.splitlines()[-1]


def test_requirements_are_pinned_each():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert all("==" in line or line == "-e ." for line in lines if line)
