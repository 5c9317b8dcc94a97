"""Feature rows from raw events: what could be known at each moment, stamped with that moment.

A departure is known once the aircraft has left, an arrival once it has landed. Whoever has not left by `t` is known to
be waiting, and for how long: the freshest sign of trouble at an airport. Schedules are known all along.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .data import LATE, NEVER, Raw, minutes, timestamps
from .windows import Events, Grid, Ints, moments, ratio

HOUR, DAY = 60, 24 * 60
ALWAYS_KNOWN = pd.Timestamp("2012-12-31", tz="UTC")  # the registry of aircraft is older than every flight
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]

Floats = NDArray[np.float64]


class Sources:
    """The five feature sources over one set of raw data; events are sorted once and looked up ever after."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        flights = raw.flights
        self._first, self._last = int(flights["scheduled"].min()), int(flights["scheduled"].max())
        self._origins, origin = _codes(flights["origin"])
        self._carriers, carrier = _codes(flights["carrier"])
        self._routes, route = _codes(flights["origin"] + "-" + flights["dest"])
        self._origin = _History(flights, origin)
        self._carrier = _History(flights, carrier)
        self._route = _History(flights, route)
        self._weather = _weather(raw.weather)
        self._planes = _planes(raw.planes)

    def between(self, since: pd.Timestamp, until: pd.Timestamp) -> Mapping[str, pd.DataFrame]:
        """Rows of each source with `known_at` in `[since, until)`, in order of `known_at` and key."""
        hours = self._moments(since, until, HOUR)
        return {
            "origin_hourly": self._origin_rows(hours),
            "carrier_hourly": self._carrier_rows(hours),
            "route_sixhourly": self._route_rows(self._moments(since, until, 6 * HOUR)),
            "weather": _known(self._weather, since, until),
            "planes": _known(self._planes, since, until),
        }

    def _moments(self, since: pd.Timestamp, until: pd.Timestamp, step: int) -> Ints:
        bounds = minutes(pd.Series([since.ceil("min"), until.ceil("min")]))
        return moments(max(int(bounds[0]), self._first), min(int(bounds[1]), self._last + DAY), step)

    def _origin_rows(self, hours: Ints) -> pd.DataFrame:
        history = self._origin
        grid = history.active(Grid.over(len(self._origins), hours), DAY)
        return _frame(
            {"origin": self._origins[grid.entity]},
            grid,
            {
                "departures_3h": history.departures.count(grid, 3 * HOUR),
                **history.delays(grid, {"1h": HOUR, "3h": 3 * HOUR, "24h": DAY}),
                **history.waiting(grid, 3 * HOUR),
                **history.arrivals_late(grid, {"6h": 6 * HOUR}),
                "scheduled_ahead": history.scheduled_ahead(grid, since=2 * HOUR, until=4 * HOUR),
            },
        )

    def _carrier_rows(self, hours: Ints) -> pd.DataFrame:
        history = self._carrier
        grid = history.active(Grid.over(len(self._carriers), hours), DAY)
        return _frame(
            {"carrier": self._carriers[grid.entity]},
            grid,
            {
                "departures_24h": history.departures.count(grid, DAY),
                **history.delays(grid, {"3h": 3 * HOUR, "24h": DAY}),
                **history.waiting(grid, 3 * HOUR),
                **history.arrivals_late(grid, {"24h": DAY}),
            },
        )

    def _route_rows(self, hours: Ints) -> pd.DataFrame:
        history = self._route
        grid = history.active(Grid.over(len(self._routes), hours), 7 * DAY)
        origin, dest = np.array([name.split("-") for name in self._routes]).T.astype(object)
        return _frame(
            {"origin": origin[grid.entity], "dest": dest[grid.entity]},
            grid,
            {
                "arrivals_7d": history.arrivals.count(grid, 7 * DAY),
                **history.arrivals_late(grid, {"24h": DAY, "7d": 7 * DAY}),
            },
        )


