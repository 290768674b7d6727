"""The report, the README's table and the PDF: their numbers are those of the result files, or there is one sentence."""

import re
import shutil

import pandas as pd
import pytest

from experiments import results as findings
from experiments.results import ResultsMissingError, load_released
from src.config import RESULTS, ROOT
from tools import diagrams, pdf, report

OWN = ("funnels", "published", "published_utkface")


@pytest.fixture(scope="module")
def results(standins, tmp_path_factory):
    """The stand-ins' result files, and those that come with the repository."""
    folder = tmp_path_factory.mktemp("report") / "results"
    shutil.copytree(standins.results, folder)
    for name in OWN:
        shutil.copy(RESULTS / f"{name}.csv", folder)
    history = pd.read_csv(folder / "released_history.csv")
    history.assign(seconds=180).to_csv(folder / "released_history.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def models(standins):
    return load_released(standins.gender, standins.age)


@pytest.fixture(scope="module")
def text(models, results):
    return report.render(report.Sections(models, results))


@pytest.mark.parametrize("file", [ROOT / "README.md", ROOT / "docs" / "report.md"], ids=lambda file: file.name)
def test_the_committed_table_equals_the_result_files(file):
    whole = findings.read_results("released_results").query("by == 'all'")
    datasets = list(whole["dataset"].unique())
    rows = [line for line in file.read_text(encoding="utf-8").split("\n") if line.startswith("|")]
    for row in whole[whole["metric"].isin(report.HEADLINE)].to_dict("records"):
        line = next(line for line in rows if line.startswith(f"| {report.HEADLINE[row['metric']]} |"))
        cell = line.split("|")[2 + datasets.index(row["dataset"])].replace("**", "").strip()
        assert cell == findings.format_result(row), line


def test_the_committed_report_is_what_the_command_writes():
    """Whoever changes a result file, a model or a word makes the report anew: make report."""
    words = report.Sections(load_released())
    assert report.render(words) == (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.replace_results(readme, words.headline()) == readme


def test_its_figures_are_those_of_the_files(text):
    abstract = text.partition("## Problem")[0]
    assert "95.0% (93.1–96.9)" in abstract and "4.50 (4.41–4.59)" in abstract
    assert "| gender | **95.0%** (93.1–96.9) | **95.0%** (93.1–96.9) | **95.0%** (93.1–96.9) |" in text
    assert "| UTKFace | 4 | 1 | 1 |" in text
    training = text.partition("### Training\n")[2].partition("\n### ")[0]
    assert all(re.search(rf"\b{figure}\b", training) for figure in ("6 faces", "7 epochs", "21 minutes"))
    unsure = text.partition("### Calibration and unsure predictions\n")[2].partition("\n## ")[0]
    assert "75%" in unsure and "40%" in unsure
    assert "| Levi & Hassner 2015, CNN of 3 conv + 2 dense | 86.8 | 50.7 | 84.7 | – | strict |  |" in text
    assert "worst for ages 0–6, 85.5%" in text and "lowest at 0–6 years, with 85.5% (83.8–87.2)" in " ".join(abstract.split())
    assert "| FairFace | 0–6 | 100 | 85.5% (83.8–87.2) | 49.5% (48.5–50.5) | – |" in text


def test_it_is_clean_markdown_whose_pictures_and_links_are_there(text):
    assert "{{" not in text and "nan" not in text.lower().split()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings[:2] == ["Abstract", "Problem"] and {"Limits", "Ethics", "References"} <= set(headings)
    cited = {int(n) for group in re.findall(r"\[([\d, ]+)\]", text) for n in group.split(",")}
    assert cited <= set(range(1, len(re.findall(r"^\d+\. ", text, re.MULTILINE)) + 1))


def test_no_measured_figure_is_typed_into_the_template():
    words = re.sub(r"\{[{%#].*?[}%#]\}|```.*?```", "", report.TEMPLATE.read_text(encoding="utf-8"), flags=re.DOTALL)
    words = words.split("## References")[0]
    found = [match for match in re.findall(r"\d+\.\d+|\d+,\d{3}|\d+ ?%", words) if match not in ("90%", "95%", "80%")]
    assert found == []


@pytest.mark.parametrize("name", report.FILES)
def test_a_missing_file_is_one_sentence(models, results, tmp_path, name):
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / f"{name}.csv").unlink()
    with pytest.raises(ResultsMissingError, match=f"^{name}.csv is missing"):
        report.Sections(models, tmp_path / "results")


def test_without_a_result_file_the_command_writes_nothing(standins, monkeypatch, tmp_path):
    monkeypatch.setattr(findings.config, "RESULTS", tmp_path)
    monkeypatch.setattr(findings.config, "MODELS", standins.gender.parent)
    before = report.TARGET.read_bytes(), report.README.read_bytes()
    with pytest.raises(ResultsMissingError, match="^released_results.csv is missing in "):
        report.main(["--pdf", str(tmp_path / "report.pdf")])
    assert (report.TARGET.read_bytes(), report.README.read_bytes()) == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "word", "names"),
    [("other_seed", "other_seed", "as released | another seed"), ("held_out", "from_photos", "prepared faces | photo files")],
)
def test_other_results_stand_beside_the_released_models(models, results, tmp_path, file, word, names):
    shutil.copytree(results, tmp_path / "results")
    released = pd.read_csv(tmp_path / "results" / "released_results.csv")
    other = released.assign(value=released["value"] / 2, low=None, high=None)
    other.to_csv(tmp_path / "results" / f"{file}.csv", index=False)
    said = getattr(report.Sections(models, tmp_path / "results"), word)().splitlines()
    assert said[0] == f"| data set | metric | {names} |"
    gender = released.query("dataset == 'utkface' and metric == 'gender accuracy' and by == 'all'").iloc[0]
    assert f"| UTKFace | gender | {findings.format_result(gender)} | {gender['value'] / 2:.1%} |" in said
    assert len(said) == 2 + len(released.query("by == 'all' and metric in @report.HEADLINE"))


