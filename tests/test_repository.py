"""The repository as a whole: one-way imports, clean notebooks, commands that say what is wrong."""

import ast
import json
import re
import subprocess
import sys

import nbformat
import pytest

import src
from src import run
from src.config import NOTEBOOKS, ROOT

# The order that the data flows; a module imports only from those before it.
ORDER = re.findall(r"`(\w+)`", src.__doc__)
MODULES = sorted((ROOT / "src").glob("*.py")) + sorted((ROOT / "src" / "datasets").glob("*.py"))


def room(path):
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return parts[0]


def test_the_packages_list_names_each_module_once():
    assert sorted(ORDER) == sorted({room(path) for path in MODULES} - {"__init__"})


@pytest.mark.parametrize("path", [p for p in MODULES if p != ROOT / "src" / "__init__.py"], ids=lambda p: p.stem)
def test_a_module_imports_only_from_those_before_it(path):
    own = ORDER.index(room(path))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "src":
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            later = [name for name in names if ORDER.index(name) > own]
            assert not later, f"{path.name} imports {later}, which come after it"


NUMBERED = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.stem)
def test_a_committed_notebook_is_a_clean_run_from_top_to_bottom(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert code[0].metadata.get("tags") == ["parameters"]
    assert cells[0].cell_type == "markdown" and "**Purpose.**" in cells[0].source
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert all(len(cell.source.splitlines()) <= 15 for cell in code)
    texts = [{kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text/")} for output in outputs]
    printed = json.dumps([texts, [output.get("text", "") for output in outputs]])
    assert not re.search(r"/(?:home|root|work|Users|tmp)/|WARNING", printed)


def test_there_are_seven_notebooks():
    assert [path.name.split("_")[0] for path in NUMBERED] == list("1234567")


def test_run_names_the_notebooks_there_are():
    with pytest.raises(ValueError, match="1, 2, 3, 4, 5, 6, 7, got 9"):
        run.find([9])


def test_run_on_real_data_without_its_folder_is_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "src.run", "--dataset", "adience"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "make run DATASET=adience DATA=/path" in done.stderr


def test_requirements_are_pinned_each():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert all("==" in line or line == "-e ." for line in lines if line)
