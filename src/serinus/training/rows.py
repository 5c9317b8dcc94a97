"""The rows of a dataset folder as the arrays a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from serinus.core.dataset import EVENT_TIMESTAMP, ID, LABEL, Dataset
from serinus.core.errors import InvalidData, NotFound
from serinus.core.signature import Signature
from serinus.core.times import Interval

ROWS_FILE = "rows.parquet"
DATASET_FILE = "dataset.json"
SIGNATURE_FILE = "signature.json"
PROFILE_FILE = "profile.json"

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Rows:
    """Labelled rows, in the dataset's order."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def ids(self) -> NDArray[Any]:
        return self.values(ID)

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 or 1, one a row."""
        return self.values(LABEL).astype(np.int64)

    @property
    def days(self) -> NDArray[np.int64]:
        """Days since 1970 (UTC) of the times of request."""
        stamps = pc.cast(self.table[EVENT_TIMESTAMP], pa.timestamp("us", tz="UTC"))
        found: NDArray[np.int64] = stamps.to_numpy().astype("datetime64[D]").astype(np.int64)
        return found

    def between(self, interval: Interval) -> Rows:
        """The rows whose request falls into the interval."""
        moments = self.table[EVENT_TIMESTAMP]
        since, until = (pa.scalar(moment, type=moments.type) for moment in (interval.since, interval.until))
        return Rows(self.table.filter(pc.and_(pc.greater_equal(moments, since), pc.less(moments, until))))

    def values(self, column: str) -> NDArray[Any]:
        """A column as an array: missing numbers are NaN, missing strings None."""
        found: NDArray[Any] = self.table[column].to_numpy()
        return found

    def encode(self, signature: Signature) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The two arrays of `Signature.encode`.

        Raises:
            InvalidData: a column that the signature names is not there.
        """
        names = [column.name for column in signature.columns]
        self.require(names, f"the signature of {signature.model}")
        return signature.encode({name: self.values(name) for name in names})

    def require(self, columns: Sequence[str], needed_by: str) -> None:
        """Raise InvalidData when a column is not there."""
        absent = [name for name in columns if name not in self.table.column_names]
        if absent:
            raise InvalidData(
                f"the dataset has no column {', '.join(absent)}, needed by {needed_by}",
                hint=f"it has: {', '.join(self.table.column_names)}",
            )


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset on disk: manifest, signature and rows."""

    manifest: Dataset
    signature: Signature
    rows: Rows

    @classmethod
    def read(cls, folder: Path) -> DatasetFolder:
        """Read the folder that the dataset step wrote.

        Raises:
            NotFound: one of its files is missing.
            InvalidData: one of its files is damaged, or the rows are not the manifest's.
        """
        manifest = read_json(Dataset, folder / DATASET_FILE)
        signature = read_json(Signature, folder / SIGNATURE_FILE)
        path = folder / ROWS_FILE
        try:
            table = pq.read_table(path)
        except FileNotFoundError as error:
            raise _absent(path) from error
        except (pa.ArrowException, OSError) as error:
            raise InvalidData(f"{path} cannot be read: {error}", hint="build the dataset again") from error
        if table.num_rows != manifest.rows:
            raise InvalidData(
                f"{path} has {table.num_rows} rows but its manifest says {manifest.rows}",
                hint="build the dataset again",
            )
        rows = Rows(table)
        rows.require([ID, EVENT_TIMESTAMP, LABEL], "training")
        return cls(manifest, signature, rows)

    def part(self, name: str) -> Rows:
        """The rows of `train`, `validation` or `holdout`.

        Raises:
            InvalidData: there are none, or all have the same label, so that nothing can be learned or judged.
        """
        interval: Interval = getattr(self.manifest.split, name)
        rows = self.rows.between(interval)
        classes = np.unique(rows.labels).tolist()
        if classes != [0, 1]:
            found = f"{len(rows)} rows" + (f", all with label {classes}" if classes else "")
            raise InvalidData(f"the {name} period ({interval}) has {found}; it needs labels 0 and 1", hint="widen it")
        return rows


def read_json(kind: type[Model], path: Path) -> Model:
    """Read one of our values from a JSON file."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise _absent(path) from error
    except ValidationError as error:
        raise InvalidData(f"{path} is not a {kind.__name__}: {error}", hint="make it again") from error


def _absent(path: Path) -> NotFound:
    return NotFound(f"there is no {path.name} in {path.parent}", hint="run the step that writes it again")
