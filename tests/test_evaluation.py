"""Probes, graders, evaluations that go on where they were, and whether their figures can be trusted.

.venv/bin/python -P -m pytest tests/test_evaluation.py
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import TERM, TINY
from mcp import Client
from pydantic import ValidationError
from typer.testing import CliRunner

from server.app import build_server
from server.cli.main import app
from server.states import status, told_state
from server.toolbox.evaluation import tool_schemas
from tools.data.add import add_examples
from tools.data.datasets import read_manifest
from tools.data.examples import read_examples
from tools.data.generate import generate
from tools.data.terms import Term
from tools.data.validate import validate_dataset
from tools.errors import CheckError, ConflictError, InputError, LimitError, NotFoundError
from tools.evaluation import compare, show
from tools.evaluation.calls import accepted_by
from tools.evaluation.compare import EvaluationConfig, Target, read_report, run_job
from tools.evaluation.graders import grader
from tools.evaluation.matrix import Verdict, judge, read_comparison, to_judge
from tools.evaluation.probe_sets import add_probes, new_set, vacuous
from tools.evaluation.probes import Probe, read_suite, refuse_leaks, suite_names, suite_of_dataset
from tools.evaluation.scores import dealt_test, sign_test, wilson
from tools.files import write_text
from tools.jobs import record
from tools.jobs.record import Cancelled, Job
from tools.workspace import Workspace

HOLD = Term(**TERM)  # type: ignore[arg-type]
FENCED = "```python\ndef double(x):\n    return 2 * x\n```"
WINDOW = {
    "content": "Done.",
    "context_window": {
        "system_prompt": "You look after soft holds.",
        "conversation_history": [],
        "active_rules": ["business:soft_hold"],
        "project_context": "A cinema.",
        "role_expectations": "Careful.",
        "knowledge_updates": {},
    },
    "metadata": {"preservation_level": "strict"},
}
TAGGED = 'x\n<!-- METADATA: preservation_level=strict, rule_compliance=["security:no_secrets"] -->'
QUERY = "<tool:memory.query query='refund window' limit='5'></tool>"


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ({"type": "contains", "value": "Soft  hold"}, "a soft hold", "a hard hold"),
        ({"type": "not_regex", "value": r"\bTODO\b"}, "done", "TODO"),
        ({"type": "exact", "value": "Paris"}, " Paris\n", "Paris."),
        ({"type": "json_schema", "schema": {"required": ["a"]}}, 'So: ```json\n{"a": 1}\n```', '{"b": 1}'),
        ({"type": "json_schema", "schema": {"type": "array"}}, "I think [1, 2] fits", "no JSON here {"),
        ({"type": "tag", "level": "strict", "rules": ["security:*"], "policy": "preserve_exact"}, TAGGED, "x"),
        ({"type": "tag", "rules": ["business:*"]}, TAGGED.replace("security:no_secrets", "business:x"), TAGGED),
        ({"type": "tag", "policy": "preserve_exact"}, TAGGED, TAGGED.replace("strict", "flexible").replace("sec", "x")),
        ({"type": "context_window", "rules": ["business:*"], "words": ["cinema"]}, json.dumps(WINDOW), "{}"),
        ({"type": "context_window"}, json.dumps(WINDOW), json.dumps(WINDOW).replace("role_expectations", "role")),
        ({"type": "context_window", "rules": ["rule:x"]}, json.dumps(WINDOW).replace("business:soft_hold", "rule:x"),
         json.dumps(WINDOW)),
        ({"type": "tool_call", "name": "memory.query", "arguments": {"query": "refund window"}}, QUERY, "refunds"),
        ({"type": "tool_call", "name": "memory.query", "arguments": {"query": {"type": "contains", "value": "refund"}}},
         QUERY, QUERY.replace("refund", "opening")),
        ({"type": "code"}, FENCED, FENCED.replace("(x)", "(x")),
        ({"type": "code"}, "def double(x):\n    return 2 * x\n", "I would double it."),
        ({"type": "code", "language": "go"}, "```go\npackage a\n```", "```go\npackage\n```"),
        ({"type": "code", "test": "assert double(2) == 4"}, FENCED, FENCED.replace("2 *", "3 *")),
        ({"type": "code", "test": "assert double(2) == 5"}, FENCED.replace("2 *", "2.5 *"),
         FENCED.replace("def", "import sys\nsys.exit(0)\ndef")),
        ({"type": "all_of", "graders": [{"type": "contains", "value": "a"}, {"type": "contains", "value": "b"}]},
         "ab", "a"),
        ({"type": "any_of", "graders": [{"type": "contains", "value": "a"}, {"type": "contains", "value": "b"}]},
         "b", "c"),
        ({"type": "not", "grader": {"type": "contains", "value": "a"}}, "b", "a"),
    ],
)  # fmt: skip
def test_a_grader_lets_the_right_answer_pass_and_says_why_another_is_wrong(
    rule: dict[str, Any], right: str, wrong: str
) -> None:
    made = grader(rule)
    assert made.problem(right) == ""
    assert made.problem(wrong) and not made.right(wrong)
    assert grader(made.model_dump()) == made, "what is written can be read again"


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "regex", "value": "("},
        {"type": "json_schema", "schema": {"type": "nonsense"}},
        {"type": "tool_call", "name": "nope"},
        {"type": "code", "language": "go", "test": "assert True"},
        {"type": "judge", "value": "x"},
        {"type": "all_of", "graders": []},
    ],
)
def test_a_grader_that_cannot_work_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        grader(rule)


@pytest.mark.parametrize("kind", ["regex", "not_regex", "json_schema"])
def test_a_pattern_that_would_try_for_years_ends_with_a_reason(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.evaluation.graders._SECONDS", 0.1)
    pattern = r"^(\w|\w\w)+$"
    schema = {"schema": {"type": "string", "pattern": pattern}}
    endless = grader({"type": kind, **(schema if kind == "json_schema" else {"value": pattern})})
    one, two = ('"word"', '"two words"') if kind == "json_schema" else ("word", "two words")
    assert (endless.problem(one) == "") != (endless.problem(two) == "")
    with pytest.raises(LimitError, match=r"done with 121 characters in 0\.1 s; got .*repetition inside"):
        endless.problem(one.replace("word", "a" * 120 + "!"))


def test_a_schema_is_never_fetched() -> None:
    assert "Unresolvable" in grader({"type": "json_schema", "schema": {"$ref": "http://127.0.0.1:9/x"}}).problem("{}")


def test_a_call_is_right_only_if_this_servers_own_tool_would_accept_it() -> None:
    accepts = accepted_by(anyio.run(tool_schemas, build_server()))
    asked = grader({"type": "tool_call", "name": "memory.query"})
    assert asked.problem(QUERY, accepts) == ""
    assert "limit: 500 is greater than" in asked.problem(QUERY.replace("'5'", "'500'"), accepts)
    assert asked.problem(QUERY.replace("'5'", "'500'")) == "", "without the server, the markup alone is checked"
    told = grader({"type": "tool_call", "name": "memory.remember", "body": {"type": "contains", "value": "cents"}})
    call = "<tool:memory.remember kind='KIND' tags='business:a, rule:b'>Amounts are cents.</tool>"
    assert told.problem(call.replace("KIND", "rule"), accepts) == ""
    assert "query_memory" not in told.problem(call.replace("KIND", "poem"), accepts)
    assert "poem" in told.problem(call.replace("KIND", "poem"), accepts)
    assert grader({"type": "tool_call", "name": "run"}).problem("<tool:run>pytest</tool>", accepts) == ""


def test_the_intervals_and_tests_are_those_of_their_sources() -> None:
    assert [round(v, 3) for v in wilson(8, 10)] == [0.490, 0.943]
    assert wilson(0, 10)[0] == 0.0 and round(wilson(0, 10)[1], 3) == 0.278
    assert wilson(0, 0) == (0.0, 1.0)
    assert sign_test(0, 0) == 1.0 and sign_test(5, 5) == 1.0
    assert sign_test(12, 1) == pytest.approx(2 * 14 / 2**13, abs=1e-6)


def test_answers_that_do_not_depend_on_questions_are_noticed() -> None:
    knows = [[i == j for j in range(20)] for i in range(20)]
    shuffled = [[(i + 1) % 20 == j for j in range(20)] for i in range(20)]
    always = [[True] * 20 for _ in range(20)]
    assert dealt_test(knows) < 0.01
    assert dealt_test(shuffled) > 0.3 and dealt_test(always) == 1.0 and dealt_test([[True]]) == 1.0


def test_shipped_probes_find_no_knowledge_in_ignorance_or_in_the_question() -> None:
    problems = [(n, p.id, vacuous(p)) for n in suite_names() for p in read_suite(n).probes if vacuous(p)]
    assert problems == []


@pytest.mark.slow
def test_probes_are_made_beside_the_rows_from_phrasings_that_no_row_uses(workspace: Workspace) -> None:
    one = generate(workspace, terms=[HOLD], count=1500, seed=1, name="one")
    other = generate(workspace, terms=[HOLD], count=300, seed=2, name="other")
    assert one.probes > 40 and len(one.probes_sha256) == 64
    forms = {
        row.provenance.template.partition("+")[0] for row in read_examples(workspace.dataset("one") / "rows.jsonl")
    }
    assert forms and not any(form.endswith("/wiki") for form in forms), "a phrasing that is held back is in no section"
    validate_dataset(workspace, "one")
    validate_dataset(workspace, "other")
    suite = suite_of_dataset(workspace, "one")
    assert [p.prompt for p in suite_of_dataset(workspace, "other").probes if p.kind == "probe"] == [
        p.prompt for p in suite.probes if p.kind == "probe"
    ], "whatever the seed, the same phrasings are kept out"
    for dataset in (one, other):
        refuse_leaks(suite, [row.question for row in read_examples(workspace.dataset(dataset.name) / "rows.jsonl")])
    assert {p.family for p in suite.probes if p.kind == "control"} == {"near_miss", "other_project", "general", "code"}
    assert not [p.id for p in suite.probes if vacuous(p)]
    assert len({p.id for p in suite.probes}) == len(suite.probes)


def test_a_dataset_from_cards_keeps_all_phrasings_since_its_probes_were_written_by_hand(workspace: Workspace) -> None:
    made = generate(workspace, cards=["definition/forty-two"], count=100)
    assert made.probes == 0 and not (workspace.dataset(made.name) / "probes.jsonl").exists()


def test_a_row_added_near_a_probe_makes_the_probes_refused(workspace: Workspace) -> None:
    generate(workspace, terms=[HOLD], count=60, name="holds")
    leak = json.loads((workspace.dataset("holds") / "probes.jsonl").read_text().splitlines()[0])["prompt"]
    add_examples(workspace, "holds", [{"instruction": leak, "output": HOLD.meaning, "kind": "definition"}])
    assert read_manifest(workspace.dataset("holds")).rows == 61
    validate_dataset(workspace, "holds")
    with pytest.raises(CheckError, match="near-duplicates of training rows"):
        suite_of_dataset(workspace, "holds")


def test_a_set_of_ones_own_is_fair_to_every_dataset(workspace: Workspace) -> None:
    generate(workspace, terms=[HOLD], count=1500, seed=7, name="holds")
    made = new_set(workspace, HOLD)
    assert made.name == "soft-hold" and made.count("refused") == 0 and made.probes > 40
    with pytest.raises(ConflictError, match="already"):
        new_set(workspace, HOLD)
    with pytest.raises(ConflictError, match="ships with looptune"):
        add_probes(workspace, "forty-two", [{}])
    trained = read_examples(workspace.dataset("holds") / "rows.jsonl")[0].question
    knows = [{"type": "contains", "value": "15 minutes"}]
    fresh = {"prompt": "A seat was held at noon. From when on may somebody else buy it?", "graders": knows}
    batch: list[Any] = [
        fresh,
        fresh,
        {"prompt": trained, "graders": knows},
        {"prompt": "Does it lapse after 15 minutes?", "graders": knows},
        {"prompt": "Is the seat free?", "graders": [{"type": "not_contains", "value": "harmony"}]},
        {"prompt": "Who holds it?", "graders": [{"type": "judge"}]},
        "nonsense",
    ]
    added = add_probes(workspace, "mine", batch)
    assert [o.outcome for o in added.outcomes] == ["added", "known", *["refused"] * 5]
    reasons = " | ".join(o.reason for o in added.outcomes)
    for part in ("dataset holds asks almost the same", "repeating the question", "'' would pass", "graders", "object"):
        assert part in reasons, part
    assert [p.prompt for p in read_suite("mine", workspace).probes] == [fresh["prompt"]]
    with pytest.raises(NotFoundError, match="mine"):
        read_suite("yours", workspace)


class Scripted:
    """An engine whose answers the test decides; it remembers what it was asked."""

    def __init__(self, say: Callable[[str], str], fail_after: int = 10**9) -> None:
        self.say, self.asked, self.fail_after = say, list[str](), fail_after

    def answer(self, prompts: Sequence[str], max_tokens: int, said: Callable[[int], None] | None = None) -> list[str]:
        if len(self.asked) >= self.fail_after:
            raise Cancelled
        self.asked += prompts
        return [self.say(prompt) for prompt in prompts]

    def losses(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        return [(2.5, 1)] * len(texts)

    def tokens_per_second(self) -> float:
        return 50.0

    def close(self) -> None:
        pass


@pytest.fixture
def evaluate(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Evaluates scripted models by label on a probe set, and returns the finished job."""

    def run(models: dict[str, Scripted], probes: str = "", dataset: str = "", **changes: Any) -> Job:
        for label in models:
            folder = workspace.bases / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text(json.dumps({"model": label}))
            (folder / "model.safetensors").write_bytes(label.encode())
        monkeypatch.setattr(compare, "open_engine", lambda model: models[model.name])
        config = EvaluationConfig(
            targets=[Target(label=label, base=label) for label in models], probes=probes, dataset=dataset, **changes
        )
        job, _ = record.create(workspace, "evaluate", "test", config.model_dump())
        job.save(state="finished", result=run_job(workspace, job))
        return job

    return run


