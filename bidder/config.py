"""The `[bidder]` table: where to listen, whom to answer, and the policies a bid obeys."""

import ipaddress
import os
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from bidder.consent_cache import BYTES, ENTRIES
from dmp import config as files
from dmp.errors import ConfigError
from dmp.tcf_rules import Declaration, declare

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Hold = Annotated[int, msgspec.Meta(ge=1, le=7_200)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class ExchangeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exchange: `[bidder.exchanges.<name>]`; its endpoint is `POST /bid/<name>`.

    token: bearer secret the exchange sends; empty is allowed on loopback only (S-42). default_tmax_ms: used when `tmax`
    is absent or not positive. network_ms: round trip taken off `tmax`, which the exchange measures at its end.
    margin_ms: kept back for our own queues. at_when_absent: auction type when the request names none (the standard's
    default is 2, second price). event_of_record: the one notice that spends money and counts contacts. max_qps:
    requests a second answered with a decision, all workers together; more get a 204; 0 for no limit. utc_offset_min:
    the clock of this exchange's traffic, for requests without `geo.utcoffset`. open_bids: bids sent for the open
    auction of one impression, beside those for its deals. price_encoding: how prices stand in notices; `base64` goes
    with a price_macro such as "${AUCTION_PRICE:B64}", `google` needs its two keys in base64. price_unit: of that
    number, a decimal CPM, micros of a CPM or micros of one impression. price_macro: what the exchange replaces with the
    price. loss_price: whether the price told with a loss is worth learning from. nbr: answer no-bids with 200 and a
    reason code in place of 204. gzip_answers: compress answers where the request accepts that; costs more time than it
    saves on most links. audits: it shows only creatives it has approved. schain: supply chains that are bid on.
    upstream: whether to bid where somebody before the exchange decides what is shown (`source.fd`); never where a win
    bills, because most such wins are not shown. max_answer_bytes: of one answer, 0 for any; creatives that do not fit
    are not bid there.
    """

    token: str = ""
    default_tmax_ms: Milliseconds = 100
    margin_ms: Milliseconds = 20
    network_ms: Milliseconds = 0
    at_when_absent: Literal[1, 2] = 2
    event_of_record: Literal["billing", "impression", "win"] = "billing"
    max_qps: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    utc_offset_min: int | None = None
    price_encoding: Literal["plain", "base64", "google"] = "plain"
    price_encryption_key: str = ""
    price_integrity_key: str = ""
    price_unit: Literal["cpm", "micros_cpm", "micros_cpi"] = "cpm"
    price_macro: str = "${AUCTION_PRICE}"
    loss_price: Literal["use", "ignore"] = "use"
    nbr: bool = False
    gzip_answers: bool = False
    audits: bool = False
    schain: Literal["any", "complete_if_present", "required"] = "complete_if_present"
    open_bids: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    upstream: Literal["bid", "skip"] = "bid"
    max_answer_bytes: Annotated[int, msgspec.Meta(ge=0, le=10**7)] = 0


class AdvertiserConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One advertiser: `[bidder.advertisers.<name>]`. token: bearer secret its server sends with conversions."""

    token: Annotated[str, msgspec.Meta(min_length=16, max_length=256)]


class BidderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[bidder]` table of `tagbid.toml`.

    port, admin_port: 0 takes a free one. public_url: how exchanges and browsers reach us, for notice and click
    URLs; empty means `http://<host>:<port>`. campaigns: TOML portfolio. models_dir: registry root. exchanges: by
    name; a bid for a name not listed uses the defaults while `open_exchanges` is on.
    gdpr_when_unknown: whether GDPR applies to a request that does not say (P-10). gvl_id: our id in the Global
    Vendor List; without it every GDPR request is contextual (P-13). tcf_consent, tcf_legitimate_interest,
    tcf_flexible: purposes as declared in that list, by basis, and those whose basis a publisher may change;
    tcf_special_features: special features declared there. tcf_require_disclosed: whether a TC string must carry the
    disclosed-vendors segment, `auto` = those from 2026-03-01 on (P-12). without_p2: what a GDPR request without a
    basis for purpose 2 gets (P-16). china_when: where a user's own opt-out must be known before ids are used (P-32).
    dnt_is_lmt: treat Do-Not-Track as Limit-Ad-Tracking (P-31). consent_cache_entries, consent_cache_bytes: bounds of
    what is remembered of consent strings (P-05). use_tags: off looks nobody's tags up, to compare with;
    use_longterm, use_realtime: the same for tags of the nightly build, or of the stream, alone.
    rates: US dollars for one unit of a currency; a bid is made only in a currency with a rate.
    first_price_keep: share of our value bid in a first-price auction without a price landscape. explore_share: share of
    first-price bids whose price is varied to learn from. thompson: ads are ranked by a draw of what is known of their
    campaign's clicks, and bid at its mean; thompson_seed: another seed, other draws. experiments: TOML file of
    experiments, "" for none.
    prior_ctr: click probability assumed without a model. model_max_age_h: a click model older than that is refused, and
    the one in use stays; 0 takes any. max_price_micros: CPM micro-dollars never exceeded.
    max_candidates: ads scored per impression; more only while one of them could beat the best so far. offers: best
    offers kept per impression, for the case that the first has no budget. reload_s: how often campaign file and model
    pointer are checked.
    max_in_flight: the most bid requests that may wait for the store at once; fewer when decisions are slow (see
    `bidder.overload`), more are answered 204. workers: processes that share the port. read_s: longest time a
    request may take to arrive (S-03). idle_s: how long a connection may say nothing. hold_s, app_hold_s,
    instl_hold_s: how long a bid's money stays reserved without a notice, on the web, in an app, for an interstitial.

    refuse_bots: no bids for those who say they are machines; refuse_mismatched: whose client hints name another system
    than their User-Agent; refuse_missing_ids: who have neither an id nor an address nor a User-Agent.
    datacenter_networks: file of CIDRs that are not bid on. ads_txt_dir: folder of `<domain>.txt`; sellers_json_dir: of
    `<selling system>.json`. blocked_sellers: "system" or "system/seller" in a supply chain. eid_sources: sources of
    extended ids by which a user may be known, the best first.
    funnel_every: one request in so many is asked in full for the funnel by campaign in the metrics; 0 for none.
    conversion_days: how long after its bid a click may convert; conversions_per_click: how often. advertisers: who may
    send conversions from a server. trace_token: secret of `X-Tagbid-Trace`, which answers a single request with its
    trace; empty = no traces.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8081
    public_url: str = ""
    campaigns: str = "campaigns.toml"
    models_dir: str = "var/models"
    exchanges: dict[str, ExchangeConfig] = {}
    open_exchanges: bool = True
    gdpr_when_unknown: Literal["by_country", "always", "never"] = "by_country"
    gvl_id: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    tcf_consent: tuple[int, ...] = ()
    tcf_legitimate_interest: tuple[int, ...] = ()
    tcf_flexible: tuple[int, ...] = ()
    tcf_special_features: tuple[int, ...] = ()
    tcf_require_disclosed: Literal["auto", "always", "never"] = "auto"
    without_p2: Literal["contextual", "no_bid"] = "contextual"
    china_when: Literal["by_country", "always"] = "by_country"
    dnt_is_lmt: bool = True
    consent_cache_entries: Annotated[int, msgspec.Meta(ge=0)] = ENTRIES
    consent_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = BYTES
    use_tags: bool = True
    use_longterm: bool = True
    use_realtime: bool = True
    lane: bool = True
    rates: dict[str, Rate] = msgspec.field(default_factory=lambda: {"USD": 1.0})
    first_price_keep: Share = 0.85
    explore_share: Annotated[float, msgspec.Meta(ge=0, le=0.2)] = 0.01
    experiments: str = ""
    thompson: bool = True
    thompson_seed: int = 0
    model_max_age_h: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 72
    prior_ctr: Share = 0.001
    max_price_micros: Annotated[int, msgspec.Meta(gt=0, le=10**12)] = 100_000_000
    max_candidates: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 50
    offers: Annotated[int, msgspec.Meta(ge=1, le=50)] = 5
    reload_s: Annotated[float, msgspec.Meta(ge=0.001, le=3_600)] = 1.0
    max_in_flight: Annotated[int, msgspec.Meta(ge=1)] = 1_000
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    read_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    idle_s: Annotated[float, msgspec.Meta(gt=0)] = 150.0
    refuse_bots: bool = True
    refuse_mismatched: bool = True
    refuse_missing_ids: bool = False
    datacenter_networks: str = ""
    ads_txt_dir: str = ""
    sellers_json_dir: str = ""
    blocked_sellers: tuple[str, ...] = ()
    eid_sources: tuple[str, ...] = ()
    funnel_every: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 256
    conversion_days: Annotated[int, msgspec.Meta(ge=1, le=180)] = 30
    conversions_per_click: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    advertisers: dict[str, AdvertiserConfig] = {}
    trace_token: str = ""
    hold_s: Hold = 120
    app_hold_s: Hold = 600
    instl_hold_s: Hold = 2_400


DEFAULT_EXCHANGE = ExchangeConfig()
PRICE_MACRO = re.compile(r"[\w${}%:.\[\]@-]{1,64}", re.ASCII)
CURRENCY = re.compile(r"[A-Z]{3}")
EXCHANGE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> BidderConfig:
    """The `[bidder]` table, checked as a whole; raises ConfigError with every problem found."""
    found = files.load("bidder", BidderConfig, path, environ)
    problems = problems_of(found)
    if problems:
        raise ConfigError(str(path or files.CONFIG_FILE), problems)
    return found


def key_bytes(text: str) -> bytes:
    """A key as Google shows it: base64, of either alphabet. Raises ValueError."""
    return urlsafe_b64decode(text.translate(str.maketrans("+/", "-_")).rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))


