import msgspec
import numpy as np
import pytest

from dmp import events
from dmp.events import Bid, Click, Event, Impression
from models import boosting, encoding, evaluate, frames, joining
from models.forest import sigmoid
from tests.models.factories import BORN_US, DAY_US, MINUTE_US, SECOND_US, bid, impressions, notice, uid

MS = 1_000
ROWS = 9_000


def frame_of(folder, logged: list[Event]) -> joining.Log:
    folder.mkdir(exist_ok=True)
    (folder / "bids-1.mpk").write_bytes(events.encode_all(logged))
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
