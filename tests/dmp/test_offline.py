import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from dmp import generations, keys, offline, tagging, taxonomy
from dmp.config import DmpConfig
from dmp.decisions import decisions_file, record
from dmp.engine import query_names
from dmp.errors import BadEvents, DmpError, StoreUnavailable
from dmp.events import CONSENT_MEASURE, CONSENT_PROFILE, Cart, Click, Conversion, Purchase, Search, View
from dmp.generations import GenerationRefused
from dmp.schema import SOURCES
from dmp.store import Store, generation_folder, live_generation, read_users
from dmp.taxonomy import tag_id
from tests.dmp.factories import NOW_US, act, customer, tags_table, user

ROOT = Path(__file__).parents[2]
TRAVEL, FOOD, SPORTS = tag_id("interest.travel"), tag_id("interest.food"), tag_id("interest.sports")


@pytest.fixture
def config(tmp_path):
    return DmpConfig(data_dir=str(tmp_path / "data"))


@pytest.fixture
def events(tmp_path):
    folder = tmp_path / "events"
    folder.mkdir()
    return folder


@pytest.fixture
def build(config, events, store):
    """Write these events as the only file and build from it."""

    def run(*records, now_us=NOW_US, force=False):
        offline.write_events(events / "one.parquet", records)
        return offline.build(config, events, now_us, store, force=force)

    return run