def declaration(config: BidderConfig) -> Declaration:
    """What the operator declared in the vendor list; raises ConfigError on what no vendor may declare."""
    return declare(config.tcf_consent, config.tcf_legitimate_interest, config.tcf_flexible, config.tcf_special_features)


def problems_of(config: BidderConfig) -> list[str]:
    """What cannot stand together: open endpoints on a public address (S-42), a rate table without dollars, a TCF
    declaration no vendor may make.
    """
    problems = []
    try:
        declared = declaration(config)
    except ConfigError as error:
        problems += [f"[bidder] TCF declaration: {problem}" for problem in error.problems]
    else:
        if config.gvl_id is not None and not (declared.consent or declared.legitimate_interest):
            problems.append("[bidder] gvl_id is set and no purpose is declared: copy tcf_consent from the vendor list")
    if not is_loopback(config.host):
        if config.open_exchanges:
            problems.append(
                f"[bidder] host {config.host} is reachable from outside: list the exchanges with their tokens "
                f"and set open_exchanges = false"
            )
        problems += [
            f"[bidder.exchanges.{name}] token is empty while host {config.host} is reachable from outside"
            for name, exchange in config.exchanges.items()
            if not exchange.token
        ]
    for name, exchange in config.exchanges.items():
        where = f"[bidder.exchanges.{name}]"
        if not EXCHANGE_NAME.fullmatch(name):
            problems.append(f"{where} the name stands in its endpoint's path: use 1 to 64 of A-Z a-z 0-9 _ . -")
        if not PRICE_MACRO.fullmatch(exchange.price_macro):
            problems.append(f"{where} price_macro {exchange.price_macro!r} cannot stand in a URL inside markup")
        if exchange.price_encoding == "google":
            try:
                keys = [key_bytes(text) for text in (exchange.price_encryption_key, exchange.price_integrity_key)]
            except ValueError:
                keys = []
            if [len(key) for key in keys] != [32, 32]:
                problems.append(f"{where} price_encryption_key and price_integrity_key are 32 bytes each, in base64")
            if exchange.price_unit == "cpm":
                problems.append(
                    f'{where} encrypted prices are whole micros: price_unit is "micros_cpi" (Google) or "micros_cpm"'
                )
        elif exchange.price_encryption_key or exchange.price_integrity_key:
            problems.append(f'{where} has keys of prices, which only price_encoding = "google" reads')
        if exchange.network_ms + exchange.margin_ms >= exchange.default_tmax_ms:
            problems.append(f"{where} network_ms and margin_ms leave nothing of default_tmax_ms to decide in")
    if config.public_url and urlsplit(config.public_url).scheme not in ("http", "https"):
        problems.append(f"[bidder] public_url {config.public_url!r} is no http or https address")
    problems += [
        f"[bidder.rates] {name!r} is no currency of ISO 4217 such as EUR"
        for name in config.rates
        if not CURRENCY.fullmatch(name)
    ]
    if not config.open_exchanges and not config.exchanges:
        problems.append("[bidder] open_exchanges = false and no [bidder.exchanges.<name>]: nobody could ask for a bid")
    if config.rates.get("USD") != 1.0:
        problems.append("[bidder.rates] USD must be 1.0: rates are US dollars for one unit of a currency")
    return problems


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
