"""Every Redis key: pattern, type, time to live, owner, slot. No other file builds one (S-22).

| key | type | TTL | written by | holds |
|---|---|---|---|---|
| `prof:{u}:0`, `prof:{u}:1` | string | 30 d idle | dmp.offline | long-term tags (codec.Profile), two banks, see below |
| `aud:{u}` | string | longest membership | dmp.audiences, dmp.optout | audience ids with expiry, marks without |
| `fc:{u}` | string | longest live cap | bidder.contact | contact counters |
| `seen:{u}:<event>` | string | token validity | bidder.notices | mark: this contact was counted |
| `rt:{u}` | string | 30 d after the last event | dmp.stream | real-time record (dmp.realtime) |
| `rtm:{u}` | string | redelivery horizon | dmp.stream | marks: these events are in `rt:{u}` |
| `hot:topics` | string | until the last one is over | dmp.hot | topics that broke out, as JSON |
| `gen:live` | string | none | dmp.store | the live generation number |
| `spend:{m<p>}:<campaign>:<day>` | hash | 8 d | bidder.budget | micros spent and leased of one campaign day |
| `once:{m<p>}:<event>` | string | token validity | bidder.notices | mark: this money event was booked |
| `price:<iv>` | string | while the price is good | bidder.notices | the one bid an encrypted price was told for |
| `pace:{m<p>}:<campaign>` | string | 2 d | bidder.pacer | how a campaign was paced last |
| `cal:{m<p>}:<campaign>` | string | 8 d | models.live | clicks seen against clicks predicted |
| `cost:{m<p>}:<campaign>` | string | 2 d | models.costs | today's spend and the conversions it brings |
| `notices:{m<p>}` | stream | trimmed | bidder.notices | acknowledged notices as `dmp.events` records |
| `events:{e<p>}` | stream | trimmed | dmp.streams | behaviour as `dmp.events` records, several an entry |
| `unsettled:{e<p>}` | sorted set | until settled | dmp.unsettled | users whom only the nightly batch counts exactly |
| `counts:{e<p>}` | hash | 30 d idle | dmp.consumer | what became of events, see dmp.stream.Counts |
| `owner:{e<p>}` | string | seconds | dmp.consumer | which consumer works on this partition |
| `consumers` | sorted set | seconds | dmp.consumer | consumers of the event stream by when last heard of |

`u` is the user's pseudonym as 22 url-safe base64 characters and the hash tag, so that one user is one slot.
`m<p>` is one of 16 money partitions, by campaign, so that a booking (mark, spend, record) is one atomic script.
`e<p>` is one of `dmp.stream.partitions` partitions of the event stream, by user: what one user did stays in order.

**Two banks.** A generation writes a user's profile into the bank that does not hold the record readers see
now, and leaves unchanged users alone. Readers fetch both and take the record with the highest generation
that is not above the live one. So a build that dies half-way is invisible, flipping `gen:live` publishes
everything at once, flipping it back restores the last build, and memory stays near one copy.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Sequence

from dmp.schema import Uid

GENERATION = b"gen:live"
HOT = b"hot:topics"
CONSUMERS = b"consumers"
PROFILE_TTL_S = 30 * 86_400  # P-70: profiles idle for 30 days expire
MONEY_PARTITIONS = 16

_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def text(uid: Uid) -> bytes:
    """The 22 characters that stand for a 16-byte uid in keys and files."""
    return b2a_base64(uid, newline=False).translate(_URL_SAFE)[:22]


def user_keys(uid: Uid) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Keys of one user's read, in the order `dmp.codec.decode_user` takes the values.

    That is: two banks, audiences, contacts, real-time record.

    >>> user_keys(bytes(16))[0]
    b'prof:{AAAAAAAAAAAAAAAAAAAAAA}:0'
    """
    u = text(uid)
    return b"prof:{%b}:0" % u, b"prof:{%b}:1" % u, b"aud:{%b}" % u, b"fc:{%b}" % u, b"rt:{%b}" % u


ALL_PROFILES = b"prof:*"
"""Pattern of every profile key, for the rare scan of a whole store."""


def profile(uid: Uid, bank: int) -> bytes:
    return b"prof:{%b}:%d" % (text(uid), bank)


