import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import audiences, seeds
from dmp.catalogue import Upload
from dmp.pseudonym import KeyRing
from dmp.schema import IdType
from dmp.seeds import BadSeed, Limits, SeedTooLarge

RING = KeyRing(bytes(range(32)))
LIMITS = Limits()
CANARY = "canary-4711@example.com"


def known(root: Path, emails: int) -> Path:
    """A generation that knows users 0..emails-1 by e-mail, each with two tags."""
    uids = [RING.uid("email", f"user{n}@example.com") for n in range(emails)]
    path = root / "tags.parquet"
    pq.write_table(pa.table({"uid": pa.array(uids * 2, pa.binary(16)), "tag": pa.array([1] * emails * 2)}), path)
    return path


def take(
    root: Path, data: bytes, id_type: IdType | None = None, limits: Limits = LIMITS, step: int = 1 << 16
) -> Upload:
    """Import `data`, fed in chunks of `step`, against ten known e-mails."""
    tags = known(root, 10)
    with seeds.receive(root, RING, id_type, limits) as upload:
        for at in range(0, len(data), step):
            upload.feed(data[at : at + step])
        return upload.match(tags)


def nothing_left(root: Path) -> bool:
    return not [path for path in root.rglob("*") if path.is_file() and path.name != "tags.parquet"]


def test_an_upload_is_matched_against_the_known_users(tmp_path: Path) -> None:
    got = take(tmp_path, b"id_type,id\nemail,user1@example.com\nemail, USER2@example.com\nemail,nobody@example.com\n")
    assert (got.rows, got.invalid, got.distinct, got.matched) == (3, 0, 3, 2)
    stored = list(audiences.read_uids(tmp_path / got.seed_file))
    assert sorted(stored) == sorted(RING.uid("email", f"user{n}@example.com") or b"" for n in (1, 2))


