"""The placebo of a comparison with tags: everybody has somebody else's.

Tags dealt out at random keep their number, their values and how they go together, and lose only whom they are
about; a bidder that still gains from them gains from an error in the experiment.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dmp.schema import Uid


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
