"""The model card repeats the figures of the result files and is written completely or not at all."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import model_card, results
from src.config import YEAR_COUNT
from src.data.table import TABLE_COLUMNS


@pytest.fixture(scope="module")
def text(standins):
    return model_card.render(results.load_released(standins.gender, standins.age), standins.results)


@pytest.fixture
def evaluated(monkeypatch):
    """Three faces stand in for the synthetic sample; the second is predicted wrong. Gives the names of the data sets used."""
    table = pd.DataFrame({"path": ["1", "2", "3"], "gender": ["male", "female", "male"], "dataset": "sample"})
    table = table.assign(age_low=30, age_high=30).reindex(columns=list(TABLE_COLUMNS)).astype(TABLE_COLUMNS)
    probabilities = {"gender": np.array([[0.1, 0.9]] * 3), "age": np.full((3, YEAR_COUNT), 1 / YEAR_COUNT)}
    asked = []

    def evaluate(dataset, data, models):
        asked.append(dataset)
        return results.Evaluation(table, np.zeros((3, 16, 16, 3), np.uint8), probabilities, pd.DataFrame())

    monkeypatch.setattr(results, "evaluate_released", evaluate)
    return asked


def test_the_committed_card_is_what_the_command_writes():
    assert model_card.TARGET.read_text(encoding="utf-8") == model_card.render(results.load_released())


def test_its_figures_are_those_of_the_files(text):
    flat = " ".join(text.split())
    assert "95.0% (93.1–96.9, n = 1,000) of the test faces of UTKFace, 95.0%" in flat
    assert "| 0–6 years | 100 | 85.5% (83.8–87.2) |" in text
    assert "| UTKFace | 4 | 1 | 1 |" in text
    assert f"commit {model_card.TRAINING_COMMIT}." in text
    assert "| LiteRT | 7.0 | 7.3 | 7.0 | 7.3 | 12.8 |" in text
    assert "UTKFace, gender accuracy: worst for ages 0–6, 85.5%" in flat
    assert "FairFace, nine ranges exact: worst for faces labelled White" in flat
    assert "gender below 75%: 40.0% of the predictions, 38% of them correct; 90.0% of the others" in flat
    assert "91.0% (89.2–92.8, n = 1,000) of the faces and is 16.0 years wide" in flat
    assert "| plain two-level network of notebooks 1 and 2 | 91.2% | 6.11 |" in text


def test_it_is_clean_markdown(text):
    assert text.startswith("# Model card") and text.endswith("\n") and "nan" not in text.lower().split()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    links = [model_card.TARGET.parent / link for link in re.findall(r"\]\(([^)#]+)\)", text)]
    assert {link.name for link in links} >= {"failures.png", "6_Model_Comparison.ipynb", "log_book.md"}
    assert all(link.exists() for link in links)


@pytest.mark.slow
def test_it_is_written_with_its_figure_of_synthetic_faces(standins, evaluated, tmp_path):
    target, figure = tmp_path / "card.md", tmp_path / "figures" / "failures.png"
    model_card.write(standins.results, target, figure, gender=standins.gender, age=standins.age)
    assert evaluated == ["sample"]
    assert "](figures/failures.png)" in target.read_text(encoding="utf-8")
    assert min(Image.open(figure).size) > 50
    first = figure.read_bytes()
    model_card.write(standins.results, target, figure, gender=standins.gender, age=standins.age)
    assert figure.read_bytes() == first


def test_without_a_result_file_nothing_is_written(standins, evaluated, tmp_path, monkeypatch):
    folder, target = tmp_path / "results", tmp_path / "card.md"
    shutil.copytree(standins.results, folder)
    (folder / "speed.csv").unlink()
    with pytest.raises(results.ResultsMissingError, match="^speed.csv is missing"):
        model_card.write(folder, target, tmp_path / "failures.png", gender=standins.gender, age=standins.age)
    assert not target.exists() and not (tmp_path / "failures.png").exists() and not evaluated
    monkeypatch.setattr(results.config, "RESULTS", folder)
    monkeypatch.setattr(results.config, "MODELS", standins.gender.parent)
    with pytest.raises(results.ResultsMissingError, match="^speed.csv is missing in "):
        model_card.main()
