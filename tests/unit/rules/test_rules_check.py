"""``rules check`` and ``rules test``: what they say and how they exit."""

from pathlib import Path

import pytest

from microedr_rules.check import check, run_tests
from support.rule_events import lite_text

RULE = lite_text("process.exe: /usr/bin/ls")
FIRES = "process: {exe: /usr/bin/ls}\nproc_exec: {argv: [ls]}\n"
QUIET = "process: {exe: /usr/bin/cat}\nproc_exec: {argv: [cat]}\n"


def lay(tmp_path: Path, rule: str = RULE, fires: str = FIRES, quiet: str = QUIET) -> Path:
    rules = tmp_path / "rules"
    evidence = tmp_path / "evidence" / "a"
    rules.mkdir(parents=True)
    evidence.mkdir(parents=True)
    (rules / "a.yaml").write_text(rule)
    if fires:
        (evidence / "fires.yaml").write_text(fires)
    if quiet:
        (evidence / "near-miss.yaml").write_text(quiet)
    return rules


def test_good_rules_pass_both(tmp_path: Path) -> None:
    rules = lay(tmp_path)

    assert (check([rules]).exit_code, check([rules]).lines()) == (0, ["1 rules in 1 files: 1 full; 0 errors"])
    assert (run_tests([rules]).exit_code, run_tests([rules]).lines()) == (0, ["1 rules on 2 events: 0 failed"])


def test_a_wrong_rule_fails_the_check_at_its_line(tmp_path: Path) -> None:
    rules = lay(tmp_path, rule=RULE.replace("process.exe", "process.exx"))
    report = check([rules])

    assert report.exit_code == 1
    assert report.lines()[0].startswith(f"{rules}/a.yaml:6:3: unknown field")
    assert run_tests([rules]).exit_code == 1


def test_evidence_that_does_not_fire_fails(tmp_path: Path) -> None:
    report = run_tests([lay(tmp_path, fires=FIRES + "---\n" + QUIET)])

    assert report.exit_code == 1
    assert report.lines()[0] == f"{tmp_path}/evidence/a/fires.yaml:4:1: T-1 (A rule): does not fire"


def test_a_near_miss_that_fires_fails(tmp_path: Path) -> None:
    report = run_tests([lay(tmp_path, quiet=FIRES)])

    assert report.exit_code == 1
    assert "fires on a near miss" in report.lines()[0]


def test_a_rule_without_near_misses_fails(tmp_path: Path) -> None:
    report = run_tests([lay(tmp_path, quiet="")])

    assert report.exit_code == 1
    assert "no near-miss evidence" in report.lines()[0]


def test_no_rules_at_all_proves_nothing(tmp_path: Path) -> None:
    assert run_tests([tmp_path]).exit_code == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("process: {exo: a}\nproc_exec: {}\n", "not an event"),
        ("process: {exe: a}\n", "no kind such as proc_exec"),
        ("net_conn: {dst_ip: nonsense}\n", "is no address"),
        ("- a\n", "must be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_evidence_that_is_no_event_is_told_at_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    report = run_tests([lay(tmp_path, fires=text)])

    assert report.exit_code == 1
    assert complaint in report.fault
    assert report.fault.startswith(f"{tmp_path}/evidence/a/fires.yaml:")


def test_results_are_readable_by_programs(tmp_path: Path) -> None:
    rules = lay(tmp_path)

    assert check([rules]).as_json()["files"] == 1
    assert run_tests([rules]).as_json()["fault"] == ""