def tags_of(client, *users):
    return [found.tags for found in read_users(client, [user(n) for n in users], NOW_US // 1_000_000)]


def scores(client, tag, *users):
    return [tags.get(tag) for tags in tags_of(client, *users)]


# What the tags say


def test_interest_is_the_percentile_of_the_decayed_weight_within_the_tag(build, client):
    build(
        act(1, View, category="travel"),  # 1
        act(2, Purchase, days_ago=30, category="travel"),  # 8, halved by the 30 days of travel: 4
        act(3, Search, category="travel"),  # 3
        act(4, View, category="food"),
    )
    assert scores(client, TRAVEL, 1, 2, 3, 4) == [33, 100, 66, None]
    assert scores(client, FOOD, 4) == [100]


def test_acts_of_one_user_add_up(build, client):
    build(
        act(1, View, category="travel"), act(1, View, category="travel"), act(1, View, category="travel"),
        act(2, Cart, days_ago=30, category="travel"),  # 5 / 2 < 3
    )  # fmt: skip
    assert scores(client, TRAVEL, 1, 2) == [100, 50]


def test_equal_weights_get_equal_scores_however_the_acts_are_ordered(build, client):
    days = [0.1, 3.7, 11.0, 1.3, 29.9, 0.7]
    build(*(act(n, days_ago=d, category="food") for n, order in ((1, days), (2, days[::-1])) for d in order))
    assert scores(client, FOOD, 1, 2) == [100, 100]


def test_the_lowest_of_many_still_scores_one(build, client):
    build(*(act(n, days_ago=n / 100, category="food") for n in range(1, 151)))
    assert scores(client, FOOD, 150, 1, 75) == [1, 100, 50]  # places 150, 1 and 75: 100 * 76 / 150 = 50.7


def test_an_interest_older_than_its_time_to_live_is_forgotten(build, client):
    build(act(1, days_ago=179, category="travel"), act(2, days_ago=181, category="travel"))
    assert scores(client, TRAVEL, 1, 2) == [100, None]


def test_labels_of_all_kinds_meet_in_one_tag_and_the_unmapped_are_counted(build, client):
    made = build(
        act(1, category="Travel"), act(2, category="旅游"), act(3, category="interest.travel"),
        act(4, category="interest/Travel"), act(5, category="zorbing"), act(6, category="zorbing"), act(7),
    )  # fmt: skip
    assert scores(client, TRAVEL, 1, 2, 3, 4, 5) == [100, 100, 100, 100, None]
    assert made.unmapped == {"zorbing": 2}
    assert made.unmapped_events == 2
    assert made.events == 7


def test_the_manifest_lists_only_the_most_frequent_labels_and_counts_all(build, monkeypatch):
    """Rare free text may be about single persons."""
    monkeypatch.setattr(tagging, "MAX_UNMAPPED", 2)
    labels = ["zorbing"] * 3 + ["apt 5, elm street"] + ["korfball"] * 2
    made = build(act(1), *(act(2, category=label) for label in labels))
    assert made.unmapped == {"zorbing": 3, "korfball": 2}
    assert made.unmapped_events == 6


def test_no_sensitive_tag_is_inferred_from_behaviour(build, client):
    made = build(act(1, category="religion"), act(1, category="food"))
    assert scores(client, tag_id("interest.religion"), 1) == [None]
    assert made.withheld == 1
    assert made.unmapped == {}


def test_recency_and_frequency_are_quintiles_with_five_the_best(build, client):
    build(*(act(n, days_ago=n) for n in range(1, 6) for _ in range(n)))  # user 1 was here last, user 5 most often
    found = tags_of(client, 1, 2, 3, 4, 5)
    for quintile, (recent, frequent) in enumerate(zip(found[::-1], found, strict=True), 1):
        assert tag_id(f"rfm.recency.{quintile}") in recent
        assert tag_id(f"rfm.frequency.{quintile}") in frequent
    rfm = {tag for tag in taxonomy.BY_ID if taxonomy.tag_name(tag).startswith("rfm.")}
    assert all(len(rfm & set(tags)) == 2 for tags in found)


def test_gender_and_age_come_from_the_youngest_customer_record_that_states_them(build, client):
    build(
        customer(1, days_ago=9, gender="f", birth_year=1994),  # 2024 - 1994 = 30
        customer(1, days_ago=1),  # states nothing
        customer(2, days_ago=9, gender="m", birth_year=2006),  # 18
        customer(2, days_ago=2, gender="f"),
        customer(3, birth_year=2007),  # 17: a minor
        customer(4, birth_year=1959),  # 65
        customer(5, birth_year=1890),  # a typing error
        act(1),
    )
    male, female = tag_id("demographic.gender.male"), tag_id("demographic.gender.female")
    one, two, three, four, five = tags_of(client, 1, 2, 3, 4, 5)
    assert {female: 100, tag_id("demographic.age.25_34"): 100}.items() <= one.items()
    assert two == {female: 100, tag_id("demographic.age.18_24"): 100}
    assert male not in two
    assert three == five == {}
    assert four == {tag_id("demographic.age.65_plus"): 100}


def test_as_of_is_the_day_of_the_youngest_act(build, config, client):
    build(act(1, days_ago=3, category="food"), act(1, days_ago=5, category="food"))
    rows = offline.live_tags(config, client).to_pylist()
    assert {row["as_of_day"] for row in rows} == {19_997}
    assert {SOURCES[row["source"]] for row in rows} == {"interest", "rfm", "habit", "lifecycle"}


# What may not be used


def test_events_without_consent_for_profiles_or_from_the_future_build_no_tag(build, client):
    made = build(
        act(1, category="food", consent=CONSENT_PROFILE),
        act(2, category="food", consent=CONSENT_MEASURE),
        act(3, category="food", days_ago=-0.001),
    )
    assert scores(client, FOOD, 1, 2, 3) == [100, None, None]
    assert made.events == 1


def test_a_repeated_event_counts_once_and_other_sources_may_use_the_same_id(build, client):
    again = act(1, category="food")
    made = build(again, again, act(1, category="food", source="other", event_id=again.event_id))
    assert made.events == 2


@pytest.mark.parametrize("order", [1, -1])
def test_one_copy_of_an_event_without_consent_stands_for_all_its_copies(build, client, order):
    given = act(1, category="food", days_ago=1)
    refused = act(1, category="food", event_id=given.event_id, consent=CONSENT_MEASURE, days_ago=1 + 0.1 * order)
    made = build(*(given, refused)[::order], act(2, category="food"))
    assert made.events == 1
    assert scores(client, FOOD, 1, 2) == [None, 100]


def test_folders_named_like_event_files_are_searched(config, events, store):
    folder = events / "day=1.parquet"
    folder.mkdir()
    offline.write_events(folder / "part-0.parquet", [act(1)])
    assert offline.build(config, events, NOW_US, store).events == 1


def test_advertising_events_in_the_same_folder_are_left_out(config, events, store):
    offline.write_events(events / "one.parquet", [act(1), act(2, Conversion)])
    click = Click(event_id="b:click", bid_id="b", imp_id="1", time_us=NOW_US, campaign="c", creative="d")
    row = {"event_id": click.event_id, "kind": "click", "uid": None, "time_us": click.time_us, "consent": 7}
    columns = {name: pa.array([value], pa.binary() if name == "uid" else None) for name, value in row.items()}
    pq.write_table(pa.table(columns), events / "two.parquet")
    assert offline.build(config, events, NOW_US, store).events == 2


# What is refused


@pytest.fixture
def standing(build, client):
    """A live generation that no failure may change."""
    build(act(1, category="food"))
    before = tags_of(client, 1)
    yield
    assert live_generation(client) == 1
    assert tags_of(client, 1) == before


def a_file(path, **columns):
    """An event file of one good record with some columns replaced, or left out when None."""
    good = {
        "event_id": pa.array(["e"]), "kind": pa.array(["view"]), "uid": pa.array([user(1)], pa.binary(16)),
        "time_us": pa.array([NOW_US]), "consent": pa.array([7]), "category": pa.array(["food"]),
    }  # fmt: skip
    pq.write_table(pa.table({name: v for name, v in (good | columns).items() if v is not None}), path)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"time_us": None}, "'time_us' is missing"),
        ({"consent": None}, "'consent' is missing"),
        ({"time_us": pa.array(["yesterday"])}, "'time_us' holds string"),
        ({"time_us": pa.array([NOW_US], pa.timestamp("us"))}, "'time_us' holds timestamp"),
        ({"time_us": pa.array([NOW_US], pa.uint64())}, "'time_us' holds uint64"),
        ({"time_us": pa.array([-1])}, "a time_us before 1970"),
        ({"time_us": pa.array([-(2**63)])}, "a time_us before 1970"),
        ({"uid": pa.array(["alice"])}, "'uid' holds string"),
        ({"category": pa.array([7])}, "'category' holds int64"),
        ({"uid": pa.array([b"short"])}, "no 16-byte pseudonym"),
        ({"uid": pa.array([None], pa.binary(16))}, "no 16-byte pseudonym"),
        ({"event_id": pa.array([None], pa.string())}, "no event_id"),
        ({"kind": pa.array(["veiw"])}, "unknown kind veiw"),
        ({"consent": pa.array([None], pa.int32())}, "no consent"),
    ],
)
def test_a_broken_file_and_its_fault_are_named_and_nothing_changes(standing, config, events, store, columns, told):
    a_file(events / "broken.parquet", **columns)
    with pytest.raises(BadEvents, match=told) as caught:
        offline.build(config, events, NOW_US, store)
    assert "broken.parquet" in str(caught.value)
    assert "one.parquet" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"event_id,kind\n1,view\n", b"PAR1"])