class _History:
    """Departures, arrivals and schedules of some entity (an origin, a carrier, a route), by when they were known."""

    def __init__(self, flights: pd.DataFrame, entity: Ints) -> None:
        left, landed = (flights[name].to_numpy() != NEVER for name in ("departed", "arrived"))
        departure_delay, arrival_delay = flights["departure_delay"].to_numpy(), flights["arrival_delay"].to_numpy()
        departed, arrived = flights["departed"].to_numpy(), flights["arrived"].to_numpy()
        scheduled = flights["scheduled"].to_numpy()
        self.departures = Events(
            entity[left],
            departed[left],
            {"delay": departure_delay[left], "late": (departure_delay[left] > LATE).astype(np.int64)},
        )
        self.arrivals = Events(
            entity[landed],
            arrived[landed],
            {"delay": arrival_delay[landed], "late": (arrival_delay[landed] > LATE).astype(np.int64)},
        )
        self.schedule = Events(entity, scheduled, {"scheduled": scheduled, "departed": departed})

    def active(self, grid: Grid, width: int) -> Grid:
        """The grid where something was scheduled in the window before: no rows for what does not fly."""
        return grid.where(self.schedule.count(grid, width) > 0)

    def delays(self, grid: Grid, widths: Mapping[str, int]) -> dict[str, Floats]:
        """Mean delay of departures, and the share of late ones, over windows before."""
        return {
            f"departure_{name}_{window}": self.departures.mean(name, grid, width)
            for window, width in widths.items()
            for name in ("delay", "late")
        }

    def arrivals_late(self, grid: Grid, widths: Mapping[str, int]) -> dict[str, Floats]:
        """Mean delay of arrivals, and the share of late ones, over windows before."""
        return {
            f"arrival_{name}_{window}": self.arrivals.mean(name, grid, width)
            for window, width in widths.items()
            for name in ("delay", "late")
        }

    def waiting(self, grid: Grid, width: int) -> dict[str, Floats]:
        """Of flights scheduled in the window: the share not yet gone, and the mean delay as it stands."""
        element, event = self.schedule.members(grid, width)
        now = grid.time[element]
        scheduled, departed = self.schedule.values["scheduled"][event], self.schedule.values["departed"][event]
        gone = departed < now
        so_far = np.where(gone, departed - scheduled, now - scheduled)
        count = np.bincount(element, minlength=len(grid.time))
        waiting = np.bincount(element[~gone], minlength=len(grid.time))
        # bincount adds floats, but whole minutes below 2**53, so the sum is exact
        delay = np.bincount(element, weights=so_far, minlength=len(grid.time)).astype(np.int64)
        return {"waiting_3h": ratio(waiting, count), "delay_so_far_3h": ratio(delay, count)}

    def scheduled_ahead(self, grid: Grid, since: int, until: int) -> Ints:
        """Departures that the schedule holds for `[t + since, t + until)`."""
        return self.schedule.count(Grid(entity=grid.entity, time=grid.time + until), until - since)


def _codes(values: pd.Series[str]) -> tuple[NDArray[np.object_], Ints]:
    """The distinct values in order, and each value's position among them."""
    names, codes = np.unique(values.to_numpy(dtype=object), return_inverse=True)
    return names, codes.astype(np.int64)


def _frame(keys: Mapping[str, NDArray[np.object_]], grid: Grid, values: Mapping[str, Floats | Ints]) -> pd.DataFrame:
    """A state at `t` is both true and readable at `t`, as it is made of what came before."""
    moment = timestamps(grid.time)
    return pd.DataFrame({**keys, **values, "happened_at": moment, "known_at": moment})


def _weather(raw: pd.DataFrame) -> pd.DataFrame:
    """Hourly observations. One made within an hour is taken as readable when that hour has ended."""
    happened = pd.to_datetime(raw["time_hour"], utc=True).astype("datetime64[us, UTC]")
    frame = raw[["origin", *WEATHER]].astype(dict.fromkeys(WEATHER, np.float64))
    frame["happened_at"] = happened
    frame["known_at"] = happened + pd.Timedelta(hours=1).as_unit("us")
    return frame.sort_values(["known_at", "origin"], ignore_index=True)


def _planes(raw: pd.DataFrame) -> pd.DataFrame:
    frame = raw[["tailnum", "year", "seats", "engines", "manufacturer", "engine"]].copy()
    frame["manufacturer"] = frame["manufacturer"].str.split().str[0]  # AIRBUS INDUSTRIE is AIRBUS
    frame["happened_at"] = frame["known_at"] = ALWAYS_KNOWN.as_unit("us")
    return frame.sort_values("tailnum", ignore_index=True)


def _known(frame: pd.DataFrame, since: pd.Timestamp, until: pd.Timestamp) -> pd.DataFrame:
    known = frame["known_at"]
    return frame[(known >= since) & (known < until)].reset_index(drop=True)
