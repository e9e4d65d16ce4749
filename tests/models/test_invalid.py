import msgspec
import numpy as np
import pytest

from dmp.events import Bid, Click, Event, Impression
from models import boosting, encoding, evaluate, frames, invalid, joining
from models.context import Context, encode_context
from models.forest import sigmoid
from tests.models.factories import BORN_US, DAY_US, MINUTE_US, SECOND_US, bid, impressions, notice, uid
from tests.stored import encode_all

MS = 1_000
ROWS = 9_000


def frame_of(folder, logged: list[Event]) -> joining.Log:
    folder.mkdir(exist_ok=True)
    (folder / "bids-1.mpk").write_bytes(encode_all(logged))
    until_us = max(event.time_us for event in logged) + 40 * DAY_US
    return joining.frame_of(folder, folder / "cache", until_us=until_us, click_wait_us=2 * DAY_US)


def people(count: int, clicked: int) -> list[Event]:
    """Impressions of as many people, the first of whom clicked a second later."""
    found: list[Event] = []
    for n in range(1_000, 1_000 + count):
        found += [bid(n, BORN_US), notice(Impression, n, BORN_US)]
        found += [notice(Click, n, BORN_US + SECOND_US)] * (n < 1_000 + clicked)
    return found


@pytest.mark.parametrize(
    ("after_us", "rows", "clicks", "weight"),
    [(300 * MS, 1, 1, 1.0), (299 * MS, 0, 0, None), (-1, 0, 0, None), (DAY_US, 1, 1, 1.0), (DAY_US + 1, 1, 0, 0.5)],
)
def test_a_click_is_judged_by_its_time_after_the_impression(tmp_path, after_us, rows, clicks, weight):
    at_us = BORN_US + MINUTE_US
    one = [bid(1, BORN_US), notice(Impression, 1, at_us), notice(Click, 1, at_us + after_us)]
    log = frame_of(tmp_path, [*one, *people(20, 5)])
    mine = log.frame.column("key") == "b1/1"
    assert mine.sum() == rows
    assert log.frame.column("clicked")[mine].sum() == clicks
    if weight is not None:
        assert log.frame.column("weight")[mine].tolist() == [weight]
    code = {None: "fast", 0.5: "late"}.get(weight)
    assert {name for name in log.counts if name.startswith("invalid_")} == ({f"invalid_{code}"} if code else set())


@pytest.mark.parametrize(("presses", "rows"), [(3, 1), (4, 0)])
def test_more_than_three_clicks_on_one_impression_are_a_machines(tmp_path, presses, rows):
    pressed = [notice(Click, 1, BORN_US + (n + 1) * SECOND_US) for n in range(presses)]
    log = frame_of(tmp_path, [bid(1, BORN_US), notice(Impression, 1, BORN_US), *pressed, *people(20, 5)])
    assert (log.frame.column("key") == "b1/1").sum() == rows


def test_where_most_clicks_are_fast_the_clock_is_doubted_not_the_people(tmp_path):
    logged = [e for n in range(4) for e in (bid(n, BORN_US), notice(Impression, n, BORN_US))]
    log = frame_of(tmp_path, [*logged, notice(Click, 0, BORN_US + 1), notice(Click, 1, BORN_US + 2)])
    assert log.frame.column("clicked").sum() == 2


def test_a_click_on_what_was_never_shown_counts_for_nothing(tmp_path):
    log = frame_of(tmp_path, [*people(20, 5), bid(1, BORN_US), notice(Click, 1, BORN_US + SECOND_US)])
    assert (len(log.frame), log.counts["unseen_clicks"]) == (20, 1)


