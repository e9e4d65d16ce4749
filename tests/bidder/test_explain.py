import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bidder.__main__ import app
from bidder.explain import explain
from dmp.errors import ConfigError
from dmp.schema import NOBODY, User
from dmp.taxonomy import tag_id
from tests.bidder.factories import EXCHANGE, NOW_US, a_body, a_campaign, a_request, a_snapshot
from tests.bidder.running import CAMPAIGNS

ROOT = Path(__file__).parents[2]


def test_every_rule_answers_for_every_campaign() -> None:
    made = a_snapshot(
        a_campaign(id="here", targeting={"countries": ["USA"], "tags": {"interest.travel": 40}}),
        a_campaign(id="there", targeting={"countries": ["DEU"], "devices": ["tv"], "tags": {"interest.travel": 40}}),
        a_campaign(id="cheap", price_micros=1_000),
    )
    user = User(tags={tag_id("interest.travel"): 50})
    found = explain(a_request(imp={"bidfloor": 1.0}), user, made, NOW_US, EXCHANGE, "x")
    here, there, cheap = found.imps[0].campaigns
    assert (here.verdict, here.price_micros, all(here.rules.values())) == ("offered", 1_700_000, True)
    assert there.verdict == "device"
    assert [rule for rule, passed in there.rules.items() if not passed] == ["device", "geo"]
    assert cheap.verdict == "outbid"
    assert set(here.rules) == set(there.rules) == set(cheap.rules)


def test_a_campaign_with_one_fitting_creative_passes() -> None:
    """Creative one has the size, creative two is secure: each rule has a creative, no creative has both."""
    wide = {"w": 728, "h": 90}
    split = a_campaign(id="split", creatives=[{"image_url": "http://cdn.example/a.png"}, wide])
    found = explain(a_request(imp={"secure": 1}), NOBODY, a_snapshot(split), NOW_US, EXCHANGE, "x")
    (answer,) = found.imps[0].campaigns
    assert answer.rules["size"]
    assert answer.rules["secure"]
    assert answer.verdict == "secure"


def test_a_contextual_request_is_explained_without_the_user() -> None:
    made = a_snapshot(a_campaign(targeting={"tags": {"interest.travel": 40}}))
    user = User(tags={tag_id("interest.travel"): 50})
    found = explain(a_request(regs={"gdpr": 1}), user, made, NOW_US, EXCHANGE, "x")
    assert (found.reason, found.privacy, found.user) == ("no_user", ("gdpr", "tcf:no_gvl_id"), False)
    assert "lookup_tags" in found.denied
    assert "bid" not in found.denied
    assert found.imps[0].campaigns[0].verdict == "no_user"


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(a_body()))
    return path


def run(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["explain", *arguments], catch_exceptions=False, env={"COLUMNS": "160"})
    assert found.exit_code == 0
    return found.stdout


def test_the_command_prints_a_table_or_json(request_file: Path) -> None:
    campaigns = ("--campaigns", str(ROOT / "loadtest" / "campaigns.toml"))
    assert "voyago-fans" in run(str(request_file), *campaigns)
    told = json.loads(run(str(request_file), *campaigns, "--user-tags", "interest.travel=80", "--json"))
    verdicts = {answer["campaign"]: answer["verdict"] for answer in told["imps"][0]["campaigns"]}
    assert verdicts["voyago-fans"] == "offered"
    told = json.loads(run(str(request_file), *campaigns, "--user-tags", "interest.travel=49", "--json"))
    assert {a["campaign"]: a["verdict"] for a in told["imps"][0]["campaigns"]}["voyago-fans"] == "tags"


@pytest.mark.parametrize(
    ("body", "arguments", "message"),
    [
        ("{", [], "is no bid request"),
        ("{}", [], "no id"),
        (None, [], "No such file"),
        (json.dumps(a_body()), ["--user-tags", "interest.travel=high"], "a score is a whole number"),
    ],
)
def test_what_cannot_be_explained_says_why(
    tmp_path: Path, body: str | None, arguments: list[str], message: str
) -> None:
    path = tmp_path / "request.json"
    if body is not None:
        path.write_text(body)
    with pytest.raises(ConfigError, match=message):
        run(str(path), "--campaigns", str(ROOT / "loadtest" / "campaigns.toml"), *arguments)


def test_stated_hot_topics_are_explained(request_file: Path, tmp_path: Path) -> None:
    (tmp_path / "campaigns.toml").write_text(CAMPAIGNS + "targeting = {hot = true}\n")
    request_file.write_text(json.dumps(a_body(site={"domain": "news.example", "keywords": "ski boots"})))
    campaigns = (str(request_file), "--campaigns", str(tmp_path / "campaigns.toml"), "--json")
    for stated, verdict in ((("--hot", "Travel, Ski  boots"), "offered"), (("--hot", "travel"), "hot"), ((), "hot")):
        (imp,) = json.loads(run(*campaigns, *stated))["imps"]
        assert imp["campaigns"][0]["verdict"] == verdict
