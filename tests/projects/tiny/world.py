"""What happens in the tiny world: queues in shops, prices in cities, orders that are returned or kept."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SEED = 7
SHOPS = tuple(f"shop-{number}" for number in range(8))
CITIES = ("east", "west")
CHANNELS = ("web", "phone", "desk")
BEGIN, END = pd.Timestamp("2020-01-01", tz="UTC"), pd.Timestamp("2020-04-01", tz="UTC")
ORDERS_AN_HOUR = 4


@dataclass(frozen=True)
class World:
    """Feature rows of both sources, and the orders with their outcome and when it became known."""

    shops: pd.DataFrame
    cities: pd.DataFrame
    orders: pd.DataFrame


def draw() -> World:
    """The whole world, the same each time."""
    random = np.random.default_rng(SEED)
    hours = pd.date_range(BEGIN, END, freq="h", inclusive="left", unit="us")
    queue = random.gamma(2.0, 3.0, (len(hours), len(SHOPS)))
    # The last row before an order is the one of the hour before: a row is known ten minutes after its hour.
    shops = pd.DataFrame(
        {
            "shop": np.tile(np.array(SHOPS, dtype=object), len(hours)),
            "queue": queue.ravel(),
            "staff": random.integers(1, 6, queue.size),
            "happened_at": hours.repeat(len(SHOPS)),
        }
    )
    shops["known_at"] = shops["happened_at"] + pd.Timedelta(minutes=10)
    shops.loc[random.random(len(shops)) < 0.05, "queue"] = np.nan
    return World(shops, _cities(random), _orders(random, hours, queue))


def _cities(random: np.random.Generator) -> pd.DataFrame:
    days = pd.date_range(BEGIN, END, freq="D", inclusive="left", unit="us")
    frame = pd.DataFrame(
        {
            "city": np.tile(np.array(CITIES, dtype=object), len(days)),
            "price": random.normal(100, 15, len(days) * len(CITIES)),
            "happened_at": days.repeat(len(CITIES)),
        }
    )
    frame["known_at"] = frame["happened_at"] + pd.Timedelta(hours=1)
    return frame


def _orders(random: np.random.Generator, hours: pd.DatetimeIndex, queue: np.ndarray) -> pd.DataFrame:
    count = len(hours) * ORDERS_AN_HOUR
    hour = np.arange(len(hours)).repeat(ORDERS_AN_HOUR)
    shop = random.integers(0, len(SHOPS), count)
    channel = random.integers(0, len(CHANNELS), count)
    amount = random.exponential(40, count).round(2)
    logit = -2.2 + 0.25 * queue[hour, shop] + 0.01 * amount + np.array([0.6, 0.0, -0.6])[channel]
    asked = hours.repeat(ORDERS_AN_HOUR) + pd.Timedelta(minutes=30)
    return pd.DataFrame(
        {
            "id": [f"order-{number}" for number in range(count)],
            "event_timestamp": asked,
            "shop": np.array(SHOPS, dtype=object)[shop],
            "city": np.array(CITIES, dtype=object)[shop % len(CITIES)],
            "channel": np.array(CHANNELS, dtype=object)[channel],
            "amount": amount,
            "label": (random.random(count) < 1 / (1 + np.exp(-logit))).astype("int64"),
            "label_timestamp": asked + pd.Timedelta(hours=5),
        }
    )
