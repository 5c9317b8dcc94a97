"""What a data scientist writes: one class that says where data comes from and what the model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from serinus.core.signature import Signature


class Project(ABC):
    """One model's data and architecture. Every method takes its times as arguments; none may read the clock.

    Times are UTC. The Feast definitions (entities, views, a feature service) live in a module `features` beside the
    class; each view's source has `known_at` as its timestamp field, so that a row is joined only once it was known.
    """

    @abstractmethod
    def ingest(self, since: datetime, until: datetime) -> Mapping[str, pd.DataFrame]:
        """Feature rows that became known in `[since, until)`, by source name.

        Each row has `happened_at` (when it became true) and `known_at` (when it could first be read), in UTC, with
        `happened_at <= known_at`. The same arguments give the same rows, and rows of adjoining intervals add up.
        """

    @abstractmethod
    def requests(self, since: datetime, until: datetime) -> pd.DataFrame:
        """What would have been asked in `[since, until)`: `id`, `event_timestamp`, join keys, request features."""

    @abstractmethod
    def labels(self, until: datetime) -> pd.DataFrame:
        """Outcomes known before `until`: `id`, `label` (0 or 1), `label_timestamp` (when it became known)."""

    @abstractmethod
    def model(self, params: Mapping[str, Any], signature: Signature) -> torch.nn.Module:
        """A module whose `forward(columns: dict[str, Tensor]) -> Tensor` gives one logit a row.

        Number columns are float32 with NaN where missing, category columns int64 codes (0 missing, 1 unknown, then
        the signature's categories). Scaling, embeddings and missing-value handling are the module's own; a `prepare`
        method, where there is one, is called once with the training columns before the first step.
        """

    @abstractmethod
    def fingerprint(self, until: datetime) -> str:
        """A digest of the raw data behind everything before `until`: it changes when, and only when, that data does."""