def test_a_file_that_is_no_parquet_is_named_and_changes_nothing(standing, config, events, store, content):
    (events / "broken.parquet").write_bytes(content)
    with pytest.raises(BadEvents, match=r"broken\.parquet"):
        offline.build(config, events, NOW_US, store)


def test_a_file_with_damaged_pages_changes_nothing(standing, config, events, store):
    path = events / "broken.parquet"
    offline.write_events(path, [act(n, category="food" * n) for n in range(500)])
    whole = bytearray(path.read_bytes())
    whole[4 : len(whole) // 2] = bytes(len(whole) // 2 - 4)
    path.write_bytes(whole)
    with pytest.raises(BadEvents, match=r"broken\.parquet|cannot be read"):
        offline.build(config, events, NOW_US, store)


def test_no_files_and_no_usable_events_are_told(standing, config, tmp_path, store):
    with pytest.raises(BadEvents, match="no event files"):
        offline.build(config, tmp_path / "nowhere", NOW_US, store)
    offline.write_events(tmp_path / "refused.parquet", [act(1, consent=0)])
    with pytest.raises(BadEvents, match="no usable event"):
        offline.build(config, tmp_path / "refused.parquet", NOW_US, store)
    offline.write_events(tmp_path / "old.parquet", [act(1, days_ago=1_000, category="food"), customer(1)])
    with pytest.raises(BadEvents, match="2 usable events make no tag"):
        offline.build(config, tmp_path / "old.parquet", NOW_US, store, force=True)


def test_a_build_that_lost_half_the_users_or_their_tags_is_refused_unless_forced(build, client):
    build(*(act(n, category="food") for n in range(1, 11)))
    with pytest.raises(GenerationRefused, match="4 users have tags, 10 had before"):
        build(*(act(n, category="food") for n in range(1, 5)))
    with pytest.raises(GenerationRefused, match="histogram moved by"):
        build(*(customer(n, gender="f") for n in range(1, 11)))
    assert live_generation(client) == 1
    assert build(*(act(n, category="food") for n in range(1, 5)), force=True).gone == 6
    assert tags_of(client, 7) == [{}]


def test_an_engine_that_is_not_there_is_told():
    with pytest.raises(DmpError, match="there is no engine 'hive': duckdb or spark"):
        offline.named_engine("hive")


def test_one_build_at_a_time(config, events, store):
    offline.write_events(events / "one.parquet", [act(1)])

    def second(step, done, total):
        with pytest.raises(DmpError, match="another build is running"):
            offline.build(config, events, NOW_US, store)

    offline.build(config, events, NOW_US, store, progress=second)


def test_a_lost_store_is_told_and_the_next_build_works(config, events, store, client):
    offline.write_events(events / "one.parquet", [act(1, category="food")])
    with pytest.raises(StoreUnavailable, match="build again"):
        offline.build(config, events, NOW_US, Store("unix:///nowhere/valkey.sock"))
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable, match="build again"):
            offline.build(config, events, NOW_US, store)
    finally:
        client.config_set("maxmemory", "0")
    assert live_generation(client) == 0
    offline.build(config, events, NOW_US, store)
    assert scores(client, FOOD, 1) == [100]


