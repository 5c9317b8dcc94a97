"""`serinus simulate` as its user sees it: figures, warnings, a page, and clear words about wrong options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serinus.cli import app
from serinus.core.errors import InvalidInput

FLIGHTS = str(Path(__file__).parents[2] / "examples" / "flights" / "serinus.yaml")
FEW = ["--rollouts", "20", "--rate", "3000/m"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A spec beside which nothing runs."""
    path = tmp_path_factory.mktemp("project") / "serinus.yaml"
    path.write_text(Path(FLIGHTS).read_text(encoding="utf-8"), encoding="utf-8")
    return str(path)


def test_it_says_how_cases_end_and_writes_a_page(spec: str, tmp_path: Path) -> None:
    folder = tmp_path / "simulation"
    result = CliRunner().invoke(app(), ["simulate", "-f", spec, *FEW, "--report", str(folder)], env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    assert "20 rollouts a case at 50 requests/s" in result.stdout
    rows = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert "100.0%" in rows["errors x10"]
    assert "errors" in rows["errors x10"].split()[-1]
    assert "sample-ratio" in rows["split wrong by half"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    figures = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))
    assert {each["scenario"] for each in figures["scenarios"]} >= {"healthy", "no metrics"}


def test_the_same_seed_gives_the_same_json_and_warnings_are_in_it(spec: str) -> None:
    def run(seed: str) -> dict[str, object]:
        given = ["simulate", "-f", spec, "--rollouts", "10", "--rate", "6/h", "--seed", seed, "--json"]
        result = CliRunner().invoke(app(), given)
        assert result.exit_code == 0, result.output
        found: dict[str, object] = json.loads(result.stdout)
        return found

    first = run("3")
    assert first == run("3")
    assert "too few to find a healthy canary safe" in str(first["warnings"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--rate", "fast"], "--rate fast is no rate"),
        (["--rate", "0/s"], "--rate 0/s is no rate"),
        (["--rate", "5", "--label-delay", "soon"], "--label-delay: soon is not a duration"),
        (["--rate", "5", "--p50", "2s"], "not above the median"),
        (["--rate", "5", "--p50", "0ms"], "latency_median"),
    ],
)
def test_wrong_options_are_refused_in_words(spec: str, given: list[str], words: str) -> None:
    result = CliRunner().invoke(app(), ["simulate", "-f", spec, *given])
    assert isinstance(result.exception, InvalidInput)
    assert words in str(result.exception)
