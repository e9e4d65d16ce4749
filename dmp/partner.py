"""Tags of partners: a folder with a manifest and one artefact becomes a family of tags, and its failure nobody else's.

`data_dir/partners/<name>/manifest.toml`:

    kind = "sql"                         # or "rule", or "lightgbm"
    file = "spenders.sql"                # in the same folder
    sha256 = "..."                       # of that file; `tagbid dmp partners check` tells it
    declares = ["partner.acme.spender"]  # tags of their own; standard tags need no declaring
    features = ["interest.travel"]       # lightgbm only: the tags whose scores are the model's columns, in order
    tag = "partner.acme.spender"         # lightgbm only: the tag that gets 100 times the prediction
    at_least = 0.5                       # lightgbm only: the least prediction that makes a tag

An *sql* file is one query in the portable subset (`dmp.portable`, which knows no functions that read files) over
`TABLES`, with the columns uid, tag (a name), score and as_of_day. A *rule* file is TOML: `[[rules]]` with `tag`,
`score`, and lists `all`, `any`, `none` of `{tag = "interest.travel", at_least = 60}`. A *lightgbm* file is a model in
LightGBM's text format; no pickle is ever read.

Each runs in a process of its own, with limits of time, memory and rows and without access to files or network of its
queries (`dmp.partner_child`). What fails is told, counted in the build's manifest, and leaves the other tags alone.
Where a tag came from is in the manifest too: the partner, the hash of the artefact, and how many tags it made.
"""

import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmp import portable, tables, taxonomy
from dmp.config import PartnersConfig
from dmp.engine import Engine
from dmp.errors import DmpError
from dmp.family_columns import FAMILY_COLUMNS, NOTES

TABLES = ("events", "tags", "taxonomy", "labels", "params")  # what a partner's query may read
MAX_FILE_BYTES = 64 * 1024**2
_NAME = re.compile(r"[a-z0-9_]{1,32}")
_TAG = re.compile(r"partner\.[a-z0-9_]{1,32}\.[a-z0-9_]{1,64}")


class PartnerRefused(DmpError):
    """A partner's folder that cannot be run; says everything that is wrong with it."""

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"partner {name}: " + "; ".join(problems))


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the head of this file."""

    kind: Literal["sql", "rule", "lightgbm"]
    file: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\.(sql|toml|txt)$")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    declares: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    tag: str = ""
    at_least: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tag that a user holds with at least this score."""

    tag: str
    at_least: Annotated[int, msgspec.Meta(ge=0, le=100)] = 1


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`tag` with `score` for who meets all of `all`, one of `any` where there are some, and none of `none`."""

    tag: str
    score: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    all: tuple[Threshold, ...] = ()
    any: tuple[Threshold, ...] = ()
    none: tuple[Threshold, ...] = ()


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule file."""

    rules: Annotated[tuple[Rule, ...], msgspec.Meta(min_length=1, max_length=100)]


