"""The rollout of a replay: looked at by the data's clock, so that weeks of evidence come within minutes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from serinus.control.rollout import Controller
from serinus.core.errors import EngineError

log = logging.getLogger(__name__)

_ENDS = ("rollback", "undo", "confirm", "supersede")


@dataclass
class ReplayedRollout:
    """Called with the data's time, it looks once in each of the policy's intervals; the lease must be held."""

    controller: Controller
    _last: datetime | None = field(default=None, init=False)

    def __call__(self, now: datetime) -> bool:
        """Look if it is due; whether a rollout has ended.

        Raises:
            IntegrityError: the ledger is broken.
            NotFound: nothing is served, or the spec has no rollout.
        """
        if self._last is not None and not self._due(now - self._last):
            return False
        self._last = now
        try:
            decision = self.controller.look(now)
        except EngineError as error:  # the next look makes up for it
            log.error("%s", error)
            return False
        return decision.action in _ENDS or (decision.action == "promote" and decision.state.canary is None)

    def _due(self, passed: timedelta) -> bool:
        return not timedelta(0) <= passed < self.controller.policy().interval
