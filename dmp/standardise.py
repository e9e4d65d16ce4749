"""Free labels of sources (Chinese or English) -> standard tags, and a queue of those that a person must decide.

In this order: a person's decision; an alias (`dmp.taxonomy`, blind to width, case and punctuation); the normal form
(simple English plurals and filler words gone), where it is one tag's only; else the tags with the most alike labels
are suggested, never taken. What leads to a sensitive tag waits for a person however well it matches.

Likeness is the cosine of TF-IDF vectors (Salton & Buckley 1988, w = (1 + ln tf) * ln(1 + N/df)) over the letter
trigrams and whole words of Latin text and the single and paired characters of Chinese: rare parts of a label count
for more than "用户" or "products". Nothing learns: the same label gets the same answer until the taxonomy or a
decision changes.
"""

import csv
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from dmp import taxonomy
from dmp.decisions import MAX_LABEL, Decision, key
from dmp.errors import DmpError
from dmp.taxonomy import TagDefinition

SUGGESTIONS = 3
LEAST_SCORE = 0.3  # below, what was suggested for made-up words looked arbitrary
FILLERS = frozenset({"a", "an", "and", "for", "in", "of", "or", "the"})


class Suggestion(msgspec.Struct, frozen=True):
    """A tag that a label may mean. score: (0, 1], 1 for the tag's own label."""

    tag: str
    score: float
    sensitive: bool


class Answer(msgspec.Struct, frozen=True):
    """What a label means. tag: "" unless mapped. how: what mapped it or made the first suggestion, "" if nothing."""

    label: str
    count: int
    status: Literal["mapped", "suggested", "unknown", "rejected"]
    how: Literal["decision", "alias", "normalised", "likeness", ""] = ""
    tag: str = ""
    suggestions: tuple[Suggestion, ...] = ()


def standard(label: str, count: int, decided: Mapping[str, Decision]) -> Answer:
    """What a label that was seen `count` times means. decided: see `dmp.decisions.replay`."""
    decision = decided.get(key(label))
    if decision is not None:
        if decision.action == "reject":
            return Answer(label, count, "rejected", "decision")
        return Answer(label, count, "mapped", "decision", decision.tag)
    how: Literal["alias", "normalised"] = "alias"
    found = _alias(label)
    if found is None:
        how, found = "normalised", _normalised(label)
    if found is not None:
        tag = taxonomy.BY_ID[found]
        if not tag.sensitive:
            return Answer(label, count, "mapped", how, tag.name)
        return Answer(label, count, "suggested", how, suggestions=(Suggestion(tag.name, 1.0, True),))
    likely = suggest(label)
    return Answer(label, count, "suggested" if likely else "unknown", "likeness" if likely else "", suggestions=likely)


def resolver(decided: Mapping[str, Decision]) -> Callable[[str], int | None]:
    """The way from an event's category to a tag id (or None) for a build: decisions, aliases, normal forms.

    Without a facet only interests (and demographics) are meant: a page about e-mail does not tell that its reader
    prefers this channel. May answer a sensitive tag, which the build withholds and counts.
    """

    def resolve(label: str) -> int | None:
        decision = decided.get(key(label))
        if decision is not None:
            return taxonomy.BY_NAME[decision.tag].id if decision.action == "accept" else None
        found = taxonomy.find(label)
        if found is not None:
            return found
        normalised = _normalised(label)
        faceted = taxonomy.split(label)[0] is not None
        if (
            normalised is None
            or faceted
            or taxonomy.facet_of(taxonomy.BY_ID[normalised]) in ("interest", "demographic")
        ):
            return normalised
        return None

    return resolve


def singular(word: str) -> str:
    """An English word without the ending of a simple plural.

    >>> singular("hobbies"), singular("watches"), singular("dress")
    ('hobby', 'watch', 'dress')
    """
    if not word.isascii() or len(word) < 4 or word.endswith(("ss", "us", "is", "news")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    return word.removesuffix("s")


def suggest(label: str) -> tuple[Suggestion, ...]:
    """Up to `SUGGESTIONS` tags with labels alike, best first; within the label's facet where it states one.

    Without a facet no intent is suggested: each would stand beside the interest of the same name.
    """
    facet, text = taxonomy.split(label[:MAX_LABEL])
    weights = _weights(_grams(text), _index().rarity)
    scores: dict[int, float] = defaultdict(float)
    for gram, weight in weights.items():
        for number, other in _index().postings.get(gram, ()):
            scores[number] += weight * other
    best: dict[int, float] = {}
    for number, score in scores.items():
        tag = _index().tags[number]
        own = taxonomy.facet_of(taxonomy.BY_ID[tag])
        if score >= LEAST_SCORE and (own == facet or (facet is None and own != "intent")):
            best[tag] = max(best.get(tag, 0.0), min(score, 1.0))
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:SUGGESTIONS]
    return tuple(
        Suggestion(taxonomy.tag_name(tag), round(score, 3), taxonomy.BY_ID[tag].sensitive) for tag, score in ranked
    )