@pytest.mark.parametrize(("clicks", "kept"), [(9, True), (10, False)])
def test_a_person_with_more_clicks_a_day_than_a_millionth_would_have_is_left_out(tmp_path, clicks, kept):
    """One person's 40 impressions among 1,000 that had 20 clicks: (20 + 10) / 1,040 of 40 is 1.15 expected.

    Poisson: P(> 8) = e^-1.15 1.15^9 / 9! + ... = 3.4e-6, P(> 9) = 4e-7; so nine are allowed.
    """
    logged = people(1_000, 20)
    for n in range(40):
        logged += [by(bid(n, BORN_US + n), 7), notice(Impression, n, BORN_US + n)]
        logged += [notice(Click, n, BORN_US + n + SECOND_US)] * (n < clicks)
    log = frame_of(tmp_path, logged)
    assert len(log.frame) == (1_040 if kept else 1_000)
    assert log.counts.get("invalid_user_rate", 0) == (0 if kept else 40)


def by(made: Bid, who: int) -> Bid:

    return msgspec.structs.replace(made, uid=uid(10_000_000 + who))


def test_injected_click_fraud_does_not_harm_the_model(tmp_path):
    """A tenth of clicks comes from machines: half too fast, half by a few users who click on nearly all they see.

    Normalised entropy on clean rows: within .2 % of a model of clean data; one that trusts every click is far worse.
    """
    rows, rng = impressions(ROWS, seed=4), np.random.default_rng(5)
    clean: list[Event] = []
    for n, (_, user, ad, _) in enumerate(rows.items):
        at_us = BORN_US + n * SECOND_US
        clean += [by(bid(n, at_us, ad=ad, user=user), int(rng.integers(3_000))), notice(Impression, n, at_us)]
        if rows.clicks[n]:
            clean.append(notice(Click, n, at_us + int(rng.uniform(1, 60) * SECOND_US)))
    fraud: list[Event] = []
    forged = int(rows.clicks.sum() / 9)  # a tenth of all
    for n in range(forged):
        # Machines pose as people whose interest is not what the ad is about.
        _, user, ad, _ = next(item for item in rows.items[n * 7 :] if item[2].interest not in item[1].tags)
        number, at_us = ROWS + n, BORN_US + n * 60 * SECOND_US
        fast = n % 2 == 0
        fraud += [
            by(bid(number, at_us, ad=ad, user=user), 5_000 + (n if fast else n % 2)),
            notice(Impression, number, at_us),
        ]
        fraud.append(notice(Click, number, at_us + (40 * MS if fast else 3 * SECOND_US)))
    test = frames.of_rows(impressions(6_000, seed=6))
    losses = {
        "clean": entropy(frame_of(tmp_path / "clean", clean), test),
        "filtered": entropy(frame_of(tmp_path / "dirty", clean + fraud), test),
        "naive": entropy(trusting(tmp_path / "naive", clean + fraud), test),
    }
    assert losses["filtered"] == pytest.approx(losses["clean"], rel=0.002)
    assert losses["naive"] > losses["clean"] * 1.005


def trusting(folder, logged: list[Event]) -> joining.Log:
    """The same log where every click is a slow one of a person of its own."""

    told: list[Event] = []
    for event in logged:
        if isinstance(event, Bid):
            told.append(by(event, 20_000 + int(event.event_id[1:])))
        elif isinstance(event, Click):
            told.append(msgspec.structs.replace(event, time_us=event.time_us + SECOND_US))
        else:
            told.append(event)
    return frame_of(folder, told)


def entropy(log: joining.Log, test: frames.Frame) -> float:
    n = len(log.frame)
    train = np.arange(n) % 5 > 0
    clicks = log.frame.column("clicked").astype(float)
    encoder = encoding.fit(log.frame, train)
    params = boosting.parameters(int(train.sum()), 3_000, 1)
    booster = boosting.fit(log.frame, encoder, train, ~train, clicks, params, trees=30)
    every = np.ones(len(test), dtype=bool)
    p = sigmoid(boosting.raw_scores(booster, test, every, encoder, 1))
    measured = evaluate.measure(test.column("clicked").astype(float), p).ne
    assert measured is not None
    return measured


