"""The world's columns are what the features give for the very contexts, users and ads of its requests."""

import json
from collections import defaultdict

import numpy as np
import pytest
from msgspec.structs import replace

from bidder import openrtb
from bidder.wording import topics
from dmp import keys, realtime
from dmp.schema import Contact
from dmp.taxonomy import tag_id
from loadtest import world as worlds
from loadtest import world_now, world_rows
from models import drift, encoding, features, frames, gate
from models.context import Context


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    world = world_rows.build(seed=3, rows=6_000)
    people = world_rows.audience(world)
    frame, truth = world_rows.write(world, people, tmp_path_factory.mktemp("rows"), 6_000, days=2)
    return world, people, frame, truth


@pytest.mark.parametrize("wishers", [0.0, 0.5])
def test_columns_are_the_rows_the_bidder_would_have_filled(made, wishers):
    world, people, _, _ = made
    if wishers:
        world = world_rows.build(seed=3, rows=6_000, wishers=wishers)
    past = list(world_rows.hours(world, 6_000, 2))[:31]
    hour = past.pop()
    time_us, requests, vertical = hour.time_us, hour.requests, hour.vertical
    table = world_rows.table(world, people, hour)
    shown = contacts_of(past)
    offered = {(ad.advertiser, ad.width, ad.height): ad for ad in world_rows.ads()}
    items = []
    for i in range(len(vertical)):
        body = json.loads(worlds.request_body(world, requests, i))
        site = body.get("site") or body["app"]
        device, geo = body["device"], body["device"]["geo"]
        banner = body["imp"][0]["banner"]["format"][0]
        local_hours = (time_us // world_rows.HOUR_US) + geo["utcoffset"] // 60
        context = Context(
            exchange=world_rows.EXCHANGE, domain=site.get("domain", ""), bundle=site.get("bundle", ""),
            category=site["cat"][0], tagid=body["imp"][0]["tagid"], width=banner["w"], height=banner["h"],
            position=1, device_type=device["devicetype"], os=device["os"].lower(), browser="chrome",
            connection=device["connectiontype"], language="en", country="USA", region=geo["region"], city=geo["city"],
            floor_micros=int(requests.floor_micros[i]), at=body["at"], hour=local_hours % 24,
            weekday=(local_hours // 24 + 3) % 7, topics=topics(openrtb.decode(json.dumps(body).encode())),
        )  # fmt: skip
        who = int(requests.user[i])
        user = replace(people.users[who], contacts=tuple(shown[who]), realtime=hour.now.get(who))
        user = user if requests.known[i] else None
        ad = offered[worlds.VERTICALS[vertical[i]][0], banner["w"], banner["h"]]
        items.append((context, user, ad, time_us))
    vocabulary = features.fit_vocabulary(items, min_rows=1)
    assert np.array_equal(frames.matrix(vocabulary, table), features.matrix(vocabulary, items), equal_nan=True)
    assert len(items) > 50
    assert any(user is None for _, user, _, _ in items)
    assert {bool(context.topics) for context, *_ in items} == {True, False}
    assert any(user is not None and user.contacts for _, user, _, _ in items)
    assert any(user is not None and user.realtime for _, user, _, _ in items) is bool(wishers)


def test_people_want_something_else_every_day_and_look_for_it_before_they_are_met():
    world = world_rows.build(seed=3, rows=100_000, wishers=0.5)
    first, second = (world_now.of_day(world, day).people.wish for day in (0, 1))
    both = (first >= 0) & (second >= 0)
    # Half of them wish on a day, independently, for one of twenty things.
    assert (first >= 0).mean() == pytest.approx(0.5, abs=0.05)
    assert both.mean() == pytest.approx(0.25, abs=0.05)
    assert (first == second)[both].mean() == pytest.approx(0.05, abs=0.05)
    now_us = world_rows.BORN_US
    found = world_now.records(world_now.of_day(world, 0), now_us, np.arange(100))
    wishing = [user for user in range(100) if first[user] >= 0]
    assert set(wishing) <= found.keys()
    right = 0
    for user in wishing:
        tags = realtime.realtime_tags(found[user], now_us)
        right += max(tags, key=lambda tag: tags[tag]) == tag_id(f"interest.{worlds.VERTICALS[first[user]][0]}")
        assert realtime.last_seen_us(found[user]) <= now_us
    assert right > 0.8 * len(wishing)  # the others did something else in the same minutes


def test_a_world_without_wishes_keeps_no_records():
    world = world_rows.build(seed=3, rows=6_000)
    assert world_now.records(world, world_rows.BORN_US, np.arange(50)) == {}


def contacts_of(past):
    """{user: contacts} of what earlier hours showed them under an id."""
    shown = defaultdict(list)
    names = [worlds.VERTICALS[v][0] for v in range(20)]
    for hour in past:
        for user, known, v in zip(hour.requests.user, hour.requests.known, hour.vertical, strict=True):
            if known:
                scope = keys.number(f"{names[v]}-open")
                shown[int(user)].append(Contact(scope, hour.time_us // world_rows.HOUR_US, 1))
    return shown


def test_the_log_is_in_order_and_clicks_follow_the_truth(made):
    _, _, frame, truth = made
    times = frame.column("time_us")
    assert (np.diff(times) >= 0).all()
    assert len(np.unique(times // world_rows.DAY_US)) == 2
    assert len(truth) == len(frame)
    clicks = frame.column("clicked").sum()
    # The clicks are drawn from the truth: within four standard errors of their expectation.
    assert clicks == pytest.approx(truth.sum(), abs=4 * np.sqrt((truth * (1 - truth)).sum()))


def test_labels_dealt_out_anew_keep_their_number_a_day(made, tmp_path):
    world, people, frame, _ = made
    dealt, _ = world_rows.write(world, people, tmp_path, 6_000, days=2, shuffle=True)
    days = frame.column("time_us") // world_rows.DAY_US
    for day in np.unique(days):
        assert frame.column("clicked")[days == day].sum() == dealt.column("clicked")[days == day].sum()
    assert (frame.column("clicked") != dealt.column("clicked")).any()
    assert frame.column("site").tolist() == dealt.column("site").tolist()


def test_a_young_log_whose_contacts_grow_is_not_taken_for_another_world(tmp_path):
    """Nobody was ever shown anything in the first hours; a week later everybody was. That alone must not block."""
    world = world_rows.build(seed=3, rows=40_000)
    frame, _ = world_rows.write(world, world_rows.audience(world), tmp_path, 40_000)
    day = frame.column("time_us") // world_rows.DAY_US
    everything = np.ones(len(frame), dtype=bool)
    encoder = encoding.fit(frame, everything)
    early, late = (
        np.concatenate([encoder.matrix(part) for _, part in frames.chunks(frame, keep)])
        for keep in (day < day[-1], day == day[-1])
    )
    moved = gate.stability(drift.by_feature(early, late), 0.0, blocks=True)
    assert "drift (PSI) of hours_since_shown" in {check.name for check in moved}
    assert [check.name for check in moved if check.blocks] == []
