"""What a user would like now, in the bidder: the nightly space, the stored vector, and what was done a minute ago."""

import math
import shutil
import time

import lightgbm
import msgspec
import numpy as np
import pytest

from bidder.campaigns import Portfolio
from bidder.config import BidderConfig
from bidder.decide import decide
from bidder.privacy import PrivacyDecision
from bidder.snapshot import build
from bidder.tastes import LEARN_ONE_IN, MAX_AGE_US, Source, Tastes
from dmp import codec, keys, preference, realtime
from dmp.events import Bid
from dmp.realtime import CART, VIEW, Parts, Recent
from dmp.schema import DIMENSIONS, Tag, User
from dmp.taxonomy import tag_id
from models import features, parity, registry
from models.context import decode_ad, encode_ad
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request
from tests.bidder.running import CAMPAIGNS, IFA, body_of_user, running
from tests.bidder.test_app import eventually, in_log
from tests.bidder.test_decide import a_model, interest_logit
from tests.models.test_registry import an_artefact

TRAVEL, FOOD, PETS = (tag_id(f"interest.{name}") for name in ("travel", "food", "pets"))
PREFERENCE = features.NAMES.index("preference")
DAY_US = 86_400_000_000


def axis(n: int) -> np.ndarray:
    return np.eye(DIMENSIONS, dtype=np.float32)[n]


def a_space(learnt_us: int = NOW_US) -> preference.Space:
    """Travel and food at right angles; of pets nothing was learnt."""
    return preference.space_of([TRAVEL, FOOD], np.array([2 * axis(0), 3 * axis(1)]), learnt_us)


def lately(*acts: tuple[int, int, int]) -> realtime.Realtime:
    """A record of acts (microseconds ago, kind, tag), newest first."""
    recent = [Recent(NOW_US - ago, kind, tag) for ago, kind, tag in acts]
    return realtime.decode(realtime.encode(Parts(nonce=bytes(8), newest_us=recent[0].time_us, recent=recent)))


TRAVELLER = User(vector=preference.pack(axis(0)), generation=4)
"""Somebody who has always liked travel."""


def test_a_stored_vector_turns_towards_what_was_done_just_now() -> None:
    """Eight views of food just now weigh as much as the long term: half way between two right-angled directions."""
    views = lately(*[(0, VIEW, FOOD)] * 8, (0, VIEW, PETS))
    mixed = preference.unpack(preference.lately(a_space(), TRAVELLER.vector, views, NOW_US))
    assert mixed is not None
    assert mixed[:2] == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-3)
    # The same a day later: an act counts 1/e, all eight of them 2.943 against 8.
    later = preference.unpack(preference.lately(a_space(), TRAVELLER.vector, views, NOW_US + DAY_US))
    assert later is not None
    assert later[1] / later[0] == pytest.approx(8 / math.e / 8, abs=1e-3)
    # A basket weighs five views in the session's direction: 5 of food, 1 of travel.
    session = lately((0, CART, FOOD), (0, VIEW, TRAVEL))
    taste = preference.unpack(preference.lately(a_space(), preference.pack(axis(2)), session, NOW_US))
    assert taste is not None
    assert taste[1] / taste[0] == pytest.approx(5 * 3 / 2, rel=1e-2)


def test_where_nothing_was_done_the_stored_vector_is_left_to_the_bit() -> None:
    vector = preference.pack(np.random.default_rng(1).normal(size=DIMENSIONS))
    for record in (None, lately((0, VIEW, PETS)), lately((0, VIEW, 0))):
        assert preference.lately(a_space(), vector, record, NOW_US) == vector


def test_the_result_says_why_a_vector_was_not_used() -> None:
    served = Tastes(a_space(), 4, True)
    assert served.lately(TRAVELLER, "r", NOW_US) == (TRAVELLER.vector, "served")
    assert served.lately(User(), "r", NOW_US) == (b"", "")
    assert Tastes(None, 0, True).lately(TRAVELLER, "r", NOW_US) == (b"", "missing")
    assert Tastes(a_space(), 5, True).lately(TRAVELLER, "r", NOW_US) == (b"", "other")
    assert served.lately(TRAVELLER, "r", NOW_US + MAX_AGE_US) == (TRAVELLER.vector, "served")
    assert served.lately(TRAVELLER, "r", NOW_US + MAX_AGE_US + 1) == (b"", "stale")


def test_while_no_model_asks_a_sixteenth_of_requests_is_mixed_to_learn_from() -> None:
    unused = Tastes(a_space(), 4)
    results = [unused.lately(TRAVELLER, f"r{n}", NOW_US)[1] for n in range(4_000)]
    assert set(results) == {"", "served"}
    assert results.count("served") == pytest.approx(4_000 / LEARN_ONE_IN, rel=0.25)


def a_decision(tastes: Tastes, user: User, **settings: bool) -> tuple:
    campaigns = (
        a_campaign(id="trip", interest="interest.travel"),
        a_campaign(id="both", interest="interest.food", targeting={"tags": {"interest.travel": 1}}),
        a_campaign(id="pets", interest="interest.pets"),
    )
    made = build(
        Portfolio(campaigns), a_model(interest_logit), msgspec.convert(settings, BidderConfig), "test", tastes=tastes
    )
    user = msgspec.structs.replace(user, tags={TRAVEL: 50})
    return made, user, decide(a_request(), PrivacyDecision(), user, made, NOW_US, EXCHANGE, "x")


