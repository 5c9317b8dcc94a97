"""The training pipeline as a whole, on the tiny project: run, repeated, changed, refused; and compiled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from typer.testing import CliRunner

from pipelines.training import training_pipeline
from serinus.cli import app
from serinus.cli.train import Outcome, run_training
from serinus.core.errors import Conflict, InvalidInput, InvalidSpec, NotFound
from serinus.core.spec import Gate, Training
from serinus.engines.kfp_compile import compile_pipeline
from serinus.engines.mlflow import Registry
from serinus.engines.specfile import parse_text, read_service
from serinus.training.plan import make_plans, told

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "projects" / "tiny"
AS_OF = "2020-02-15T00:10:00Z"
ALWAYS = {"ingest", "register"}
STEPS = ["dataset", "evaluate", "gate", "ingest", "package", "register", "train", "validate"]


def copy(folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the tiny project, with texts in its spec replaced."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__", ".serinus"))
    edit(folder, *changes)
    return folder


def edit(folder: Path, *changes: tuple[str, str]) -> None:
    spec = folder / "serinus.yaml"
    text = spec.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    spec.write_text(text)


def run(project: Path, name: str, as_of: str = AS_OF) -> Outcome:
    return run_training(project, as_of, name, lambda event: None)


def ran(outcome: Outcome) -> set[str]:
    return {step.name for step in outcome.result.steps if step.status == "ran"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Outcome]:
    """Four runs on one state folder: the first, the same again, with another gate, with a hopeless learning rate."""
    project = copy(tmp_path_factory.mktemp("training") / "tiny")
    found = {"first": run(project, "first"), "again": run(project, "again", "2020-02-15T00:50:00Z")}
    edit(project, ("championTolerance: 0.01", "championTolerance: 0.02"))
    found["gate"] = run(project, "gate")
    edit(project, ("learningRate: 0.02", "learningRate: 0.000001"), ("epochs: 6", "epochs: 1"))
    found["refused"] = run(project, "refused")
    return found


def test_the_first_run_computes_every_step_and_registers_the_champion(runs):
    first = runs["first"]
    assert sorted(ran(first)) == STEPS
    assert first.verdict.passed
    assert first.version == 1
    assert first.card.champion is None
    assert "<html" in first.report.read_text()
    assert all((first.result.folder / f"{name}.log").is_file() for name in STEPS)


def test_the_version_carries_where_it_came_from(runs):
    platform = json.loads(_inputs(runs["first"], "register")["platform"])
    champion = Registry(platform["tracking_uri"]).get("tiny", "champion")
    assert champion.version == 1
    assert champion.lineage.pipeline_run == "first"
    assert champion.lineage.as_of.isoformat() == "2020-02-15T00:00:00+00:00"
    assert champion.lineage.code_digest == json.loads(_inputs(runs["first"], "register")["plan"])["code"]


def test_a_second_run_with_nothing_changed_executes_only_ingest_and_register(runs):
    again = runs["again"]
    assert ran(again) == ALWAYS
    assert sorted(step.name for step in again.result.steps) == STEPS
    assert again.version == 1
    assert again.verdict == runs["first"].verdict


def test_another_gate_repeats_only_the_judging(runs):
    outcome = runs["gate"]
    assert ran(outcome) == ALWAYS | {"evaluate", "gate", "package"}
    assert outcome.card.champion_version == 1
    assert outcome.version == 1


def test_a_refused_candidate_gets_no_version_and_its_reasons(runs):
    outcome = runs["refused"]
    assert ran(outcome) == ALWAYS | {"train", "evaluate", "gate", "package"}
    assert not outcome.verdict.passed
    assert outcome.version is None
    assert [reason.rule for reason in outcome.verdict.reasons if not reason.passed]
    assert outcome.as_json()["accepted"] is False


def test_results_say_a_few_words_a_step(runs):
    results = {step.name: step.result for step in runs["first"].result.steps}
    assert results["register"] == "version 1, champion"
    assert results["gate"] == "accepted"
    assert "rows" in results["dataset"]
    assert all(results.values())


def test_light_steps_load_no_heavy_engine():
    heavy = "{'torch', 'mlflow', 'feast', 'pandas', 'sklearn', 'matplotlib'}"
    script = (
        "import sys, serinus.core.gate, serinus.engines.files, serinus.engines.kfp_step, serinus.engines.specfile, "
        f"serinus.training.package, serinus.training.plan; print({heavy} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_command_tells_a_steps_error_with_its_exit_code(tmp_path):
    project = copy(tmp_path / "tiny")
    (project / "project.py").write_text("import a_package_that_is_not_there\n")
    command = [sys.executable, "-m", "serinus", "train", "-f", str(project), "--as-of", AS_OF, "--json"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "serinus: ingest: project in " in found.stderr
    assert "install what it needs; the step's whole log: " in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_the_command_prints_json_and_the_gates_answer_as_exit_code(runs, monkeypatch):
    for name, code in (("first", 0), ("refused", 1)):
        monkeypatch.setattr("serinus.cli.train.run_training", lambda *_, chosen=name: runs[chosen])
        result = CliRunner().invoke(app(), ["train", "--json"])
        assert result.exit_code == code
        answer = json.loads(result.stdout)
        assert answer["accepted"] is (code == 0)
        assert answer["version"] == (1 if code == 0 else None)
        assert sorted(step["name"] for step in answer["steps"]) == STEPS
        shown = CliRunner().invoke(app(), ["train"])
        assert shown.stdout == ""
        assert ("Accepted" if code == 0 else "Refused") in shown.stderr
        assert "log loss" in shown.stderr


def test_bad_input_is_told_before_anything_runs(tmp_path):
    with pytest.raises(NotFound, match=r"there is no .*serinus\.yaml"):
        run(tmp_path, "first")
    project = copy(tmp_path / "tiny")
    with pytest.raises(InvalidInput, match="'tomorrow' is not a time"):
        run(project, "first", "tomorrow")
    edit(project, ("holdout: 10d", "holdout: ten days"), ("epochs: 6", "epochs: 0"))
    with pytest.raises(InvalidSpec) as caught:
        run(project, "first")
    assert len(caught.value.problems) == 2
    assert not (project / ".serinus").exists()


def test_two_runs_on_one_state_folder_conflict(tmp_path):
    import fcntl

    project = copy(tmp_path / "tiny")
    lock = project / ".serinus" / "pipelines" / ".lock"
    lock.parent.mkdir(parents=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another pipeline runs"):
            run(project, "first")


def test_compiling_gives_the_same_bytes_in_every_process(tmp_path):
    compile_pipeline(training_pipeline("example/image:1"), tmp_path / "here.yaml", {"spec": "/project/serinus.yaml"})
    script = (
        "import sys; from pathlib import Path; from pipelines.training import training_pipeline\n"
        "from serinus.engines.kfp_compile import compile_pipeline\n"
        "compile_pipeline(training_pipeline('example/image:1'), Path(sys.argv[1]), {'spec': '/project/serinus.yaml'})"
    )
    there = tmp_path / "there.yaml"
    environment = os.environ | {"PYTHONHASHSEED": "42"}
    subprocess.run([sys.executable, "-c", script, str(there)], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "here.yaml").read_bytes() == there.read_bytes()


def test_the_compiled_pipeline_is_valid_and_runs_our_image(tmp_path):
    output = tmp_path / "pipeline.yaml"
    assert CliRunner().invoke(app(), ["compile", "-f", str(TINY), "-o", str(output)]).exit_code == 0

    pipeline, kubernetes = yaml.safe_load_all(output.read_text())
    spec = json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    assert sorted(spec.root.dag.tasks) == STEPS
    containers = [executor["container"] for executor in pipeline["deploymentSpec"]["executors"].values()]
    assert {container["image"] for container in containers} == {"serinus-pipeline:latest"}
    assert not any("pip install" in part for container in containers for part in container["command"])
    uncached = {name for name, task in spec.root.dag.tasks.items() if not task.caching_options.enable_cache}
    assert uncached == ALWAYS
    defaults = pipeline["root"]["inputDefinitions"]["parameters"]
    assert defaults["spec"]["defaultValue"] == "/project/serinus.yaml"
    assert defaults["platform"]["defaultValue"] == "/etc/serinus/platform/platform.yaml"
    assert defaults["resources"]["defaultValue"] == ""
    executors = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = [{"mountPath": "/etc/serinus/platform", "secretName": "serinus-platform"}]
    assert executors == {
        f"exec-{name}": {"secretAsVolume": mounts} for name in ("dataset", "evaluate", "ingest", "register", "validate")
    }


def test_a_run_is_told_what_it_depends_on(tmp_path):
    project = copy(tmp_path / "tiny", ("epochs: 6", "epochs: 5"), ("learningRate: 0.02", "learningRate: 0.000001"))
    service = read_service(project)
    again = parse_text(told(service), "the run's resources")
    assert make_plans(project, again) == make_plans(project, service)
    assert again.training.spec.training == service.training.spec.training


def test_a_step_knows_the_settings_that_it_is_told_and_no_others(tmp_path):
    service = read_service(TINY)
    data, model, whole = make_plans(TINY, service)
    assert data.service().training.spec.windows == service.training.spec.windows
    assert data.service().training.spec.training == Training()
    assert model.service().training.spec.training == service.training.spec.training
    assert model.service().training.spec.gate == Gate()
    assert whole.service().training.spec.gate == service.training.spec.gate
    assert whole.service().training.spec.evaluation == service.training.spec.evaluation
    assert {each.model for each in (data, model, whole)} == {"tiny"}


def test_settings_change_the_plans_that_read_them(tmp_path):
    project = copy(tmp_path / "tiny")
    before = make_plans(project, read_service(project))

    def changed(*changes: tuple[str, str]) -> list[bool]:
        other = copy(tmp_path / f"tiny-{len(list(tmp_path.iterdir()))}", *changes)
        return [one.code != two.code for one, two in zip(before, make_plans(other, read_service(other)), strict=True)]

    assert changed() == [False, False, False]
    assert changed(("championTolerance: 0.01", "championTolerance: 0.02")) == [False, False, True]
    assert changed(("epochs: 6", "epochs: 5")) == [False, True, True]
    assert changed(("holdout: 10d", "holdout: 9d")) == [True, True, True]


def _inputs(outcome: Outcome, step: str) -> dict[str, str]:
    """The parameters that a step was given, as its log tells them."""
    log = (outcome.result.folder / f"{step}.log").read_text()
    text = log.split("Got executor_input:\n", 1)[1]
    found, _ = json.JSONDecoder().raw_decode(text)
    return found["inputs"]["parameterValues"]
