"""A newcomer starts the system, runs the demo, reads alerts, stops and starts again."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.system import System

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    assert os.geteuid() == 0, "the whole system needs root for its agent: run the tests as root"
    root = tmp_path_factory.mktemp("up")
    root.parent.chmod(0o755)  # the agent's unprivileged processes pass through
    root.chmod(0o755)
    with System(root) as running:
        yield running


def test_the_ready_file_tells_where_everything_is(system: System) -> None:
    ready = system.ready

    assert ready["agent"] == {"collector": "ebpf"}
    assert ready["state_dir"] == str(system.state_dir)
    assert Path(ready["ca_file"]).exists()
    assert stat.S_IMODE(Path(ready["api_token_file"]).stat().st_mode) == 0o600
    assert ready["api_url"].startswith("https://127.0.0.1:")
    assert ready["ingest_url"].startswith("https://127.0.0.1:")


def test_no_secret_is_readable_by_others(system: System) -> None:
    exposed = [
        path
        for path in system.state_dir.rglob("*")
        if path.is_file() and ("key" in path.name or "token" in path.name) and path.stat().st_mode & 0o077
    ]

    assert exposed == []


def test_the_demo_is_detected_killed_and_proven(system: System) -> None:
    shown = system.json("demo")
    names = [step["name"] for step in shown["steps"]]

    for name in ("kernel event", "rule matched", "alert raised", "action signed", "process killed", "action observed"):
        assert name in names, names
    alert = system.json("alerts", "show", shown["alert_id"])
    assert alert["rule_id"] == "microedr-demo"
    assert alert["actions"][0]["state"] == "observed"
    assert alert["entities"]["exe"].endswith("/demo-shell")
    assert len(alert["process_tree"]) > 1, "the alert knows where the process came from"


def test_an_alert_can_be_found_acknowledged_and_closed(system: System) -> None:
    system.json("demo")
    alert_id = system.json("alerts", "list", "--rule", "microedr-demo")["items"][0]["alert_id"]

    assert system.json("alerts", "ack", alert_id)["state"] == "acked"
    assert system.json("alerts", "close", alert_id, "--note", "a drill")["state"] == "closed"
    open_ids = [a["alert_id"] for a in system.json("alerts", "list", "--state", "open")["items"]]
    assert alert_id not in open_ids


def test_this_host_reports_what_it_is(system: System) -> None:
    (host,) = system.json("hosts", "list")["items"]

    assert host["host_id"] == system.ready["host_id"]
    assert host["connection"] == "connected"
    assert host["collector"] == "ebpf"


def test_the_api_wants_a_token_and_serves_its_docs(system: System) -> None:
    import ssl  # noqa: PLC0415 - only here

    trust = ssl.create_default_context(cafile=system.ready["ca_file"])
    with httpx.Client(base_url=system.ready["api_url"], verify=trust, trust_env=False) as http:
        assert http.get("/v1/alerts").status_code == 401
        assert http.get("/v1/health").json()["status"] == "ok"
        assert http.get("/docs").status_code == 200
        assert http.get("/openapi.json").json()["paths"]


def test_a_second_start_on_the_directory_is_refused(system: System) -> None:
    done = system.command("up", status=2)

    assert "another microedr runs on it" in done.stderr


def test_a_restart_continues_with_the_same_alerts_host_and_keys(system: System) -> None:
    before = system.ready
    first = system.json("demo")["alert_id"]
    token = Path(before["api_token_file"]).read_text()

    assert system.stop() < 10
    system.start()
    second = system.json("demo")["alert_id"]
    listed = {alert["alert_id"] for alert in system.json("alerts", "list")["items"]}

    assert system.ready["host_id"] == before["host_id"]
    assert Path(system.ready["api_token_file"]).read_text() == token
    assert {first, second} <= listed


def test_without_an_agent_the_backend_runs_and_says_so(tmp_path: Path) -> None:
    with System(tmp_path, options=("--no-agent",)) as system:
        assert system.ready["agent"]["collector"] is None
        assert system.json("alerts", "list") == {"items": [], "next_cursor": None}
        done = system.command("demo", status=1)

        assert "no agent collects on this machine" in done.stderr


def test_commands_without_a_running_system_say_how_to_get_one(tmp_path: Path) -> None:
    done = System(tmp_path).command("alerts", "list", status=2)

    assert "microedr up" in done.stderr
    assert json.dumps("Traceback") not in done.stderr