def test_each_candidate_has_its_cosine_and_the_log_gives_the_same_row_again() -> None:
    user = msgspec.structs.replace(TRAVELLER, realtime=lately(*[(0, VIEW, FOOD)] * 8))
    made, user, found = a_decision(Tastes(a_space(), 4, True), user)
    assert found.taste == "served"
    cosines = {}
    for offer in found.offers[0]:
        logged = msgspec.structs.replace(user, vector=found.vector)
        ad = decode_ad(encode_ad(made.ads[offer.ad_index]))
        again = features.row(made.model.vocabulary, found.contexts[0], logged, ad, NOW_US)
        np.testing.assert_array_equal(offer.row, again)
        cosines[ad.campaign] = offer.row[PREFERENCE]
    # The user stands half way between travel and food; so does the ad of both. Of pets nothing is known.
    assert cosines["trip"] == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert cosines["both"] == pytest.approx(1, abs=1e-3)
    assert math.isnan(cosines["pets"])


@pytest.mark.parametrize(
    ("tastes", "settings"),
    [
        (Tastes(None, 0, True), {}),
        (Tastes(a_space(), 5, True), {}),
        (Tastes(a_space(NOW_US - MAX_AGE_US - 1), 4, True), {}),
        (Tastes(a_space(), 4, True), {"use_longterm": False}),
        (Tastes(a_space(), 4, True), {"use_tags": False}),
    ],
)
def test_a_vector_that_may_not_or_cannot_be_used_is_unknown(tastes: Tastes, settings: dict[str, bool]) -> None:
    _, _, found = a_decision(tastes, TRAVELLER, **settings)
    assert found.vector == b""
    assert all(math.isnan(offer.row[PREFERENCE]) for offer in found.offers[0])


def a_model_of_taste(created_us: int) -> registry.Artefact:
    """Trained where clicks follow the preference alone."""
    rng = np.random.default_rng(3)
    X = np.full((400, len(features.FEATURES)), 0.5)
    X[:, PREFERENCE] = rng.uniform(-1, 1, 400)
    data = lightgbm.Dataset(X, rng.random(400) < (X[:, PREFERENCE] + 1) / 2)
    booster = lightgbm.train({"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1}, data, 4)
    scores = booster.predict(X[:50], raw_score=True)
    return an_artefact(text=booster.model_to_string(), golden_rows=X[:50], golden_scores=scores, created_us=created_us)


def test_a_model_is_asked_whether_it_looks_at_preferences(tmp_path) -> None:
    source = Source(tmp_path, lambda: 0)
    registry.publish(tmp_path / "models", "response", a_model_of_taste(NOW_US))
    looks = registry.load(tmp_path / "models", "response")
    assert source.load([None, looks]).used
    assert not source.load([None]).used
    assert not looks.forest.uses_pair(0)


def test_the_space_is_that_of_the_live_generation_and_a_broken_one_is_done_without(tmp_path) -> None:
    live = 0
    source = Source(tmp_path, lambda: live)
    folder = tmp_path / "generations" / "4"
    folder.mkdir(parents=True)
    assert (source.version(), source.load([]).space) == (0, None)
    live = 4
    assert source.version() == 0
    (folder / "space").write_bytes(preference.encode_space(a_space()))
    assert (source.version(), source.load([]).generation) == (4, 4)
    assert source.load([]).space.rows == a_space().rows
    (folder / "space").write_bytes(b"\xc1")
    assert source.load([]) == Tastes()


async def test_a_running_bidder_serves_preferences_and_its_log_gives_them_again(tmp_path, store, client):
    now_us = time.time_ns() // 1000
    registry.publish(tmp_path / "models", "response", a_model_of_taste(now_us))
    folder = tmp_path / "data" / "generations" / "4"
    folder.mkdir(parents=True)
    (folder / "space").write_bytes(preference.encode_space(a_space(now_us)))
    client.set(keys.GENERATION, 4)
    async with running(tmp_path, store, CAMPAIGNS + 'interest = "interest.travel"\n', reload_s=0.02) as bidder:
        uid = bidder.service.ring.uid("device", IFA)
        profile = codec.encode_profile(4, [Tag(TRAVEL, 80, 20_000, 1)], preference.pack(axis(1)))
        client.set(keys.profile(uid, 0), profile)
        acts = [Recent(now_us, VIEW, TRAVEL)] * 8
        record = Parts(nonce=bytes(8), newest_us=now_us, recent=acts)
        client.set(keys.realtime(uid), realtime.encode(record))

        def tastes():
            return bidder.service.bidder.serving.snapshot.tastes

        await eventually(lambda: _now(tastes().generation == 4))
        for _ in range(5):
            await bidder.a_bid(body_of_user())
        shutil.rmtree(folder)  # another machine's build, or one that was cleared away
        await eventually(lambda: _now(tastes().space is None))
        await bidder.a_bid(body_of_user())
        told = await bidder.metrics()

        def bids():
            return [event for event in in_log(bidder) if isinstance(event, Bid)]

        await eventually(lambda: _now(len(bids()) == 6))  # the log is written by a thread
        logged = bids()
    assert told['tagbid_preference_total{result="served"}'] == 5
    assert told['tagbid_preference_total{result="missing"}'] == 1
    found = parity.check(tmp_path / "data" / "bidlog", tmp_path / "models")
    assert (found.checked, found.different, found.unknown) == (6, 0, 0)
    *served, last = [np.frombuffer(event.vector, "<f8")[PREFERENCE] for event in logged]
    assert served == pytest.approx([math.sqrt(0.5)] * 5, abs=2e-3)
    assert math.isnan(last)
    assert last is not None
    assert logged[-1].user.vector == b""


async def _now(value: bool) -> bool:
    return value
