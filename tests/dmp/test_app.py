import asyncio
import gzip
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from dmp import keys, limits
from dmp.app import listening, make_app
from dmp.catalogue import Catalogue, open_catalogue
from dmp.config import DmpConfig
from dmp.desk import Desk
from dmp.limits import Buckets, Rates
from dmp.pseudonym import KeyRing
from dmp.store import Store, generation_folder

RING = KeyRing(bytes(range(32)))
KNOWN = 1_000
CANARY = "canary-4711@example.com"
NOW = 1_700_000_000_000_000


def csv(users: int, first: int = 0) -> bytes:
    return b"id\n" + b"".join(b"user%d@example.com\n" % n for n in range(first, first + users))


class Server:
    """A running server with two advertisers and 1,000 known users, and a client for it."""

    def __init__(self, root: Path, url: str, session: aiohttp.ClientSession, catalogue: Catalogue) -> None:
        self.root, self.url, self.session, self.catalogue = root, url, session, catalogue
        self.keys = {name: catalogue.issue_key(name, NOW) for name in ("acme", "rival")}

    async def ask(
        self, method: str, path: str, key: str | None = None, headers: dict[str, str] | None = None, data: Any = None
    ) -> tuple[int, Any, Any]:
        """(status, JSON body, headers); every answer must be JSON."""
        sent = {"Authorization": f"Bearer {self.keys['acme'] if key is None else key}", **(headers or {})}
        async with self.session.request(method, self.url + path, headers=sent, data=data) as answer:
            return answer.status, await answer.json(), answer.headers

    async def upload(self, data: Any, query: str = "name=spring&id_type=email", **more: Any) -> tuple[int, Any, Any]:
        return await self.ask("POST", f"/v1/advertisers/acme/seeds?{query}", data=data, **more)

    def nothing_left(self) -> bool:
        files = [path for part in ("uploads", "seeds") for path in (self.root / part).rglob("*")]
        return not files and self.catalogue.audiences("acme") == []


@pytest.fixture
def config(tmp_path: Path, store: Store, client: redis.Redis) -> DmpConfig:
    config = DmpConfig(data_dir=str(tmp_path), redis_url=store.url, port=0, max_upload_bytes=100_000)
    folder = generation_folder(config, 1)
    folder.mkdir(parents=True)
    uids = [RING.uid("email", f"user{n}@example.com") for n in range(KNOWN)]
    pq.write_table(pa.table({"uid": pa.array(uids, pa.binary(16))}), folder / "tags.parquet")
    client.set(keys.GENERATION, 1)
    return config


@pytest.fixture
def rates() -> Rates:
    return Rates(key_burst=1_000, address_burst=10_000)


