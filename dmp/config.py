"""Configuration: one TOML file and the environment become one frozen Struct per room; all errors at once.

`tagbid.toml` has a table per room (`[dmp]`, `[models]`, `[bidder]`, `[loadtest]`). The environment overrides
a key as `TAGBID_<ROOM>_<KEY>` (TOML syntax, bare text allowed). Defaults live in the Structs only.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec

from dmp.errors import ConfigError

ROOMS = ("dmp", "models", "bidder", "loadtest")
CONFIG_FILE = Path("tagbid.toml")
Section = TypeVar("Section", bound=msgspec.Struct)


class IdentityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[dmp.identity]` table: how many other ids one id of each type may be linked with, and still join them.

    Above that it is no person's: a cookie of a library, a phone of a shop, a test account. max_members: most ids of
    one person; a component with more is dissolved.
    """

    cookie: Annotated[int, msgspec.Meta(ge=1)] = 10
    device: Annotated[int, msgspec.Meta(ge=1)] = 10
    exchange: Annotated[int, msgspec.Meta(ge=1)] = 10
    email: Annotated[int, msgspec.Meta(ge=1)] = 50
    phone: Annotated[int, msgspec.Meta(ge=1)] = 50
    login: Annotated[int, msgspec.Meta(ge=1)] = 50
    household: Annotated[int, msgspec.Meta(ge=1)] = 20
    max_members: Annotated[int, msgspec.Meta(ge=2)] = 200


class CollectConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[dmp.collect]` table: events over HTTP.

    max_body_bytes: largest body of `POST /v1/events`, unpacked. max_backlog: stream entries that may wait before
    senders are told to wait (429). durability: what an acknowledged event survives; "everysec" a killed store, at a
    power cut all but the last second or two; "always" a power cut as well, at the price of a disk write per batch.
    gvl_id, tcf_consent, tcf_legitimate_interest, tcf_flexible: as in `[bidder]`, for TC strings sent with events;
    without gvl_id they permit nothing. pixel_sources: names that may stand in a pixel's `source`; none closes it.
    cookie_days: life of the first-party id. cookie_secure: send it over TLS only. sync: {partner: URL to send a
    browser on to, with ${ID} where our id goes}. sync_secrets: {partner: secret with which it signs its own id}; of a
    partner without one no id is taken up.
    """

    max_body_bytes: Annotated[int, msgspec.Meta(ge=1_024)] = 1024**2
    max_backlog: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    durability: Literal["everysec", "always"] = "everysec"
    gvl_id: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    tcf_consent: tuple[int, ...] = ()
    tcf_legitimate_interest: tuple[int, ...] = ()
    tcf_flexible: tuple[int, ...] = ()
    pixel_sources: tuple[str, ...] = ()
    cookie_days: Annotated[int, msgspec.Meta(ge=1, le=400)] = 180
    cookie_secure: bool = True
    sync: dict[str, str] = {}
    sync_secrets: dict[str, Annotated[str, msgspec.Meta(min_length=16)]] = {}


class StreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[dmp.stream]` table: from events to real-time tags.

    partitions: of the event stream; as many consumers can share the work. lateness_s: an event that comes later than
    this after it happened waits for the nightly batch. rules: file of trigger rules (`dmp.rules`); "" for none.
    """

    partitions: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 8
    lateness_s: Annotated[int, msgspec.Meta(ge=60, le=86_400)] = 3_600
    rules: str = ""


class PartnersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[dmp.partners]` table: what each partner's run in a build may take (`dmp.partner`)."""

    seconds: Annotated[int, msgspec.Meta(ge=1)] = 60
    memory_mb: Annotated[int, msgspec.Meta(ge=50)] = 2_048
    max_rows: Annotated[int, msgspec.Meta(ge=1)] = 50_000_000


class BuildConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[dmp.build]` table: builds of tags.

    memory_limit: what DuckDB may take before it spills to `data_dir/spill`. utc_offset_min: local time less UTC of
    users whose events name no region. spark_master: where `--engine spark` runs.
    """

    memory_limit: Annotated[str, msgspec.Meta(pattern=r"^[0-9.]+ *([KMGT]i?B|%)$")] = "3GB"
    utc_offset_min: Annotated[int, msgspec.Meta(ge=-720, le=840)] = 0
    spark_master: str = "local[*]"


class RetentionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[dmp.retention]` table: days that files are kept (P-70), obeyed by `tagbid dmp sweep`.

    bid_log_days: bids. notice_days: wins, impressions, clicks. conversion_days, behaviour_days: of the archive.
    question_days: what was asked about audiences.
    """

    bid_log_days: Annotated[int, msgspec.Meta(ge=1)] = 7
    notice_days: Annotated[int, msgspec.Meta(ge=1)] = 90
    conversion_days: Annotated[int, msgspec.Meta(ge=1)] = 180
    behaviour_days: Annotated[int, msgspec.Meta(ge=1)] = 180
    question_days: Annotated[int, msgspec.Meta(ge=1)] = 400


class DmpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[dmp]` table.

    data_dir: where state lives. redis_url: the tag store; empty starts or joins the embedded one in
    `data_dir`. host, port: where `tagbid dmp serve` listens. max_upload_bytes: largest seed file accepted.
    min_seed: fewest matched users a look-alike may be learnt from (P-65). min_insight: fewest users an overlap or a
    target group index is told about; 1,000 or more (P-65). identity: which ids are one person. collect: events over
    HTTP. stream: from events to real-time tags. build: the nightly build of tags. retention: how long files are kept.
    """

    data_dir: str = "var"
    redis_url: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8100
    max_upload_bytes: Annotated[int, msgspec.Meta(ge=1)] = 2 * 1024**3
    min_seed: Annotated[int, msgspec.Meta(ge=1)] = 200
    min_insight: Annotated[int, msgspec.Meta(ge=1_000)] = 1_000
    retention: RetentionConfig = RetentionConfig()
    identity: IdentityConfig = IdentityConfig()
    collect: CollectConfig = CollectConfig()
    stream: StreamConfig = StreamConfig()
    build: BuildConfig = BuildConfig()
    partners: PartnersConfig = PartnersConfig()


def load(
    section: str, struct: type[Section], path: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Section:
    """One room's section; an absent default file means defaults, an absent named file is an error.

    Raises ConfigError naming every unknown key (with the nearest valid one) and every wrong value.
    """
    table = _read(path)
    problems = [f"unknown table [{name}]{_nearest(name, ROOMS)}" for name in table if name not in ROOMS]
    raw = table.get(section, {})
    if not isinstance(raw, dict):
        problems.append(f"[{section}] must be a table")
        raw = {}
    values = dict(raw)
    prefix = f"TAGBID_{section.upper()}_"
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name, text in environ.items():
        if name.startswith(prefix):
            key = name.removeprefix(prefix).lower()
            if key in fields:
                value = _from_text(text)
                values[key] = text if fields[key].type is str and not isinstance(value, str) else value
            else:
                problems.append(f"environment {name}: no such key{_nearest(key, fields)}")
    problems += _problems(values, struct, section)
    if not problems:
        try:
            return msgspec.convert(values, struct)
        except msgspec.ValidationError as error:
            problems.append(f"[{section}] {error}")
    raise ConfigError(str(path or CONFIG_FILE), problems)


def _problems(values: Mapping[str, Any], struct: type[msgspec.Struct], where: str) -> list[str]:
    """What is wrong in a table, each key by itself, tables in it included."""
    problems = []
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key, value in values.items():
        if key not in fields:
            problems.append(f"[{where}] unknown key {key!r}{_nearest(key, fields)}")
            continue
        kind = fields[key].type
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
            problems += _problems(value, kind, f"{where}.{key}")
        elif get_origin(kind) is dict and isinstance(value, dict):  # a table of tables, or of plain values
            member = get_args(kind)[1]
            for name, entry in value.items():
                if isinstance(member, type) and issubclass(member, msgspec.Struct) and isinstance(entry, dict):
                    problems += _problems(entry, member, f"{where}.{key}.{name}")
                else:
                    problems += _problem(entry, member, f"[{where}.{key}] {name}")
        else:
            problems += _problem(value, kind, f"[{where}] {key}")
    return problems


def _problem(value: Any, kind: Any, where: str) -> list[str]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return [f"{where}: {error}"]
    return []


def _read(path: Path | None) -> dict[str, Any]:
    source = path or CONFIG_FILE
    try:
        return tomllib.loads(source.read_text())
    except FileNotFoundError:
        if path is None:
            return {}
        raise ConfigError(str(path), ["no such file"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(str(source), [str(error)]) from None


def _from_text(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _nearest(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
