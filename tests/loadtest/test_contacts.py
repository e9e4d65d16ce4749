"""What people were shown, counted for all at once, is what the bidder's features count for one."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dmp import keys
from dmp.schema import Contact, User
from loadtest.contacts import Contacts
from models import features
from models.context import Ad, Context
from models.pairs import pair_values

HOUR_US = 3_600_000_000
CAMPAIGNS = ("a", "b")
shows = st.lists(st.tuples(st.integers(0, 220), st.integers(0, 2), st.integers(0, 1)), max_size=60)


@given(shows, st.integers(0, 2), st.integers(0, 1), st.integers(221, 240))
def test_windows_are_those_of_the_features(shown, user, campaign, hour):
    contacts = Contacts(3, 2)
    for at in range(221):
        here = [(u, c) for h, u, c in shown if h == at]
        contacts.seen(at, np.array([user]), np.array([campaign]))
        if here:
            contacts.add(at, np.array([u for u, _ in here]), np.array([c for _, c in here]))
    found = contacts.seen(hour, np.array([user]), np.array([campaign]))
    theirs = tuple(Contact(keys.number(CAMPAIGNS[c]), h, 1) for h, u, c in shown if u == user)
    known, now_us = User(contacts=theirs), hour * HOUR_US
    pairs = dict(
        zip(
            features.NAMES[-features.N_PAIR :],
            pair_values(Ad(CAMPAIGNS[campaign], "x"), Context(), known, now_us),
            strict=True,
        )
    )
    request = features.request_values(features.Vocabulary({}), Context(), known, now_us)
    assert found.day[0] == pairs["shown_24h"]
    assert found.week[0] == pairs["shown_7d"]
    assert found.ago[0] == pairs["hours_since_shown"] or (
        math.isnan(found.ago[0]) and math.isnan(pairs["hours_since_shown"])
    )
    assert found.any_day[0] == request[features.NAMES.index("user_shown_24h")]
