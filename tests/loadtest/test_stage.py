import os
import tomllib
from pathlib import Path

import pytest

from bidder import config as bidder_config
from dmp import config, store
from dmp.config import DmpConfig
from loadtest import market, scrape, stage
from loadtest.children import ChildFailed
from loadtest.stage import Stage, quoted


@pytest.fixture
def a_stage(tmp_path):
    campaigns = tmp_path / "campaigns.toml"
    campaigns.write_text(market.portfolio(market.advertisers()))
    return Stage(tmp_path / "stage", bytes(range(32)), campaigns, tmp_path / "models", {"use_tags": "false"})


def test_a_stage_starts_a_bidder_on_its_own_store_and_both_end_with_it(a_stage):
    with stage.store(a_stage) as opened, stage.bidder(a_stage) as running:
        assert scrape.metrics(running.admin)['tagbid_store_up{link="lookup"}'] == 1
        assert store.live_generation(opened.sync()) == 0
        pid = running.child.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_stage_writes_is_a_configuration_the_commands_take(a_stage):
    with stage.store(a_stage), stage.bidder(a_stage):
        path = a_stage.folder / "tagbid.toml"
        assert tomllib.loads(path.read_text())["bidder"]["use_tags"] is False
        assert bidder_config.load(path, {}).campaigns == str(a_stage.campaigns)
        assert config.load("dmp", DmpConfig, path, {}).data_dir == str(a_stage.folder)


def test_a_server_that_does_not_start_says_why(a_stage):
    a_stage.campaigns.write_text("[[campaign]]\nid = 1\n")
    with stage.store(a_stage), pytest.raises(ChildFailed, match="advertiser is missing"), stage.bidder(a_stage):
        pass


@pytest.mark.parametrize("text", ["/var/demo", 'a "quoted" \\ path', "ünïcode"])
def test_any_path_can_stand_in_the_configuration(text):
    assert tomllib.loads(f"x = {quoted(text)}")["x"] == text


def test_the_demo_portfolio_of_real_logs_is_beside_the_code():
    from loadtest.demo_data import AUDIENCE, PORTFOLIO

    assert AUDIENCE in Path(PORTFOLIO).read_text()
