"""A bid's record holds what its models saw, so that their vector can be computed again from it."""

import numpy as np
import pytest

from bidder.privacy import PrivacyDecision
from bidder.record import bid_event
from bidder.tastes import Tastes
from dmp import keys
from dmp.pseudonym import KeyRing
from dmp.realtime import CART, VIEW
from dmp.schema import Contact, User
from models import features
from models.context import HOUR_US, decode_context
from tests.bidder.factories import NOW_US, a_call, a_request
from tests.bidder.test_tastes import FOOD, TRAVEL, TRAVELLER, a_decision, a_space, lately


@pytest.mark.parametrize("off", [{}, {"use_tags": False}, {"use_longterm": False}, {"use_realtime": False}])
@pytest.mark.parametrize("somebody", [True, False])
def test_the_logged_vector_is_that_of_the_logged_user_whatever_the_operator_switches_off(
    off: dict[str, bool], somebody: bool
) -> None:
    user = User(
        contacts=(Contact(keys.number("trip"), NOW_US // HOUR_US, 2),),
        audiences=frozenset({7}),
        vector=TRAVELLER.vector,
        realtime=lately((0, CART, TRAVEL), (60_000_000, VIEW, FOOD)),
        generation=TRAVELLER.generation,
    )
    made, user, found = a_decision(Tastes(a_space(), 4, used=True), user if somebody else User(), **off)
    assert made.model is not None
    call = a_call(a_request(), made, user, PrivacyDecision())
    call.now_us = NOW_US
    for offer in found.offers[0]:
        logged = bid_event(b"b", call, found, offer, "", KeyRing(bytes(32)))
        context, ad = decode_context(logged.context), made.ads[offer.ad_index]
        again = features.row(made.model.vocabulary, context, logged.user, ad, NOW_US)
        np.testing.assert_array_equal(np.frombuffer(logged.vector, "<f8"), again)
        np.testing.assert_array_equal(np.frombuffer(logged.vector, "<f8"), offer.row)
