"""What a run starts from: the time it looks back from, and the version that its candidate must not be worse than."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from serinus.core.errors import InvalidInput
from serinus.core.times import utc
from serinus.core.version import CHAMPION, ModelVersion

if TYPE_CHECKING:
    from serinus.core.platform import Platform
    from serinus.engines.mlflow import Registry
    from serinus.training.evaluate import Champion


def start_time(text: str) -> datetime:
    """Read an as-of time and cut it to the full hour.

    Runs within the hour then look at the same data, and find what an earlier one computed.

    Raises:
        InvalidInput: the text is no time.
    """
    try:
        moment = utc(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a time", hint="write it like 2013-08-02T12:00:00Z") from error
    return moment.replace(minute=0, second=0, microsecond=0)


def opponent(
    registry: Registry, model: str, as_of: datetime, data_digest: str, code_digest: str
) -> ModelVersion | None:
    """The version that a run's candidate is compared with: the champion.

    When the champion is itself what this run would make, from the same data and code at the same time, then it is what
    the champion was compared with: repeating a run gives the same answer, and needs no new computation.
    """
    champion = registry.find(model, CHAMPION)
    if champion is None:
        return None
    made = champion.lineage
    if (made.as_of, made.data_digest, made.code_digest) != (as_of, data_digest, code_digest):
        return champion
    return registry.find(model, made.compared_with) if made.compared_with is not None else None


def name_version(version: ModelVersion | None) -> str:
    """A version as one word that changes when its content does, for caching to go by; empty for None."""
    return f"{version.version}@{version.digest}" if version else ""


def bring_champion(platform: Platform, model: str, named: str, folder: Path) -> Champion | None:
    """Fetch the version that `name_version` named and open it in `folder`; None for none.

    Raises:
        NotFound: the version was removed meanwhile.
        IntegrityError: its archive is not the one that was registered.
    """
    if not named:
        return None
    from serinus.engines.archive import MODEL, SIGNATURE, read_archive
    from serinus.engines.mlflow import Registry
    from serinus.training.evaluate import Champion

    number, _, digest = named.partition("@")
    registry = Registry(platform.tracking_uri, platform.artifact_uri)
    path = registry.fetch(registry.get(model, int(number)), folder)
    with read_archive(path, digest) as archive:
        archive.extract(folder)
    return Champion(version=int(number), model=folder / MODEL, signature=folder / SIGNATURE)
