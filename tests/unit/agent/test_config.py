"""agent.yaml is read strictly: what is wrong is named by place, field and what is allowed; the nearest source wins."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr_agent import config_sources
from microedr_agent.cli import run
from microedr_agent.config import AgentConfig
from microedr_agent.config_sources import load_config, settings
from microedr_agent.errors import ConfigError

MAIN_SPEC = """\
tenant_id: "t-123"
host_id: "stable-guid"
ingest:
  url: "https://ingest.example.com/v1/events"
  mTLS:
    cert_file: "/etc/microedr/agent.crt"
    key_file: "/etc/microedr/agent.key"
    ca_file: "/etc/microedr/ca.crt"
spool:
  dir: "/var/lib/microedr/spool"
  max_mb: 2048
upload:
  batch_max_events: 2000
  batch_max_bytes: 1048576
  flush_interval_sec: 2
  gzip: true
collectors:
  linux:
    ebpf: true
  windows:
    etw: true
actions:
  enabled: true
  allow:
    - "kill_process"
    - "isolate_egress"
"""
KEY_HEX = "ab" * 32
KEY_BASE64 = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="


@pytest.fixture(autouse=True)
def no_system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_sources, "SYSTEM_FILE", tmp_path / "system.yaml")


def load(tmp_path: Path, text: str = MAIN_SPEC, environment: dict[str, str] | None = None) -> AgentConfig:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    path.chmod(0o644)
    return load_config(file=path, environment=environment or {}).config


def test_the_main_specs_file_is_understood(tmp_path: Path) -> None:
    config = load(tmp_path)

    assert (config.tenant_id, config.host_id) == ("t-123", "stable-guid")
    assert config.ingest.target == "ingest.example.com:443"
    assert config.ingest.mtls.key_file == Path("/etc/microedr/agent.key")
    assert config.upload.batch_max_events == 2000
    assert config.upload.frame_raw_bytes < 960 * 1024
    assert config.actions.allow == ("kill_process", "isolate_egress")
    assert not config.actions.armed, "no key is trusted"
    assert config.run_as.sensor_uid != config.run_as.uploader_uid


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        pytest.param("max_mb: 2048", "max_mbs: 2048", ":11: spool.max_mbs: no such setting", id="misspelt"),
        pytest.param("max_mb: 2048", 'max_mb: "2048"', ":11: spool.max_mb: allowed is a whole number", id="text"),
        pytest.param("max_mb: 2048", "max_mb: 0", ":11: spool.max_mb: allowed is a whole number", id="too small"),
        pytest.param("max_mb: 2048", "max_mb: true", ":11: spool.max_mb: allowed", id="a flag is no number"),
        pytest.param("max_mb: 2048", "max_mb: 5\n  max_mb: 6", ":12: spool.max_mb is given twice", id="twice"),
        pytest.param("gzip: true", "gzip: perhaps", ":16: upload.gzip: allowed is true or false", id="not a flag"),
        pytest.param("https://", "http://", ":4: ingest.url: allowed is https://", id="plain text"),
        pytest.param("ingest.example.com", "user:pw@x", ":4: ingest.url: allowed", id="a password in the url"),
        pytest.param('"t-123"', '"a/b"', ":1: tenant_id: allowed is 1 to 64 letters", id="a bad name"),
        pytest.param('dir: "/var', 'dir: "var', ":10: spool.dir: allowed is an absolute path", id="relative"),
        pytest.param('- "isolate_egress"', '- "format_disk"', "actions.allow: allowed is a list of kill", id="order"),
        pytest.param("  linux:\n    ebpf: true", "  linux: 5", ":18: collectors.linux must be a mapping", id="no map"),
        pytest.param("gzip: true", "gzip: [", ": not YAML", id="not yaml"),
        pytest.param('tenant_id: "t-123"', "", ": tenant_id is missing", id="missing"),
    ],
)
def test_one_mistake_is_named_with_its_place(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    assert before in MAIN_SPEC

    with pytest.raises(ConfigError) as caught:
        load(tmp_path, MAIN_SPEC.replace(before, after, 1))

    assert f"{tmp_path}/agent.yaml" in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pw" not in str(caught.value).replace("tmp", "")


def test_the_nearest_source_wins_and_each_value_knows_its_origin(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "microedr").mkdir(parents=True)
    user_file = home / "microedr" / "agent.yaml"
    user_file.write_text("spool:\n  max_mb: 200\nupload:\n  batch_max_events: 7\nlog_level: error\n")
    config_sources.SYSTEM_FILE.write_text(MAIN_SPEC)
    environment = {
        "XDG_CONFIG_HOME": str(home),
        "MICROEDR_AGENT_UPLOAD_BATCH_MAX_EVENTS": "8",
        "MICROEDR_AGENT_LOG_LEVEL": "warning",
        "MICROEDR_AGENT_SERVICE_HOST": "10.0.0.1",
        "MICROEDR_AGENT_PORT_4317_TCP_ADDR": "10.0.0.1",
    }

    loaded = load_config(environment=environment, flags={"log_level": "debug"})

    config, origins = loaded.config, loaded.origins
    assert (config.log_level, origins["log_level"]) == ("debug", "--log-level")
    assert config.upload.batch_max_events == 8
    assert origins["upload.batch_max_events"] == "MICROEDR_AGENT_UPLOAD_BATCH_MAX_EVENTS"
    assert (config.spool.max_mb, origins["spool.max_mb"]) == (200, f"{user_file}:2")
    assert (config.tenant_id, origins["tenant_id"]) == ("t-123", f"{config_sources.SYSTEM_FILE}:1")
    assert origins["run_dir"] == "default"


def test_a_named_file_stands_in_for_the_others(tmp_path: Path) -> None:
    config_sources.SYSTEM_FILE.write_text("spool: {max_mb: 3}")
    path = tmp_path / "own.yaml"
    path.write_text(MAIN_SPEC)

    assert load_config(environment={"MICROEDR_AGENT_CONFIG": str(path)}).config.spool.max_mb == 2048


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("MICROEDR_AGENT_SPOOL_MAXMB", "5", "no such setting"),
        ("MICROEDR_AGENT_SPOOL_MAX_MB", "much", "spool.max_mb: allowed is a whole number"),
        ("MICROEDR_AGENT_UPLOAD_GZIP", "perhaps", "upload.gzip: allowed is true or false"),
        ("MICROEDR_AGENT_ACTIONS_TRUSTED_KEYS", "nokey", "actions.trusted_keys: allowed is a list of Ed25519"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=variable) as caught:
        load(tmp_path, environment={variable: text})

    assert complaint in str(caught.value)


def test_trusted_keys_come_in_hex_base64_and_files(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# the actioner\n{KEY_HEX}  # since spring\n\n{KEY_BASE64}\n{'cd' * 32}\n")
    keys.chmod(0o644)

    listed = load(tmp_path, f"{MAIN_SPEC}  trusted_keys: [{KEY_HEX}, {KEY_BASE64}]\n")
    from_file = load(tmp_path, f"{MAIN_SPEC}  trusted_keys: {keys}\n")

    assert listed.actions.trusted_keys == (bytes.fromhex(KEY_HEX),)
    assert listed.actions.armed
    assert from_file.actions.trusted_keys == (bytes.fromhex(KEY_HEX), bytes.fromhex("cd" * 32))


@pytest.mark.root
@pytest.mark.parametrize(("uid", "mode"), [(1000, 0o600), (0, 0o666), (0, 0o660)])
def test_root_does_not_obey_a_file_that_others_may_write(tmp_path: Path, uid: int, mode: int) -> None:
    import os  # noqa: PLC0415 - for this test alone

    path = tmp_path / "agent.yaml"
    path.write_text(MAIN_SPEC)
    os.chown(path, uid, -1)
    path.chmod(mode)

    with pytest.raises(ConfigError, match="must belong to root"):
        load_config(file=path, environment={})


@given(text=st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_configuration_error(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    path.chmod(0o644)

    with pytest.raises(ConfigError):
        load_config(file=path, environment={})


def test_every_setting_has_a_flag_and_a_variable_of_its_own() -> None:
    assert len({setting.flag for setting in settings()}) == len(settings())
    assert len({setting.variable for setting in settings()}) == len(settings())


def test_the_effective_settings_are_printed_with_their_origins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"{MAIN_SPEC}  trusted_keys: [{KEY_HEX}]\n")
    path.chmod(0o644)

    assert run(["config", "--config", str(path), "--spool-max-mb", "77"]) == 0

    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["spool.max_mb"] == ["77", "--spool-max-mb"]
    assert lines["ingest.mTLS.key_file"] == ["/etc/microedr/agent.key", f"{path}:7"]
    assert KEY_HEX not in " ".join(lines["actions.trusted_keys"])


@pytest.mark.parametrize("arguments", [["config"], ["run", "--config", "/nowhere.yaml"], ["spool", "ls"]])
def test_a_wrong_configuration_is_one_line_and_status_2(
    arguments: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    assert run(arguments) == 2

    told = capfd.readouterr().err
    assert told.startswith("microedr-agent: ")
    assert told.count("\n") == 1