@pytest.fixture
async def server(config: DmpConfig, client: redis.Redis, rates: Rates) -> AsyncIterator[Server]:
    catalogue = open_catalogue(Path(config.data_dir))
    for name in ("acme", "rival"):
        catalogue.add_advertiser(name, NOW)
    async with (
        listening(Desk(config, catalogue, client, RING, rates)) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Server(Path(config.data_dir), url, session, catalogue)
    catalogue.close()


async def test_an_upload_is_told_what_matched_and_waits_for_expansion(server: Server) -> None:
    status, told, _ = await server.upload(csv(600, first=500) + b"no address\n")
    assert status == 202
    assert (told["audience"], told["state"]) == ("acme/spring", "pending")
    # 601 lines, 500 of 600 addresses known: both told with two digits.
    assert (told["uploaded"], told["invalid"], told["matched"], told["match_rate"]) == (601, 1, 500, 0.83)
    assert told["warnings"] == ["fewer than 1,000 known users: expect a rough audience"]
    status, one, _ = await server.ask("GET", "/v1/advertisers/acme/audiences/spring")
    assert status == 200
    assert one == {key: value for key, value in told.items() if key != "warnings"}
    assert (await server.ask("GET", "/v1/advertisers/acme/audiences"))[:2] == (200, {"audiences": [one]})


@pytest.mark.rule("P-65")
async def test_no_exact_size_is_told(server: Server) -> None:
    _, told, _ = await server.upload(csv(49))
    assert (told["matched"], told["match_rate"]) == (0, 0.0)
    assert "will be refused" in told["warnings"][0]
    _, told, _ = await server.upload(csv(437), "name=two&id_type=email")
    assert told["matched"] == 440
    stored = server.catalogue.audience("acme", "two")
    assert stored is not None
    assert stored.matched == 437


async def test_wishes_travel_with_the_upload(server: Server) -> None:
    status, told, _ = await server.upload(csv(300), "name=x&id_type=email&share_pct=2.5&include_seed=true")
    assert (status, told["share_pct"], told["include_seed"]) == (202, 2.5, True)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("id_type=email", "bad_name"),
        ("name=&id_type=email", "bad_name"),
        ("name=..&id_type=email", "bad_name"),
        ("name=a%2Fb&id_type=email", "bad_name"),
        ("name=x&id_type=planet", "bad_query"),
        ("name=x&id_type=email&share_pct=0", "bad_query"),
        ("name=x&id_type=email&share_pct=26", "bad_query"),
        ("name=x&id_type=email&share_pct=nan", "bad_query"),
        ("name=x&id_type=email&share_pct=many", "bad_query"),
        ("name=x&id_type=email&include_seed=1", "bad_query"),
        ("name=x&id_type=email&nmae=y", "bad_query"),
        ("name=x&name=y&id_type=email", "bad_query"),
        ("name=x", "bad_seed"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong_and_leaves_nothing(server: Server, query: str, code: str) -> None:
    status, told, _ = await server.upload(b"user1@example.com\n", query)
    assert (status, told["error"]) == (400, code)
    assert told["detail"]
    assert server.nothing_left()


async def test_a_taken_name_is_refused_and_the_first_upload_stays(server: Server) -> None:
    await server.upload(csv(300))
    status, told, _ = await server.upload(csv(400))
    assert (status, told["error"]) == (409, "name_taken")
    _, one, _ = await server.ask("GET", "/v1/advertisers/acme/audiences/spring")
    assert one["uploaded"] == 300
    assert len(list((server.root / "seeds").iterdir())) == 1


async def test_two_uploads_of_one_name_at_once_leave_one_audience_and_one_seed_file(server: Server) -> None:
    answers = await asyncio.gather(server.upload(csv(300)), server.upload(csv(400)))
    assert sorted(status for status, _, _ in answers) == [202, 409]
    assert len(list((server.root / "seeds").iterdir())) == 1
    assert list((server.root / "uploads").iterdir()) == []


@pytest.mark.rule("S-23")
@pytest.mark.parametrize("header", [{}, {"Content-Encoding": "gzip"}])
async def test_a_gzipped_file_is_taken_with_and_without_saying_so(server: Server, header: dict[str, str]) -> None:
    status, told, _ = await server.upload(gzip.compress(csv(300), mtime=0), headers=header)
    assert (status, told["uploaded"]) == (202, 300)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - the condition is in files, which no event announces
        await asyncio.sleep(0)  # let the server's side of this loop run


async def chunks(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.rule("S-23")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"user1@example.com\n" * 6_000, 413, "too_large"),  # 108,000 bytes, 100,000 are allowed
        (gzip.compress(b"user1@example.com\n" * 6_000, mtime=0), 413, "too_large"),
        (b"x" * 70_000, 413, "too_large"),  # one line
        (gzip.compress(bytes(10_000_000), mtime=0), 413, "too_large"),
        (b"PK\x03\x04" + bytes(1_000), 400, "bad_seed"),
        (gzip.compress(csv(300), mtime=0)[:-9], 400, "bad_seed"),
        (b"", 400, "bad_seed"),
    ],
)
async def test_an_upload_beyond_the_limits_is_refused_and_leaves_nothing(
    server: Server, stream: bool, data: bytes, status: int, code: str
) -> None:
    got, told, _ = await server.upload(chunks(data) if stream else data)
    assert (got, told["error"]) == (status, code)
    assert server.nothing_left()


@pytest.mark.rule("S-23")
async def test_an_upload_broken_off_leaves_nothing_and_no_traceback(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/advertisers/acme/seeds?name=x&id_type=email HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {server.keys['acme']}\r\n"
    ).encode()
    for broken in (
        b"Content-Length: 50000\r\n\r\n" + csv(100),
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nid\nus\r\n" + CANARY.encode() + b"\r\n",
    ):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + broken)
        await writer.drain()
        await until((server.root / "uploads").exists)
        writer.close()
        await writer.wait_closed()
    status, _, _ = await server.upload(csv(300))  # both slots are free again
    assert status == 202
    await until(lambda: not list((server.root / "uploads").iterdir()))
    assert len(list((server.root / "seeds").iterdir())) == 1
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert CANARY not in caplog.text


@pytest.mark.rule("S-23")
@pytest.mark.parametrize("rates", [Rates(stall_s=0.05)])
async def test_an_upload_that_stands_still_is_ended(server: Server) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield csv(10)
        await asyncio.Event().wait()

    status, told, _ = await server.upload(stalling())
    assert (status, told["error"]) == (408, "stalled")
    assert server.nothing_left()


