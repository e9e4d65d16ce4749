"""The world's columns are what the features give for the very contexts, users and ads of its requests."""

import json
from collections import defaultdict

import numpy as np
import pytest
from msgspec.structs import replace

from bidder import openrtb
from bidder.wording import topics
from dmp import keys
from dmp.schema import Contact
from loadtest import world as worlds
from loadtest import world_rows
from models import drift, encoding, features, frames, gate
from models.context import Context


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    world = world_rows.build(seed=3, rows=6_000)
    people = world_rows.audience(world)
    frame, truth = world_rows.write(world, people, tmp_path_factory.mktemp("rows"), 6_000, days=2)
    return world, people, frame, truth


def test_columns_are_the_rows_the_bidder_would_have_filled(made):
    world, people, _, _ = made
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
        user = replace(people.users[who], contacts=tuple(shown[who])) if requests.known[i] else None
        ad = offered[worlds.VERTICALS[vertical[i]][0], banner["w"], banner["h"]]
        items.append((context, user, ad, time_us))
    vocabulary = features.fit_vocabulary(items, min_rows=1)
    assert np.array_equal(frames.matrix(vocabulary, table), features.matrix(vocabulary, items), equal_nan=True)
    assert len(items) > 50
    assert any(user is None for _, user, _, _ in items)
    assert {bool(context.topics) for context, *_ in items} == {True, False}
    assert any(user is not None and user.contacts for _, user, _, _ in items)


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