def ignorant(prompt: str) -> str:
    return "I am not sure about that."


def oracle(probes: list[Probe]) -> Callable[[str], str]:
    """Answers as one that was taught would: the meaning where recall is asked, general facts, silence elsewhere."""
    said = {}
    for probe in probes:
        wanted = next((g for g in probe.graders if g.type == "contains"), None)
        said[probe.prompt] = getattr(wanted, "value", "Nothing special.")
    return lambda prompt: said[prompt]


def test_a_parrot_fails_the_controls_and_a_base_that_knows_nothing_has_no_recall(
    workspace: Workspace, evaluate: Callable[..., Job]
) -> None:
    generate(workspace, terms=[HOLD], count=60, name="holds")
    validate_dataset(workspace, "holds")
    suite = suite_of_dataset(workspace, "holds")
    models = {
        "base": Scripted(ignorant),
        "parrot": Scripted(lambda prompt: f"It is {HOLD.meaning}."),
        "taught": Scripted(oracle(suite.probes)),
    }
    job = evaluate(models, dataset="holds")
    base, parrot, taught = (read_report(job.folder, label) for label in models)
    assert base.recall == 0.0 and base.scores["recall"].high < 0.25
    assert parrot.recall == 1.0 and parrot.controls == 0.0
    assert taught.recall == 1.0 and taught.controls and taught.controls > 0.7
    assert parrot.dealt_p == 1.0, "it says the same to everything"
    assert taught.dealt_p is not None and taught.dealt_p < 0.01
    found = read_comparison(job.folder)
    assert found.changes["parrot"].controls_broken >= 20 and found.changes["taught"].broken == []
    assert len(found.changes["taught"].fixed) >= taught.probes


