"""Notices that the definitions of our kinds were deleted and made again, or came after the operator.

kopf asks which kinds are served when a definition changes. One that the API server has taken but does not serve yet it
does not ask for again, and watches nothing any more. So an operator whose definitions are not those that it began with
begins anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from serinus.core.errors import EngineError
from serinus.engines.kubernetes import DEFINITION, Cluster, Kind

log = logging.getLogger(__name__)

_SECONDS = 5.0


class Definitions:
    """The definitions of some kinds.

    Args:
        cluster: where they are.
        kinds: whose they are.
        seconds: between two looks.
    """

    def __init__(self, cluster: Cluster, kinds: Sequence[Kind], seconds: float = _SECONDS) -> None:
        self._cluster = cluster
        self._kinds = kinds
        self._seconds = seconds

    def which(self) -> frozenset[str] | None:
        """Those that there are, by their uids; None while one is missing, or its kind is not served.

        Raises:
            EngineError: the API server does not tell.
        """
        found = [self._served(kind) for kind in self._kinds]
        return frozenset(each for each in found if each is not None) if None not in found else None

    def follow(self, stop: threading.Event) -> bool:
        """Look until they are others than in the beginning, which is true, or until it is told to stop."""
        known: list[frozenset[str] | None] = []
        while not stop.is_set():
            try:
                found = self.which()
            except EngineError as error:
                log.warning("whether definitions were replaced is not known: %s", error)
            else:
                known = known or [found]
                if found is not None and found != known[0]:
                    log.info("the definitions of our kinds were made anew: this operator begins anew")
                    return True
            stop.wait(self._seconds)
        return False

    def _served(self, kind: Kind) -> str | None:
        group = kind.api_version.partition("/")[0]
        found = self._cluster.get(DEFINITION, None, f"{kind.plural}.{group}")
        conditions = found.get("status", {}).get("conditions", ()) if found is not None else ()
        if found is None or "deletionTimestamp" in found["metadata"]:
            return None
        served = any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
        return str(found["metadata"]["uid"]) if served else None
