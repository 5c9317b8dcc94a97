"""What Feast is told: entities, views over the sources that `Flights.ingest` fills, request fields, the service.

A source's path is its name: Serinus puts it where the platform keeps offline data. A TTL is a little longer than the
cadence of its source, so that a value is either fresh or missing. Tags `min` and `max` are bounds that ingested values
must keep.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.types import Float64, Int64, String

SHARE = {"min": "0", "max": "1"}
COUNT = {"min": "0"}

origin = Entity(name="origin", value_type=ValueType.STRING, description="Airport of departure, by IATA code")
dest = Entity(name="dest", value_type=ValueType.STRING, description="Airport of arrival, by IATA code")
carrier = Entity(name="carrier", value_type=ValueType.STRING, description="Airline, by IATA code")
tailnum = Entity(name="tailnum", value_type=ValueType.STRING, description="Aircraft, by tail number")


def _source(name: str) -> FileSource:
    return FileSource(name=name, path=name, timestamp_field="known_at")


def _delays(kind: str, *windows: str) -> list[Field]:
    return [
        field
        for window in windows
        for field in (
            Field(name=f"{kind}_delay_{window}", dtype=Float64),
            Field(name=f"{kind}_late_{window}", dtype=Float64, tags=SHARE),
        )
    ]


WAITING = [Field(name="waiting_3h", dtype=Float64, tags=SHARE), Field(name="delay_so_far_3h", dtype=Float64)]

origin_hourly = FeatureView(
    name="origin_hourly",
    description="Delays at the airport of departure over the last hours, and what the schedule holds next",
    entities=[origin],
    ttl=timedelta(hours=2),
    schema=[
        Field(name="departures_3h", dtype=Int64, tags=COUNT),
        *_delays("departure", "1h", "3h", "24h"),
        *WAITING,
        *_delays("arrival", "6h"),
        Field(name="scheduled_ahead", dtype=Int64, tags=COUNT),
    ],
    source=_source("origin_hourly"),
)

carrier_hourly = FeatureView(
    name="carrier_hourly",
    description="Delays of the airline's flights from New York over the last day",
    entities=[carrier],
    ttl=timedelta(hours=2),
    schema=[
        Field(name="departures_24h", dtype=Int64, tags=COUNT),
        *_delays("departure", "3h", "24h"),
        *WAITING,
        *_delays("arrival", "24h"),
    ],
    source=_source("carrier_hourly"),
)

route_sixhourly = FeatureView(
    name="route_sixhourly",
    description="Delays on the route over the last day and week",
    entities=[origin, dest],
    ttl=timedelta(hours=7),
    schema=[Field(name="arrivals_7d", dtype=Int64, tags=COUNT), *_delays("arrival", "24h", "7d")],
    source=_source("route_sixhourly"),
)

weather = FeatureView(
    name="weather",
    description="The last hourly observation at the airport of departure, in the units of the American service",
    entities=[origin],
    ttl=timedelta(hours=2),
    schema=[
        Field(name="temp", dtype=Float64, tags={"min": "-60", "max": "140"}),
        Field(name="dewp", dtype=Float64, tags={"min": "-100", "max": "110"}),
        Field(name="humid", dtype=Float64, tags={"min": "0", "max": "100"}),
        Field(name="wind_dir", dtype=Float64, tags={"min": "0", "max": "360"}),
        Field(name="wind_speed", dtype=Float64, tags={"min": "0"}),
        Field(name="wind_gust", dtype=Float64, tags={"min": "0"}),
        Field(name="precip", dtype=Float64, tags={"min": "0"}),
        Field(name="pressure", dtype=Float64, tags={"min": "850", "max": "1100"}),
        Field(name="visib", dtype=Float64, tags={"min": "0"}),
    ],
    source=_source("weather"),
)

planes = FeatureView(
    name="planes",
    description="The registry's entry of the aircraft; it does not expire",
    entities=[tailnum],
    ttl=None,
    schema=[
        Field(name="year", dtype=Float64, tags={"min": "1900", "max": "2013"}),
        Field(name="seats", dtype=Int64, tags={"min": "1"}),
        Field(name="engines", dtype=Int64, tags={"min": "1"}),
        Field(name="manufacturer", dtype=String),
        Field(name="engine", dtype=String),
    ],
    source=_source("planes"),
)

request = RequestSource(
    name="flights_request",
    description="What the application sends beside the keys; a key named here is an input of the model too",
    schema=[
        Field(name="carrier", dtype=String),
        Field(name="origin", dtype=String),
        Field(name="dest", dtype=String),
        Field(name="weekday", dtype=String),
        Field(name="hour", dtype=Int64),
        Field(name="distance", dtype=Int64),
        Field(name="duration", dtype=Int64),
    ],
)

flights = FeatureService(
    name="flights",
    description="Inputs of the model of late arrivals. A model with other inputs gets a service of its own",
    features=[origin_hourly, carrier_hourly, route_sixhourly, weather, planes],
    tags={"request": "flights_request"},
)
