"""The diagrams: what they name is there, what they say of layers is what the models are."""

import ast
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from experiments.release import extract_task_model
from src import config
from src.config import ROOT
from src.models.multitask import add_task_heads
from src.models.two_level_cnn import residual_level_one, two_level_cnn, with_mirror_image
from tools import diagrams


def imported(module: str, seen: frozenset = frozenset()) -> set[str]:
    """The modules of src that one needs, by way of others too."""
    file = ROOT / "src" / f"{module}.py"
    file = file if file.exists() else ROOT / "src" / module / "__init__.py"
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "src":
            names |= {node.module.split(".")[1]} if "." in node.module else {alias.name for alias in node.names}
    return names.union(*(imported(name, seen | names) for name in names - seen))


def words(figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


@pytest.mark.parametrize("name", sorted({name for box in diagrams.SYSTEM.values() for name in box.modules}))
def test_a_module_in_the_system_diagram_exists_and_is_written_there(name):
    assert (ROOT / "src" / f"{name}.py").exists() or (ROOT / "src" / name / "__init__.py").exists()
    assert name in words(diagrams.system())


@pytest.mark.parametrize(("user", "used"), diagrams.USES)
def test_who_takes_something_from_another_imports_it(user, used):
    needed = set().union(*(imported(module) for module in diagrams.SYSTEM[user].modules))
    assert set(diagrams.SYSTEM[used].modules) <= needed


def test_stages_are_those_of_the_plain_network():
    model = two_level_cnn(8)
    stages = diagrams.stages(model)
    assert sum(stage.parameters for stage in stages) == model.count_params()
    assert stages[0].shape == (227, 227, 3) and stages[-1] == ("level_two", "softmax", (8,), 512 * 8 + 8)
    assert [stage.says for stage in stages if "conv" in stage.says] == [f"conv {k}×{k}\n+ pooling" for k in (7, 5, 3, 3)]


def test_stages_of_a_released_model_and_their_figure():
    first = with_mirror_image(residual_level_one(128, inner=96))
    model = extract_task_model(add_task_heads(first), "age")
    stages = diagrams.stages(model)
    assert sum(stage.parameters for stage in stages) == model.count_params()
    assert [stage.shape for stage in stages[:2]] == [(128, 128, 3), (96, 96, 3)] and stages[-1].shape == (101,)
    assert sum("2 conv 3×3" in stage.says for stage in stages) == 7
    said = words(diagrams.networks({"one": model}, np.zeros((8, 8, 3), np.uint8)))
    assert f"{model.count_params():,} parameters" in said and "3×3×256" in said and "mirror image" in said


def test_both_are_written_as_pictures_for_a_readme(standins, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "MODELS", standins.gender.parent)
    assert diagrams.main(["--to", str(tmp_path)]) == 0
    for name in ("system", "network"):
        assert Image.open(tmp_path / f"{name}.png").width == 1800
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_missing_models_are_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(config, "MODELS", tmp_path)
    assert diagrams.main(["--to", str(tmp_path / "figures")]) == 1
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "figures").exists()
