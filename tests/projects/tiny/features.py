"""What Feast holds for the tiny project."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
city = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)

shop_hourly = FeatureView(
    name="shop_hourly",
    entities=[shop],
    ttl=timedelta(hours=2),
    schema=[Field(name="queue", dtype=Float64), Field(name="staff", dtype=Int64)],
    source=FileSource(name="shop_hourly", path="shop_hourly", timestamp_field="known_at"),
)
city_daily = FeatureView(
    name="city_daily",
    entities=[city],
    ttl=timedelta(days=2),
    schema=[Field(name="price", dtype=Float64)],
    source=FileSource(name="city_daily", path="city_daily", timestamp_field="known_at"),
)

tiny = FeatureService(name="tiny", features=[shop_hourly, city_daily])
