from typing import Annotated

import msgspec
import pytest

from dmp.config import DmpConfig, IdentityConfig, load
from dmp.errors import ConfigError


def test_without_a_file_the_defaults_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("dmp", DmpConfig, environ={}) == DmpConfig()


def test_the_file_sets_and_the_environment_overrides(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('[dmp]\ndata_dir = "/data"\nport = 1\n[bidder]\nanything = 1\n')
    found = load("dmp", DmpConfig, path, {"TAGBID_DMP_PORT": "2", "TAGBID_DMP_HOST": "::1", "TAGBID_OTHER": "x"})
    assert found == DmpConfig(data_dir="/data", port=2, host="::1")


def test_bare_text_in_the_environment_stays_text_where_text_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"TAGBID_DMP_DATA_DIR": "2024", "TAGBID_DMP_REDIS_URL": "redis://h:1/0"}
    assert load("dmp", DmpConfig, environ=environ) == DmpConfig(data_dir="2024", redis_url="redis://h:1/0")


def test_all_problems_are_told_at_once_with_the_nearest_key(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('[dmp]\ndata_dri = "x"\nport = "eighty"\nmin_seed = 1.5\n[bider]\n')
    with pytest.raises(ConfigError) as caught:
        load("dmp", DmpConfig, path, {"TAGBID_DMP_HOTS": "x"})
    message = str(caught.value)
    assert len(caught.value.problems) == 5
    for told in ("did you mean 'data_dir'", "port: Expected `int`", "min_seed", "'bidder'", "TAGBID_DMP_HOTS"):
        assert told in message
    assert "bad.toml" in message


@pytest.mark.parametrize("text", ["[dmp", "dmp = 3", b"\xff\xfe"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load("dmp", DmpConfig, path, {})


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load("dmp", DmpConfig, tmp_path / "none.toml", {})


class Partner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str = ""
    limit: int = 0


class Room(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    partners: dict[str, Partner] = {}
    rates: dict[str, Annotated[float, msgspec.Meta(gt=0)]] = {}


def test_tables_within_a_table_tell_which_one_and_which_key(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        '[bidder]\n[bidder.partners.adx]\ntokn = "geheim"\nlimit = "x"\n'
        "[bidder.partners.zed]\nlimit = 1.5\n[bidder.rates]\nEUR = -1.0\nUSD = 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load("bidder", Room, path, {})
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "[bidder.partners.adx] unknown key 'tokn'; did you mean 'token'?",
        "[bidder.partners.adx] limit",
        "[bidder.partners.zed] limit",
        "[bidder.rates] EUR",
    ]
    assert "geheim" not in str(caught.value)


def test_tables_within_a_table_are_read_from_file_and_environment(tmp_path):
    path = tmp_path / "good.toml"
    path.write_text('[bidder.partners.adx]\ntoken = "t"\n')
    found = load("bidder", Room, path, {"TAGBID_BIDDER_RATES": "{EUR = 1.1}"})
    assert found == Room(partners={"adx": Partner("t")}, rates={"EUR": 1.1})


@pytest.mark.parametrize("port", ["-1", "65536", "8100\nmin_seed = 1"])
def test_numbers_out_of_range_and_smuggled_lines_are_refused(tmp_path, monkeypatch, port):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"\[dmp\] port"):
        load("dmp", DmpConfig, environ={"TAGBID_DMP_PORT": port})


def test_a_table_within_a_table_is_checked_key_by_key(tmp_path):
    path = tmp_path / "tagbid.toml"
    path.write_text("[dmp.identity]\ncookies = 3\nphone = 0\nlogin = 4\n")
    with pytest.raises(ConfigError) as caught:
        load("dmp", DmpConfig, path, {})
    assert len(caught.value.problems) == 2
    assert "did you mean 'cookie'?" in caught.value.problems[0]
    path.write_text("[dmp.identity]\nlogin = 4\n")
    assert load("dmp", DmpConfig, path, {}).identity == IdentityConfig(login=4)
