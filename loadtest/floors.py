"""The least a server can do: read a bid request's body and answer 204. What the bidder adds is measured from here.

`python -m loadtest.floors aiohttp|lane --port N` serves one; `nginx` gives the configuration of nginx for the same.
"""

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

import uvloop
from aiohttp import web

from bidder.call import Answer
from bidder.config import BidderConfig
from bidder.endpoints import Endpoint, Endpoints
from bidder.lane import lanes
from bidder.metrics import Metrics
from bidder.port import Limits, Port

NO_CONTENT = 204


async def _no_content(http: web.Request) -> web.Response:
    await http.read()
    return web.Response(status=NO_CONTENT)


def _at_once(body: bytes, endpoint: Endpoint, arrived_s: float, done: Callable[[Answer], None]) -> Answer | None:
    return NO_CONTENT


async def serve(kind: str, port: int) -> None:
    """Serve 204 on loopback until cancelled. kind: "aiohttp" (a plain Application) or "lane" (the bidder's)."""
    application = web.Application()
    application.router.add_post("/bid/{exchange}", _no_content)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - setup made it
    protocol: Callable[[], asyncio.Protocol] = runner.server
    if kind == "lane":
        metrics = Metrics()
        limits = Limits(5.0, 600.0)
        protocol = lanes(Port(_at_once, Endpoints(BidderConfig(), metrics), runner.server, limits, metrics))
    await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port)
    print("ready", flush=True)  # noqa: T201 - the starter waits for this line
    await asyncio.Event().wait()


def nginx(folder: Path, port: int) -> Path:
    """Write a configuration with which nginx answers 204 on loopback; returns its file. One process, no logs."""
    folder = folder.resolve()  # nginx reads relative paths from its own prefix
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.error;\n"
        "events { worker_connections 2048; }\n"
        f"http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder};\n"
        f"proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }} }}\n"
    )
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a server that answers 204")
    parser.add_argument("kind", choices=["aiohttp", "lane"])
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.kind, given.port))
