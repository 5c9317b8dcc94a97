"""The registry on MLflow and sqlite: versions, aliases, files, and what is left when something fails."""

import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from serinus.core.errors import EngineError, IntegrityError, InvalidInput, NotFound
from serinus.core.version import CHALLENGER, CHAMPION
from serinus.engines.files import sha256
from serinus.engines.mlflow import Registry
from tests.support_registry import archive, record

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*model_archiver.version.txt:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes longer than all that a test does with them."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert Registry(f"sqlite:///{path}").names() == ()
    return path


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Path:
    """A folder, with a blank in its name, that holds a registry's database."""
    home = tmp_path / "a home"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    return home


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(f"sqlite:///{home / 'mlflow.db'}", str(home / "artifacts"))


def statuses(home: Path) -> list[str]:
    return [status for (status,) in sql(home, "select status from runs order by start_time")]


def sql(home: Path, statement: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(home / "mlflow.db")) as connection, connection:
        return connection.execute(statement).fetchall()


def stored_files(home: Path) -> list[Path]:
    return [path for path in (home / "artifacts").rglob("*") if path.is_file()]


def test_a_version_comes_back_as_it_was_registered(registry: Registry, home: Path, tmp_path: Path) -> None:
    path, digest = archive(tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<p>")
    kept = record(attachments={"evaluation": (tmp_path / "report",), "gate": (tmp_path / "handler.py",)})
    version = registry.register(kept, path, digest)
    assert (version.name, version.version, version.digest, version.aliases) == ("flights", 1, digest, ())
    assert version.lineage == kept.lineage
    assert version.metrics == kept.metrics
    assert registry.get("flights", 1) == version
    assert registry.versions("flights") == (version,)
    assert registry.names() == ("flights",)
    kept_files = {"/".join(path.parts[-2:]) for path in stored_files(home)}
    assert kept_files == {"archive/flights.mar", "evaluation/report.html", "gate/handler.py", "artifacts/card.md"}


def test_what_mlflow_shows_to_people(registry: Registry, home: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    path, digest = archive(tmp_path)
    version = registry.register(record(), path, digest)
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}", f"sqlite:///{home / 'mlflow.db'}")
    run = client.get_run(version.run)
    assert run.data.metrics == {"roc_auc": 0.741, "log_loss": 0.47, "slice.origin.JFK.roc_auc": 0.75}
    assert run.data.params == {"epochs": "8", "hidden": "[64, 32]", "parameters.dropout": "0.1"}
    shown = client.get_model_version("flights", "1")
    assert shown.description == "# flights\n\nA card.\n"
    searchable = {"digest", "data_digest", "code_digest", "schema_digest", "as_of", "pipeline_run"}
    assert searchable <= set(shown.tags)
    assert shown.tags["digest"] == digest


def test_the_same_archive_again_is_the_same_version(registry: Registry, home: Path, tmp_path: Path) -> None:
    path, digest = archive(tmp_path)
    first = registry.register(record("run-1"), path, digest)
    assert registry.register(record("run-2"), path, digest) == first
    assert statuses(home) == ["FINISHED"]


def test_a_long_card_is_cut_in_the_description_but_kept_whole(registry: Registry, home: Path, tmp_path: Path) -> None:
    path, digest = archive(tmp_path)
    card = "x" * 9000
    registry.register(record().model_copy(update={"card": card}), path, digest)
    ((description,),) = sql(home, "select description from model_versions")
    assert len(description) == 5000
    assert next(home.rglob("card.md")).read_text() == card


def test_aliases_move_in_one_call_and_promotion_clears_the_challenger(registry: Registry, tmp_path: Path) -> None:
    for number in (1, 2):
        registry.register(record(f"run-{number}"), *archive(tmp_path / str(number), bytes([number])))
    registry.set_alias("flights", CHAMPION, 1)
    registry.set_alias("flights", CHALLENGER, 2)
    assert [(item.version, item.aliases) for item in registry.versions("flights")] == [
        (2, (CHALLENGER,)),
        (1, (CHAMPION,)),
    ]
    for _ in range(2):
        registry.promote("flights", 2)
        assert registry.get("flights", CHAMPION).version == 2
        assert registry.find("flights", CHALLENGER) is None
    assert registry.get("flights", 1).aliases == ()


def test_what_does_not_exist_is_said_with_what_does(registry: Registry, tmp_path: Path) -> None:
    assert registry.find("flights", CHAMPION) is None
    assert registry.versions("flights") == ()
    with pytest.raises(NotFound, match=r"no version yet.*none yet"):
        registry.get("flights", CHAMPION)
    registry.register(record(), *archive(tmp_path))
    with pytest.raises(NotFound, match=r"no version champion.*it has: 1"):
        registry.get("flights", CHAMPION)
    with pytest.raises(NotFound, match="no version 7"):
        registry.set_alias("flights", CHAMPION, 7)
    with pytest.raises(NotFound, match="registered models: flights"):
        registry.get("fligths", 1)
    with pytest.raises(InvalidInput, match="cannot name a model"):
        registry.get("x' or name = 'flights", 1)


def test_fetch_verifies_and_is_read_only(registry: Registry, tmp_path: Path) -> None:
    path, digest = archive(tmp_path)
    version = registry.register(record(), path, digest)
    fetched = registry.fetch(version, tmp_path / "out")
    assert fetched.name == "flights-1.mar"
    assert sha256(fetched) == digest
    assert stat.S_IMODE(fetched.stat().st_mode) == 0o444
    before = fetched.stat().st_ino
    assert registry.fetch(version, tmp_path / "out").stat().st_ino == before
    fetched.chmod(0o644)
    fetched.write_bytes(b"damaged")
    assert sha256(registry.fetch(version, tmp_path / "out")) == digest
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["flights-1.mar"]


def test_a_stored_archive_that_was_swapped_or_lost_is_not_handed_out(
    registry: Registry, home: Path, tmp_path: Path
) -> None:
    version = registry.register(record(), *archive(tmp_path / "a"))
    stored = next(home.rglob("*.mar"))
    shutil.copy(archive(tmp_path / "b", b"others")[0], stored)
    with pytest.raises(IntegrityError, match=r"version 1 is damaged or was replaced: expected sha256.* found"):
        registry.fetch(version, tmp_path / "out")
    stored.unlink()
    with pytest.raises(EngineError, match=r"could not read flights\.mar"):
        registry.fetch(version, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_package_that_changed_since_it_was_written_is_not_stored(registry: Registry, tmp_path: Path) -> None:
    path, digest = archive(tmp_path)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(IntegrityError, match="package the model again"):
        registry.register(record(), path, digest)
    assert registry.versions("flights") == ()


def test_a_refused_run_is_kept_once_and_has_no_version(registry: Registry, home: Path) -> None:
    run = registry.keep(record(accepted=False))
    assert registry.keep(record(accepted=False)) == run
    assert registry.keep(record("run-2", accepted=False)) != run
    assert registry.versions("flights") == ()
    assert statuses(home) == ["FINISHED", "FINISHED"]


def test_two_archives_at_once_are_two_versions_and_one_archive_twice_is_one(home: Path, tmp_path: Path) -> None:
    uri, artifacts = f"sqlite:///{home / 'mlflow.db'}", str(home / "artifacts")
    archives = [archive(tmp_path / str(number), bytes([number // 2])) for number in range(4)]

    def register(number: int) -> int:
        return Registry(uri, artifacts).register(record(f"run-{number}"), *archives[number]).version

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(register, range(4)))
    assert numbers[0] == numbers[1]
    assert numbers[2] == numbers[3]
    versions = Registry(uri, artifacts).versions("flights")
    assert {item.version for item in versions} == set(numbers)
    assert {item.digest for item in versions} == {digest for _, digest in archives}
    for version in versions:
        assert sha256(Registry(uri, artifacts).fetch(version, tmp_path / "out")) == version.digest


REGISTER_WITH_LITTLE_SPACE = """
    import resource, sys
    from pathlib import Path
    from serinus.core.errors import EngineError
    from serinus.core.version import RunRecord
    from serinus.engines.mlflow import Registry

    home, path, digest, record = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    registry = Registry(f"sqlite:///{home / 'mlflow.db'}", str(home / "artifacts"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]), resource.RLIM_INFINITY))
    try:
        registry.register(RunRecord.model_validate_json(record), path, digest)
    except EngineError as error:
        print(error)
        sys.exit(error.exit_code)
"""


def test_a_full_disk_leaves_nothing_half_registered_and_a_retry_works(
    registry: Registry, home: Path, tmp_path: Path
) -> None:
    path, digest = archive(tmp_path, bytes(6 << 20))
    limit = 4 << 20  # above the database's size, below the archive's
    assert (home / "mlflow.db").stat().st_size < limit < path.stat().st_size
    command = [sys.executable, "-c", textwrap.dedent(REGISTER_WITH_LITTLE_SPACE)]
    arguments = [str(home), str(path), digest, record().model_dump_json(), str(limit)]
    failed = subprocess.run(command + arguments, capture_output=True, text=True, timeout=120, check=False)
    assert failed.returncode == EngineError.exit_code, failed.stderr
    assert "nothing was registered" in failed.stdout
    assert "File too large" in failed.stdout
    assert "Traceback" not in failed.stderr
    assert registry.versions("flights") == ()
    assert statuses(home) == ["FAILED"]
    assert stored_files(home) == []
    version = registry.register(record(), path, digest)
    assert version.version == 1
    assert sha256(registry.fetch(version, tmp_path / "out")) == digest


def test_a_database_that_fails_at_the_last_step_leaves_no_version(
    registry: Registry, home: Path, tmp_path: Path
) -> None:
    path, digest = archive(tmp_path)
    sql(home, "create trigger full before insert on model_versions begin select raise(abort, 'disk is full'); end")
    with pytest.raises(EngineError, match="could not create a version") as failure:
        registry.register(record(), path, digest)
    assert failure.value.__cause__ is not None
    assert registry.versions("flights") == ()
    assert statuses(home) == ["FAILED"]
    assert stored_files(home) == []
    sql(home, "drop trigger full")
    assert registry.register(record(), path, digest).version == 1


def test_a_registry_that_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(EngineError, match=r"file is not a database.*mlflow\.db"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}").versions("flights")