def shown(n: int, at_us: int, who: int, *, ip: str = "", place: str = "", clicked_us: int = 0) -> list[Event]:
    """One impression, clicked so long after it was shown."""
    context = encode_context(Context(exchange="x", domain="site.example", tagid=place or f"t{n}"))
    made = msgspec.structs.replace(by(bid(n, at_us), who), ip=ip, context=context)
    return [made, notice(Impression, n, at_us)] + [notice(Click, n, at_us + clicked_us)] * (clicked_us > 0)


@pytest.mark.parametrize(("clicks", "kept"), [(9, True), (10, False)])
def test_an_address_is_judged_as_a_person_is(tmp_path, clicks, kept):
    """As above, but every impression is another person's."""
    logged = people(1_000, 20)
    for n in range(40):
        logged += shown(n, BORN_US + n, n, ip="mark", clicked_us=SECOND_US * (n < clicks))
    log = frame_of(tmp_path, logged)
    assert log.counts.get("invalid_ip_rate", 0) == (0 if kept else 40)
    assert len(log.frame) == (1_040 if kept else 1_000)


def test_addresses_nobody_told_are_no_address(tmp_path):
    logged = people(1_000, 20)
    for n in range(40):
        logged += shown(n, BORN_US + n, n, clicked_us=SECOND_US)
    assert "invalid_ip_rate" not in frame_of(tmp_path, logged).counts


@pytest.mark.parametrize(("elsewhere", "kept"), [(60, True), (20, False)])
def test_a_placement_clicked_ten_times_as_often_for_certain_is_no_placement(tmp_path, elsewhere, kept):
    """25 of 50 clicked there: at least .254 for certain (Wilson, z = 4). Ten times the rate is .415 with 60 clicks
    elsewhere (85 of 2,050), above that; .220 with 20 (45 of 2,050), below.
    """
    logged = people(2_000, elsewhere)
    for n in range(50):
        logged += shown(n, BORN_US + n, n, place="farm", clicked_us=SECOND_US * (n < 25))
    log = frame_of(tmp_path, logged)
    assert log.counts.get("invalid_place_rate", 0) == (0 if kept else 50)


def test_wilsons_lower_end_by_hand():
    # p = .5, n = 50, z = 4: (.5 + .16 - 4 sqrt(.25 / 50 + .32 / 200)) / 1.32, as z^2 / n = .32
    assert invalid.wilson(25, 50) == pytest.approx((0.5 + 0.16 - 4 * (0.005 + 0.0016) ** 0.5) / 1.32)
    assert invalid.wilson(0, 50) == pytest.approx(0)


@pytest.mark.parametrize(("jitter_s", "clicks", "code"), [(0, 6, "even_gaps"), (0, 5, None), (3, 6, None)])
def test_clicks_like_clockwork_are_a_machines(tmp_path, jitter_s, clicks, code):
    logged = people(300, 100)  # a third of all impressions is clicked, so six clicks are no rate
    for n in range(clicks):
        at_us = BORN_US + n * 600 * SECOND_US + (n % 2) * jitter_s * SECOND_US
        logged += shown(n, at_us, 7, clicked_us=SECOND_US)
    assert frame_of(tmp_path, logged).counts.get("invalid_even_gaps", 0) == (clicks if code else 0)


@pytest.mark.parametrize(("hours", "found"), [(24, True), (12, False)])
def test_who_clicks_at_all_hours_does_not_sleep(tmp_path, hours, found):
    """48 clicks of one person, spread over so many hours; ln 12 is below nine tenths of ln 24."""
    rng = np.random.default_rng(1)
    logged = people(300, 250)
    for n in range(48):
        at_us = BORN_US + (n % hours) * 3_600 * SECOND_US + int(rng.uniform(0, 3_500) * SECOND_US)
        logged += shown(n, at_us, 7, clicked_us=SECOND_US)
    counts = frame_of(tmp_path, sorted(logged, key=lambda event: event.time_us)).counts
    assert counts.get("invalid_sleepless", 0) == (48 if found else 0)