@pytest.mark.rule("S-23")
async def test_a_tenant_has_two_uploads_at_a_time(server: Server) -> None:
    go = asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield csv(10)
        await go.wait()

    running = [asyncio.create_task(server.upload(held(), f"name=n{n}&id_type=email")) for n in range(2)]
    await until(lambda: len(list((server.root / "uploads").glob("*"))) == 2)
    status, told, headers = await server.upload(csv(300))
    assert (status, told["error"]) == (429, "too_many_uploads")
    assert int(headers["Retry-After"]) > 0
    go.set()
    assert [status for status, _, _ in await asyncio.gather(*running)] == [202, 202]
    assert (await server.upload(csv(300)))[0] == 202


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Content-Type": "multipart/form-data; boundary=x"}, 415), ({"Content-Encoding": "br"}, 415)],
)
async def test_a_body_in_another_wrapping_is_refused(server: Server, headers: dict[str, str], status: int) -> None:
    assert (await server.upload(csv(10), headers=headers))[0] == status


@pytest.mark.rule("S-20")
@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer tb_wrong", "Basic {key}", "{key}", "Bearer {key}x", "Bearer \xff"]
)
async def test_without_a_valid_key_nothing_is_answered(server: Server, header: str) -> None:
    sent = {"Authorization": header.format(key=server.keys["acme"])}
    async with server.session.get(f"{server.url}/v1/advertisers/acme/audiences", headers=sent) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await answer.json())["error"] == "unauthorized"


@pytest.mark.rule("S-20")
async def test_a_revoked_key_is_out_at_once_and_a_scope_is_needed(server: Server) -> None:
    path = "/v1/advertisers/acme/audiences"
    assert (await server.ask("GET", path))[0] == 200
    server.catalogue.revoke_keys("acme", server.keys["acme"], NOW)
    assert (await server.ask("GET", path))[0] == 401
    other = server.catalogue.issue_key("acme", NOW, scopes=("budget",))
    assert (await server.ask("GET", path, key=other))[0] == 403


def tenant_routes() -> list[tuple[str, str]]:
    """Every (method, path) below an advertiser, so that a new route is in the matrix by itself."""
    made = make_app(Desk.__new__(Desk))
    return sorted(
        (route.method, route.resource.canonical)
        for route in made.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/v1/advertisers/")
    )


@pytest.mark.rule("S-21")
@pytest.mark.parametrize(("method", "path"), tenant_routes())
@pytest.mark.parametrize("owner", ["acme", "rival"])
async def test_another_tenants_object_is_as_absent_as_one_that_never_was(
    server: Server, method: str, path: str, owner: str
) -> None:
    other = "rival" if owner == "acme" else "acme"
    assert "{advertiser}" in path
    made, _, _ = await server.ask(
        "POST", f"/v1/advertisers/{owner}/seeds?name=spring&id_type=email", server.keys[owner], data=csv(300)
    )
    assert made == 202

    async def ask(advertiser: str, name: str, key: str) -> tuple[int, str]:
        query = "?name=new&id_type=email" if method == "POST" else ""
        address = server.url + path.format(advertiser=advertiser, name=name) + query
        data = csv(300) if method == "POST" else None
        headers = {"Authorization": f"Bearer {key}"}
        async with server.session.request(method, address, headers=headers, data=data) as answer:
            return answer.status, await answer.text()

    own, _ = await ask(owner, "spring", server.keys[owner])
    assert own in (200, 202, 400)  # 400: a question without an expression, but a question to somebody
    theirs = await ask(owner, "spring", server.keys[other])
    nobodys = await ask("nobody", "spring", server.keys[other])
    assert theirs[0] == 404
    assert theirs == nobodys
    assert [a.name for a in server.catalogue.audiences(other)] == []


@pytest.mark.rule("S-21")
async def test_a_list_holds_the_own_audiences_only(server: Server) -> None:
    await server.upload(csv(300))
    _, own, _ = await server.ask("GET", "/v1/advertisers/acme/audiences")
    _, others, _ = await server.ask("GET", "/v1/advertisers/rival/audiences", server.keys["rival"])
    assert [a["audience"] for a in own["audiences"]] == ["acme/spring"]
    assert others == {"audiences": []}
    status, told, _ = await server.ask("GET", "/v1/advertisers/rival/audiences/spring", server.keys["rival"])
    assert (status, told["error"]) == (404, "not_found")


@pytest.mark.rule("S-26")
@pytest.mark.parametrize("rates", [Rates(key_per_s=0.001, key_burst=3), Rates(address_per_s=0.001, address_burst=3)])
async def test_a_caller_beyond_its_rate_is_told_when_to_come_back(server: Server, rates: Rates) -> None:
    path = "/v1/advertisers/acme/audiences"
    assert [(await server.ask("GET", path))[0] for _ in range(3)] == [200, 200, 200]
    status, told, headers = await server.ask("GET", path)
    assert (status, told["error"]) == (429, "too_many_requests")
    assert 900 <= int(headers["Retry-After"]) <= 1_000
    if rates.key_burst == 3:  # another key has tokens of its own
        assert (await server.ask("GET", "/v1/advertisers/rival/audiences", server.keys["rival"]))[0] == 200


