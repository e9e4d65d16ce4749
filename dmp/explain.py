"""Why a user has a tag: weight, age, source, how long it lasts, and the rule that made it."""

from datetime import date, timedelta
from typing import Any

import msgspec
import redis

from dmp import families, keys, realtime, store, taxonomy
from dmp.codec import Profile
from dmp.config import DmpConfig
from dmp.schema import SOURCES, Tag, Uid

EPOCH = date(1970, 1, 1)


class ExplainedTag(msgspec.Struct, frozen=True):
    """One tag of a user.

    as_of: ISO date of the youngest behaviour behind it, "" for now. half_life_days, ttl_days: of the taxonomy; 0 = no
    decay. source: the family of the build, or "realtime". rule: what made it, a file or a function; rule_sha256: of
    that file as the build ran it, "" where no text is known.
    """

    tag: str
    label_en: str
    label_zh: str
    weight: int
    as_of: str
    source: str
    half_life_days: int
    ttl_days: int
    rule: str
    rule_sha256: str = ""


class Explained(msgspec.Struct, frozen=True):
    """A user as the bidder sees them. generation_of_tags: the build that wrote the record, which later ones left."""

    user: str
    generation: int
    generation_of_tags: int
    tags: tuple[ExplainedTag, ...]
    realtime: tuple[ExplainedTag, ...]
    audiences: frozenset[int]
    contacts: tuple[Any, ...]


def explain(config: DmpConfig, client: redis.Redis, uid: Uid, now_us: int) -> Explained:
    """Everything a bid about this user would know, explained; a user nobody knows has none of it."""
    (user,) = store.read_users(client, [uid], now_us // 1_000_000)
    live = store.live_generation(client)
    profile = store.read_profile(client, uid) or Profile(live)
    hashes = _hashes(config, profile.generation) or _hashes(config, live)
    tags = sorted(profile.tags, key=lambda tag: taxonomy.tag_name(tag.tag))
    now = realtime.realtime_tags(user.realtime, now_us) if user.realtime is not None else {}
    raised = realtime.raised(user.realtime, now_us) if user.realtime is not None else frozenset()
    return Explained(
        keys.text(uid).decode(),
        live,
        profile.generation,
        tuple(_offline(tag, hashes) for tag in tags),
        tuple(_realtime(tag, score, tag in raised) for tag, score in sorted(now.items(), key=lambda item: -item[1])),
        user.audiences,
        user.contacts,
    )


def _hashes(config: DmpConfig, generation: int) -> dict[str, str]:
    """{family: SHA-256 of its text} from a generation's manifest; {} when it is not on this machine."""
    manifest = store.generation_folder(config, generation) / "manifest.json"
    if not manifest.exists():
        return {}
    return dict(msgspec.json.decode(manifest.read_bytes()).get("sql", {}))


def _offline(tag: Tag, hashes: dict[str, str]) -> ExplainedTag:
    source = SOURCES[tag.source] if tag.source < len(SOURCES) else f"source {tag.source}"
    if source in families.MODEL_FAMILIES:
        made_by = families.MODEL_FAMILIES[source]
        rule = f"{getattr(made_by, '__module__', '')}.{getattr(made_by, '__qualname__', source)}"
    else:
        rule = f"dmp/sql/{source}.sql" if source in families.SQL_FAMILIES else source
    as_of = EPOCH + timedelta(days=tag.as_of_day)
    return _told(tag.tag, tag.score, as_of.isoformat(), source, rule, hashes.get(source, ""))


def _realtime(tag: int, score: int, raised: bool) -> ExplainedTag:
    rule = "raised by a rule over the event stream" if raised else "dmp.realtime.realtime_tags"
    return _told(tag, score, "", "realtime", rule, "")


def _told(tag: int, weight: int, as_of: str, source: str, rule: str, sha256: str) -> ExplainedTag:
    known = taxonomy.BY_ID.get(tag)
    labels = (known.label_en, known.label_zh) if known else ("", "")
    lasting = (known.half_life_days, known.ttl_days) if known else (0, 0)
    return ExplainedTag(taxonomy.tag_name(tag), *labels, weight, as_of, source, *lasting, rule, sha256)
