"""A cluster behind TLS, by its blocking client and by the event loop's link, with a certificate authority of its own.

The servers of the test suite speak no TLS, so something in front of each ends it and hands the bytes on; the nodes name
those doors as their own addresses.
"""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis.exceptions
from redis.connection import parse_url

from dmp.link import Link
from dmp.store import Store
from dmp.wire import tls_of
from tests.dmp.nodes import Cluster, until

KEYS = [b"key-%d" % n for n in range(60)]
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ca.pem`, and `node.pem` with `node.key`, good for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make certificates")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        ["req", "-x509", *CURVE, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"],
        ["req", *CURVE, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node"],
        ["x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "node.pem"],
    ):  # fmt: skip
        subprocess.run([openssl, *command], cwd=folder, check=True, capture_output=True)
    return folder


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def doors(cluster: Cluster, certificates: Path) -> AsyncIterator[str]:
    """A door to every node; gives the address of the first without options."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "node.pem", certificates / "node.key")

    def door(port: int) -> asyncio.Future[asyncio.Server]:
        async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

        return asyncio.ensure_future(asyncio.start_server(enter, "127.0.0.1", 0, ssl=context))

    async with AsyncExitStack() as stack:
        ports = []
        for server in cluster.primaries:
            made = await stack.enter_async_context(await door(server.port))
            ports.append(made.sockets[0].getsockname()[1])
            server.client.config_set("cluster-announce-port", ports[-1])
        until(
            lambda: all({row[2][1] for row in server.cluster("SLOTS")} == set(ports) for server in cluster.primaries),
            "every node names the doors",
        )
        yield f"rediss://127.0.0.1:{ports[0]}"


async def test_both_clients_reach_all_nodes_by_tls(own_cluster: Cluster, certificates: Path) -> None:
    async with doors(own_cluster, certificates) as address:
        url = f"{address}?ssl_ca_certs={certificates / 'ca.pem'}"
        link = Link(url)
        await link.start()
        for key in KEYS:
            await link.execute("SET", key, b"by link: " + key)
        assert len(link.lines) == 3
        assert all(line.up for line in link.lines)

        def read() -> list[bytes]:
            client = Store(url).sync()
            pipe = client.pipeline(transaction=False)
            for key in KEYS:
                pipe.get(key)
            found: list[bytes] = pipe.execute()
            client.close()
            return found

        assert await asyncio.to_thread(read) == [b"by link: " + key for key in KEYS]
        await link.close()


@pytest.mark.parametrize("options", ["", "?ssl_check_hostname=false"])
async def test_a_server_nobody_vouches_for_is_not_talked_to(
    own_cluster: Cluster, certificates: Path, options: str
) -> None:
    async with doors(own_cluster, certificates) as address:
        link = Link(address + options)
        with pytest.raises(TimeoutError):
            await link.start(timeout_s=0.5)
        await link.close()
        with pytest.raises(redis.exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(Store(address + options).sync().ping)


def test_options_of_an_address_mean_what_they_mean_to_redis_py(certificates: Path) -> None:
    def context(options: str) -> ssl.SSLContext:
        made = tls_of(parse_url(f"rediss://a:1?{options}"))
        assert made is not None
        return made

    checked, named = context(""), context("ssl_check_hostname=false")
    assert (checked.check_hostname, checked.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (named.check_hostname, named.verify_mode) == (False, ssl.CERT_REQUIRED)
    anybody = context("ssl_cert_reqs=none")
    assert (anybody.check_hostname, anybody.verify_mode) == (False, ssl.CERT_NONE)
    assert len(context(f"ssl_ca_certs={certificates / 'ca.pem'}").get_ca_certs()) == 1
    context(f"ssl_certfile={certificates / 'node.pem'}&ssl_keyfile={certificates / 'node.key'}")
    assert tls_of(parse_url("redis://a:1?ssl_check_hostname=false")) is None
    with pytest.raises(OSError, match="No such file"):
        context("ssl_ca_certs=/nowhere/ca.pem")
