"""Logged rows scored by both versions of a rollout, each segment of the log once.

A shipped segment never changes and scoring is deterministic, so what was found is kept beside the platform's state,
one file a segment. It may be deleted at any time: it is then made again, to the last bit.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core.dataset import EVENT_TIMESTAMP, ID
from serinus.core.errors import EngineError, InvalidData
from serinus.core.prediction_log import PREDICTION_ID, PROBABILITY, SERVED_AT, SHADOW, VERSION
from serinus.core.signature import Signature
from serinus.engines.archive import MODEL, SIGNATURE, read_archive
from serinus.engines.exported import ExportedModel, load_exported, one_thread
from serinus.engines.files import replacing
from serinus.engines.prediction_log import read_segment
from serinus.engines.prediction_store import PredictionStore

if TYPE_CHECKING:
    from serinus.core.version import ModelVersion

CANARY, STABLE = "canary", "stable"
ROLES = (CANARY, STABLE)
_TIME = pa.timestamp("us", tz="UTC")
_KEPT = (PREDICTION_ID, ID, SERVED_AT, EVENT_TIMESTAMP, PROBABILITY)
SCORED = pa.schema(
    [
        (PREDICTION_ID, pa.string()),
        (ID, pa.string()),
        (SERVED_AT, _TIME),
        (EVENT_TIMESTAMP, _TIME),
        (PROBABILITY, pa.float64()),
        (VERSION, pa.int64()),
        (CANARY, pa.float64()),
        (STABLE, pa.float64()),
    ]
)
"""A scored row. `probability` is what was answered; the last two are NaN where a version cannot score the row."""
_ABOUT = b"serinus"
# A row gives the same answer in any batch on one kind of machine; another kind may differ in the last digits.
_SAME = 1e-4

Fetch = Callable[["ModelVersion", Path], Path]
"""Brings a version's archive into a folder, its digest verified: the registry's `fetch`."""


class About(BaseModel):
    """What a segment held: all its rows, copies included; columns that a role needs and it lacks; rows that a version
    answered otherwise than it scores them now, and rows that it gives no probability."""

    model_config = ConfigDict(frozen=True)

    rows: int
    lacking: dict[str, tuple[str, ...]] = {}
    strange: int = 0
    unscored: int = 0


@dataclass(frozen=True)
class Segment:
    """One segment's rows that users were answered, as `SCORED`."""

    about: About
    table: pa.Table


@dataclass(frozen=True)
class Scorer:
    """A version's exported module behind its own signature."""

    version: int
    digest: str
    signature: Signature
    model: ExportedModel

    @classmethod
    def load(cls, version: ModelVersion, fetch: Fetch, folder: Path) -> Scorer:
        """Fetch a version's archive and load it, verified.

        Raises:
            IntegrityError: the archive is not the one that was registered.
            EngineError: it could not be had.
        """
        with read_archive(fetch(version, folder), version.digest) as archive, tempfile.TemporaryDirectory() as scratch:
            signature = Signature.model_validate_json(archive.read(SIGNATURE))
            file = Path(scratch) / MODEL
            file.write_bytes(archive.read(MODEL))
            return cls(version.version, version.digest, signature, load_exported(file))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.signature.columns)

    def lacking(self, table: pa.Table) -> tuple[str, ...]:
        """Columns that the version needs and the rows do not have."""
        return tuple(name for name in self.columns if name not in table.column_names)

    def score(self, table: pa.Table) -> NDArray[np.float64]:
        """Probabilities of logged rows, [n].

        Raises:
            InvalidData: a column is not of the signature's kind.
        """
        try:
            numbers, categories = self.signature.encode({name: table[name].to_numpy() for name in self.columns})
        except (ValueError, TypeError) as error:
            raise InvalidData(
                f"rows of the prediction log are not what version {self.version} takes: {error}"
            ) from error
        with one_thread():
            return self.model.probabilities(numbers, categories)


class PairScorer:
    """Both versions of a rollout, and what they gave for segments so far.

    Args:
        canary: the new version.
        stable: the one it is compared with.
        store: the log's destination.
        folder: where what was found is kept, for this pair of archives alone.
    """

    def __init__(self, canary: Scorer, stable: Scorer, store: PredictionStore, folder: Path) -> None:
        self.canary = canary
        self.stable = stable
        self._store = store
        self._folder = folder
        self.wanted = {*_KEPT, SHADOW, *canary.columns, *stable.columns}

    def segment(self, file: str) -> Segment:
        """A segment of the log, scored.

        Raises:
            EngineError: it cannot be read, or what was found cannot be kept.
            InvalidData: a column is not of a signature's kind.
        """
        kept = self._folder / file.rpartition("/")[2]
        found = _load(kept)
        if found is None:
            found = self._score(file)
            _keep(kept, found)
        return found

    def lacking(self, table: pa.Table) -> dict[str, tuple[str, ...]]:
        """For each role the columns that it needs and the rows do not have."""
        found = zip(ROLES, (self.canary.lacking(table), self.stable.lacking(table)), strict=True)
        return {role: absent for role, absent in found if absent}

    def _score(self, file: str) -> Segment:
        table = read_segment(self._store, file, self.wanted)
        rows = table.num_rows
        table = table.filter(pc.invert(table[SHADOW]))
        columns: dict[str, Any] = {name: table[name].cast(SCORED.field(name).type) for name in (*_KEPT, VERSION)}
        lacking = self.lacking(table) if table.num_rows else {}
        strange = unscored = 0
        for role, scorer in zip(ROLES, (self.canary, self.stable), strict=True):
            none = role in lacking or not table.num_rows
            given = np.full(table.num_rows, np.nan) if none else scorer.score(table)
            unscored += 0 if none else int(np.isnan(given).sum())
            own = table[VERSION].to_numpy() == scorer.version
            strange += int(np.sum(np.abs(given - columns[PROBABILITY].to_numpy())[own] > _SAME))
            columns[role] = given
        about = About(rows=rows, lacking=lacking, strange=strange, unscored=unscored)
        return Segment(about, pa.table([columns[name] for name in SCORED.names], schema=SCORED))


def pair_folder(folder: Path, canary: str, stable: str) -> Path:
    """Where what is known of two archives, by digest, is kept; what is known of other pairs is removed, as it is of
    rollouts that are over and can be made again."""
    name = hashlib.sha256(f"{canary} {stable}".encode()).hexdigest()[:16]
    for other in folder.glob("pair-*"):
        if other.name != f"pair-{name}":
            shutil.rmtree(other, ignore_errors=True)
    return folder / f"pair-{name}"


def _load(path: Path) -> Segment | None:
    """What was kept; None where there is nothing, or nothing whole."""
    try:
        table = pq.read_table(path, partitioning=None)
        about = About.model_validate_json(table.schema.metadata[_ABOUT])
    except (OSError, pa.ArrowException, ValidationError, KeyError, TypeError):
        return None
    table = table.replace_schema_metadata(None)
    return Segment(about, table) if table.schema.equals(SCORED) else None


def _keep(path: Path, segment: Segment) -> None:
    table = segment.table.replace_schema_metadata({_ABOUT: segment.about.model_dump_json().encode()})
    try:
        with replacing(path) as part:
            pq.write_table(table, part, compression="zstd")
    except OSError as error:
        raise EngineError(f"cannot keep scored rows in {path.parent}: {error}") from error
