import asyncio
import gc
import json
import logging
import os
import signal
import time

import aiohttp
import pytest

from bidder import app, bidding, budget, serving
from bidder.defects import Reporter
from bidder.sockets import CannotListen
from bidder.user_ids import user_uid
from dmp import codec, events, keys
from dmp.config import DmpConfig
from dmp.errors import ConfigError
from dmp.schema import Tag
from dmp.store import open_store
from dmp.taxonomy import tag_id
from models import landscape_train
from tests.bidder.running import CAMPAIGNS, CAPPED, IFA, body, body_of_user, running, urls
from tests.models.price_world import a_log, a_market

TAGGED = CAPPED.replace("capped", "tagged").replace("caps = [{limit = 2, window_s = 86400}]\n", "") + (
    '[campaign.targeting]\ntags = {"interest.travel" = 60}\n'
)


async def eventually(true):
    async with asyncio.timeout(30):
        while not await true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def in_log(bidder):
    bidder.service.bidlog.flush()
    found = []
    for path in sorted((bidder.service.bidlog._directory).iterdir()):
        found += list(events.read_file(path))
    return found


async def test_a_users_tags_decide_the_bid(tmp_path, store, client):
    async with running(tmp_path, store, CAMPAIGNS + TAGGED) as bidder:
        uid = bidder.service.ring.uid("device", IFA)
        assert (await bidder.a_bid(body_of_user()))["cid"] == "acme"
        client.set(keys.GENERATION, 1)
        client.set(keys.profile(uid, 0), codec.encode_profile(1, [Tag(tag_id("interest.travel"), 80, 20_000, 1)]))
        await bidder.service.lookup._read_generation()
        assert (await bidder.a_bid(body_of_user()))["cid"] == "tagged"
        assert (await bidder.a_bid(body()))["cid"] == "acme"
        metrics = await bidder.metrics()
        assert metrics['tagbid_store_total{result="hit"}'] == 1
        assert metrics['tagbid_store_total{result="miss"}'] == 1
        assert metrics['tagbid_contextual_total{because="no_id"}'] == 1