def profile_pairs(uids: Sequence[Uid]) -> list[tuple[bytes, bytes]]:
    """Both profile keys of each user, at a fifth of the cost of asking one by one.

    >>> profile_pairs([bytes(16)]) == [(profile(bytes(16), 0), profile(bytes(16), 1))]
    True
    """
    texts = urlsafe_b64encode(b"\0\0".join([*uids, b""]))  # 18 bytes a user: 24 characters, the last two say nothing
    users = (texts[at : at + 22] for at in range(0, 24 * len(uids), 24))
    return [(b"prof:{%b}:0" % u, b"prof:{%b}:1" % u) for u in users]


def uid_of(profile_key: bytes) -> Uid:
    """The user a profile key belongs to.

    >>> uid_of(profile(bytes(16), 1)) == bytes(16)
    True
    """
    return urlsafe_b64decode(profile_key[6:28] + b"==")


def audiences(uid: Uid) -> bytes:
    return b"aud:{%b}" % text(uid)


def contacts(uid: Uid) -> bytes:
    return b"fc:{%b}" % text(uid)


def realtime(uid: Uid) -> bytes:
    return b"rt:{%b}" % text(uid)


def realtime_marks(uid: Uid) -> bytes:
    return b"rtm:{%b}" % text(uid)


def stream_keys(uid: Uid) -> tuple[bytes, bytes, bytes]:
    """What the stream processor reads of a user: real-time record, its marks, audiences."""
    u = text(uid)
    return b"rt:{%b}" % u, b"rtm:{%b}" % u, b"aud:{%b}" % u


def event_partition(uid: Uid, partitions: int) -> int:
    """Which of the event stream's partitions a user's events go to; uids are hashes, so any bytes of them do."""
    return int.from_bytes(uid[:8], "big") % partitions


def events(partition: int) -> bytes:
    return b"events:{e%d}" % partition


def unsettled(partition: int) -> bytes:
    return b"unsettled:{e%d}" % partition


def event_counts(partition: int) -> bytes:
    return b"counts:{e%d}" % partition


def event_owner(partition: int) -> bytes:
    return b"owner:{e%d}" % partition


def rewritten(stream: bytes) -> bytes:
    """Where a stream is written anew before it takes its name back; in the same slot."""
    return stream + b":anew"


def contact_mark(uid: Uid, event_id: str) -> bytes:
    return b"seen:{%b}:%b" % (text(uid), event_id.encode())


def money_partition(campaign: str) -> int:
    return number(campaign) % MONEY_PARTITIONS


def spend(campaign: str, day: int) -> bytes:
    """Spend of one campaign on one day. day: days since 1970-01-01 in the campaign's budget time zone."""
    return b"spend:{m%d}:%d:%d" % (money_partition(campaign), number(campaign), day)


def pace(campaign: str) -> bytes:
    """How a campaign was paced last, for a bidder that starts."""
    return b"pace:{m%d}:%d" % (money_partition(campaign), number(campaign))


def calibration(campaign: str) -> bytes:
    """How a campaign's clicks compare with what was predicted (`models.live.Ratio`)."""
    return b"cal:{m%d}:%d" % (money_partition(campaign), number(campaign))


def cost(campaign: str) -> bytes:
    """What a campaign's day has cost and brought (`models.live.Cost`)."""
    return b"cost:{m%d}:%d" % (money_partition(campaign), number(campaign))


def money_mark(campaign: str, event_id: str) -> bytes:
    return b"once:{m%d}:%b" % (money_partition(campaign), event_id.encode())


def price_mark(iv: bytes) -> bytes:
    """Which bid an encrypted price was told for. iv: its initialisation vector."""
    return b"price:%b" % iv.hex().encode()


def notices(partition: int) -> bytes:
    return b"notices:{m%d}" % partition


def number(name: str) -> int:
    """The stable 32-bit number of a campaign, creative, advertiser or audience named in text.

    Stored where names would cost too much (contact scopes, audience membership). Two names with the same
    number are refused when a campaign file or an audience is created.

    >>> number("acme/spring") == number("acme/spring") != number("acme/autumn")
    True
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")


OPTED_OUT = number("!opted out")
CHILD = number("!child")
"""Marks in a user's audience record: no personalised advertising for this user; known to be a child. No advertiser
can name an audience so.
"""
