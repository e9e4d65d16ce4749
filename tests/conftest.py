"""Fixtures every room uses: a real tag store, never a mock of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from dmp.config import DmpConfig
from dmp.store import Store, open_store
from tests.dmp import nodes
from tests.dmp.nodes import Cluster

settings.register_profile("no deadline", deadline=None)  # how long an example takes says more of the machine than of us
settings.load_profile("no deadline")
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One server a test process: the one inside the wheel, so that every machine tests the same.

    `TAGBID_STORE=path pytest` tests with the server on PATH instead.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGBID_STORE", os.environ.get("TAGBID_STORE", "embedded"))
        with open_store(DmpConfig(data_dir=str(tmp_path_factory.mktemp("store")))) as store:
            yield store


@pytest.fixture
def store(store_server: Store) -> Store:
    """An empty tag store."""
    client = store_server.sync()
    client.flushall()
    client.close()
    return store_server


@pytest.fixture
def client(store: Store) -> Iterator[redis.Redis]:
    """A synchronous client of the empty store."""
    connection = store.sync()
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def cluster_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries on loopback, one set a test process; a test that breaks nodes makes its own (`nodes.cluster`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGBID_STORE", os.environ.get("TAGBID_STORE", "embedded"))
        with nodes.cluster(tmp_path_factory.mktemp("cluster")) as made:
            yield made


@pytest.fixture
def cluster(cluster_servers: Cluster) -> Cluster:
    """An empty cluster; `cluster.url` is one node's address, `cluster.store` the whole as a `Store`."""
    cluster_servers.flush()
    return cluster_servers


@pytest.fixture
def own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three primaries of one test's own, to stop and to kill; takes two seconds to start."""
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with nodes.cluster(tmp_path / "cluster") as made:
        yield made


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real logs and requests; tests that read it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, which is not here")
    return SHARED
