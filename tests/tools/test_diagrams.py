"""The diagrams name modules that exist, and show the layers of the models."""

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from src import config
from src.config import ROOT
from src.models.model_folder import ModelFolderError
from src.models.two_level_cnn import two_level_cnn
from tools import diagrams


def source(module: str):
    """The file of "room" or "room.module" of src."""
    file = ROOT.joinpath("src", *module.split("."))
    return file / "__init__.py" if file.is_dir() else file.with_suffix(".py")


def words(figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_modules_in_the_pipelines_exist_and_are_shown():
    shown = words(diagrams.pipelines())
    for box in diagrams.PIPELINES.values():
        assert all(source(name).exists() and name in shown for name in box.modules), box


def test_stages_are_those_of_the_plain_network():
    model = two_level_cnn(8)
    stages = diagrams.stages(model)
    assert sum(stage.parameters for stage in stages) == model.count_params()
    assert stages[0].shape == (227, 227, 3) and stages[-1] == ("level_two", "softmax", (8,), 512 * 8 + 8)
    assert [stage.text for stage in stages if "conv" in stage.text] == [f"conv {k}×{k}\n+ pooling" for k in (7, 5, 3, 3)]


def test_stages_of_a_released_model_and_their_figure(mobilenet_model):
    stages = diagrams.stages(mobilenet_model)
    assert sum(stage.parameters for stage in stages) == mobilenet_model.count_params()
    assert [stage.text.replace("\n", " ") for stage in stages] == [
        "face", "conv 3×3", "separable conv", "2 separable conv", "2 separable conv", "6 separable conv",
        "2 separable conv", "averaged", "softmax",
    ]  # fmt: skip
    assert stages[0].shape == (128, 128, 3) and stages[-1].shape == (101,)
    said = words(diagrams.networks({"one": mobilenet_model}, np.zeros((8, 8, 3), np.uint8)))
    assert f"{mobilenet_model.count_params():,} parameters" in said and "4×4×1024" in said and "mirror image" in said


@pytest.mark.slow
def test_both_are_written_as_pictures_for_a_readme(standins, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "MODELS", standins.gender.parent)
    diagrams.main(["--to", str(tmp_path)])
    for name in ("system", "network"):
        assert Image.open(tmp_path / f"{name}.png").width == 1800
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_without_models_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "MODELS", tmp_path)
    with pytest.raises(ModelFolderError):
        diagrams.main(["--to", str(tmp_path / "figures")])
    assert not (tmp_path / "figures").exists()