@pytest.mark.parametrize(
    ("data", "id_type"),
    [
        (b"user1@example.com\nuser2@example.com", "email"),
        (b"id\r\nuser1@example.com\r\nuser2@example.com\r\n", "email"),
        (b"\xef\xbb\xbfid_type,id\nemail,user1@example.com\nemail,user2@example.com\n", None),
        (b"id,id_type\nuser1@example.com,email\nuser2@example.com,EMAIL\n", None),
        (b"email,user1@example.com\nemail,user2@example.com\n", None),
        (b'"email","user1@example.com"\n\n   \n"email","user2@example.com"\n', None),
        (
            gzip.compress(b"email,user1@example.com\n", mtime=0)
            + gzip.compress(b"email,user2@example.com\n", mtime=0)
            + bytes(8),
            None,
        ),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_every_form_of_a_seed_file_is_read_however_it_is_cut(
    tmp_path: Path, data: bytes, id_type: IdType | None, step: int
) -> None:
    got = take(tmp_path, data, id_type, step=step)
    assert (got.rows, got.invalid, got.distinct, got.matched) == (2, 0, 2, 2)


@pytest.mark.rule("P-63")
def test_what_is_no_id_is_counted_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    lines = [
        b"id_type,id",
        b"email,user1@example.com",
        b"email,user1@example.com",  # twice: one user
        b"email,not an address",
        b"device,00000000-0000-0000-0000-000000000000",
        b"cookie,null",
        b"planet,mars",
        b"email",
        b"email,a@b.cc,extra",
        b"email,\xff\xfe",
        b'email,"open',
        b"cookie,c1",
    ]
    got = take(tmp_path, b"\n".join(lines))
    assert (got.rows, got.invalid, got.distinct, got.matched) == (11, 8, 2, 1)


@pytest.mark.rule("P-60")
def test_an_address_sent_raw_and_one_sent_hashed_are_one_user(tmp_path: Path) -> None:
    hashed = hashlib.sha256(b"user1@example.com").hexdigest()
    got = take(tmp_path, f"{hashed}\nUser1@Example.com\n".encode(), "email")
    assert (got.distinct, got.matched) == (1, 1)


@pytest.mark.rule("P-60")
@pytest.mark.rule("P-62")
def test_no_raw_id_is_written_while_or_after_importing_and_unmatched_ones_are_not_kept(tmp_path: Path) -> None:
    tags = known(tmp_path, 10)
    with seeds.receive(tmp_path, RING, "email", Limits()) as upload:
        upload.feed(f"{CANARY}\nuser1@example.com\n".encode() * 50_000)
        during = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        got = upload.match(tags)
    after = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for written in (during, after):
        assert CANARY.encode() not in written
        assert b"user1@example.com" not in written
    stranger = RING.uid("email", CANARY)
    assert stranger is not None
    assert stranger in during  # the pseudonym was on its way ...
    assert stranger not in after  # ... and is gone
    assert got.matched == 1


@pytest.mark.rule("S-23")
@pytest.mark.parametrize(
    ("data", "id_type", "says"),
    [
        (b"", "email", "none of 0 lines"),
        (b"\n\n", "email", "none of 0 lines"),
        (b"id_type,id\n", None, "none of 0 lines"),
        (b"no\nids\n", "email", "none of 2 lines"),
        (b"user1@example.com\n", None, "say of what type"),
        (b"name,id\nAnna,user1@example.com\n", "email", "remove the others"),
        (b"id_type,id,country\nemail,user1@example.com,de\n", None, "remove the others"),
        (b"PK\x03\x04" + bytes(100), "email", "no UTF-8 CSV"),
        (b"PAR1" + bytes(100), "email", "no UTF-8 CSV"),
        ("id\nuser1@example.com\n".encode("utf-16"), "email", "no UTF-8 CSV"),
        (gzip.compress(b"user1@example.com\n" * 100, mtime=0)[:-5], "email", "cut short"),
        (b"\x1f\x8b" + bytes(50), "email", "damaged"),
    ],
)
def test_what_is_no_seed_is_refused_and_leaves_nothing(
    tmp_path: Path, data: bytes, id_type: IdType | None, says: str
) -> None:
    with pytest.raises(BadSeed, match=says):
        take(tmp_path, data, id_type)
    assert nothing_left(tmp_path)


@pytest.mark.rule("S-23")
@pytest.mark.parametrize(
    ("data", "limits", "says"),
    [
        (b"user1@example.com\n" * 10, Limits(unpacked_bytes=179), "more than 179 bytes"),
        (gzip.compress(b"user1@example.com\n" * 10, mtime=0), Limits(unpacked_bytes=179), "more than 179 bytes"),
        (b"user1@example.com\n" * 10, Limits(rows=9), "more than 9 rows"),
        (b"x" * 101, Limits(line_bytes=100), "line 1 is longer than 100"),
        (b"x" * 101 + b"\n", Limits(line_bytes=100), "line 1 is longer than 100"),
        (
            gzip.compress(b"a" * 60_000 + b"\n" + bytes(50_000_000), mtime=0),
            Limits(ratio=100),
            "over 100 times|longer than",
        ),
        (gzip.compress(b"user1@example.com\n" * 1_000_000, mtime=0), Limits(ratio=100), "over 100 times"),
    ],
)
def test_what_is_too_large_is_refused_and_leaves_nothing(
    tmp_path: Path, data: bytes, limits: Limits, says: str
) -> None:
    with pytest.raises(SeedTooLarge, match=says):
        take(tmp_path, data, "email", limits)
    assert nothing_left(tmp_path)


def test_a_file_of_exactly_the_limits_is_taken(tmp_path: Path) -> None:
    limits = Limits(unpacked_bytes=180, rows=10, line_bytes=17)
    assert take(tmp_path, b"user1@example.com\n" * 10, "email", limits).rows == 10


@given(
    lines=st.lists(
        st.text(st.characters(exclude_characters='\n\r,"', exclude_categories=["Cs"]), max_size=30), max_size=60
    ),
    cuts=st.lists(st.integers(1, 400), max_size=20),
    pack=st.booleans(),
)
def test_no_cut_of_the_stream_changes_what_is_read(lines: list[str], cuts: list[int], pack: bool) -> None:
    data = "\n".join(["id", *lines]).encode()
    expected = seeds.Reader(RING, "login", Limits())
    whole = expected.feed(data) + expected.finish()
    sent = gzip.compress(data, mtime=0) if pack else data
    unpacker, reader, found, at = seeds.Unpacker(Limits()), seeds.Reader(RING, "login", Limits()), [], 0
    for size in [*cuts, len(sent)]:
        for piece in unpacker.feed(sent[at : at + size]):
            found += reader.feed(piece)
        at += size
    for piece in unpacker.finish():
        found += reader.feed(piece)
    found += reader.finish()
    assert found == whole
    assert (reader.rows, reader.invalid) == (expected.rows, expected.invalid)


@given(
    data=st.binary(max_size=600),
    head=st.sampled_from([b"", b"id\n", b"id_type,id\n", b"\x1f\x8b", gzip.compress(b"id\nx\n", mtime=0)]),
)
def test_any_bytes_are_read_or_refused(data: bytes, head: bytes) -> None:
    unpacker, reader = seeds.Unpacker(Limits()), seeds.Reader(RING, "cookie", Limits(line_bytes=200))
    try:
        for piece in unpacker.feed(head + data):
            reader.feed(piece)
        for piece in unpacker.finish():
            reader.feed(piece)
        reader.finish()
    except (BadSeed, SeedTooLarge):
        return
    assert 0 <= reader.invalid <= reader.rows


@pytest.mark.rule("P-70")
def test_what_a_killed_import_left_is_swept_and_a_running_one_is_not(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from dmp import seeds; from dmp.pseudonym import KeyRing\n"
        "with seeds.receive(Path(sys.argv[1]), KeyRing(bytes(32)), 'email', seeds.Limits()) as upload:\n"
        "    upload.feed(b'user1@example.com\\n' * 100000); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert not nothing_left(tmp_path)
    with seeds.receive(tmp_path, RING, "email", Limits()):
        assert seeds.sweep(tmp_path) == 1
        assert len(list((tmp_path / "uploads").iterdir())) == 1
    assert nothing_left(tmp_path)


@pytest.mark.rule("S-23")
@pytest.mark.long
def test_two_million_rows_stream_through_bounded_memory(tmp_path: Path) -> None:
    known(tmp_path, 1_000)
    program = (
        "import resource, sys; from pathlib import Path; from dmp import seeds; from dmp.pseudonym import KeyRing\n"
        "root, rows = Path(sys.argv[1]), int(sys.argv[2])\n"
        "with seeds.receive(root, KeyRing(bytes(range(32))), 'email', seeds.Limits()) as upload:\n"
        "    for at in range(0, rows, 10_000):\n"
        "        upload.feed(b''.join(b'user%d@example.com\\n' % n for n in range(at, at + 10_000)))\n"
        "    got = upload.match(root / 'tags.parquet')\n"
        "print(got.rows, got.matched, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peak = {}
    for rows in (10_000, 2_000_000):
        command = [sys.executable, "-c", program, str(tmp_path), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        read, matched, peak[rows] = map(int, done.stdout.split())
        assert (read, matched) == (rows, 1_000)
    print(peak)  # noqa: T201 - MiB, shown with `pytest -s`
    assert peak[2_000_000] - peak[10_000] < 400  # MiB: the join's 256 and its overhead; the ids alone are 32