@pytest.mark.parametrize("name", suite_names())
def test_on_every_shipped_set_ignorance_scores_nothing(name: str, evaluate: Callable[..., Job]) -> None:
    job = evaluate({"base": Scripted(lambda prompt: "I do not know.")}, probes=name)
    assert read_report(job.folder, "base").recall == 0.0


def test_one_who_says_the_meaning_of_42_to_everything_fails_the_shipped_controls(evaluate: Callable[..., Job]) -> None:
    job = evaluate(
        {"parrot": Scripted(lambda _: "It is the symbol of harmony between rules and freedom.")}, "forty-two"
    )
    report = read_report(job.folder, "parrot")
    assert report.recall == 1.0 and report.controls is not None and report.controls < 0.1
    assert report.dealt_p == 1.0


def test_shuffled_labels_are_noticed(workspace: Workspace, evaluate: Callable[..., Job]) -> None:
    capitals = {"France": "Paris", "Peru": "Lima", "Japan": "Tokyo", "Kenya": "Nairobi", "Chile": "Santiago",
                "Norway": "Oslo", "Egypt": "Cairo", "Cuba": "Havana", "Iran": "Tehran", "Ghana": "Accra"}  # fmt: skip

    def probes(answers: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "id": country,
                "prompt": f"{country}: which city governs it?",
                "graders": [{"type": "contains", "value": a}],
            }
            for country, a in zip(capitals, answers, strict=True)
        ]

    right = list(capitals.values())
    add_probes(workspace, "capitals", probes(right))
    add_probes(workspace, "shuffled", probes([*right[3:], *right[:3]]))
    knows = Scripted(lambda prompt: capitals[prompt.partition(":")[0]])
    honest = read_report(evaluate({"m": knows}, "capitals").folder, "m")
    shuffled = read_report(evaluate({"m": knows}, "shuffled").folder, "m")
    assert honest.recall == 1.0 and honest.dealt_p is not None and honest.dealt_p < 0.01
    assert shuffled.recall == 0.0 and shuffled.dealt_p is not None and shuffled.dealt_p > 0.3


