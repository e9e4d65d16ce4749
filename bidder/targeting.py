"""Which ads may be shown: bit sets over the ads of a snapshot, one mask per rule and value."""

import msgspec


class Index(msgspec.Struct, frozen=True):
    """Immutable; bit i of every mask is ad i of the snapshot."""

    everything: int
