"""From a judged model to the registry: the package's parts must agree, and the gate decides what becomes a version."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from serinus.cli import app
from serinus.core.dataset import Dataset, Split
from serinus.core.errors import InvalidData, InvalidInput, NotFound
from serinus.core.evaluation import Difference, ModelScores, Scorecard, Scores, SliceScores
from serinus.core.gate import GateVerdict, judge
from serinus.core.platform import Platform
from serinus.core.profile import build_profile, profile_predictions
from serinus.core.signature import Column, Signature
from serinus.core.spec import Gate, Training
from serinus.core.times import Interval
from serinus.core.version import CHALLENGER, CHAMPION
from serinus.engines.archive import MODEL, PROFILE, SIGNATURE, read_archive
from serinus.engines.mlflow import Registry
from serinus.training.package import PackageReport, Parts, package
from serinus.training.register import Folders, Origin, read_candidate, register

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*model_archiver.version.txt:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

SPEC = """
apiVersion: serinus.dev/v1alpha1
kind: ContinuousTraining
metadata: {name: toy}
spec:
  project: {entryPoint: "project:Toy"}
  featureService: toy
  windows: {length: 90d}
  deployment: toy
---
apiVersion: serinus.dev/v1alpha1
kind: ModelDeployment
metadata: {name: toy}
spec:
  model: {name: toy}
"""


class Toy(torch.nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(bias))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.nan_to_num(0.0).sum(dim=1) + self.bias


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def scores(loss: float, rows: int = 1000) -> Scores:
    return Scores(
        rows=rows, positives=rows // 4, roc_auc=0.74, pr_auc=None, log_loss=loss, brier=0.15, calibration_error=0.01
    )


def scorecard(better_by: float) -> Scorecard:
    slices = tuple(
        SliceScores(column="origin", value=value, scores=scores(0.5, rows))
        for value, rows in (("JFK", 600), ("a|b", 40))
    )
    return Scorecard(
        period=Interval(since=datetime(2013, 7, 1, tzinfo=UTC), until=datetime(2013, 8, 1, tzinfo=UTC)),
        candidate=ModelScores(name="candidate", overall=scores(0.5), slices=slices),
        baseline=ModelScores(name="baseline", overall=scores(0.5 + better_by)),
        champion=None,
        champion_version=None,
        differences=(
            Difference(
                against="baseline",
                metric="log_loss",
                value=-better_by,
                low=-better_by - 0.01,
                high=-better_by + 0.01,
                confidence=0.95,
                days=31,
            ),
        ),
    )


def dataset(uri: str) -> Dataset:
    start = datetime(2013, 1, 1, tzinfo=UTC)
    edges = [start + timedelta(days=day) for day in (0, 150, 181, 212)]
    train, validation, holdout = (Interval(since=edges[i], until=edges[i + 1]) for i in range(3))
    split = Split(train=train, validation=validation, holdout=holdout)
    as_of = datetime(2013, 8, 2, 12, tzinfo=UTC)
    return Dataset(uri=uri, as_of=as_of, split=split, rows=5000, positives=1200, digest="sha256:rows")


def steps(folder: Path, bias: float = 0.0, better_by: float = 0.1) -> Folders:
    """What the pipeline's steps leave: a small exported module, its signature, profile, scorecard and verdict."""
    folders = Folders(folder / "dataset", folder / "model", folder / "evaluation", folder / "gate")
    signature = Signature(
        model="toy",
        feature_service="toy",
        join_keys={"place": "String"},
        views=(),
        columns=(Column(name="x", kind="number", dtype="Float64"),),
    )
    numbers = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
    profile = build_profile(signature, numbers, np.empty((50, 0), dtype=np.int64))
    write(folders.dataset / "dataset.json", dataset(str(folders.dataset)).model_dump_json())
    write(folders.dataset / SIGNATURE, signature.model_dump_json())
    write(folders.evaluation / PROFILE, profile_predictions(profile, np.full(50, 0.2)).model_dump_json())
    card = scorecard(better_by)
    write(folders.evaluation / "scorecard.json", card.model_dump_json())
    write(folders.gate / "verdict.json", judge(card, Gate()).model_dump_json())
    write(folders.model / "fit.json", "{}")
    torch.export.save(torch.export.export(Toy(bias), (torch.zeros(2, 1),)), folders.model / MODEL)
    return folders