class Partner(msgspec.Struct, frozen=True):
    """A partner that may run. query: SQL, "" for a model. model: its path. tags: {name: id} it may give."""

    name: str
    manifest: Manifest
    query: str
    model: str
    tags: dict[str, int]


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a partner in one build: tags made by name, or why there are none."""

    sha256: str = ""
    rows: dict[str, int] = {}
    seconds: float = 0.0
    failure: str = ""


def partners_folder(data_dir: Path | str) -> Path:
    return Path(data_dir) / "partners"


def names(root: Path) -> list[str]:
    """The partners that have a folder."""
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def load(root: Path, name: str) -> Partner:
    """A partner that may run; raises PartnerRefused with every problem."""
    folder = root / name
    if not _NAME.fullmatch(name):
        raise PartnerRefused(name, ["a folder's name is up to 32 of a-z, 0-9 and _"])
    try:
        manifest = msgspec.toml.decode(_artefact(folder / "manifest.toml"), type=Manifest)
        data = _artefact(folder / manifest.file)
    except (OSError, UnicodeDecodeError, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise PartnerRefused(name, [str(error)]) from None
    problems = []
    if (found := hashlib.sha256(data).hexdigest()) != manifest.sha256:
        problems.append(f"{manifest.file} has SHA-256 {found}, the manifest says {manifest.sha256}")
    tags, wrong = _tags(name, manifest)
    problems += wrong
    query, model = "", ""
    if manifest.kind == "lightgbm":
        model = str(folder / manifest.file)
        problems += _model_faults(manifest, tags)
    else:
        try:
            text = data.decode()
            query = text if manifest.kind == "sql" else rule_query(msgspec.toml.decode(text, type=Rules), tags)
        except (UnicodeDecodeError, msgspec.ValidationError, msgspec.DecodeError) as error:
            problems.append(f"{manifest.file}: {error}")
        except taxonomy.UnknownTag as error:
            problems.append(f"{manifest.file}: {error}")
        if manifest.kind == "sql" and query:
            problems += portable.problems(query, {table: tables.TABLES[table] for table in TABLES})
    if problems:
        raise PartnerRefused(name, problems)
    return Partner(name, manifest, portable.as_understood(query) if query else "", model, tags)


def _artefact(path: Path) -> bytes:
    """The bytes of a file that lies in the folder itself. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe without a writer must not hold us
    with os.fdopen(handle, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
    return data


def _tags(name: str, manifest: Manifest) -> tuple[dict[str, int], list[str]]:
    """({name: id} of tags it may give, problems): the standard ones, but no sensitive one, and its own."""
    own: dict[str, int] = {}
    problems = []
    for tag in manifest.declares:
        if not _TAG.fullmatch(tag) or tag.split(".")[1] != name:
            problems.append(f"declares {tag!r}: a tag of its own is named partner.{name}.<a-z, 0-9, _>")
        elif taxonomy.partner_tag(tag) in own.values():
            problems.append(f"declares {tag!r}, whose number another of its tags has: rename it")
        else:
            own[tag] = taxonomy.partner_tag(tag)
    standard = {tag.name: tag.id for tag in taxonomy.TAGS if tag.kind not in ("root", "group") and not tag.sensitive}
    return standard | own, problems


def _model_faults(manifest: Manifest, tags: Mapping[str, int]) -> list[str]:
    faults = [f"features: no tag {tag!r} in the taxonomy" for tag in manifest.features if tag not in taxonomy.BY_NAME]
    if not manifest.features:
        faults.append("features: name the tags that are the model's columns")
    if manifest.tag not in tags:
        faults.append(f"tag: {manifest.tag!r} is neither a standard tag nor declared")
    return faults


def rule_query(rules: Rules, tags: Mapping[str, int]) -> str:
    """A rule file as SQL over `tags`; raises UnknownTag. Only whole numbers and known names get into the text."""
    parts = []
    for rule in rules.rules:
        if rule.tag not in tags:
            raise taxonomy.UnknownTag(rule.tag)
        having = [f"MAX({_meets(t, tags)}) = 1" for t in rule.all] + [f"MAX({_meets(t, tags)}) = 0" for t in rule.none]
        if rule.any:
            having.append(f"GREATEST({', '.join([f'MAX({_meets(t, tags)})' for t in rule.any] + ['0'])}) = 1")
        parts.append(
            f"SELECT g.uid, '{rule.tag}' AS tag, {rule.score} AS score, MAX(g.as_of_day) AS as_of_day "  # noqa: S608
            f"FROM tags AS g GROUP BY g.uid" + (f" HAVING {' AND '.join(having)}" if having else "")
        )
    return "\nUNION ALL\n".join(parts)


def _meets(threshold: Threshold, tags: Mapping[str, int]) -> str:
    number = tags.get(threshold.tag) or taxonomy.tag_id(threshold.tag)
    return f"CASE WHEN g.tag = {number} AND g.score >= {threshold.at_least} THEN 1 ELSE 0 END"


def family(engine: Engine, now_us: int, root: Path, spill: Path, limits: PartnersConfig) -> pa.Table:
    """The tags of all partners (`FAMILY_COLUMNS`); notes: {partner: `Outcome`}. What a partner does raises nothing."""
    outcomes: dict[str, Outcome] = {}
    made = [FAMILY_COLUMNS.empty_table()]
    folder = spill / f"partners-{os.getpid()}"
    try:
        for name in names(root):
            begun = time.monotonic()
            try:
                partner = load(root, name)
                rows = _checked(_run(engine, partner, folder, limits), partner, now_us, limits)
            except Exception as error:  # noqa: BLE001 - whatever a partner's folder does, the build goes on
                outcomes[name] = Outcome(seconds=round(time.monotonic() - begun, 3), failure=str(error))
                continue
            counts = {str(entry["values"]): int(entry["counts"]) for entry in pc.value_counts(rows["tag"]).to_pylist()}
            seconds = round(time.monotonic() - begun, 3)
            outcomes[name] = Outcome(partner.manifest.sha256, counts, seconds)
            numbers = pa.array([partner.tags[tag] for tag in rows["tag"].to_pylist()], pa.uint32())
            made.append(rows.set_column(1, "tag", numbers).cast(FAMILY_COLUMNS))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    every = pa.concat_tables(made)
    return every.replace_schema_metadata({NOTES: msgspec.json.encode(outcomes)}) if outcomes else every


def _run(engine: Engine, partner: Partner, folder: Path, limits: PartnersConfig) -> pa.Table:
    """What a partner gives, from a process of its own; raises PartnerRefused."""
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
        for table in TABLES:
            engine.write(f"SELECT t.* FROM {table} AS t", folder / f"{table}.parquet")  # noqa: S608 - ours
    job, out = folder / "job.json", folder / "out.parquet"
    out.unlink(missing_ok=True)
    job.write_bytes(
        msgspec.json.encode(
            {
                "folder": str(folder),
                "tables": TABLES,
                "query": partner.query,
                "model": partner.model,
                "features": [taxonomy.tag_id(tag) for tag in partner.manifest.features],
                "tag": partner.manifest.tag,
                "at_least": partner.manifest.at_least,
                "max_rows": limits.max_rows,
                "memory_mb": limits.memory_mb,
                "out": str(out),
            }
        )
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds + 1, limits.seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    child = subprocess.Popen(  # noqa: S603 - our own program; what is a partner's is in files
        [sys.executable, "-m", "dmp.partner_child", str(job)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(Path(__file__).parents[1])},
        start_new_session=True,
        preexec_fn=limit,
    )
    try:
        _, told = child.communicate(timeout=limits.seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise PartnerRefused(partner.name, [f"ran longer than {limits.seconds} s (dmp.partners.seconds)"]) from None
    if child.returncode:
        last = told.decode(errors="replace").strip().splitlines()[-1:] or [f"ended with {child.returncode}"]
        raise PartnerRefused(partner.name, [last[0][:300]])
    return pq.read_table(out)


def _checked(rows: pa.Table, partner: Partner, now_us: int, limits: PartnersConfig) -> pa.Table:
    """Rows with the columns uid, tag (a name), score, as_of_day; raises PartnerRefused for any that is not allowed."""
    kinds = {"uid": pa.binary(), "tag": pa.string(), "score": pa.int64(), "as_of_day": pa.int64()}
    if set(rows.column_names) != set(kinds):
        raise PartnerRefused(partner.name, [f"gives {', '.join(rows.column_names)}; needed are {', '.join(kinds)}"])
    if len(rows) > limits.max_rows:
        raise PartnerRefused(partner.name, [f"gives more than {limits.max_rows} rows (dmp.partners.max_rows)"])
    rows = rows.select(list(kinds)).cast(pa.schema(list(kinds.items())))
    problems = [f"{name} is null in some rows" for name in kinds if rows[name].null_count]
    unknown = sorted(set(pc.unique(rows["tag"]).to_pylist()) - {None} - set(partner.tags))
    if unknown:
        problems.append(f"gives tags that are neither standard nor declared: {', '.join(map(repr, unknown[:5]))}")
    today = now_us // 86_400_000_000
    for name, low, high in (("score", 0, 100), ("as_of_day", 0, today)):
        if len(rows) > rows[name].null_count and not (
            low <= pc.min(rows[name]).as_py() and pc.max(rows[name]).as_py() <= high
        ):
            problems.append(f"{name} is not within {low}..{high} in some rows")
    if len(rows) and pc.any(pc.not_equal(pc.binary_length(rows["uid"]), 16)).as_py():
        problems.append("uid is no 16-byte pseudonym in some rows")
    if problems:
        raise PartnerRefused(partner.name, problems)
    return rows
