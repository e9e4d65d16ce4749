"""Traffic that is not bid on whatever the campaigns: machines, masks, places people do not surf from, unproved supply.

All of it is looked up in tables loaded with the snapshot from local files; nothing is fetched. An empty table or a
switched-off rule refuses nothing.
"""

import ipaddress
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from bidder.config import BidderConfig, ExchangeConfig
from bidder.openrtb import Device, Request, SupplyChain
from bidder.pages import domain_of
from bidder.reasons import Reason
from bidder.useragent import MAX_CHARS, families, os_name
from dmp.errors import ConfigError

T = TypeVar("T")
_BOT = re.compile(
    r"(?<!cu)bot\b|bot/|crawler|spider|slurp|headless|phantomjs|selenium|puppeteer|playwright|\bcurl/|\bwget/|"
    r"python-requests|scrapy|facebookexternalhit|lighthouse",
    re.IGNORECASE,
)
_PAID = re.compile(r"([\w.]+):([\w.]+)")
_TOLD_APART = frozenset({"android", "ios", "windows", "macos"})
"""Systems whose browsers name them plainly, so that two different ones cannot both be true."""

_V6 = 1 << 32  # IPv6 networks stand after all of IPv4 in one number line


class Quality(Struct, frozen=True):
    """The tables. starts, ends: data-centre networks as ascending first and last addresses. ads_txt: domain -> pairs of
    (selling system, seller id) it lists. sellers: selling system -> seller ids in its sellers.json. blocked: selling
    systems, or "system/seller", that are not bought from.
    """

    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    ads_txt: Mapping[str, frozenset[tuple[str, str]]] = {}
    sellers: Mapping[str, frozenset[str]] = {}
    blocked: frozenset[str] = frozenset()


def load(settings: BidderConfig) -> Quality:
    """The tables the settings name; raises ConfigError with the file and the line nobody can read."""
    networks = _networks(Path(settings.datacenter_networks)) if settings.datacenter_networks else []
    return Quality(
        tuple(first for first, _ in networks),
        tuple(last for _, last in networks),
        _folder(settings.ads_txt_dir, "*.txt", _ads_txt),
        _folder(settings.sellers_json_dir, "*.json", _sellers_json),
        frozenset(name.lower() for name in settings.blocked_sellers),
    )


def files(settings: BidderConfig) -> list[Path]:
    """Every file `load` reads, and the folders themselves."""
    found = [Path(settings.datacenter_networks)] if settings.datacenter_networks else []
    for folder, pattern in ((settings.ads_txt_dir, "*.txt"), (settings.sellers_json_dir, "*.json")):
        if folder:
            found += [Path(folder), *sorted(Path(folder).glob(pattern))]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [str(error)]) from None


