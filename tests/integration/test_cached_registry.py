"""What the operator remembers of the registry: numbers for ever, aliases for a moment, and not at all what it moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from serinus.core.errors import NotFound
from serinus.core.version import CHALLENGER, CHAMPION
from serinus.engines.mlflow import Registry
from serinus.operator.parts import CachedRegistry
from tests.support_registry import archive, record

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*model_archiver.version.txt:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A registry with three versions of `flights`."""
    folder = tmp_path_factory.mktemp("registry")
    place = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")
    for number in (1, 2, 3):
        path, digest = archive(folder / str(number), model=str(number).encode())
        assert Registry(*place).register(record(f"run-{number}"), path, digest).version == number
    return place


def test_an_alias_that_somebody_else_moves_is_seen_a_moment_later(place: tuple[str, str]) -> None:
    other, remembering, forgetting = Registry(*place), CachedRegistry(*place, 3600), CachedRegistry(*place, 0)
    other.promote("flights", 1)
    for registry in (remembering, forgetting):
        assert registry.get("flights", CHAMPION).version == 1
        assert registry.find("flights", CHALLENGER) is None
    other.set_alias("flights", CHALLENGER, 2)
    assert remembering.find("flights", CHALLENGER) is None
    found = forgetting.find("flights", CHALLENGER)
    assert found is not None
    assert found.version == 2
    other.promote("flights", 2)
    assert remembering.get("flights", CHAMPION).version == 1
    assert forgetting.get("flights", CHAMPION).version == 2


def test_what_it_moves_itself_it_knows_at_once(place: tuple[str, str]) -> None:
    registry = CachedRegistry(*place, 3600)
    registry.promote("flights", 3)
    assert registry.get("flights", CHAMPION).version == 3
    registry.set_alias("flights", CHALLENGER, 1)
    found = registry.find("flights", CHALLENGER)
    assert found is not None
    assert found.version == 1
    registry.promote("flights", 1)
    assert (registry.get("flights", CHAMPION).version, registry.find("flights", CHALLENGER)) == (1, None)


def test_a_version_is_asked_for_once(place: tuple[str, str], tmp_path: Path) -> None:
    registry = CachedRegistry(*place)
    first = registry.get("flights", 2)
    assert first.digest == Registry(*place).get("flights", 2).digest
    assert registry.get("flights", 2) is first
    with pytest.raises(NotFound, match="no version 7"):
        registry.get("flights", 7)
    assert registry.fetch(first, tmp_path).is_file()