def parts(folders: Folders) -> Parts:
    handler = write(folders.model.parent / "serving" / "handler.py", "def handle(data, context):\n    return data\n")
    return Parts(
        model=folders.model / MODEL,
        signature=folders.dataset / SIGNATURE,
        profile=folders.evaluation / PROFILE,
        handler=handler,
    )


def origin(run: str = "run-1") -> Origin:
    return Origin(training=Training(), data_digest="sha256:raw", code_digest="sha256:code", pipeline_run=run)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder whose registry has its tables: making them takes longer than all that a test does."""
    folder = tmp_path_factory.mktemp("project")
    write(folder / "serinus.yaml", SPEC)
    assert registry_of(folder).names() == ()
    return folder


@pytest.fixture
def home(tmp_path: Path, project: Path) -> Path:
    return Path(shutil.copytree(project, tmp_path / "toy"))


def registry_of(home: Path) -> Registry:
    platform = Platform.local(home / ".serinus")
    return Registry(platform.tracking_uri, platform.artifact_uri)


def build(folder: Path, bias: float, run: str) -> tuple[Folders, PackageReport]:
    folders = steps(folder, bias)
    return folders, package("toy", parts(folders), folder / "package")


def test_a_package_holds_the_model_that_was_trained(tmp_path: Path) -> None:
    folders, report = build(tmp_path, 3.0, "run-1")
    assert report.size == report.path.stat().st_size
    with read_archive(report.path, report.digest) as archive:
        assert archive.name == "toy"
        archive.extract(tmp_path / "unpacked")
    program = torch.export.load(tmp_path / "unpacked" / MODEL)
    assert program.module()(torch.ones(2, 1)).tolist() == [4.0, 4.0]
    again = package("toy", parts(folders), tmp_path / "again")
    assert again.digest == report.digest


def test_parts_that_do_not_agree(tmp_path: Path) -> None:
    given = parts(steps(tmp_path))
    with pytest.raises(InvalidData, match="is of model toy, expected other"):
        package("other", given, tmp_path / "out")
    profile = json.loads(given.profile.read_text())
    write(given.profile, json.dumps(profile | {"prediction": None}))
    with pytest.raises(InvalidData, match="no histogram of predictions"):
        package("toy", given, tmp_path / "out")
    write(given.profile, json.dumps(profile | {"columns": []}))
    with pytest.raises(InvalidData, match="has columns"):
        package("toy", given, tmp_path / "out")
    write(given.profile, json.dumps(profile)[:-20])
    with pytest.raises(InvalidData, match="damaged"):
        package("toy", given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_handler_that_is_not_python_and_a_missing_model(tmp_path: Path) -> None:
    given = parts(steps(tmp_path))
    write(given.handler, "def handle(:")
    with pytest.raises(InvalidInput, match="not a Python file"):
        package("toy", given, tmp_path / "out")
    write(given.handler, "")
    given.model.unlink()
    with pytest.raises(NotFound, match=r"model\.pt2"):
        package("toy", given, tmp_path / "out")


def test_the_first_is_champion_the_next_challenger_and_a_repeat_changes_nothing(home: Path, tmp_path: Path) -> None:
    registry = registry_of(home)
    made = [build(tmp_path / str(number), float(number), f"run-{number}") for number in range(3)]
    candidates = [read_candidate("toy", folders, origin(f"run-{n}")) for n, (folders, _) in enumerate(made)]
    reports = [report for _, report in made]

    def aliases() -> dict[int, tuple[str, ...]]:
        return {version.version: version.aliases for version in registry.versions("toy")}

    first = register(registry, candidates[0], reports[0])
    assert first is not None
    assert first.aliases == (CHAMPION,)
    assert first.lineage.parameters["epochs"] == Training().epochs
    assert first.metrics == {"roc_auc": 0.74, "log_loss": 0.5, "brier": 0.15, "calibration_error": 0.01}
    for number in (1, 2):
        register(registry, candidates[number], reports[number])
    assert aliases() == {1: (CHAMPION,), 2: (), 3: (CHALLENGER,)}
    for number in (0, 1, 2):
        register(registry, candidates[number], reports[number])
    assert aliases() == {1: (CHAMPION,), 2: (), 3: (CHALLENGER,)}
    registry.promote("toy", 3)
    assert aliases() == {1: (), 2: (), 3: (CHAMPION,)}


def test_a_repeat_finishes_a_registration_that_stopped_before_its_alias(home: Path, tmp_path: Path) -> None:
    registry = registry_of(home)
    folders, report = build(tmp_path / "a", 1.0, "run-1")
    candidate = read_candidate("toy", folders, origin())
    whole = register(registry, candidate, report)
    with closing(sqlite3.connect(home / ".serinus" / "mlflow.db")) as connection, connection:
        connection.execute("delete from registered_model_aliases")
    assert registry.find("toy", CHAMPION) is None
    assert register(registry, candidate, report) == whole


def test_a_refused_candidate_is_a_run_with_its_verdict_and_no_version(home: Path, tmp_path: Path) -> None:
    registry = registry_of(home)
    candidate = read_candidate("toy", steps(tmp_path, better_by=0.001), origin())
    assert not candidate.verdict.passed
    assert register(registry, candidate, None) is None
    assert registry.versions("toy") == ()
    verdict = next((home / ".serinus" / "artifacts").rglob("verdict.json"))
    assert GateVerdict.model_validate_json(verdict.read_text()) == candidate.verdict
    card = next((home / ".serinus" / "artifacts").rglob("card.md")).read_text()
    assert "**refused** by the gate" in card
    assert "| log_loss | 0.5000 | 0.5010 |" in card
    assert "| pr_auc | - | - |" in card
    assert "| origin = a\\|b | 40 | 0.7400 | 0.5000 |" in card
    assert "- failed better-than-baseline: not shown to be better than the baseline" in card


def test_a_passed_candidate_needs_its_package_and_whole_files(home: Path, tmp_path: Path) -> None:
    folders = steps(tmp_path)
    candidate = read_candidate("toy", folders, origin())
    with pytest.raises(InvalidInput, match="package was not given"):
        register(registry_of(home), candidate, None)
    write(folders.gate / "verdict.json", "{")
    with pytest.raises(InvalidData, match=r"verdict\.json is damaged"):
        read_candidate("toy", folders, origin())
    shutil.rmtree(folders.gate)
    with pytest.raises(NotFound, match=r"verdict\.json"):
        read_candidate("toy", folders, origin())


def test_serinus_models_lists_versions_with_aliases_metrics_and_lineage(home: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    empty = run(app(), ["models", "-f", str(home)])
    assert empty.exit_code == 0
    assert "No version of toy is registered yet" in empty.stderr
    folders, report = build(tmp_path, 1.0, "nightly-1")
    register(registry_of(home), read_candidate("toy", folders, origin("nightly-1")), report)
    listed = run(app(), ["models", "-f", str(home / "serinus.yaml"), "--json"])
    answer = json.loads(listed.stdout)
    assert answer["model"] == "toy"
    assert [(item["version"], item["aliases"], item["digest"]) for item in answer["versions"]] == [
        (1, [CHAMPION], report.digest)
    ]
    table = run(app(), ["models", "-f", str(home)], env={"COLUMNS": "160"}).stdout
    for cell in ("champion", "0.7400", "2013-08-02 12:00", "nightly-1"):
        assert cell in table
