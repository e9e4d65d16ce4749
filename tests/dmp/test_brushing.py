import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dmp import brushing, offline
from dmp.brushing import BY_CODE, DAY_US, HOUR_US, Orders, combined, judge, machine_days
from dmp.brushing_trial import KINDS, START_US, market, trial
from dmp.config import DmpConfig
from dmp.dense_block import dense_blocks
from dmp.engine import DuckEngine
from dmp.events import Purchase, Search, View
from dmp.taxonomy import tag_id
from tests.dmp.factories import NOW_US, act, user

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found():
    return trial(5_000, seed=5)


@pytest.mark.parametrize("kind", KINDS)
def test_fraud_of_each_kind_is_found(found, kind):
    assert found.recall[kind] >= 0.95


def test_honest_orders_are_left_alone(found):
    assert found.false_positive_rate <= 0.005
    assert found.honest_weight > 0.95
    assert found.fake_weight < 0.3


def test_the_market_holds_what_it_says():
    events, truth = market(2_000, seed=1)
    fakes = [kind for kind in truth.values() if kind]
    assert {kind: fakes.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 200)
    assert len(set(events["event_id"].to_pylist())) == len(events)


def test_a_market_without_fraud_loses_next_to_nothing():
    events, truth = market(3_000, seed=2)
    honest = events.filter(pa.array([not truth.get(event) for event in events["event_id"].to_pylist()]))
    with DuckEngine() as engine:
        engine.table("cleaned", honest)
        told = brushing.weights(engine, START_US + 60 * DAY_US)
    called = [w for w in told["weight"].to_pylist() if w <= 0.5]
    assert len(called) <= 0.005 * 3_000


def some(n=400, **columns):
    """Orders that nothing speaks against, with these columns instead."""
    rng = np.random.default_rng(0)
    usual = {
        "buyer": np.arange(n) // 4, "seller": rng.integers(0, 40, n), "item": rng.integers(0, 40, n),
        "address": np.arange(n) // 4, "ip": np.arange(n) // 4,
        "time_us": START_US + np.sort(rng.integers(0, 60 * DAY_US, n).reshape(-1, 4), axis=1).ravel(),
        "value": 1e6 * np.exp(rng.normal(0, 0.05, n)), "browsed": np.full(n, 3),
        "first_us": np.full(n, START_US - DAY_US),
    }  # fmt: skip
    return Orders(**usual | columns)


def spoken_of(orders, code):
    return np.flatnonzero(judge(orders)[code]).tolist()


def test_usual_orders_give_no_reason_to_doubt():
    told = judge(some())
    assert {code for code, which in told.items() if which.any()} <= {"B10"}
    assert told["B10"].sum() <= 2


def changed(column, where, values):
    data = getattr(some(), column).copy()
    data[where] = values
    return data


@pytest.mark.parametrize(("buyers", "speaks"), [(4, False), (5, True)])
def test_five_buyers_of_one_seller_behind_one_address_are_no_family(buyers, speaks):
    rows = np.arange(0, 4 * buyers, 4)  # the first order of each
    orders = some(address=changed("address", rows, 999), seller=changed("seller", rows, 7))
    assert (spoken_of(orders, "B01") == rows.tolist()) is speaks


def test_a_parcel_locker_serves_many_sellers():
    assert not spoken_of(some(address=changed("address", np.arange(0, 400, 4), 999)), "B01")


def test_what_is_not_told_shares_nothing():
    assert not spoken_of(some(address=np.full(400, -1), seller=np.full(400, 7)), "B01")
    assert not spoken_of(some(ip=np.full(400, 5), seller=np.full(400, -1)), "B02")


def test_buying_blind_counts_only_where_buyers_look_around():
    assert spoken_of(some(browsed=changed("browsed", [3, 9], 0)), "B03") == [3, 9]
    assert not spoken_of(some(browsed=np.zeros(400, int)), "B03")


def test_a_price_is_far_off_against_the_items_own_spread():
    item = changed("item", np.arange(20), 900)
    assert spoken_of(some(item=item, value=changed("value", 3, 3e6)), "B06") == [3]
    assert not spoken_of(some(item=item, value=changed("value", 3, 1.9e6)), "B06")  # not doubled
    assert not spoken_of(some(item=np.full(400, -1), value=changed("value", 3, 3e6)), "B06")


def test_even_gaps_of_different_things_are_a_script_and_of_one_thing_a_subscription():
    even = changed("time_us", np.arange(8), START_US + np.arange(8) * DAY_US)
    buyer = changed("buyer", np.arange(8), 0)
    assert spoken_of(some(time_us=even, buyer=buyer), "B07") == list(range(8))
    one = {"item": changed("item", np.arange(8), 3), "seller": changed("seller", np.arange(8), 3)}
    assert not spoken_of(some(time_us=even, buyer=buyer, **one), "B07")