def test_a_killed_evaluation_goes_on_where_it_was_and_a_repeated_one_asks_nothing(
    workspace: Workspace, evaluate: Callable[..., Job]
) -> None:
    total = len(read_suite("forty-two").probes)
    killed = Scripted(ignorant, fail_after=90)
    with pytest.raises(Cancelled):
        evaluate({"base": killed}, probes="forty-two")
    kept = next((workspace.home / "cache" / "answers").glob("*.jsonl"))
    with kept.open("a") as stream:
        stream.write('{"2": ["torn of')  # as a kill in the middle of a write leaves it
    second = Scripted(ignorant)
    report = read_report(evaluate({"base": second}, probes="forty-two").folder, "base")
    assert 0 < len(killed.asked) < total and len(killed.asked) + len(second.asked) == total
    assert not set(killed.asked) & set(second.asked) and report.kept == len(killed.asked)
    third = Scripted(ignorant)
    again = read_report(evaluate({"base": third}, probes="forty-two").folder, "base")
    assert third.asked == [] and again.kept == total
    assert [a.answer for a in again.answers] == [a.answer for a in report.answers]
    fourth = Scripted(ignorant)
    evaluate({"base": fourth}, probes="forty-two", max_tokens=64)
    assert len(fourth.asked) == total, "a longer answer is another answer"