@pytest.mark.rule("S-26")
def test_a_bucket_fills_with_time_and_the_oldest_is_forgotten() -> None:
    buckets = Buckets(per_s=2, burst=2)
    assert [buckets.wait_s("a", 0.0) for _ in range(3)] == [0, 0, 0.5]
    assert buckets.wait_s("b", 0.0) == 0
    assert buckets.wait_s("a", 0.5) == 0
    assert buckets.wait_s("a", 0.5) == 0.5
    assert [buckets.wait_s("a", 100.0) for _ in range(3)] == [0, 0, 0.5]  # never more than the burst
    for n in range(limits.MAX_BUCKETS):
        buckets.wait_s(str(n), 100.0)
    assert buckets.wait_s("a", 100.0) == 0


async def test_an_unknown_path_or_method_is_answered_in_json(server: Server) -> None:
    assert (await server.ask("GET", "/nothing"))[0] == 404
    status, told, headers = await server.ask("DELETE", "/health")
    assert (status, told["error"], "GET" in headers["Allow"]) == (405, "method_not_allowed", True)


async def test_without_users_or_store_an_upload_is_put_off(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await server.ask("GET", "/health"))[:2] == (200, {"status": "ok", "generation": 1})
    client.delete(keys.GENERATION)
    status, told, _ = await server.upload(csv(300))
    assert (status, told["error"]) == (503, "no_users")

    def down(client: redis.Redis) -> int:
        raise redis.ConnectionError

    monkeypatch.setattr("dmp.store.live_generation", down)
    for method, path in (("POST", "/v1/advertisers/acme/seeds?name=x&id_type=email"), ("GET", "/health")):
        status, told, headers = await server.ask(method, path, data=csv(300) if method == "POST" else None)
        assert (status, told["error"]) == (503, "store_unavailable")
        assert headers["Retry-After"]
    assert server.nothing_left()


@pytest.mark.rule("P-60")
async def test_a_raw_id_appears_in_no_answer_file_key_or_log(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [
        await server.upload(csv(300) + CANARY.encode()),
        await server.upload(CANARY.encode(), "name=second"),
        await server.upload(f"id_type,id,{CANARY}\n".encode(), "name=third"),
        await server.upload(f"email,{CANARY}\n".encode() * 5_000, "name=fourth"),
    ]
    assert [status for status, _, _ in answers] == [202, 400, 400, 413]
    seen = json.dumps([told for _, told, _ in answers]) + caplog.text
    seen += repr([(key, client.dump(key)) for key in client.scan_iter()])
    written = b"".join(path.read_bytes() for path in server.root.rglob("*") if path.is_file())
    assert CANARY not in seen
    assert CANARY.encode() not in written


def test_the_commands_add_an_advertiser_serve_and_upload(config: DmpConfig, tmp_path: Path) -> None:
    """With the key of `pseudonym.key` in place, as an operator would have it; SIGTERM ends the server with 0."""
    (tmp_path / "pseudonym.key").write_bytes(bytes(range(32)))
    (tmp_path / "pseudonym.key").chmod(0o600)
    (tmp_path / "seed.csv").write_bytes(csv(300))
    environ = {
        **os.environ,
        "TAGBID_DMP_DATA_DIR": config.data_dir,
        "TAGBID_DMP_REDIS_URL": config.redis_url,
        "TAGBID_DMP_PORT": "0",
    }

    def tagbid(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from loadtest.cli import main; raise SystemExit(main())", "dmp", *arguments]
        return subprocess.run(command, env={**environ, **more}, capture_output=True, text=True, check=False)

    key = tagbid("advertisers", "add", "acme").stdout.strip()
    assert key.startswith("tb_")
    again = tagbid("advertisers", "add", "acme")
    assert (again.returncode, "exists" in again.stderr) == (2, True)
    server = subprocess.Popen([sys.executable, "-m", "dmp", "serve"], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[1]
        upload = ("seeds", "upload", str(tmp_path / "seed.csv"), "--advertiser", "acme", "--url", url, "--json")
        done = tagbid(*upload, "--name", "spring", "--id-type", "email", TAGBID_KEY=key)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["matched"] == 300
        refused = tagbid(*upload, "--name", "spring", "--id-type", "email", TAGBID_KEY=key)
        assert (refused.returncode, "choose another name" in refused.stderr) == (2, True)
        assert tagbid("advertisers", "revoke", "acme", key).returncode == 0
        refused = tagbid(*upload, "--name", "x", TAGBID_KEY=key)
        assert (refused.returncode, "valid key" in refused.stderr) == (2, True)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    gone = tagbid(*upload, "--name", "x", TAGBID_KEY=key)
    assert (gone.returncode, "dmp serve" in gone.stderr) == (2, True)
