import numpy as np
import pyarrow.parquet as pq
import pytest

from dmp.pseudonym import KeyRing
from loadtest import behaviour, world
from loadtest.world import VERTICALS, WorldConfig

NOW = 1_780_000_000_000_000
EARTH = world.build(WorldConfig(seed=2, users=1_500, sites=60))


@pytest.fixture(scope="module")
def done():
    return behaviour.draw(EARTH, NOW, days=14)


def test_one_seed_is_one_past(done):
    again = behaviour.draw(EARTH, NOW, days=14)
    assert all(np.array_equal(getattr(done, name), getattr(again, name)) for name in done.__struct_fields__)


def test_everything_happened_within_the_days_before_now_and_in_order(done):
    assert done.time_us.max() <= NOW
    assert done.time_us.min() >= NOW - 14 * behaviour.DAY_US
    assert (np.diff(done.time_us) >= 0).all()


def test_people_mostly_do_what_they_care_about(done):
    share = np.zeros((1_500, len(VERTICALS)))
    np.add.at(share, (done.user, done.vertical), 1)
    busy = share.sum(axis=1) >= 30
    top = EARTH.people.interests[busy].argmax(axis=1)
    assert (share[busy].argmax(axis=1) == top).mean() > 0.8


def test_some_of_what_people_do_is_noise(done):
    caring = EARTH.people.interests[done.user, done.vertical]
    assert 0.1 < (caring < 0.01).mean() < 0.3


def test_a_page_is_about_what_was_done_there_and_only_purchases_have_a_value(done):
    assert np.array_equal(EARTH.sites.vertical[done.site], done.vertical)
    bought = np.array([kind for kind, _ in behaviour.KINDS])[done.kind] == "purchase"
    assert (done.value_micros[bought] > 0).all()
    assert not done.value_micros[~bought].any()


def test_customers_are_people_who_care(done):
    customers = behaviour.buyers(EARTH, 0, 200)
    assert len(set(customers)) == 200
    assert EARTH.people.interests[customers, 0].mean() > 3 * EARTH.people.interests[:, 0].mean()


def test_event_files_hold_pseudonyms_and_no_raw_id(done, tmp_path):
    ring = KeyRing(bytes(32))
    n = behaviour.write(EARTH, done, ring, tmp_path, NOW)
    acts = pq.read_table(tmp_path / "acts.parquet")
    crm = pq.read_table(tmp_path / "crm.parquet")
    assert n == len(acts) + len(crm)
    id_type, raw = world.raw_id(EARTH, int(done.user[0]))
    assert acts["uid"][0].as_py() == ring.uid(id_type, raw)
    assert all(raw.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    assert set(crm["gender"].to_pylist()) == {"m", "f"}


def test_people_lately_do_mostly_what_they_want_today() -> None:
    earth = world.build(WorldConfig(users=2_000, sites=60, wishers=0.5))
    wish = earth.people.wish
    assert 0.45 < (wish >= 0).mean() < 0.55
    acts = behaviour.lately(earth, NOW)
    about_wish = acts.vertical == wish[acts.user]
    assert about_wish.mean() > 0.8
    assert set(acts.user[about_wish]) == set(np.flatnonzero(wish >= 0))
    assert (np.diff(acts.time_us) >= 0).all()
    assert NOW - behaviour.LATELY_US <= acts.time_us.min() <= acts.time_us.max() <= NOW


def test_a_wish_makes_a_click_likelier_and_changes_nothing_else() -> None:
    plain, wishing = (world.build(WorldConfig(users=500, sites=60, wishers=share)) for share in (0.0, 0.5))
    n = 500
    places = (np.arange(n), np.zeros(n, np.int64), np.zeros(n, np.int64), np.full(n, 12))
    before, after = (world.click_probability(earth, *places) for earth in (plain, wishing))
    odds = np.log(after / (1 - after)) - np.log(before / (1 - before))
    wished = wishing.people.wish[:, None] == np.arange(before.shape[1])
    assert odds[wished] == pytest.approx(wishing.config.wish_logit)
    assert odds[~wished] == pytest.approx(0, abs=1e-9)
