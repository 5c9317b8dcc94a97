"""`serinus init`, `validate` and `schema`, and that the command starts fast."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from serinus.cli import app
from serinus.core.errors import Conflict, InvalidInput, InvalidSpec, NotFound
from serinus.engines.specfile import read_service

ROOT = Path(__file__).parents[2]
SINCE, UNTIL = pd.Timestamp("2025-02-01", tz="UTC"), pd.Timestamp("2025-02-08", tz="UTC")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app(), list(arguments))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A new project's folder."""
    folder = tmp_path / "my-parcels"
    assert run("init", "my-parcels", "--directory", str(folder)).exit_code == 0
    return folder


@pytest.fixture
def package(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The new project's folder as a package, as the loader makes it."""
    package = ModuleType("made_project")
    package.__path__ = [str(made)]
    monkeypatch.setitem(sys.modules, "made_project", package)
    yield package
    for name in [each for each in sys.modules if each.startswith("made_project.")]:
        del sys.modules[name]


def test_a_new_project_is_valid(made: Path) -> None:
    service = read_service(made)
    assert service.deployment.spec.model.name == "my-parcels"
    assert service.training.spec.project.entry_point == "project:MyParcels"
    assert {path.name for path in made.iterdir()} == {
        ".gitignore",
        "README.md",
        "features.py",
        "model.py",
        "project.py",
        "serinus.yaml",
        "world.py",
    }


def test_a_new_project_passes_the_linter(made: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,B,UP,SIM,N", "."]
    checked = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_a_new_projects_rows_add_up(package: ModuleType) -> None:
    project = importlib.import_module("made_project.project").MyParcels()
    whole = project.ingest(SINCE, UNTIL)["depot_hourly"]
    assert ((whole["known_at"] >= SINCE) & (whole["known_at"] < UNTIL)).all()
    assert (whole["happened_at"] <= whole["known_at"]).all()
    for middle in (pd.Timestamp("2025-02-03T05:30", tz="UTC"), pd.Timestamp("2025-02-03T05:31:07", tz="UTC")):
        parts = [project.ingest(SINCE, middle)["depot_hourly"], project.ingest(middle, UNTIL)["depot_hourly"]]
        pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


def test_a_new_projects_world_has_a_beginning(package: ModuleType) -> None:
    project = importlib.import_module("made_project.project").MyParcels()
    ages = project.ingest(pd.Timestamp(0, tz="UTC"), UNTIL)["depot_hourly"]
    assert ages["happened_at"].min() == pd.Timestamp("2025-01-01", tz="UTC")
    assert project.ingest(pd.Timestamp(0, tz="UTC"), pd.Timestamp("2024-12-01", tz="UTC"))["depot_hourly"].empty


def test_a_new_projects_labels_come_after_the_questions(package: ModuleType) -> None:
    project = importlib.import_module("made_project.project").MyParcels()
    requests, labels = project.requests(SINCE, UNTIL), project.labels(UNTIL)
    assert requests["id"].is_unique
    assert "late" not in requests
    assert (labels["label_timestamp"] < UNTIL).all()
    both = requests.merge(labels, on="id")
    assert len(requests) * 0.8 < len(both) < len(requests)
    assert (both["label_timestamp"] > both["event_timestamp"]).all()
    assert 0.1 < both["label"].mean() < 0.4


def test_nothing_is_overwritten(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.iterdir()}
    result = run("init", "my-parcels", "--directory", str(made))
    assert isinstance(result.exception, Conflict)
    assert {path: path.read_bytes() for path in made.iterdir()} == before


def test_a_file_in_the_way_is_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "parcels").write_text("mine")
    assert isinstance(run("init", "parcels", "-d", str(tmp_path / "parcels")).exception, Conflict)
    assert (tmp_path / "parcels").read_text() == "mine"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    result = run("init", "parcels", "--directory", str(tmp_path), "--json")
    assert result.exit_code == 0
    assert "serinus.yaml" in json.loads(result.stdout)["files"]


@pytest.mark.parametrize("name", ["Parcels", "1parcel", "my_parcels", "a" * 64, "../x", ""])
def test_a_name_must_fit_resources_and_classes(name: str, tmp_path: Path) -> None:
    assert isinstance(run("init", name, "--directory", str(tmp_path / "p")).exception, InvalidInput)
    assert not (tmp_path / "p").exists()


def test_validate_says_ok(made: Path) -> None:
    result = run("validate", "--file", str(made / "serinus.yaml"))
    assert (result.exit_code, result.stdout) == (
        0,
        "OK: ContinuousTraining my-parcels, ModelDeployment my-parcels\n",
    )
    assert json.loads(run("validate", "-f", str(made), "--json").stdout)["valid"] is True


def test_validate_says_all_that_is_wrong(made: Path) -> None:
    file = made / "serinus.yaml"
    file.write_text(
        file.read_text().replace("holdout: 7d", "holdout: a week").replace("version: champion", "version: 0")
    )
    assert isinstance(run("validate", "-f", str(file)).exception, InvalidSpec)
    result = run("validate", "-f", str(file), "--json")
    assert result.exit_code == 2
    assert [each["path"] for each in json.loads(result.stdout)["problems"]] == [
        "ContinuousTraining.spec.windows.holdout",
        "ModelDeployment.spec.model.version",
    ]


def test_validate_needs_a_file(tmp_path: Path) -> None:
    assert isinstance(run("validate", "-f", str(tmp_path)).exception, NotFound)


def test_errors_are_one_message_on_standard_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serinus", "validate", "-f", str(tmp_path / "none.yaml")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (3, "")
    assert told.stderr.startswith("serinus: there is no ")
    assert "Traceback" not in told.stderr


def test_schema_prints_what_the_cluster_needs() -> None:
    documents = list(yaml.safe_load_all(run("schema", "--crd").stdout))
    assert [document["spec"]["names"]["kind"] for document in documents] == ["ContinuousTraining", "ModelDeployment"]
    on_disk = [
        yaml.safe_load((ROOT / "manifests/base/crds" / f"{document['spec']['names']['plural']}.yaml").read_text())
        for document in documents
    ]
    assert documents == on_disk


def test_schema_prints_json_schema() -> None:
    schemas = json.loads(run("schema").stdout)
    assert set(schemas) == {"ContinuousTraining", "ModelDeployment"}
    assert schemas["ModelDeployment"]["type"] == "object"


def test_the_command_imports_nothing_heavy() -> None:
    heavy = {"feast", "kfp", "matplotlib", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "sklearn", "torch"}
    code = f"import sys; from serinus.cli import app; app(); print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
