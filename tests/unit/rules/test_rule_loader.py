"""A wrong rule file is told with file, line and column, and costs no other rule."""

from pathlib import Path

import pytest

from microedr_rules.documents import MAX_FILE_BYTES
from microedr_rules.loader import load
from microedr_rules.model import MAX_COMMUNITY_CONFIDENCE, Gravity, Status
from microedr_rules.ruleset import RuleSet
from support.rule_events import RULE_ID, exec_event, lite_text, rule_of, sigma_text

GOOD = lite_text("process.exe: /usr/bin/ls")


def complaints(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "rule.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in load([path], builtin=False).problems]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("a: [", "rule.yaml:2:1: not valid YAML", id="broken YAML"),
        pytest.param("a: 1\na: 2\n", "rule.yaml:2:1: duplicate key 'a'", id="duplicate key"),
        pytest.param("- a\n", "rule.yaml:1:1: the document must be a mapping", id="a list"),
        pytest.param("a: 1\n", "rule.yaml:1:1: not a rule: it has neither detection nor match", id="no rule"),
        pytest.param("", "rule.yaml:1:1: the file is empty", id="empty"),
        pytest.param(b"a: \xff\n", "rule.yaml:1:1: not UTF-8", id="not UTF-8"),
        pytest.param("a: b\n" * (MAX_FILE_BYTES // 4), "rule.yaml:1:1: larger than the 262144 bytes", id="too large"),
        pytest.param("[" * 10_000, "rule.yaml:1:41: nested deeper than 40 levels", id="deep"),
        pytest.param("&a [*a]\n", "rule.yaml:1:1: an alias contains itself", id="cycle"),
        pytest.param("a: !!python/object/apply:os.system [id]\n", "rule.yaml:1:4: not valid YAML", id="tags"),
        pytest.param(
            "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
            "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
            "more than 50000 values",
            id="bomb",
        ),
        pytest.param("correlation: {}\n", "rule.yaml:1:1: Sigma correlations are not supported yet", id="correlation"),
        pytest.param("sql: SELECT 1\n", "rule.yaml:1:1: SQL rules are not supported yet", id="sql"),
        pytest.param(
            sigma_text("sel:\n  Image: a\n  CommandLine|foo: b\ncondition: sel"),
            "rule.yaml:10:5: Unknown modifier 'foo'",
            id="modifier",
        ),
        pytest.param(
            sigma_text("sel:\n  - Image: a\n  - CommandLine|re: '('\ncondition: sel"),
            "rule.yaml:10:7: Regular expression '(' is invalid",
            id="expression in a list",
        ),
        pytest.param(
            sigma_text("sel:\n  Image: a\ncondition: nope"),
            "rule.yaml:10:3: Detection 'nope' not defined in detections",
            id="condition",
        ),
        pytest.param(
            sigma_text("sel:\n  Image: a\ncondition: sel").replace(RULE_ID, "17"),
            "rule.yaml:2:1: ",
            id="id is no UUID",
        ),
        pytest.param(
            sigma_text("sel:\n  Image: a\ncondition: sel").replace(f"id: {RULE_ID}\n", ""), "id is missing", id="no id"
        ),
        pytest.param(
            sigma_text("sel:\n  Image: a\ncondition: sel", level="dire"), "rule.yaml:11:1: 'dire' is not", id="level"
        ),
        pytest.param(
            sigma_text("sel:\n  Image: a\ncondition: sel", more="microedr:\n  confidance: 1\n"),
            "rule.yaml:13:3: unknown key 'confidance'",
            id="our keys",
        ),
        pytest.param("detection: a\n", "rule.yaml:1:1: detection must be a mapping", id="detection is a text"),
        pytest.param(
            "title: x\nid: 17\ndetection:\n  condition: [1, 2]\n  s: {1: 2}\nlogsource: 3\n",
            "rule.yaml:",
            id="wrong types",
        ),
        pytest.param(
            sigma_text("sel:\n  Image: a\ncondition: " + "not (" * 60 + "sel" + ")" * 60),
            "rule.yaml:",
            id="deep condition",
        ),
    ],
)
def test_a_wrong_file_is_told_at_its_place(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    told = complaints(tmp_path, text)

    assert len(told) == 1
    assert complaint in told[0]


def test_good_rules_stay_beside_wrong_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yml").write_text("match: {}\n")
    (tmp_path / "c.yaml").write_text("id: T-2\nname: x\n---\n" + GOOD.replace("T-1", "T-3"))
    (tmp_path / "notes.txt").write_text("not a rule")
    (tmp_path / ".hidden.yaml").write_text("not a rule")

    rules = RuleSet.load([tmp_path], builtin=False)

    assert [rule.rule_id for rule in rules.rules] == ["T-1", "T-3"]
    assert len([p for p in rules.problems if p.gravity is Gravity.ERROR]) == 2
    assert [match.rule.rule_id for match in rules.match(exec_event())] == ["T-1", "T-3"]


def test_a_second_rule_of_an_id_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("# again\n" + GOOD)

    loaded = load([tmp_path], builtin=False)

    assert len(loaded.rules) == 1
    assert str(loaded.problems[0]) == f"{tmp_path}/b.yaml:2:1: duplicate id T-1, first used in {tmp_path}/a.yaml:1"


def test_a_rule_of_others_cannot_take_the_place_of_a_built_in_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("T-1", "microedr-demo"))

    loaded = load([tmp_path])

    (demo,) = [rule for rule in loaded.rules if rule.rule_id == "microedr-demo"]
    assert demo.builtin
    assert "duplicate id microedr-demo" in loaded.problems[0].detail


def test_a_path_that_does_not_exist_is_told() -> None:
    assert "no such file or directory" in load([Path("/nowhere")], builtin=False).problems[0].detail


@pytest.mark.parametrize("level", ["informational", "low", "medium", "high", "critical"])
@pytest.mark.parametrize("more", ["", "microedr:\n  confidence: 1.0\n"])
def test_no_rule_from_outside_reaches_the_confidence_that_arms_an_action(level: str, more: str) -> None:
    text = sigma_text("sel:\n  Image: a\ncondition: sel", level=level, more=more)

    assert rule_of(text).confidence <= MAX_COMMUNITY_CONFIDENCE < 0.90
    assert rule_of(lite_text("process.exe: a", more="confidence: 1.0")).confidence <= MAX_COMMUNITY_CONFIDENCE


def test_confidence_follows_the_level_and_falls_for_experiments() -> None:
    text = sigma_text("sel:\n  Image: a\ncondition: sel", level="high")

    assert rule_of(text).confidence == pytest.approx(0.75)
    assert rule_of(text.replace("status: test", "status: experimental")).confidence == pytest.approx(0.65)
    assert rule_of(text + "microedr:\n  confidence: 0.97\n", builtin=True).confidence == pytest.approx(0.97)


@pytest.mark.parametrize(
    ("detection", "category", "status", "reason"),
    [
        ("s:\n  Image: a\ncondition: s", "process_creation", Status.FULL, ""),
        ("s:\n  Image: a\n  Company: b\ncondition: s", "process_creation", Status.NOT_EVALUABLE, "Company"),
        ("s:\n  - Image: a\n  - Company: b\ncondition: s", "process_creation", Status.DEGRADED, "Company"),
        (
            "s:\n  Image: a\nf:\n  Company: b\ncondition: s and not f",
            "process_creation",
            Status.FILTER_LOST,
            "Company",
        ),
        ("s:\n  Company: null\ncondition: s", "process_creation", Status.NOT_EVALUABLE, "every event"),
        ("s:\n  Image: a\n  Company: null\ncondition: s", "process_creation", Status.FILTER_LOST, "Company"),
        (
            "s:\n  Image: a\n  CommandLine|fieldref: Product\ncondition: s",
            "process_creation",
            Status.NOT_EVALUABLE,
            "Product",
        ),
        ("s:\n  Imge: a\ncondition: s", "process_creation", Status.NOT_EVALUABLE, "did you mean Image?"),
        ("s:\n  Image: a\ncondition: s", "webserver", Status.NOT_EVALUABLE, "'webserver' is not in our telemetry"),
        ("s:\n  TargetFilename: a\ncondition: s", "file_event", Status.FULL, ""),
        ("s:\n  QueryName: a\ncondition: s", "dns_query", Status.FULL, ""),
        ("s:\n  DestinationIp: a\ncondition: s", "network_connection", Status.FULL, ""),
    ],
)
def test_the_loader_says_what_of_a_rule_can_be_evaluated(
    tmp_path: Path, detection: str, category: str, status: Status, reason: str
) -> None:
    (tmp_path / "a.yaml").write_text(sigma_text(detection, category=category))

    rules = RuleSet.load([tmp_path], builtin=False)

    (rule,) = rules.rules
    assert rule.coverage.status is status
    assert reason in rule.coverage.reason
    assert bool(rules.evaluated) == (status in {Status.FULL, Status.DEGRADED})
    assert bool(rules.problems) == (status is not Status.FULL)


def test_other_products_rules_are_not_ours_to_fire() -> None:
    assert (
        rule_of(sigma_text("s:\n  Image: a\ncondition: s", product="windows")).coverage.status is Status.NOT_EVALUABLE
    )


def test_the_hash_of_a_rule_set_follows_its_rules_and_not_their_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    first = RuleSet.load([tmp_path], builtin=False)
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    moved = RuleSet.load([tmp_path], builtin=False)
    (tmp_path / "b.yaml").write_text(GOOD.replace("high", "low"))
    changed = RuleSet.load([tmp_path], builtin=False)

    assert first.hash == moved.hash != changed.hash
    assert len(first.hash) == 16


def test_what_a_rule_says_of_itself_travels_with_its_matches() -> None:
    rule = rule_of(
        sigma_text(
            "s:\n  Image: /usr/bin/ls\ncondition: s",
            more="author: somebody\ndescription: why\ntags: [attack.t1059.004]\nreferences: ['https://example.net']\n"
            "microedr:\n  group_by: [process.user]\n  actions: [{type: kill_process}]\n",
        )
    )

    wire = rule.to_wire()

    assert (wire.rule_id, wire.title, wire.author, wire.description) == (RULE_ID, "A rule", "somebody", "why")
    assert (list(wire.tags), list(wire.references)) == (["attack.t1059.004"], ["https://example.net"])
    assert (wire.rule_hash, wire.builtin, list(wire.group_by)) == (rule.rule_hash, False, ["process.user"])
    assert wire.actions[0].auto_if_confidence_gte == 0
    (match,) = RuleSet([rule]).match(exec_event(user="kim"))
    assert match.matched_fields == {"Image": "/usr/bin/ls", "process.user": "kim"}
