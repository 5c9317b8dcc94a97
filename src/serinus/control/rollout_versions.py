"""The registry's part of a rollout: which version the spec asks for, and who is champion when one was promoted."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from serinus.core.errors import IntegrityError, SerinusError
from serinus.core.profile import Profile
from serinus.core.rollout import Candidate, RolloutState
from serinus.core.spec.deployment import ModelRef
from serinus.core.version import CHALLENGER, CHAMPION, ModelVersion
from serinus.engines.archive import PROFILE, read_archive
from serinus.engines.mlflow import Registry

log = logging.getLogger(__name__)


class Candidates:
    """Versions as rollouts know them, by their digest. An archive is read once, however many deployments of a model ask
    for it at once."""

    def __init__(self) -> None:
        self._known: dict[str, Candidate] = {}
        self._reading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, version: ModelVersion, read: Callable[[ModelVersion], Candidate]) -> Candidate:
        """A version, read where it is not known; an error of that is remembered by nobody."""
        with self._lock:
            reading = self._reading.setdefault(version.digest, threading.Lock())
        with reading:
            known = self._known.get(version.digest)
            if known is None or known.version != version.version:
                known = self._known[version.digest] = read(version)
            return known


@dataclass
class RegistryVersions:
    """Versions by what the spec asks for. `champion` means: the challenger, if it is newer, may earn the place.

    Attributes:
        registry: where they are.
        model: what the spec asks for.
        known: what was read of versions; several deployments of a model may share it.
        serving: the version that is alone in front, where that is known. If it is what is asked for, nothing is to be
            rolled out, and its archive is not read.
    """

    registry: Registry
    model: ModelRef
    known: Candidates = field(default_factory=Candidates)
    serving: int | None = None
    _settled: int | None = field(default=None, init=False)

    def target(self) -> Candidate | None:
        """The version that is asked for; None where the registry cannot tell."""
        try:
            wanted = self._wanted()
            if wanted.version == self.serving:
                return Candidate(version=wanted.version, digest=wanted.digest)
            return self.candidate(wanted)
        except SerinusError as error:
            log.warning("the version that the spec asks for cannot be looked up: %s", error)
            return None

    def _wanted(self) -> ModelVersion:
        name, which = self.model.name, self.model.version
        if which != CHAMPION:
            return self.registry.get(name, which)
        champion, challenger = self.registry.get(name, CHAMPION), self.registry.find(name, CHALLENGER)
        return challenger if challenger is not None and challenger.version > champion.version else champion

    def candidate(self, version: ModelVersion) -> Candidate:
        """A version as the rollout knows it, with the predictions of its held-out period.

        One whose archive is not the one that was registered has none; that it can never be served shows when it is
        started, and is written down with the rollout that ends there.
        """
        try:
            return self.known.get(version, self._read)
        except IntegrityError as error:
            log.error("%s version %d: %s", version.name, version.version, error)
            return Candidate(version=version.version, digest=version.digest)

    def _read(self, version: ModelVersion) -> Candidate:
        with tempfile.TemporaryDirectory() as scratch:
            path = self.registry.fetch(version, Path(scratch))
            with read_archive(path, version.digest) as archive:
                profile = Profile.model_validate_json(archive.read(PROFILE))
        counts = profile.prediction.counts if profile.prediction is not None else ()
        return Candidate(version=version.version, digest=version.digest, expected=tuple(map(float, counts)))

    def settle(self, state: RolloutState) -> None:
        """Whoever was promoted is the champion, where the spec goes by aliases."""
        last = state.last
        promoted = last is not None and last.result == "promoted" and last.version == state.stable
        if not promoted or self._settled == state.stable or isinstance(self.model.version, int):
            return
        champion = self.registry.find(self.model.name, CHAMPION)
        if champion is None or champion.version != state.stable:
            self.registry.promote(self.model.name, state.stable)
        self._settled = state.stable