# Generations


@pytest.mark.rule("P-70")
def test_only_changed_users_are_written_and_the_idle_expire_after_thirty_days(build, client):
    first = [act(1, days_ago=1, category="food"), act(2, days_ago=1, category="sports")]
    second = [first[0], act(2, days_ago=1, category="travel")]
    assert build(*first).written == 2
    client.expire(keys.profile(user(1), 0), 100)
    made = build(*second, force=True)
    assert (made.written, made.unchanged, made.gone) == (1, 1, 0)
    for n in (1, 2):
        assert 30 * 86_400 - 60 <= max(client.ttl(keys.profile(user(n), bank)) for bank in (0, 1)) <= 30 * 86_400


def test_a_rollback_restores_the_generation_before_exactly_and_only_once(config, store, client):
    first, second = {1: {TRAVEL: 10, FOOD: 20}, 2: {TRAVEL: 30}}, {1: {TRAVEL: 11}, 3: {FOOD: 40}}
    offline.publish_tags(config, tags_table(first), NOW_US, store, "first")
    offline.publish_tags(config, tags_table(second), NOW_US, store, "second")
    assert tags_of(client, 1, 2, 3) == [{TRAVEL: 11}, {}, {FOOD: 40}]
    assert offline.rollback(config, store) == 1
    assert tags_of(client, 1, 2, 3) == [first[1], first[2], {}]
    with pytest.raises(DmpError, match="no earlier one"):
        offline.rollback(config, store)
    third = {2: {FOOD: 5}}
    made = offline.publish_tags(config, tags_table(third), NOW_US, store, "third")
    assert (made.number, made.parent) == (3, 1)
    assert tags_of(client, 1, 2, 3) == [{}, {FOOD: 5}, {}]
    assert offline.rollback(config, store) == 1
    assert tags_of(client, 1, 2, 3) == [first[1], first[2], {}]


def test_without_a_generation_there_is_nothing_to_roll_back(config, store):
    Path(config.data_dir, "generations").mkdir(parents=True)
    with pytest.raises(DmpError, match="roll back"):
        offline.rollback(config, store)


def test_a_flip_by_somebody_else_meanwhile_is_not_overwritten(config, store, client):
    def meanwhile(step, done, total):
        client.set(keys.GENERATION, 40)

    with pytest.raises(GenerationRefused, match="another build"):
        offline.publish_tags(config, tags_table({1: {FOOD: 1}}), NOW_US, store, "x", meanwhile)
    assert live_generation(client) == 40


def test_a_live_generation_built_elsewhere_leaves_no_user_behind(config, store, client):
    offline.publish_tags(config, tags_table({1: {FOOD: 1}, 2: {FOOD: 2}}), NOW_US, store, "elsewhere")
    for file in generation_folder(config, 1).iterdir():
        file.unlink()
    generation_folder(config, 1).rmdir()
    made = offline.publish_tags(config, tags_table({2: {FOOD: 2}}), NOW_US, store, "here")
    assert (made.written, made.unchanged, made.gone) == (0, 1, 1)
    assert tags_of(client, 1, 2) == [{}, {FOOD: 2}]


