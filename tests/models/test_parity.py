import struct

import msgspec
import numpy as np

from dmp import keys, preference, realtime
from dmp.schema import DIMENSIONS, Contact, User
from dmp.taxonomy import INTERESTS, tag_id
from models import features, parity, registry
from models.context import Ad, Context, encode_ad, encode_context
from models.features import Rates, Vocabulary
from models.pairs import pair_values
from tests.models.factories import BORN_US, MINUTE_US, bid
from tests.models.test_registry import an_artefact
from tests.stored import encode_all

VOCABULARY = Vocabulary(
    {
        "site": [f"site{i}.example" for i in range(5)],
        "tagid": ["top"],
        "user_interest": list(INTERESTS[:4]),
        "user_last_category": list(INTERESTS[:4]),
        "campaign": ["c0", "c1"],
    },
    Rates({(): (0.01, 3.0), ("x", "site1.example"): (0.02, 2.0)}, {("a", "c1"): (0.05, 1.0)}),
)


def a_user(rng, now_us):
    """Somebody with tags, contacts, a taste and a busy last hour, or nobody, or one we may not know."""
    kind = rng.integers(6)
    if kind == 0:
        return None
    if kind == 1:
        return User()
    tags = {int(tag): int(rng.integers(1, 101)) for tag in rng.choice(INTERESTS[:6], 3, replace=False)}
    tags[tag_id("demographic.gender.male")] = int(rng.integers(1, 101))
    now = realtime.Parts(
        newest_us=now_us - int(rng.integers(0, 90)) * MINUTE_US,
        sums={tag: tuple(float(x) for x in rng.random(3) * 1e3) for tag in sorted(tags)},
        hours={now_us // realtime.HOUR_US - h: tuple(int(x) for x in rng.integers(0, 9, 5)) for h in range(3)},
        recent=[realtime.Recent(now_us - n * 7 * MINUTE_US, realtime.VIEW, INTERESTS[n % 4]) for n in range(5)],
        carts={INTERESTS[0]: realtime.Basket(now_us - MINUTE_US, realtime.CART)},
    )
    contacts = tuple(Contact(keys.number(f"c{i}"), now_us // realtime.HOUR_US - i, 1) for i in range(3))
    taste = preference.pack(rng.normal(size=DIMENSIONS)) if kind > 3 else b""
    recent = realtime.decode(realtime.encode(now)) if kind > 2 else None
    return User(tags, frozenset({7}), contacts, taste, recent)


def log_bids(folder, version, n, served=None):
    """Bids as the bidder makes them, each side by its own function, the user through the log's bytes."""
    rng = np.random.default_rng(5)
    logged = []
    for i in range(n):
        now_us = BORN_US + i * 1_000_003
        context = Context(exchange="x", domain=f"site{i % 7}.example", tagid="top" if i % 2 else "", width=300,
                          floor_micros=int(rng.integers(0, 10**7)), hour=i % 24, category="IAB20-3")  # fmt: skip
        ad = Ad(f"c{i % 3}", f"c{i % 3}-1", "a", "IAB20", INTERESTS[i % 4], 300, 250, tuple(INTERESTS[:2]),
                frozenset({7}), preference.pack(rng.normal(size=DIMENSIONS)))  # fmt: skip
        user = a_user(rng, now_us)
        row = features.request_values(served or VOCABULARY, context, user, now_us)
        row = [*row, *features.campaign_values(VOCABULARY, ad), *pair_values(ad, context, user, now_us)]
        logged.append(
            msgspec.structs.replace(
                bid(i, now_us), model=version, vector=struct.pack(f"<{len(row)}d", *row), user=user,
                context=encode_context(context), ad=encode_ad(ad),
            )
        )  # fmt: skip
    (folder / "bids-1.mpk").write_bytes(encode_all(logged))


def test_ten_thousand_logged_vectors_are_what_the_log_gives_again(tmp_path):
    version = registry.publish(tmp_path, "response", an_artefact(1, vocabulary=VOCABULARY))
    log_bids(tmp_path, version, 10_000)
    found = parity.check(tmp_path, tmp_path)
    assert (found.checked, found.different, found.unknown) == (10_000, 0, 0)


def test_a_skew_is_found_and_named(tmp_path):
    version = registry.publish(tmp_path, "response", an_artefact(1, vocabulary=VOCABULARY))
    skewed = VOCABULARY.with_rates(Rates({(): (0.011, 3.0)}))
    log_bids(tmp_path, version, 200, served=skewed)
    found = parity.check(tmp_path, tmp_path)
    assert found.checked == found.different == 200
    assert next(iter(found.worst)) == "place_rate"


def test_bids_of_models_that_are_gone_are_told(tmp_path):
    log_bids(tmp_path, "20240101T000000000000-000000000000", 5)
    assert parity.check(tmp_path, tmp_path).unknown == 5