async def test_the_id_we_know_best_names_the_user(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        ring = bidder.service.ring

        def uid(**fields):
            from bidder import openrtb

            return user_uid(openrtb.decode(body(**fields)), "adx", ring)

        device = {"ifa": IFA, "geo": {"country": "USA"}}
        assert uid(user={"buyeruid": "our-1", "id": "theirs"}, device=device) == ring.uid("cookie", "our-1")
        assert uid(user={"id": "theirs"}, device=device) == ring.uid("device", IFA)
        assert uid(user={"id": "theirs"}) == ring.uid("exchange", "adx:theirs")
        assert uid(user={"buyeruid": "null", "id": "0000"}) is None
        assert uid(user={}) is None


async def test_a_bid_is_in_the_log_with_all_it_was_made_of(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        bid = await bidder.a_bid(body_of_user())
        await bidder.get(urls(bid)["billing"])
        await eventually(lambda: asyncio.sleep(0, len(in_log(bidder)) == 2))
        logged, billing = in_log(bidder)
        assert (logged.event_id, logged.auction_id, logged.imp_id) == (bid["id"], "r1", "1")
        assert (logged.campaign, logged.creative, logged.advertiser) == ("acme", "acme-1", "acme")
        assert (logged.exchange, logged.at, logged.currency, logged.model) == ("x", 1, "USD", "")
        assert logged.price_micros == round(bid["price"] * 1e6)
        assert logged.uid == bidder.service.ring.uid("device", IFA)
        assert logged.user is not None
        assert billing.bid_id == bid["id"]


@pytest.mark.rule("P-50")
async def test_the_log_of_a_contextual_bid_has_no_user(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        await bidder.a_bid(body(device={"ifa": IFA, "lmt": 1, "geo": {"country": "USA"}}, user={"buyeruid": "our-1"}))
        await eventually(lambda: asyncio.sleep(0, len(in_log(bidder)) == 1))
        (logged,) = in_log(bidder)
        assert (logged.uid, logged.user) == (None, None)


@pytest.mark.rule("P-60")
@pytest.mark.rule("P-64")
async def test_raw_ids_are_nowhere_but_in_the_request(tmp_path, store, client, caplog, capfd):
    canaries = ["canary-buyer-7f3a", "canary-user-9c1d", "c0ffee00-dead-4bad-8bad-0123456789ab", "203.0.113.77"]
    fields = {
        "user": {"buyeruid": canaries[0], "id": canaries[1]},
        "device": {"ifa": canaries[2], "ip": canaries[3], "geo": {"country": "USA"}},
    }
    with caplog.at_level(logging.DEBUG):
        async with running(tmp_path, store, CAMPAIGNS + CAPPED) as bidder:
            bids = [await bidder.a_bid(body(**fields))]
            fields["user"].pop("buyeruid")
            bids.append(await bidder.a_bid(body(**fields)))
            fields["device"].pop("ifa")
            bids.append(await bidder.a_bid(body(**fields)))
            await bidder.bid(body(**fields).replace(b'"imp"', b'"pmi"'))
            for bid in bids:
                for url in urls(bid).values():
                    await bidder.get(url)
            told = json.dumps(bids) + (await bidder.get(f"{bidder.admin}/metrics"))[1].decode()
            told += (await bidder.get(f"{bidder.admin}/health"))[1].decode()
    stored = b"".join(client.dump(key) + key for key in client.scan_iter())
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    out = "".join(capfd.readouterr()) + caplog.text + told
    assert len(stored) > 500
    for canary in canaries:
        assert canary not in out
        assert canary.encode() not in stored + written


async def test_with_the_store_standing_still_bids_go_on_in_time_and_without_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with open_store(DmpConfig(data_dir=str(tmp_path / "data"))) as own:
        async with running(tmp_path, own, CAMPAIGNS + TAGGED) as bidder:
            assert (await bidder.bid(body_of_user()))[0] == 200
            own.server.send_signal(signal.SIGSTOP)
            try:
                for n in range(40):
                    began = time.monotonic()
                    status, _ = await bidder.bid(body_of_user(f"{n:08d}-8246-4ba4-ae5b-76104861e7dc", tmax=200))
                    assert status == 200
                    assert time.monotonic() - began < 0.2
                    await asyncio.sleep(0.01)
                metrics = await bidder.metrics()
                assert metrics['tagbid_store_up{link="lookup"}'] == 0
                assert metrics['tagbid_store_total{result="skipped"}'] > 0
                assert json.loads((await bidder.get(f"{bidder.admin}/health"))[1])["status"] == "degraded"
            finally:
                own.server.send_signal(signal.SIGCONT)

            async def read_again():
                await bidder.bid(body_of_user())
                return (await bidder.metrics())['tagbid_store_total{result="miss"}'] > 1

            await eventually(read_again)

            async def healthy():
                return json.loads((await bidder.get(f"{bidder.admin}/health"))[1])["status"] == "ok"

            await eventually(healthy)


async def test_a_capped_campaign_does_not_bid_when_the_contacts_cannot_be_read(tmp_path, store):
    async with running(tmp_path, store, CAPPED) as bidder:
        assert (await bidder.bid(body_of_user()))[0] == 200
        bidder.service.lookup.link.lines[0].drop()
        assert (await bidder.bid(body_of_user()))[0] == 204


@pytest.mark.parametrize(
    ("tmax", "status"), [(None, 200), (100, 200), (86.5, 200), (0, 200), (-5, 200), (10**9, 200), (20, 204), (1, 204)]
)
async def test_a_request_without_enough_time_is_not_bid_on(tmp_path, store, tmax, status):
    async with running(tmp_path, store) as bidder:
        assert (await bidder.bid(body(tmax=tmax)))[0] == status
        metrics = await bidder.metrics()
        assert metrics['tagbid_no_bid_total{reason="no_time"}'] == (status == 204)


async def test_too_many_waiting_requests_are_answered_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with open_store(DmpConfig(data_dir=str(tmp_path / "data"))) as own:
        async with running(tmp_path, own, max_in_flight=3) as bidder:
            own.server.send_signal(signal.SIGSTOP)
            try:
                found = await asyncio.gather(*(bidder.bid(body_of_user(tmax=1_000)) for _ in range(8)))
            finally:
                own.server.send_signal(signal.SIGCONT)
            metrics = await bidder.metrics()
            assert metrics['tagbid_no_bid_total{reason="overload"}'] == 5
            assert sorted(status for status, _ in found) == [200] * 3 + [204] * 5


async def test_new_campaigns_are_served_without_a_dropped_request(tmp_path, store):
    async with running(tmp_path, store, reload_s=0.02) as bidder:
        path = tmp_path / "campaigns.toml"
        seen, stop = set(), asyncio.Event()

        async def ask():
            async with aiohttp.ClientSession() as http:
                while not stop.is_set():
                    async with http.post(f"{bidder.url}/bid/x", data=body_of_user()) as answer:
                        assert answer.status == 200
                        seen.add(json.loads(await answer.read())["seatbid"][0]["bid"][0]["cid"])

        async with asyncio.TaskGroup() as asking:
            for _ in range(4):
                asking.create_task(ask())
            await eventually(lambda: asyncio.sleep(0, seen == {"acme"}))
            for n in range(5):
                path.write_text(CAMPAIGNS.replace('"acme"', f'"acme{n}"').replace("acme-1", f"acme{n}-1"))
                await eventually(lambda n=n: asyncio.sleep(0, f"acme{n}" in seen))
            stop.set()
        assert gc.get_freeze_count() > 0


async def test_a_broken_campaign_file_changes_nothing_and_is_told_once(tmp_path, store, caplog):
    async with running(tmp_path, store, reload_s=0.02) as bidder:
        (tmp_path / "campaigns.toml").write_text(CAMPAIGNS.replace("price_micros", "prize_micros"))

        async def failed():
            return (await bidder.metrics())['tagbid_snapshot_total{result="failed"}'] == 1

        await eventually(failed)
        await asyncio.sleep(0.1)
        assert await failed()
        assert caplog.text.count("prize_micros") == 1
        assert (await bidder.a_bid())["cid"] == "acme"


async def test_a_defect_costs_its_request_only_and_no_value_is_logged(tmp_path, store, monkeypatch, caplog):
    async with running(tmp_path, store) as bidder:
        real = bidding.decide

        def broken(request, *rest, **more):
            if request.id == "boom":
                raise KeyError("a-raw-id")
            return real(request, *rest, **more)

        monkeypatch.setattr(bidding, "decide", broken)
        found = await asyncio.gather(
            *(bidder.bid(make(id="boom" if n % 2 else "r1")) for n in range(10) for make in (body, body_of_user))
        )
        assert [status for status, _ in found] == [200, 200, 204, 204] * 5
        metrics = await bidder.metrics()
        assert metrics['tagbid_no_bid_total{reason="error"}'] == 10
        assert metrics['tagbid_errors_total{where="bid"}'] == 10
        assert bidder.service.bidder.in_flight == 0
        assert "a-raw-id" not in caplog.text
        assert "defect: KeyError at test_app.py" in caplog.text


def test_defects_are_logged_once_a_second(caplog):
    report = Reporter()
    for _ in range(100):
        report(ZeroDivisionError())
    assert len(caplog.records) == 1


async def test_several_impressions_get_one_bid_each_on_its_own_reservation(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        status, answer = await bidder.bid(body(imp=[{}, {}, {"banner": {"w": 1, "h": 1}}]))
        assert status == 200
        bids = json.loads(answer)["seatbid"][0]["bid"]
        assert [bid["impid"] for bid in bids] == ["1", "2"]
        assert len({bid["id"] for bid in bids}) == 2
        assert bidder.service.budgets.accounts()[0].pending == 2 * 1_700


async def test_without_budget_the_next_best_campaign_bids(tmp_path, store):
    poor = CAMPAIGNS + CAMPAIGNS.replace("acme", "poor").replace("price_micros = 2", "price_micros = 9").replace(
        "budget_micros = 1000000000", "budget_micros = 10000"
    )
    async with running(tmp_path, store, poor) as bidder:
        names = [(await bidder.a_bid())["cid"] for _ in range(5)]
        await bidder.service.link.execute("PING")
        names += [(await bidder.a_bid())["cid"] for _ in range(5)]
        assert names.count("poor") == 1
        assert names.count("acme") == 9
        for _ in range(2):  # the answers to what the last bids asked the store
            await bidder.service.link.execute("PING")
        assert bidder.service.budgets.exhausted == {"poor"}
        assert (await bidder.metrics())['tagbid_budget_micros{campaign="poor",state="pending"}'] == 7_650


@pytest.mark.parametrize(
    ("fields", "hold_s"),
    [
        ({}, 120),
        ({"imp": {"instl": 1}}, 2_400),
        ({"site": None, "app": {"bundle": "com.x"}}, 600),
        ({"imp": {"exp": 300}}, 300),
    ],
)
async def test_money_is_held_as_long_as_a_notice_may_take(tmp_path, store, fields, hold_s):
    async with running(tmp_path, store) as bidder:
        await bidder.bid(body(**fields))
        await bidder.service.link.execute("PING")
        assert (await bidder.a_bid(body(**fields)))["exp"] == hold_s


async def test_operators_see_metrics_health_and_readiness_on_their_own_port_only(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        await bidder.a_bid()
        await bidder.bid(b"{")
        metrics = await bidder.metrics()
        assert metrics['tagbid_requests_total{exchange="x"}'] == 2
        assert metrics['tagbid_responses_total{status="200"}'] == 1
        assert metrics['tagbid_responses_total{status="400"}'] == 1
        assert metrics["tagbid_bids_total"] == 1
        assert metrics['tagbid_no_bid_total{reason="invalid_request"}'] == 1
        assert metrics["tagbid_bid_seconds_count"] == 2
        health = json.loads((await bidder.get(f"{bidder.admin}/health"))[1])
        assert (health["status"], health["campaigns"], health["ads"]) == ("ok", 1, 1)
        assert (await bidder.get(f"{bidder.admin}/ready"))[0] == 200
        for path in ("/metrics", "/health", "/ready"):
            assert (await bidder.get(bidder.url + path))[0] == 404


async def test_leaving_hands_unused_budget_back(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        await bidder.a_bid()
        (key,) = client.keys("spend:*")
    assert {name[:2] for name in client.hgetall(key)} == {b"l:", b"s:", b"x:"}
    assert [int(value) for name, value in client.hgetall(key).items() if name.startswith(b"l:")] == [1_700]


async def test_a_port_that_is_taken_is_told(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        (tmp_path / "two").mkdir()
        with pytest.raises(CannotListen, match=f"127.0.0.1:{bidder.port}"):
            async with running(tmp_path / "two", store, port=bidder.port):
                pass


async def test_a_broken_campaign_file_at_start_is_told(tmp_path, store):
    with pytest.raises(ConfigError, match="unknown key"):
        async with running(tmp_path, store, CAMPAIGNS + "x = 1\n"):
            pass


async def test_secrets_are_for_the_owner_only(tmp_path, store):
    async with running(tmp_path, store):
        pass
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").glob("*.key")}
    assert modes == {"token.key": 0o600, "pseudonym.key": 0o600}


async def test_a_started_bidder_goes_on_at_the_pace_any_worker_had_reached(tmp_path, store, client):
    client.set(keys.pace("acme"), b"[0.25,1.0]")
    async with running(tmp_path, store) as bidder:
        assert bidder.service.paces.of["acme"].k == 0.25
        assert (await bidder.a_bid(body(at=2)))["price"] == 0.5  # a quarter of 2.00
        assert (await bidder.metrics())['tagbid_pace{campaign="acme",what="multiplier"}'] == 0.25


async def test_a_published_landscape_is_taken_up_and_a_broken_one_is_not(tmp_path, store):
    root = tmp_path / "models"
    async with running(tmp_path, store, reload_s=0.02, explore_share=0.0) as bidder:
        assert (await bidder.a_bid())["price"] == 1.7  # the constant share of 2.00
        data = landscape_train.observations(a_log(tmp_path / "log", a_market(3_000)))
        version = landscape_train.train(data, root, now_us=1_000_000).version

        async def taken_up():
            return bidder.service.bidder.serving.snapshot.landscape is not None

        await eventually(taken_up)
        price = (await bidder.a_bid())["price"]
        assert price < 1.7
        counts = await bidder.metrics()
        assert counts['tagbid_first_price_total{by="constant"}'] == 1
        assert counts['tagbid_first_price_total{by="model"}'] == 1
        (root / "landscape" / version / "model.txt").write_text("tree")
        (root / "landscape" / "current").write_text(f"{version}\n\n")  # the pointer moves, its target is broken
        os.utime(bidder.service.settings.campaigns)

        async def refused():
            return (await bidder.metrics())['tagbid_snapshot_total{result="failed"}'] > 0

        await eventually(refused)
        assert (await bidder.a_bid())["price"] == price


@pytest.mark.rule("P-16")
async def test_the_log_tells_who_shares_an_address_never_the_address_and_nothing_without_permission(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        for n, (ip, fields) in enumerate(
            (("198.51.100.7", {}), ("198.51.100.7", {}), ("198.51.100.8", {}), ("198.51.100.7", {"lmt": 1}))
        ):
            await bidder.a_bid(body(id=f"r{n}", device={"geo": {"country": "USA"}, "ip": ip, "ifa": IFA, **fields}))
        bidder.service.bidlog.close()
        logged = [event for file in (tmp_path / "data" / "bidlog").glob("*.mpk") for event in events.read_file(file)]
        marks = {event.auction_id: event.ip for event in logged if isinstance(event, events.Bid)}
        assert marks["r0"] == marks["r1"] != marks["r2"]
        assert {len(marks[name]) for name in ("r0", "r1", "r2")} == {32}
        assert marks["r3"] == ""


async def test_a_swap_that_takes_several_turns_is_not_undone_by_what_the_one_before_left_to_do(
    tmp_path, store, monkeypatch
):
    async with running(tmp_path, store, reload_s=3_600.0) as bidder:
        service = bidder.service
        (tmp_path / "campaigns.toml").write_text("".join(CAMPAIGNS.replace("acme", f"acme{i}") for i in range(5)))
        made = serving.load(service.settings, "http://127.0.0.1")
        monkeypatch.setattr(budget, "STEP", 3)
        with monkeypatch.context() as soon:
            soon.setattr(app, "TICK_S", 0.0)
            await service.swap(service.bidder.serving)
        await service.swap(made)
        money = {account.campaign: account.budget for account in service.budgets.accounts()}
        assert {name for name, left in money.items() if left} == {"acme", *(f"acme{i}" for i in range(5))}