def test_what_is_optional_is_said_in_a_line_or_shown(models, results, tmp_path, text):
    for name in report.OPTIONAL_FILES:
        assert (f"`docs/results/{name}.csv` is missing" in text) == (not (results / f"{name}.csv").exists())
    shutil.copytree(results, tmp_path / "results")
    sections = report.Sections(models, tmp_path / "results")
    pd.DataFrame({"task": ["gender"], "mean": ["86.8 ± 1.4"]}).to_csv(tmp_path / "results" / "protocol.csv", index=False)
    assert sections.optional("protocol") == "| task | mean |\n| --- | --- |\n| gender | 86.8 ± 1.4 |"


def write_ablations(folder, datasets):
    columns = ["variant", "seed", "dataset", "metric", "value", "unit", "against", "difference", "faces", "epochs"]
    size = (12147, 6)
    rows = []
    for dataset in datasets:
        for seed in (1, 2):
            rows.append(("as released", seed, dataset, "gender accuracy", 0.9, "share", "", None, *size))
            rows.append(("no teacher", seed, dataset, "gender accuracy", 0.88, "share", "as released", -0.01 * seed, *size))
    pd.DataFrame(rows, columns=columns).to_csv(folder / "ablations.csv", index=False)
    return columns, size


def test_ablations_are_shown_as_far_as_they_are_measured(models, results, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    sections = report.Sections(models, folder)
    columns, size = write_ablations(folder, ["utkface", "fairface", "allagefaces"])
    table = sections.ablations()
    assert table.startswith("| variant | UTKFace gender | FairFace gender | All-Age-Faces gender |\n")
    assert "| as released | 90.0 | 90.0 | 90.0 |" in table
    assert "| no teacher | 88.0 (−1.0) |" in table
    assert "| no teacher, seed 2 | 88.0 (−2.0) |" in table
    assert sections.ablation_size() == "12,147 training faces for 6 epochs"
    assert sections.without_one_data_set().startswith(
        "*Not measured yet: `docs/results/ablations.csv` has none of these variants"
    )
    cross = "original FaceRes, labels only"
    added = [
        (cross, 1, "utkface", "absolute error", 5.6, "years", "no teacher", 0.1, *size),
        ("without FairFace", 1, "utkface", "absolute error", 6.5, "years", cross, 0.9, *size),
        ("gender alone", 1, "utkface", "gender accuracy", 0.87, "share", "no teacher", -0.01, *size),
    ]
    rows = pd.concat([pd.read_csv(folder / "ablations.csv"), pd.DataFrame(added, columns=columns)])
    rows.to_csv(folder / "ablations.csv", index=False)
    assert "| gender alone *(against no teacher)* | 87.0 (−1.0) | – | – | – |" in sections.ablations()
    assert sections.without_one_data_set().splitlines()[2:] == [f"| {cross} | 5.60 |", "| without FairFace | 6.50 (+0.90) |"]
    assert "{{" not in report.render(sections)


def test_results_of_models_for_other_data_sets_are_not_shown(models, results, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    write_ablations(folder, ["utkface", "fairface"])
    released = pd.read_csv(folder / "released_results.csv")
    released[released["dataset"] != "allagefaces"].to_csv(folder / "other_seed.csv", index=False)
    sections = report.Sections(models, folder)
    for name, shown in {"ablations": sections.ablations(), "other_seed": sections.other_seed()}.items():
        assert shown.startswith(f"*Not measured yet: `docs/results/{name}.csv` belongs to models")
    assert "| as released |" not in report.render(sections)


def test_the_readme_without_its_marks_is_one_sentence():
    with pytest.raises(ValueError, match="README.md must have the lines"):
        report.replace_results("# No table here\n", "| a |")
    kept = report.replace_results(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "| new |")
    assert kept == f"before\n{report.BEGIN}\n| new |\n{report.END}\nafter\n"


@pytest.mark.slow
def test_every_figure_is_drawn_and_the_same_twice(models, results, tmp_path):
    for name, draw in report.figures(report.Sections(models, results)).items():
        written = []
        for turn in ("one", "two"):
            diagrams.save(draw(), tmp_path / turn / name)
            written.append((tmp_path / turn / name).read_bytes())
        assert written[0] == written[1] and len(written[0]) > 5000, name


def test_the_pdf_holds_any_text_as_it_is(tmp_path):
    text = '# A "title" with #signs\n\n*a* **b** `c_d` $x$ < y > @z \\ [link](https://example.org) [here](there.md)\n\n'
    text += '- one\n- two\n\n1. first\n\n```sh\nmake report  # "quoted"\n```\n\n| a | b |\n| --- | ---: |\n| #1 | 2% |\n'
    pdf.write(text, tmp_path, tmp_path / "report.pdf")
    made = (tmp_path / "report.pdf").read_bytes()
    assert made.startswith(b"%PDF-") and b"https://example.org" in made and b"there.md" not in made


def test_a_picture_that_is_missing_is_one_sentence_and_no_pdf(tmp_path):
    with pytest.raises(ValueError, match="cannot be converted to PDF"):
        pdf.write("![gone](gone.png)\n", tmp_path, tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()
