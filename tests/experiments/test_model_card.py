"""The model card: written whole from the files, with the words that matter, or not at all with one sentence."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import model_card
from experiments import results as findings
from src.config import YEARS
from src.data.table import TABLE_COLUMNS


@pytest.fixture(scope="module")
def text(standins):
    return model_card.card(findings.load_released(standins.gender, standins.age), standins.results)


@pytest.fixture
def drawn(monkeypatch):
    """Three faces in place of the sample's; the second is told wrong. Gives the data sets that were asked for."""
    table = pd.DataFrame({"path": ["1", "2", "3"], "gender": ["male", "female", "male"], "dataset": "sample"})
    table = table.assign(age_low=30, age_high=30).reindex(columns=list(TABLE_COLUMNS)).astype(TABLE_COLUMNS)
    answers = {"gender": np.array([[0.1, 0.9]] * 3), "age": np.full((3, YEARS), 1 / YEARS)}
    asked = []

    def judge(dataset, data, models):
        asked.append(dataset)
        return findings.Evaluation(table, np.zeros((3, 16, 16, 3), np.uint8), answers, pd.DataFrame())

    monkeypatch.setattr(findings, "judge", judge)
    return asked


def test_the_committed_card_is_what_the_command_writes():
    assert model_card.TARGET.read_text(encoding="utf-8") == model_card.card(findings.load_released())


def test_it_says_what_the_models_are_not_for(text):
    for words in (
        "Not for decisions about people",
        "apparent gender",
        "apparent age",
        "non-commercial",
        "CC BY 4.0",
        "iBUG 300-W",
        "excludes commercial",
        "public domain",
        "drawn faces of nobody",
    ):
        assert words in " ".join(text.split()), words


def test_its_figures_are_those_of_the_files(text):
    assert "95.0% (93.1–96.9, n = 1,000) of UTKFace's" in " ".join(text.split())
    assert "| 0–6 years | 100 | 85.5% (83.8–87.2) |" in text
    assert "| UTKFace | 4 | 1 | 1 |" in text
    assert "| LiteRT | 7.0 | 7.3 | 7.0 | 7.3 | 12.8 |" in text
    flat = " ".join(text.split())
    assert "UTKFace, gender accuracy: worst for ages 0–6, 85.5%" in flat
    assert "FairFace, nine ranges exact: worst for faces labelled White" in flat
    assert "gender below 75%: 40.0% of the answers, 38% of them right; of the others 90.0%" in flat
    assert "it held 91.0% (89.2–92.8, n = 1,000) and was 16.0 years wide" in flat
    assert "| plain two-level network of notebooks 1 and 2 | 91.2% | 6.11 |" in text
    assert "measured on other test pictures" in flat


def test_it_is_clean_markdown(text):
    assert text.startswith("# Model card") and text.endswith("\n") and "nan" not in text.lower().split()
    assert [line for line in text.split("\n") if len(line) > 126 and not line.startswith("|")] == []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    links = [model_card.TARGET.parent / link for link in re.findall(r"\]\(([^)#]+)\)", text)]
    assert {link.name for link in links} >= {"failures.png", "6_Model_Comparison.ipynb", "log_book.md"}
    assert all(link.exists() for link in links if link.name != "failures.png")


def test_it_is_written_with_its_picture_of_drawn_faces(standins, drawn, tmp_path):
    target, picture = tmp_path / "card.md", tmp_path / "figures" / "failures.png"
    assert model_card.write(standins.results, target, picture, gender=standins.gender, age=standins.age) == target
    assert drawn == ["sample"]
    assert "](figures/failures.png)" in target.read_text(encoding="utf-8")
    assert min(Image.open(picture).size) > 50
    first = picture.read_bytes()
    model_card.write(standins.results, target, picture, gender=standins.gender, age=standins.age)
    assert picture.read_bytes() == first


@pytest.mark.parametrize("name", [name for name in findings.FILES if name != "released_coverage"])
def test_a_missing_file_is_one_sentence_and_nothing_is_written(standins, drawn, tmp_path, name):
    results, target = tmp_path / "results", tmp_path / "card.md"
    shutil.copytree(standins.results, results)
    (results / f"{name}.csv").unlink()
    with pytest.raises(findings.ResultsMissing, match=f"^{name}.csv is missing"):
        model_card.write(results, target, tmp_path / "failures.png", gender=standins.gender, age=standins.age)
    assert not target.exists() and not (tmp_path / "failures.png").exists() and not drawn


def test_the_command_says_what_is_missing(monkeypatch, tmp_path, standins, capsys):
    monkeypatch.setattr(findings.config, "RESULTS", tmp_path)
    monkeypatch.setattr(findings.config, "MODELS", standins.gender.parent)
    assert model_card.main() == 1
    assert capsys.readouterr().err.startswith("error: released_results.csv is missing in ")