def _networks(path: Path) -> list[tuple[int, int]]:
    """Merged ranges of a file with one CIDR a line; `#` begins a comment."""
    ranges = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise ConfigError(str(path), [f"line {number}: {error}"]) from None
        ranges.append((_number(network.network_address), _number(network.broadcast_address)))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _number(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """A place in one number line; an IPv4 address written as IPv6 stands where it belongs."""
    if isinstance(address, ipaddress.IPv4Address):
        return int(address)
    mapped = address.ipv4_mapped
    return _V6 + int(address) if mapped is None else int(mapped)


def _folder(folder: str, pattern: str, parse: Callable[[Path], T]) -> dict[str, T]:
    """File name without ending, in lower case and without "www." -> what the file says."""
    paths = sorted(Path(folder).glob(pattern)) if folder else []
    return {path.stem.lower().removeprefix("www."): parse(path) for path in paths}


def _ads_txt(path: Path) -> frozenset[tuple[str, str]]:
    """(system, seller id) of an ads.txt: `system, seller, DIRECT|RESELLER[, authority]` a line."""
    found = set()
    for line in _read(path).splitlines():
        parts = [part.strip() for part in line.partition("#")[0].split(",")]
        if len(parts) >= 3 and parts[2].upper() in ("DIRECT", "RESELLER"):
            found.add((parts[0].lower(), parts[1]))
    return frozenset(found)


def _sellers_json(path: Path) -> frozenset[str]:
    try:
        return frozenset(str(seller["seller_id"]) for seller in json.loads(_read(path))["sellers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(str(path), [f"is no sellers.json: {error}"]) from None


def refusal(request: Request, exchange: ExchangeConfig, settings: BidderConfig, has: Quality) -> Reason | None:
    """Why nothing is bid on a request, None for no reason."""
    device = request.device
    if device is not None:
        if settings.refuse_bots and device.ua and is_bot(device.ua[:MAX_CHARS]):
            return Reason.CRAWLER
        if settings.refuse_mismatched and device.sua is not None and _mismatched(device):
            return Reason.SUSPECT
        if has.starts and in_networks(has, (device.ip, device.ipv6)):
            return Reason.DATACENTER
    if settings.refuse_missing_ids and not _names_anyone(request):
        return Reason.SUSPECT
    source = request.source
    if source is not None and source.fd and (exchange.upstream == "skip" or exchange.event_of_record == "win"):
        return Reason.UPSTREAM
    chain = supply_chain(request) if source is not None or request.ext is not None else None
    if chain is None and exchange.schain != "required" and not has.blocked:
        return None
    return _supply(request, chain, exchange, has)


@lru_cache(maxsize=16_384)
def is_bot(ua: str) -> bool:
    """Whether a User-Agent header says itself that nobody is looking.

    >>> is_bot("Mozilla/5.0 (compatible; Googlebot/2.1)"), is_bot("Mozilla/5.0 (Linux; Android 9; CUBOT X19)")
    (True, False)
    """
    return _BOT.search(ua) is not None


def _mismatched(device: Device) -> bool:
    """Whether User-Agent and client hints name different systems."""
    hinted = os_name(device.sua.platform.brand) if device.sua is not None and device.sua.platform is not None else ""
    told = families(device.ua).os if device.ua else ""
    return hinted != told and {hinted, told} <= _TOLD_APART


def in_networks(has: Quality, addresses: Iterable[str | None]) -> bool:
    for text in addresses:
        try:
            at = _number(ipaddress.ip_address(text)) if text else -1
        except ValueError:
            continue
        i = bisect_right(has.starts, at) - 1
        if i >= 0 and at <= has.ends[i]:
            return True
    return False


def _names_anyone(request: Request) -> bool:
    device, user = request.device, request.user
    return bool(
        (device is not None and (device.ifa or device.ip or device.ipv6 or device.ua))
        or (user is not None and (user.id or user.buyeruid or user.eids))
    )


def supply_chain(request: Request) -> SupplyChain | None:
    """The chain from where 2.6, 2.5 or 2.4 put it, the newest place first."""
    source = request.source
    if source is not None:
        if source.schain is not None:
            return source.schain
        if source.ext is not None and source.ext.schain is not None:
            return source.ext.schain
    return request.ext.schain if request.ext is not None else None


def _supply(request: Request, chain: SupplyChain | None, exchange: ExchangeConfig, has: Quality) -> Reason | None:
    told = () if chain is None else chain.nodes or ()
    nodes = [(node.asi.lower(), node.sid) for node in told if node.asi and node.sid]
    if not nodes and exchange.schain == "required":
        return Reason.SCHAIN
    # A node without system or seller is a gap, whatever `complete` says.
    if chain is not None and exchange.schain != "any" and not (chain.complete and len(nodes) == len(told)):
        return Reason.SCHAIN
    if has.blocked and any(asi in has.blocked or f"{asi}/{sid.lower()}" in has.blocked for asi, sid in nodes):
        return Reason.SCHAIN_NODE
    if has.blocked and request.source is not None and request.source.pchain:
        paid = _PAID.findall(request.source.pchain.lower())
        if any(system in has.blocked or f"{system}/{seller}" in has.blocked for system, seller in paid):
            return Reason.SCHAIN_NODE
    if has.sellers and any(asi in has.sellers and sid not in has.sellers[asi] for asi, sid in nodes):
        return Reason.SCHAIN_NODE
    if has.ads_txt and nodes:
        listed = _listed(has, domain_of(request))
        if listed is not None and nodes[-1] not in listed:
            return Reason.ADS_TXT
    return None


def _listed(has: Quality, domain: str) -> frozenset[tuple[str, str]] | None:
    """The ads.txt of a domain or the nearest domain above it; None when there is none."""
    while domain:
        if domain in has.ads_txt:
            return has.ads_txt[domain]
        domain = domain.partition(".")[2]
    return None
