"""The two controls of a comparison with tags: nobody has any, and everybody has somebody else's.

The second is the placebo. Tags dealt out at random keep their number, their values and how they go together, and
lose only whom they are about; a bidder that still gains from them gains from an error in the experiment.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
import numpy as np
import pyarrow as pa

from dmp.events import Bid, Event
from dmp.schema import Uid, User


def deal(uids: list[Uid], seed: int) -> dict[Uid, Uid]:
    """{user: whose tags the user gets}: a random permutation, the same for one seed."""
    order = np.random.default_rng([seed, 5]).permutation(len(uids))
    return {uid: uids[donor] for uid, donor in zip(uids, order, strict=True)}


def permuted(tags: pa.Table, donors: Mapping[Uid, Uid]) -> pa.Table:
    """The tag table after the deal; users without a donor keep nothing."""
    receiver = {donor: uid for uid, donor in donors.items()}
    dictionary = tags["uid"].combine_chunks().dictionary_encode()
    moved = pa.array([receiver.get(uid) for uid in dictionary.dictionary.to_pylist()], tags["uid"].type)
    column = moved.take(dictionary.indices)
    table = tags.set_column(tags.schema.get_field_index("uid"), tags.schema.field("uid"), column)
    return table.filter(column.is_valid()).sort_by([("uid", "ascending"), ("tag", "ascending")])


def without_users(events: Iterable[Event]) -> Iterator[Event]:
    """A bid log as a bidder that knows nobody would have written it."""
    for event in events:
        yield msgspec.structs.replace(event, user=None, vector=b"") if isinstance(event, Bid) else event


def with_others_tags(
    events: Iterable[Event], donors: Mapping[Uid, Uid], tags: Mapping[Uid, dict[int, int]]
) -> Iterator[Event]:
    """A bid log as it would be after the deal: each bid's user has the tags of the donor.

    tags: {user: {tag: score}} before the deal. Contacts and audiences stay as they were seen.
    """
    for event in events:
        if isinstance(event, Bid) and event.user is not None and event.uid is not None:
            user = event.user
            dealt = User(tags.get(donors.get(event.uid, b""), {}), user.audiences, user.contacts)
            yield msgspec.structs.replace(event, user=dealt, vector=b"")
        else:
            yield event