def read_labels(path: Path) -> dict[str, int]:
    """{label: count} of a CSV file with the column label and, if it likes, count (1 where there is none).

    Raises DmpError for a file that is no such CSV.
    """
    found: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "label" not in (reader.fieldnames or ()):
                raise DmpError(f"{path}: needs the column label (and, for weights, count)")
            for line in reader:
                count = line.get("count", "1") if "count" in (reader.fieldnames or ()) else "1"
                if line["label"] is None or count is None or not re.fullmatch(r"[0-9]{1,18}", count.strip()):
                    raise DmpError(f"{path}, line {reader.line_num}: needs a label and a whole count, has {line}")
                found[line["label"]] += int(count)
    except UnicodeDecodeError as error:
        raise DmpError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    except csv.Error as error:
        raise DmpError(f"{path}: is no CSV: {error}") from None
    except OSError as error:
        raise DmpError(f"{path}: {error.strerror or error}") from None
    return dict(found)


def queue_file(data_dir: Path | str) -> Path:
    return Path(data_dir) / "taxonomy" / "queue.json"


def enqueue(path: Path, answers: Iterable[Answer]) -> None:
    """Add what is suggested or unknown to the review queue; a label that waits already takes the newer count."""
    waiting = _queue(path)
    for answer in answers:
        if (
            answer.status in ("suggested", "unknown")
            and len(answer.label) <= MAX_LABEL
            and key(answer.label).strip("/")
        ):
            waiting[answer.label] = answer.count
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")  # of two imports at once the later one's queue stays
    draft.write_bytes(msgspec.json.encode(waiting))
    draft.replace(path)


def pending(path: Path, decided: Mapping[str, Decision]) -> list[Answer]:
    """The labels that still wait for a person, the most frequent first, answered by today's taxonomy."""
    answers = [standard(label, count, decided) for label, count in _queue(path).items()]
    waiting = [answer for answer in answers if answer.status in ("suggested", "unknown")]
    return sorted(waiting, key=lambda answer: (-answer.count, answer.label))


def _queue(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DmpError(f"{path}: {error}; remove it and import the labels again") from None


def _alias(label: str) -> int | None:
    """As `taxonomy.find`; without a facet also what one tag alone, of whatever facet, is called."""
    found = taxonomy.find(label)
    if found is None and taxonomy.split(label)[0] is None:
        found = _anywhere().get(taxonomy.normal(label))
    return found


def _normalised(label: str) -> int | None:
    facet, rest = taxonomy.split(label)
    return _folded().get((facet or "", _fold(rest)))


def _fold(text: str) -> str:
    return " ".join(singular(word) for word in taxonomy.normal(text).split() if word not in FILLERS)


def _single(claims: Iterable[tuple[tuple[str, str], TagDefinition]]) -> dict[tuple[str, str], int]:
    """The claims that only one tag makes."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for claim, tag in claims:
        found[claim].add(tag.id)
    return {claim: tags.pop() for claim, tags in found.items() if len(tags) == 1 and claim[1]}


def _said() -> Iterable[tuple[str, TagDefinition]]:
    """Every label with its tag, without the short names, which say too little outside their facet."""
    for tag in taxonomy.TAGS:
        if tag.kind not in ("root", "group"):
            for label in (tag.label_en, tag.label_zh, *tag.aliases):
                yield label, tag


@cache
def _anywhere() -> dict[str, int]:
    return {
        label: tag for (_, label), tag in _single((("", taxonomy.normal(text)), tag) for text, tag in _said()).items()
    }


@cache
def _folded() -> dict[tuple[str, str], int]:
    """{(facet, folded label): tag}; facet "" for labels without one, where an interest goes before an intent."""
    within = _single(((taxonomy.facet_of(tag), _fold(text)), tag) for text, tag in _said())
    bare = _single((("", _fold(text)), tag) for text, tag in _said() if taxonomy.facet_of(tag) != "intent")
    return {**within, **bare}


class _Index(msgspec.Struct, frozen=True):
    """tags: the tag of each label. postings: {gram: (label's number, weight)}, weights of a label of length 1."""

    tags: tuple[int, ...]
    rarity: Mapping[str, float]
    postings: Mapping[str, list[tuple[int, float]]]


@cache
def _index() -> _Index:
    said = [(text.removeprefix("In market: "), tag.id) for text, tag in _said()]
    grams = [_grams(text) for text, _ in said]
    spread = Counter(gram for counted in grams for gram in counted)
    rarity = {gram: math.log(1 + len(said) / n) for gram, n in spread.items()}
    postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, counted in enumerate(grams):
        for gram, weight in _weights(counted, rarity).items():
            postings[gram].append((number, weight))
    return _Index(tuple(tag for _, tag in said), rarity, dict(postings))


def _grams(text: str) -> Counter[str]:
    """Trigrams of padded words and the words themselves; of Chinese each character and each pair."""
    found: Counter[str] = Counter()
    for word in _fold(text).split():
        for part in re.findall(r"[\u3400-\u9fff]+|[^\u3400-\u9fff]+", word):
            if "\u3400" <= part[0] <= "\u9fff":
                found.update(part)
                found.update(part[i : i + 2] for i in range(len(part) - 1))
            else:
                padded = f"^{part}$"
                found[f"={part}"] += 1
                found.update(padded[i : i + 3] for i in range(len(padded) - 2))
    return found


def _weights(grams: Counter[str], rarity: Mapping[str, float]) -> dict[str, float]:
    """Vector of length 1; a gram that no label has counts as the rarest, so that strange text is like nothing."""
    rarest = max(rarity.values())
    raw = {gram: (1 + math.log(n)) * rarity.get(gram, rarest) for gram, n in grams.items()}
    length = math.sqrt(sum(weight * weight for weight in raw.values()))
    return {gram: weight / length for gram, weight in raw.items()}
