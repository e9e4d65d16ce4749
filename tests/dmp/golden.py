"""Golden data of the families in SQL: a few events each, and the tags that follow from the rule at the head of the
family's file, worked out by hand. `NOW_US` is noon UTC of a Friday.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from dmp import offline, persons, tagging, taxonomy
from dmp.engine import DuckEngine, Engine, family_sql
from dmp.events import Cart, Conversion, Location, Purchase, Search, View
from dmp.family_columns import WEIGHT_COLUMNS
from tests.dmp.factories import NOW_US, act, customer

MINUTE, HOUR = 1 / 1440, 1 / 24
UNIT = 1_000_000


class Case(NamedTuple):
    """weights: of event ids that do not count in full. tags: {user: {tag: score}}."""

    name: str
    family: str
    events: list[Any]
    tags: Mapping[int, Mapping[str, int]]
    weights: Mapping[str, float] = {}


def bought(n: int, units: float, days_ago: float = 0.0, **fields: Any) -> Any:
    return act(n, Purchase, days_ago, value_micros=int(units * UNIT), **({"category": "food"} | fields))


def several(times: int, n: int, **fields: Any) -> list[Any]:
    return [act(n, **fields) for _ in range(times)]


CASES = (
    Case(
        "acts are weighted and halved every 21 days; a parent gets half of its child's",
        "interest",
        [
            act(1, View, category="interest.shopping.supermarket"),  # 1, and 0.5 for shopping
            act(2, View, category="interest.shopping"),  # 1
            act(3, Purchase, 21, category="interest.shopping.supermarket"),  # 8 / 2 = 4, and 2 for shopping
        ],
        {
            1: {"interest.shopping.supermarket": 50, "interest.shopping": 33},
            2: {"interest.shopping": 66},
            3: {"interest.shopping.supermarket": 100, "interest.shopping": 100},
        },
    ),
    Case(
        "a fake purchase of a quarter's weight is worth two views",
        "interest",
        [
            act(1, Purchase, category="travel", event_id="fake"), *several(3, 2, category="travel"),
            act(3, category="travel"),
        ],
        {1: {"interest.travel": 66}, 2: {"interest.travel": 100}, 3: {"interest.travel": 33}},
        {"fake": 0.25},
    ),
    Case(
        "equals share the quintile of the middle of their places",
        "rfm",
        [
            act(1),
            act(2, days_ago=5), act(3, days_ago=5.2),  # the same whole days
            act(4, days_ago=10), bought(4, 30, 10),
            *several(2, 5, days_ago=20), bought(5, 10, 20),
        ],
        # recency, oldest first: 5 | 4 | 2, 3 | 1 -> middles 0.5, 1.5, 3, 4.5 of 5
        # frequency: 1, 2, 3 | 4 | 5 -> middles 1.5, 3.5, 4.5 of 5; spend of two buyers: middles 0.5, 1.5 of 2
        {
            1: {"rfm.recency.5": 100, "rfm.frequency.2": 100},
            2: {"rfm.recency.4": 100, "rfm.frequency.2": 100},
            3: {"rfm.recency.4": 100, "rfm.frequency.2": 100},
            4: {"rfm.recency.2": 100, "rfm.frequency.4": 100, "rfm.monetary.4": 100},
            5: {"rfm.recency.1": 100, "rfm.frequency.5": 100, "rfm.monetary.2": 100},
        },
    ),
    Case(
        "two acts of a machine are less than one of a person",
        "rfm",
        [act(1, event_id="m1"), act(1, event_id="m2"), act(2)],
        {1: {"rfm.recency.3": 100, "rfm.frequency.2": 100}, 2: {"rfm.recency.3": 100, "rfm.frequency.4": 100}},
        {"m1": 0.25, "m2": 0.25},
    ),
    Case(
        "tiers follow from who is in the upper half of recency, orders and spend",
        "value",
        [
            bought(1, 100), bought(1, 100, HOUR),
            bought(2, 150),
            bought(3, 20, 40, order_id="a"), bought(3, 20, 40, order_id="a"), bought(3, 10, 40, order_id="b"),
            bought(4, 4, 40, order_id="c"), bought(4, 4, 40, order_id="c"), bought(4, 2, 40, order_id="c"),
            bought(5, 1000, 366),
        ],
        {
            1: {"value.tier.champion": 100},
            2: {"value.tier.develop": 100},
            3: {"value.tier.fading": 100},
            4: {"value.tier.hibernating": 100},
        },
    ),
    Case(
        "power is spend halved every 90 days; premium pays 1.3 times the mean of the category",
        "power",
        [bought(1, 10), bought(2, 30), bought(2, 30), bought(3, 10, 90)],  # the mean is 20
        {
            1: {"power.tier.3": 100},
            2: {"power.tier.5": 100, "power.price.premium": 100},  # 60 for what usually costs 40
            3: {"power.tier.1": 100},
        },
    ),
    Case(
        "a brand's tier is its price against the mean; loyalty the share of the favourite",
        "brand",
        [
            bought(1, 25, brand="A"), *(bought(2, 5, brand="B") for _ in range(3)),  # mean 10: A is 2.5, B 0.5 of it
            act(3, View, brand="A"),
            *(act(4, Purchase, brand=brand) for brand in "CDE"),
            *(act(5, Purchase, brand=brand) for brand in "CDEF"),
        ],
        {
            1: {"brand.tier.luxury": 100},
            2: {"brand.tier.value": 100, "brand.loyalty.loyal": 100},
            3: {"brand.tier.luxury": 50},
            4: {"brand.loyalty.repertoire": 100},  # a third
            5: {"brand.loyalty.switcher": 100},  # a quarter
        },
    ),
    Case(
        "sessions end after 30 minutes; days with an act are counted for 28",
        "habit",
        [
            act(1), act(1, days_ago=30 * MINUTE), act(1, days_ago=60 * MINUTE),
            act(2, days_ago=5), act(2, days_ago=5 + 31 * MINUTE),
            *(act(3, days_ago=days) for days in (20, 15, 12, 9)),
            *(act(4, days_ago=days) for days in range(12)),
            *several(5, 5, days_ago=40),
        ],
        {
            1: {"habit.recency.day": 100, "habit.frequency.light": 100, "habit.depth.browse": 100},
            2: {"habit.recency.week": 100, "habit.frequency.light": 100, "habit.depth.bounce": 100},
            3: {"habit.recency.month": 100, "habit.frequency.regular": 100, "habit.depth.bounce": 100},
            4: {"habit.recency.day": 100, "habit.frequency.heavy": 100, "habit.depth.bounce": 100},
            5: {"habit.recency.older": 100, "habit.depth.deep": 100},
        },
    ),
    Case(
        "a cart is abandoned when nothing of its category was bought since, a day long",
        "shopping",
        [
            act(1, Cart, 2, category="food"),
            act(2, Cart, 3, category="food"), bought(2, 5, 2.5),
            act(3, Cart, 4 * HOUR, category="food"),
            act(4, Cart, 16, category="food"), bought(4, 5, 20), bought(4, 5, 1, category="music"),
            bought(5, 5, 3, order_id="o"), bought(5, 5, 3, order_id="o"),
        ],
        # repeat buyers are halved every 14 days too: only user 4 has two orders
        {
            1: {"habit.shopping.cart_abandoner": 100},
            4: {"habit.shopping.cart_abandoner": 50, "habit.shopping.repeat_buyer": 100},
        },
    ),
    Case(
        "hours are local to the region",
        "time",
        [
            *several(5, 1),  # noon of a Friday
            *several(5, 2, region="Guangdong"),  # 20 h there
            *several(4, 3),  # too few
            *several(3, 4, days_ago=6), *several(2, 4),  # Saturday, 3 * 2^(-6/30) = 2.61, against 2
            *several(5, 5, days_ago=6),
        ],
        {
            1: {"time.daypart.noon": 100, "time.weekday.friday": 100, "time.rhythm.workdays": 100},
            2: {"time.daypart.evening": 100, "time.weekday.friday": 100, "time.rhythm.workdays": 100},
            4: {
                "time.daypart.noon": 100, "time.weekday.saturday": 56, "time.weekday.friday": 43,
                "time.rhythm.all_week": 100,
            },
            5: {"time.daypart.noon": 100, "time.weekday.saturday": 100, "time.rhythm.weekends": 100},
        },
    ),
    Case(
        "home is where most nights are, work where most workdays",
        "location",
        [
            *(act(1, days_ago=n - 2 * HOUR, region="CN-GD") for n in (1, 2, 3)),  # 22 h there
            *(act(1, days_ago=n + 10 * HOUR, region="北京") for n in (0, 1, 2)),  # 10 h of Friday, Thursday, Wednesday
            *(act(2, Location, n - 10 * HOUR, lat=48.14, lon=11.58) for n in (1, 2, 3)),  # 22 h UTC
            *(act(3, days_ago=n - 9 * HOUR, region="DE") for n in (20, 21, 22)),  # 22 h
            *(act(3, days_ago=n - 7 * HOUR, region="FR") for n in (1, 2, 3)),  # 20 h: neither night nor work
            *(act(4, days_ago=n - 2 * HOUR, region="CN-GD") for n in (1, 2)),  # two nights say nothing
        ],
        {
            1: {"location.home.cn_gd": 100, "location.work.other_region": 100, "location.mobility.commuter": 100},
            2: {"location.mobility.local": 100},
            3: {"location.home.europe": 100, "location.mobility.tourist": 100, "location.mobility.cross_border": 100},
        },
    ),
    Case(
        "who works at home works in the home region",
        "location",
        [
            *(act(1, days_ago=n - 2 * HOUR, region="CN-GD") for n in (1, 2, 3)),
            *(act(1, days_ago=n + 10 * HOUR, region="guangdong") for n in (0, 1, 2)),
        ],
        {1: {"location.home.cn_gd": 100, "location.work.same_region": 100, "location.mobility.local": 100}},
    ),
    Case(
        "devices have the share of acts, and of systems the most used counts",
        "device",
        [
            *several(3, 1, device="Mobile"), act(1, device="pc"),
            act(2, device="CTV"), act(2, days_ago=30, device="手机"),
            *several(2, 3, device="iOS"), act(3, device="Android"), act(3, device="abacus"),
        ],
        {
            1: {"device.type.phone": 75, "device.type.desktop": 25},
            2: {"device.type.tv": 66, "device.type.phone": 33},
            3: {"device.os.ios": 66},
        },
    ),
    Case(
        "channels have the share of weighted acts, from a tenth on",
        "channel",
        [
            act(1, Purchase, channel="E-mail"), act(1, channel="app"), act(1, channel="web"),
            act(2, channel="email"), act(2, Purchase, channel="app"), act(2, Purchase, channel="app"),
            act(3, Search, channel="smoke signals"),
        ],
        {1: {"channel.email": 80, "channel.app": 10, "channel.web": 10}, 2: {"channel.app": 94}},
    ),
    Case(
        "stages follow from when and how often somebody comes",
        "lifecycle",
        # The mean gap is 148 days over 12 gaps = 12.333; with two of them added the usual gaps are
        # 9.222, 11.166, 10.666, 13.933, 18.222 and 12.333 days.
        [
            act(1, days_ago=3), act(1),
            *(act(2, days_ago=days) for days in (70, 60, 50)),  # idle for 4.48 gaps
            *(act(3, days_ago=days) for days in (50, 40, 30, 20, 10, 0)),
            *(act(4, days_ago=days) for days in (45, 2, 1, 0)),
            *several(5, 5, days_ago=35), act(5, days_ago=5),  # exp(-5 / 18.222) = 0.76
            act(6, days_ago=20),  # exp(-20 / 12.333) = 0.198
            act(7, days_ago=181),
        ],
        {
            1: {"lifecycle.new": 100, "churn.low": 1},
            2: {"lifecycle.lost": 100, "churn.high": 98},
            3: {"lifecycle.mature": 100, "churn.low": 1},
            4: {"lifecycle.growing": 100, "churn.low": 1},
            5: {"lifecycle.declining": 100, "churn.low": 23},
            6: {"lifecycle.declining": 100, "churn.medium": 80},
        },
    ),
    Case(
        "who comes back is worth more, who stays away less",
        "ltv",
        # alpha 10 days. 1: 0.75 alive * 1/10 a day; 2: 1/(1 + 1/5) * 3/30; 3: 1/(1 + 7/3) * 1/70
        [bought(1, 100), bought(2, 100, 20), bought(2, 100, 10), bought(2, 100), bought(3, 100, 60)],
        {
            1: {"value.ltv.3": 100, "next_purchase.30d": 100},  # in (0 + 20) / 2 = 10 days
            2: {"value.ltv.5": 100, "next_purchase.30d": 100},  # in (20 + 20) / 4 = 10 days
            3: {"value.ltv.1": 100},  # 0.3 alive
        },
    ),
    Case(
        "the next purchase is due one gap after the last",
        "ltv",
        # gaps 6 days; 1/(1 + 1/4 * (18/12)^2) = 0.64 alive
        [bought(1, 5, 12), bought(1, 5, 6)],
        {1: {"value.ltv.3": 100, "next_purchase.7d": 100}},
    ),
    Case(
        "the youngest date of a category counts",
        "due",
        [
            customer(1, due_us=NOW_US + 20 * 86_400 * UNIT),
            act(2, Conversion, 1, due_us=NOW_US + 60 * 86_400 * UNIT),
            customer(3, 9, due_us=NOW_US + 20 * 86_400 * UNIT), customer(3, due_us=NOW_US + 200 * 86_400 * UNIT),
            bought(4, 5, 400, due_us=NOW_US - 10 * 86_400 * UNIT),
            bought(5, 5, 400, due_us=NOW_US + 20 * 86_400 * UNIT), bought(5, 5, 10),
            customer(6, due_us=NOW_US - 86_400 * UNIT),
        ],
        {1: {"contract.ends_30d": 100}, 2: {"contract.ends_90d": 100}, 4: {"contract.replacement_due": 100}},
    ),
    Case(
        "the youngest record that states it counts, and minors have no age",
        "demographic",
        [
            customer(1, 9, gender="f", birth_year=1994), customer(1, 1),  # 2024 - 1994 = 30
            customer(2, 9, gender="m", birth_year=2006), customer(2, 2, gender="f"),  # 18
            customer(3, birth_year=2007),
        ],
        {
            1: {"demographic.gender.female": 100, "demographic.age.25_34": 100},
            2: {"demographic.gender.female": 100, "demographic.age.18_24": 100},
        },
    ),
)  # fmt: skip


TABLES = ("events", "params", "taxonomy", "labels", "devices", "channels", "regions")


def prepared(case: Case, path: Path) -> dict[str, pa.Table]:
    """The tables that families read, of the case's events."""
    offline.write_events(path, case.events)
    rows = [("test", event_id, weight, "") for event_id, weight in case.weights.items()]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    weights = [pa.array(c, field.type) for c, field in zip(columns, WEIGHT_COLUMNS, strict=True)]
    with DuckEngine() as engine:
        tagging.scan(engine, [path], NOW_US)
        engine.table("persons", persons.PERSONS.empty_table())
        engine.create("copies", family_sql("copies"))
        engine.create("cleaned", family_sql("clean"))
        engine.table("weights", pa.table(weights, schema=WEIGHT_COLUMNS))
        engine.create("events", family_sql("weigh"))
        tagging.make_words(engine, [])
        return {name: engine.sql(f"SELECT * FROM {name}") for name in TABLES}  # noqa: S608 - ours


def family_tags(engine: Engine, case: Case, tables: Mapping[str, pa.Table]) -> dict[int, dict[str, int]]:
    """What the case's family makes of its events; every user and tag once."""
    for name, rows in tables.items():
        engine.table(name, rows)
    found: dict[int, dict[str, int]] = {}
    for row in engine.sql(family_sql(case.family)).to_pylist():
        tags = found.setdefault(int.from_bytes(row["uid"]), {})
        name = taxonomy.tag_name(row["tag"])
        assert name not in tags
        assert 0 <= row["as_of_day"] <= 20_000
        tags[name] = row["score"]
    return found