def test_a_rush_is_measured_against_the_sellers_own_hours():
    rows = np.arange(0, 120, 4)
    rush = {
        "seller": changed("seller", rows, 77),
        "time_us": changed("time_us", rows, START_US + 30 * DAY_US // HOUR_US * HOUR_US + np.arange(30)),
    }
    assert spoken_of(some(**rush), "B05") == rows.tolist()
    few = {"seller": changed("seller", rows[:9], 77), "time_us": changed("time_us", rows[:9], START_US)}
    assert not spoken_of(some(**few), "B05")


def test_too_few_orders_say_nothing_of_what_is_usual():
    assert judge(some(196)) == {}


def test_findings_add_up_as_independent_evidence():
    which = np.array([True, False])
    doubt, reason = combined({"B03": which, "B04": which, "B05": np.array([True, True])}, 2)
    assert doubt == pytest.approx([1 - 0.65 * 0.85 * 0.6, 0.4])
    assert reason.tolist() == ["B03+B04+B05", "B05"]


@pytest.mark.parametrize("soft", [{"B03", "B04"}, {"B05"}, {"B08", "B10"}, {"B03", "B10"}, {"B04", "B08", "B10"}])
def test_what_honest_orders_can_be_too_is_not_enough_to_call_one_fake(soft):
    assert 1 - np.prod([1 - BY_CODE[code].p for code in soft]) < 0.5


# Groups


def trades(pairs, seed=0):
    rng = np.random.default_rng(seed)
    buyer, seller = rng.integers(0, 2_000, 10_000), (60 * rng.random(10_000) ** 3).astype(int)
    ring = np.array(pairs, int).reshape(-1, 2)
    return np.concatenate([buyer, ring[:, 0]]), np.concatenate([seller, ring[:, 1]])


def test_a_ring_is_found_whole_and_nobody_else():
    ring = [(5_000 + b, 100 + s) for b in range(20) for s in range(8)]
    inside = dense_blocks(*trades(ring))
    assert inside[-len(ring) :].all()
    assert inside[: -len(ring)].sum() == 0


def test_trading_with_popular_sellers_is_no_camouflage():
    ring = [(5_000 + b, 100 + s) for b in range(20) for s in range(8)]
    hidden = [(5_000 + b, s) for b in range(20) for s in range(8)]
    inside = dense_blocks(*trades(hidden + ring))
    assert inside[-len(ring) :].all()


@pytest.mark.parametrize("seed", range(3))
def test_keen_buyers_of_popular_sellers_are_no_ring(seed):
    assert not dense_blocks(*trades([], seed)).any()


def test_a_family_and_its_shop_are_no_ring():
    assert not dense_blocks(*trades([(5_000 + b, 100) for b in range(3)] * 40)).any()
    assert not dense_blocks(np.zeros(0, int), np.zeros(0, int)).any()


# Machines


@pytest.mark.parametrize(
    ("fastest", "same", "gaps", "hours", "moments", "code"),
    [
        (300, 0, 0, 1, 300, "X01"),
        (299, 0, 0, 1, 299, ""),
        (10, 24, 30, 5, 31, "X02"),
        (10, 23, 30, 5, 31, ""),  # less than four fifths
        (10, 29, 29, 5, 30, ""),  # a game with a timer
        (10, 5, 99, 23, 100, "X03"),
        (10, 5, 99, 22, 100, ""),
        (10, 5, 98, 23, 99, ""),
    ],
)
def test_a_machines_day_is_told_by_its_pace(fastest, same, gaps, hours, moments, code):
    assert machine_days(*(np.array([n]) for n in (fastest, same, gaps, hours, moments))).tolist() == [code]


@pytest.fixture
def build(tmp_path, store):
    def run(*records):
        offline.write_events(tmp_path / "one.parquet", records)
        config = DmpConfig(data_dir=str(tmp_path / "data"))
        return offline.build(config, tmp_path / "one.parquet", NOW_US, store), offline.live_tags(config, store.sync())

    return run


def test_what_a_machine_did_makes_no_tag_and_is_counted(build):
    minute = 1 / 1440
    bot = [act(1, View, days_ago=0.3 - n * minute, category="travel") for n in range(60)]
    person = [act(2, Search, days_ago=0.3 - n * n * minute / 9, category="travel") for n in range(60)]
    batch = [act(3, View, days_ago=0.2, category="travel") for _ in range(500)]  # a log that knows the day only
    generation, tags = build(*bot, *person, *batch)
    assert generation.doubted == {"X02": 60}
    assert generation.events == 560
    assert set(tags["uid"].to_pylist()) == {user(2), user(3)}


def test_what_is_likely_fake_counts_for_less_in_interests(build):
    minute = 1 / 1440
    tireless = [
        act(1, View, days_ago=0.501 + n * 14 * minute + n * n % 11 * minute, category="travel") for n in range(101)
    ]  # 101 acts in 23 hours of the day before, weight .2 each: 20
    person = [act(2, Purchase, days_ago=0.6, category="travel") for _ in range(4)]  # 32
    generation, tags = build(*tireless, *person)
    assert generation.doubted == {"X03": 101}
    travel = {r["uid"]: r["score"] for r in tags.to_pylist() if r["tag"] == tag_id("interest.travel")}
    assert travel == {user(1): 50, user(2): 100}


# The commands


def tagbid(*arguments):
    command = [sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main())", "dmp", "brushing"]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, env={**os.environ, "COLUMNS": "150"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_rules_are_listed_and_events_scanned(tmp_path):
    assert {rule["code"] for rule in json.loads(tagbid("rules", "--json").stdout)} == set(BY_CODE)
    offline.write_events(
        tmp_path / "one.parquet", [act(1, View, days_ago=0.4 - n / 1440, category="travel") for n in range(40)]
    )
    assert json.loads(tagbid("scan", tmp_path / "one.parquet", "--json").stdout) == {
        "events": 0,
        "doubted": {"X02": 40},
    }
