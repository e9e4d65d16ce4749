import json
import math

import numpy as np
import pytest

from loadtest import world
from loadtest.world import VERTICALS, WorldConfig

SMALL = WorldConfig(seed=3, users=2_000, sites=60)


@pytest.fixture(scope="module")
def small():
    return world.build(SMALL)


@pytest.fixture(scope="module")
def requests(small):
    return world.draw_requests(small, 4_000, "test")


def test_one_seed_is_one_world(small, requests):
    again = world.draw_requests(world.build(SMALL), 4_000, "test")
    for name in ("user", "site", "rival_micros", "click", "second"):
        assert np.array_equal(getattr(again, name), getattr(requests, name))
    assert world.raw_id(small, 7) == world.raw_id(world.build(SMALL), 7)


def test_another_seed_and_another_stream_are_other_requests(small, requests):
    other = world.draw_requests(world.build(WorldConfig(seed=4, users=2_000, sites=60)), 4_000, "test")
    assert not np.array_equal(other.user, requests.user)
    assert not np.array_equal(world.draw_requests(small, 4_000, "collect").user, requests.user)


def test_a_stream_does_not_depend_on_what_was_drawn_before(small, requests):
    world.draw_requests(small, 10, "something else")
    assert np.array_equal(world.draw_requests(small, 4_000, "test").user, requests.user)


def test_whether_a_click_happens_depends_only_on_seed_request_and_campaign(small, requests):
    first = [world.clicks(small, requests, i, "acme/spring", 0) for i in range(4_000)]
    assert first == [world.clicks(small, requests, i, "acme/spring", 0) for i in range(4_000)]
    assert first != [world.clicks(small, requests, i, "acme/autumn", 0) for i in range(4_000)]


def test_clicks_happen_as_often_as_their_probability_says(small, requests):
    n = len(requests.user)
    happened = sum(world.clicks(small, requests, i, f"c{k}", k) for i in range(n) for k in range(5))
    probability = requests.click[:, :5]
    spread = np.sqrt((probability * (1 - probability)).sum())
    assert abs(happened - probability.sum()) < 4 * spread


def test_an_average_ad_is_clicked_one_to_three_times_in_a_hundred(requests):
    assert 0.008 < requests.click.mean() < 0.03


def test_people_click_what_they_care_about(small):
    people, k = small.people, 3
    n = SMALL.users
    click = world.click_probability(small, np.arange(n), np.zeros(n, np.int64), np.zeros(n, np.int64), np.full(n, 12))[
        :, k
    ]
    caring = people.interests[:, k]
    assert click[caring > 0.5].mean() > 3 * click[caring < 0.01].mean()


def test_interests_are_few_per_person(small):
    strong = (small.people.interests > 0.15).sum(axis=1)
    assert 1 <= np.median(strong) <= 3
    assert np.allclose(small.people.interests.sum(axis=1), 1)


def test_rivals_pay_more_for_people_who_click_more(requests):
    appeal = np.log(requests.click.mean(axis=1))
    assert np.corrcoef(appeal, np.log(requests.rival_micros))[0, 1] > 0.1


def test_both_auction_types_occur_in_the_configured_share(requests):
    assert abs(requests.second.mean() - SMALL.second_price) < 0.03


def test_a_request_is_openrtb_with_the_id_where_an_exchange_puts_it(small, requests):
    seen = set()
    for i in range(300):
        body = json.loads(world.request_body(small, requests, i))
        assert body["id"] == f"test-{i}"
        assert body["imp"][0]["bidfloor"] == requests.floor_micros[i] / 1e6
        assert ("site" in body) != ("app" in body)
        id_type, raw = world.raw_id(small, int(requests.user[i]))
        if requests.known[i]:
            assert (body["device"]["ifa"] if id_type == "device" else body["user"]["buyeruid"]) == raw
        else:
            assert raw not in json.dumps(body)
        seen.add((id_type, bool(requests.known[i])))
    assert len(seen) == 4


def test_a_request_never_tells_an_interest(small, requests):
    body = json.loads(world.request_body(small, requests, 0))
    assert "interests" not in json.dumps(body)
    assert set(body["user"]) <= {"buyeruid"}


def test_a_seat_lottery_names_the_one_seat(small, requests):
    assert json.loads(world.request_body(small, requests, 5, seat="s3"))["wseat"] == ["s3"]
    assert "wseat" not in json.loads(world.request_body(small, requests, 5))


def test_ids_are_of_one_user_each(small):
    assert len({world.raw_id(small, user) for user in range(SMALL.users)}) == SMALL.users


@pytest.mark.parametrize(
    ("tag", "vertical"), [("interest.travel", 0), ("intent.food", 4), ("interest.law", None), ("", None)]
)
def test_an_ads_tag_names_its_vertical(tag, vertical):
    assert world.vertical_of(tag) == vertical
    assert VERTICALS[0][0] == "travel"


def test_uniform_numbers_are_uniform():
    draws = np.array([world.uniform(1, str(i)) for i in range(4_000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 4 / np.sqrt(12 * 4_000)


def probabilities(**laws: float) -> tuple[world.World, np.ndarray]:
    """A world with some laws of pairs, and log-odds of everybody on a page about vertical 0, size 0, at 20 h."""
    made = world.build(WorldConfig(seed=4, users=500, sites=40, **laws))
    everybody = np.arange(500)
    page = np.full(500, int(np.flatnonzero(made.sites.vertical == 0)[0]))
    p = world.click_probability(made, everybody, page, np.zeros(500, np.int64), np.full(500, 20))
    return made, np.log(p / (1 - p))


def test_laws_of_pairs_add_what_they_say_and_nothing_by_default() -> None:
    plain, before = probabilities()
    assert not plain.laws.taste.any()
    people = plain.people
    made, after = probabilities(taste_logit=0.5)
    expected = made.laws.taste[people.male.astype(int), people.age]
    assert np.allclose(after - before, expected)
    assert made.laws.taste.std() == pytest.approx(0.5, rel=0.2)
    made, after = probabilities(device_logit=0.4)
    assert np.allclose((after - before)[:, 3], made.laws.device[people.app.astype(int), 0])
    _, after = probabilities(rhythm_logit=0.3)
    assert np.allclose((after - before)[:, 3], np.where(people.app, 0.3, -0.3))  # 20 h is the peak
    _, after = probabilities(page_interest_logit=1.2)
    caring = 1.15 * people.interests / (people.interests + 0.15)
    assert np.allclose((after - before)[:, 0], 1.2 * caring[:, 0])
    assert np.allclose((after - before)[:, 1:], 0)


def test_an_ad_seen_often_tires_up_to_a_point() -> None:
    made = world.build(WorldConfig(seed=4, users=10, weariness_logit=0.25))
    chance = world.wearied(made, np.full(4, 0.1), np.array([0.0, 1.0, 5.0, 50.0]))
    odds = chance / (1 - chance)
    assert odds / odds[0] == pytest.approx([1, math.exp(-0.25), math.exp(-1.25), math.exp(-1.25)])