def test_the_manifest_says_what_was_built_from_what(build, config, events):
    made = build(act(1, category="food"))
    manifest = json.loads((generation_folder(config, 1) / "manifest.json").read_text())
    assert manifest["inputs"] == [str(events / "one.parquet")]
    assert manifest["rows"] == {"interest": 1, "rfm": 2, "habit": 3, "lifecycle": 2} == made.rows
    assert set(manifest["sql"]) == set(query_names())
    assert manifest["created_us"] == NOW_US


def test_old_generations_are_removed_and_the_restorable_one_kept(config, store):
    for score in (1, 2, 3):
        offline.publish_tags(config, tags_table({1: {FOOD: score}}), NOW_US, store, "x")
    folders = {path.name for path in Path(config.data_dir, "generations").iterdir() if path.is_dir()}
    assert folders == {"2", "3"}


# Death on the way

PUBLISHER = """
import os, signal, sys
from dmp import generations, offline
from dmp.config import DmpConfig
from dmp.store import Store
from tests.dmp.factories import NOW_US, tags_table

generations.CHUNK_USERS = 5
url, data_dir, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def progress(step, done, total):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

users = {n: {1033: n % 90 + 2} for n in range(10, 60)}
offline.publish_tags(DmpConfig(data_dir=data_dir), tags_table(users), NOW_US, Store(url), "second", progress)
"""


@pytest.mark.parametrize("kill_at", [1, 6, 12])
def test_a_publisher_killed_on_the_way_leaves_the_live_generation_and_the_next_build_works(
    config, store, client, kill_at
):
    first = {n: {TRAVEL: n % 90 + 1} for n in range(50)}
    offline.publish_tags(config, tags_table(first), NOW_US, store, "first")
    killed = subprocess.run(
        [sys.executable, "-c", PUBLISHER, store.url, config.data_dir, str(kill_at)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert live_generation(client) == 1
    assert tags_of(client, *range(60)) == [first.get(n, {}) for n in range(60)]
    third = {n: {TRAVEL: n % 90 + 1} for n in range(30)}
    made = offline.publish_tags(config, tags_table(third), NOW_US, store, "third")
    assert made.parent == 1
    assert tags_of(client, *range(60)) == [third.get(n, {}) for n in range(60)]
    offline.rollback(config, store)
    assert tags_of(client, *range(60)) == [first.get(n, {}) for n in range(60)]


def test_a_half_written_tags_file_of_a_dead_build_does_not_stop_the_next(config, store, client, monkeypatch):
    offline.publish_tags(config, tags_table({1: {FOOD: 1}}), NOW_US, store, "first")
    write = pq.write_table

    def torn(table, path, **options):
        write(table, path, **options)
        path.write_bytes(path.read_bytes()[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", torn)
        with pytest.raises(KeyboardInterrupt):
            offline.publish_tags(config, tags_table({1: {FOOD: 2}}), NOW_US, store, "second")
    assert offline.publish_tags(config, tags_table({1: {FOOD: 3}}), NOW_US, store, "third").number == 3
    assert tags_of(client, 1) == [{FOOD: 3}]


def test_a_record_that_reads_back_differently_stops_the_flip(config, store, client, monkeypatch):
    write = generations.publish

    def disturbed(client: redis.Redis, *arguments, **options):
        done = write(client, *arguments, **options)
        client.delete(*client.keys("prof:*"))
        return done

    monkeypatch.setattr(generations, "publish", disturbed)
    with pytest.raises(GenerationRefused, match="reads back differently"):
        offline.publish_tags(config, tags_table({1: {FOOD: 1}}), NOW_US, store, "x")
    assert live_generation(client) == 0


def test_a_build_maps_labels_as_people_decided_and_says_by_which_version(build, config, client):
    log = decisions_file(config.data_dir)
    record(log, "accept", "Zorbing", "interest.outdoors", "ann", 1)
    record(log, "reject", "service", "", "ann", 2)
    made = build(act(1, category="zorbing"), act(2, category="service"))
    assert tag_id("interest.outdoors") in tags_of(client, 1)[0]
    assert made.unmapped == {"service": 1}
    assert made.decisions == 2


def test_an_accepted_sensitive_label_is_still_never_inferred(build, config, client):
    record(decisions_file(config.data_dir), "accept", "zen retreat", "interest.religion", "ann", 1, sensitive=True)
    made = build(act(1, category="zen retreat"), act(2, category="travel"))
    assert made.withheld == 1
    assert tag_id("interest.religion") not in tags_of(client, 1)[0]