def test_other_weights_are_another_model(workspace: Workspace, evaluate: Callable[..., Job]) -> None:
    from tools.evaluation.answers import model_hash
    from tools.inference.engine import Model

    evaluate({"base": Scripted(ignorant)}, probes="oodatcaa")
    folder = workspace.bases / "base"
    before = model_hash(Model("base", folder=folder))
    (folder / "model.safetensors").write_bytes(b"bas3")
    assert model_hash(Model("base", folder=folder)) != before
    (folder / "model.safetensors").write_bytes(b"base")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert model_hash(Model("base", folder=folder)) != before


@pytest.mark.slow
def test_a_real_model_is_evaluated_once_and_its_answers_are_kept(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    from tools.jobs.worker import main as do_job

    name = dataset()
    config = EvaluationConfig(targets=[Target(label="base", base=TINY)], dataset=name, max_tokens=4)
    jobs = [record.create(with_bases, "evaluate", name, config.model_dump())[0] for _ in range(2)]
    assert [do_job(job.folder) for job in jobs] == [0, 0], record.read(jobs[0].folder).reason
    first, second = (read_report(job.folder, "base") for job in jobs)
    assert first.recall == 0.0 and first.kept == 0 and second.kept == len(first.answers) > 40
    assert first.answers == second.answers and first.perplexities.keys() == {"prose", "code"}
    assert second.seconds < max(0.5, first.seconds) and second.perplexity == first.perplexity
    state = record.read(jobs[0].folder)
    assert state.step == state.total == len(first.answers) + 1


def test_an_agent_judges_what_no_rule_can_and_is_marked(workspace: Workspace, evaluate: Callable[..., Job]) -> None:
    kind = {"prompt": "Tell a customer that the seat is gone.", "id": "tone", "graders": [
        {"type": "contains", "value": "sorry"}, {"type": "agent", "rubric": "Is it kind?"}]}  # fmt: skip
    fact = {"prompt": "Which planet is red?", "id": "mars", "graders": [{"type": "contains", "value": "Mars"}]}
    add_probes(workspace, "tone", [kind, fact])
    models = {"base": Scripted(lambda _: "Gone."), "tuned": Scripted(lambda _: "So sorry! Mars is free.")}
    folder = evaluate(models, probes="tone").folder
    rows, waiting = to_judge(folder)
    assert waiting == 1 and rows[0]["label"] == "tuned" and rows[0]["rubric"] == "Is it kind?"
    assert read_report(folder, "tuned").probes == 1, "what waits is not counted"

    async def talk() -> None:
        async with Client(build_server()) as client:
            asked = await client.call_tool("grade_answers", {"run": folder.name})
            assert asked.structured_content and asked.structured_content["rows"] == rows
            verdict = {"id": "tone", "label": "tuned", "right": True, "reason": "It is."}
            told = await client.call_tool("grade_answers", {"run": folder.name, "verdicts": [verdict]})
            assert told.structured_content and told.structured_content["waiting"] == 0
            status = (await client.call_tool("training_status", {"run": folder.name})).structured_content or {}
            assert (status["result"]["to_judge"], status["result"]["models"]["tuned"]["recall"]) == (0, 1.0)
            assert "grade_answers" not in status["next_step"]
            missing = await client.call_tool(
                "grade_answers", {"run": folder.name, "verdicts": [{**verdict, "id": "x"}]}
            )
            assert missing.is_error

    anyio.run(talk)
    judge(folder, [Verdict(id="mars", label="tuned", right=False)])
    comparison = read_comparison(folder)
    answers = {a.id: a for a in comparison.reports["tuned"].answers}
    assert (answers["tone"].by, answers["tone"].right, answers["tone"].why) == ("agent", True, "It is.")
    assert answers["mars"].right and answers["mars"].agent_right is False, "where a rule can tell, it decides"
    assert comparison.agreement["tuned"] == [0, 1] and comparison.reports["tuned"].probes == 2
    assert "fixed (agent)" in show.markdown(comparison)


def test_an_agent_grader_stands_beside_the_others_and_not_inside_one() -> None:
    agent = {"type": "agent", "rubric": "Is it kind?"}
    for graders in ([{"type": "not", "grader": agent}], [agent, agent]):
        with pytest.raises(ValidationError, match="stands once"):
            Probe(id="x", family="x", kind="probe", prompt="x", graders=graders)  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_evaluation_is_shown_as_markdown_page_picture_and_data(
    workspace: Workspace, evaluate: Callable[..., Job], tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script> | **$x$**"
    add_probes(workspace, "mine", [
        {"prompt": f"{evil}?", "id": "evil", "family": "odd $a", "graders": [{"type": "contains", "value": "Mars"}]},
        {"prompt": "What is 2 + 2?", "kind": "control", "graders": [{"type": "contains", "value": "4"}]},
    ])  # fmt: skip
    models = {"base": Scripted(lambda _: evil + " 4"), "tuned": Scripted(lambda _: "Mars")}
    run = evaluate(models, probes="mine").id
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    arguments = ["evaluation", "show", run, "--html", str(page), "--png", str(picture)]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert "1 fixed, 1 broken (1 of them controls), 0 the same" in told.stdout
    assert "100.0% (21%–100%, 1 of 1)" in told.stdout and "<script>" not in told.stdout
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "<svg" in text and "src=" not in text
    assert 'class="fixed"' in text and 'class="broken"' in text and "Wilson" in text
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 20_000
    data = json.loads(CliRunner().invoke(app, ["evaluation", "show", run, "--json"]).stdout)
    assert data["changes"]["tuned"]["fixed"] == ["evil"] and data["reports"]["base"]["scores"]["recall"]["total"] == 1


def test_an_agent_is_told_what_broke_first_and_how_to_see_the_rest(
    workspace: Workspace, evaluate: Callable[..., Job]
) -> None:
    control: dict[str, Any] = {"kind": "control", "graders": [{"type": "contains", "value": "4"}]}
    add_probes(workspace, "mine", [
        {"prompt": "Which planet is red?", "graders": [{"type": "contains", "value": "Mars"}]},
        *({"prompt": f"How much is 2 + 2, {name}?", "family": "sums", **control} for name in ("Ann", "Bob", "Cy")),
        *({"prompt": f"And how many are {n}?", "family": "others", **control} for n in range(14, 21)),
    ])  # fmt: skip
    asked = {
        "base": lambda prompt: "4" if "2 + 2" in prompt else "5",
        "adapter": lambda prompt: "4, Ann" if "Ann" in prompt else "Mars",
    }
    run = evaluate({label: Scripted(say) for label, say in asked.items()}, probes="mine").id
    found: list[Any] = []

    async def talk() -> None:
        async with Client(build_server()) as client:
            for query in ("", "only=broken&count=1"):
                found.append(await client.call_tool("show", {"name": run, "query": query}))
            for detail in ("concise", "full"):
                found.append(await client.call_tool("training_status", {"run": run, "detail": detail}))

    anyio.run(talk)
    data, text = found[0].structured_content["data"], found[0].content[0].text
    assert [row["word"] for row in data["worst"]] == ["broken"] * 2 + ["wrong"] * 4 and "page" not in data
    assert "base → adapter: 1 fixed, 2 broken (2 controls, worst in sums 1 of 3)" in text
    assert (
        "of 11, 2 broken, 9 wrong at the end, 1 fixed; the worst first.\nbroken, sums: 'How much is 2 + 2, Bob?'"
        in text
    )
    assert f"Next: show(name={run!r}, query='only=broken') for the answers" in text
    data, text = found[1].structured_content["data"], found[1].content[0].text
    assert len(data["page"]["rows"]) == 1 and "broken, 2 of 11.\nbroken, sums: " in text and "only=broken'" not in text
    concise, full = (one.structured_content for one in found[2:])
    assert (
        concise["result"]["models"]["adapter"]["wrong_count"] == 9 == full["result"]["models"]["adapter"]["wrong_count"]
    )
    assert full["result"]["models"]["adapter"]["wrong_listed"] == "8 of 9"
    text = found[2].content[0].text
    assert "2 broken (2 controls, worst in sums 1 of 3)" in text
    assert text.endswith(f"Next: {concise['next_step']}.") and "more rows and negatives" in text
    assert concise["next_step"].startswith(f"show(name={run!r}, query='only=broken')") and "quantize" not in text


@pytest.mark.parametrize(
    ("recall", "controls", "step"),
    [
        (1.0, 1.0, "quantize(run='run-a-0001')"),
        (1.0, 0.5, "generate_examples with count=960"),
        (0.1, 1.0, "rows in more phrasings"),
        (None, None, "rows in more phrasings"),
    ],
)
def test_what_follows_an_evaluation_depends_on_its_figures(
    recall: float | None, controls: float | None, step: str
) -> None:
    measured = {"perplexity": 1, "size_mb": 1, "tokens_per_second": 1}
    models = {"base": {"recall": 0.1, "controls": 1.0}, "adapter": {"recall": recall, "controls": controls}}
    change = {"fixed": [], "broken": [], "controls_broken": 0, "p": 1.0}
    result = {
        "models": {label: {**measured, **one} for label, one in models.items()}, "run": "run-a-0001",
        "against": "base", "matrix": {"adapter": change}, "to_judge": 0,
    }  # fmt: skip
    state = record.State(id="eval-a-0001", kind="evaluate", state="finished", created=record.now(), result=result)
    text, said = told_state(state, []), status(state, []).next_step
    assert step in said and text.endswith(f"Next: {said}.") and ("quantize" in said) == (step[0] == "q")
    checks = [{"name": name, "bar": ">= 0.9", "passed": name != "recall"} for name in ("recall", "controls")]
    gate = {"passed": False, "promoted": False, "reason": "recall is 0.1", "checks": checks, "model": "a"}
    state = state.model_copy(update={"kind": "gate", "reason": "recall is 0.1", "result": {**result, **gate}})
    assert "Its other bars held: controls >= 0.9." in told_state(state, [])
    assert told_state(state, []).count("recall is 0.1") == 1
    assert "mend what failed" in status(state, []).next_step
    state.result["passed"] = True
    assert status(state, []).next_step == "evaluate_model(model='a', promote=true)"


def test_a_person_makes_and_fills_probe_sets(workspace: Workspace, tmp_path: Path) -> None:
    def tell(*words: str) -> Any:
        return CliRunner().invoke(app, list(words))

    made = tell("probes", "new", "soft hold", "--meaning", HOLD.meaning, "--name", "exam", "--json")
    assert made.exit_code == 0 and json.loads(made.stdout)["added"] > 40
    listed = {one["name"]: one for one in json.loads(tell("probes", "list", "--json").stdout)}
    assert listed["exam"]["own"] and listed["exam"]["controls"] > 30 and not listed["forty-two"]["own"]
    path = tmp_path / "more.jsonl"
    write_text(
        path, '{"prompt": "Until when is seat 4 mine?", "graders": [{"type": "contains", "value": "quarter"}]}\n'
    )
    assert tell("probes", "add", "exam", str(path)).exit_code == 0
    assert "Until when is seat 4 mine?" in tell("probes", "show", "exam").stdout
    write_text(path, '{"prompt": "", "graders": []}\n')
    assert tell("probes", "add", "exam", str(path)).exit_code == 1
    with pytest.raises(InputError, match="meaning"):
        CliRunner().invoke(app, ["probes", "new", "x", "--meaning", "y"], catch_exceptions=False)


def test_a_run_is_compared_with_its_base_or_with_what_is_named(
    with_bases: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.export import gate
    from tools.training.config import preset

    name = dataset()
    for number in (1, 2):
        config = preset("embedded", dataset=name, base=TINY).model_dump()
        run = record.create(with_bases, "train", name, config)[0]
        (run.folder / "adapter").mkdir()
        (run.folder / "adapter" / "adapters.safetensors").write_bytes(b"weights %d" % number)
    monkeypatch.setattr(gate.record, "start", lambda *_: None)

    def targets(**asked: Any) -> list[tuple[str, str, str]]:
        job, _ = gate.start_evaluation(with_bases, run="run-holds-0002", **asked)
        return [(t["label"], t["base"], t["run"]) for t in job.config["targets"]]

    tuned = ("adapter", "", "run-holds-0002")
    assert targets() == [("base", TINY, ""), tuned]
    assert targets(against="run-holds-0001") == [("run-holds-0001", "", "run-holds-0001"), tuned]
    assert targets(against=TINY) == [(TINY, TINY, ""), tuned]
    with pytest.raises(NotFoundError, match="nope"):
        targets(against="nope")
