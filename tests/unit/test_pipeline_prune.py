"""Old runs go, but never what a kept run used; files only, as the rule looks at nothing else."""

import json
import os

import pytest

from serinus.engines.kfp_prune import prune


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".cache").mkdir()
    return tmp_path


def at(path, second):
    os.utime(path, (second, second))


def run(root, number):
    """A run that ended at a second, with one thing made."""
    folder = root / f"run-{number}"
    (folder / "training" / "train").mkdir(parents=True)
    (folder / "training" / "train" / "model").write_text("made")
    (folder / "run.log").touch()
    at(folder / "run.log", number)


def entry(root, key, number, used):
    """A cache entry that refers to what a run made, last used at a second."""
    artifact = {"uri": str((root / f"run-{number}" / "training" / "train" / "model").absolute())}
    path = root / ".cache" / f"{key}.json"
    path.write_text(json.dumps({"model": artifact, "many": {"artifacts": [artifact]}, "rows": 3}))
    path.with_suffix(".digests").touch()
    at(path, used)


def names(root):
    return {path.name for path in root.iterdir() if path.name != ".cache"}, {
        path.name for path in (root / ".cache").iterdir()
    }


def test_the_newest_runs_stay_and_older_ones_go_with_what_nobody_used_since(root):
    for number in range(10, 60, 10):
        run(root, number)
        entry(root, f"of-{number}", number, used=number - 1)
    assert set(prune(root, root / ".cache", kept=2)) == {"run-10", "run-20", "run-30"}
    runs, entries = names(root)
    assert runs == {"run-40", "run-50"}
    assert entries == {"of-40.json", "of-40.digests", "of-50.json", "of-50.digests"}


def test_a_run_whose_result_a_kept_one_used_stays_whole(root):
    for number in range(10, 60, 10):
        run(root, number)
    entry(root, "reused", 10, used=45)
    entry(root, "unused", 20, used=30)
    assert set(prune(root, root / ".cache", kept=2)) == {"run-20", "run-30"}
    runs, entries = names(root)
    assert runs == {"run-10", "run-40", "run-50"}
    assert entries == {"reused.json", "reused.digests"}
    assert (root / "run-10" / "training" / "train" / "model").read_text() == "made"


def test_few_runs_are_left_alone_and_so_is_what_is_no_run(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "run.log").touch()
    at(elsewhere / "run.log", 1)
    (root / "linked").symlink_to(elsewhere)
    (root / "mine").mkdir()
    (root / ".lock").touch()
    run(root, 10)
    entry(root, "old", 10, used=1)
    assert prune(root, root / ".cache", kept=1) == []
    run(root, 20)
    (root / ".cache" / "damaged.json").write_text("{")
    assert prune(root, root / ".cache", kept=1) == ["run-10"]
    assert names(root)[0] == {"linked", "mine", ".lock", "run-20"}
    assert (elsewhere / "run.log").exists()
