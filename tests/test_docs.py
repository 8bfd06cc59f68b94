"""The documentation: what it shows is run, what it points at exists, and the reference is what the code says.

.venv/bin/python -P -m pytest tests/test_docs.py -m "not slow"

A block of `sh` or `python` is run, in the order of its page, in a folder that looks like the checkout, with a workspace
of the page's own. An HTML comment before a block says otherwise:

    <!-- not run: needs Apple Silicon -->     with the reason
    <!-- run: slow -->                        only with the slow tests, in order with the page's other blocks
    <!-- all blocks: slow -->                 at the head of a page: that holds for each of its blocks
    <!-- exit: 1 -->                          it has to end with this status
    <!-- output -->                           before a block of text: it stands in what the block before it printed;
                                              … stands for anything
"""

import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from server.cli.main import app
from tools.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "datasets/c*/README.md", "tests/judges/README.md")
    for path in ROOT.glob(pattern)
)
COMMANDS = ("sh", "python")
SHOWN = ("text", "json", "yaml", "toml", "typescript", "console", "modelfile", "mermaid")


@dataclass(frozen=True)
class Block:
    """A fenced block with the comment that stands before it."""

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def is_run(self) -> bool:
        return self.language in COMMANDS and "not run" not in self.marks

    @property
    def is_slow(self) -> bool:
        return self.marks.get("run") == "slow"


@cache
def tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page: str) -> Iterator[Block]:
    before: Token | None = None
    all_slow = any(token.content.strip() == "<!-- all blocks: slow -->" for token in tokens(page))
    for token in tokens(page):
        if token.type == "fence":
            comment = before.content.strip() if before and before.type == "html_block" else ""
            found = re.fullmatch(r"<!-- (.*) -->", comment, re.DOTALL)
            parts = [found[1]] if found and found[1].startswith("not run") else found[1].split(", ") if found else []
            marks = {"run": "slow"} if all_slow else {}
            marks |= {name.strip(): value.strip() for name, _, value in (part.partition(":") for part in parts)}
            yield Block(page, (token.map or [0])[0] + 1, token.info, token.content, marks)
        before = token


def headings(page: str) -> list[str]:
    """The anchors of a page, as GitHub and the site make them from its headings."""
    found: list[str] = []
    listed = tokens(page)
    for token, inside in itertools.pairwise(listed):
        if token.type == "heading_open":
            plain = "".join(part.content for part in inside.children or [] if part.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
            repeats = found.count(slug)
            found.append(f"{slug}_{repeats}" if repeats else slug)
    return found


def links(page: str) -> Iterator[tuple[int, str]]:
    for token in tokens(page):
        for part in token.children or []:
            target = part.attrGet("href") or part.attrGet("src")
            if target:
                yield (token.map or [0])[0] + 1, str(target)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_lead_somewhere(page: str) -> None:
    broken = []
    for line, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        if not place.exists():
            broken.append(f"{page}:{line}: {target}: no such file")
        elif anchor and anchor not in headings(place.resolve().relative_to(ROOT).as_posix()):
            broken.append(f"{page}:{line}: {target}: no such heading")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_exist(page: str) -> None:
    if page == "CHANGELOG.md":  # it speaks of what was there
        return
    named = re.compile(r"(?:tools|server|docs|tests|benchmarks|datasets)/[\w./-]+\.(?:py|md|yaml|jsonl?|svg|png)")
    missing = sorted(
        part.content
        for token in tokens(page)
        for part in token.children or []
        if part.type == "code_inline" and named.fullmatch(part.content) and not (ROOT / part.content).exists()
        if not re.search("NAME|KIND", part.content)
    )
    assert not missing, f"{page} names {', '.join(missing)}"


def unknown(words: list[str]) -> str:
    """What of `looptune WORDS` the command line does not know: a command, an option, or the tool of a `call`."""
    command = typer.main.get_command(app)
    words = list(itertools.takewhile(lambda word: word not in ("|", ">", "<", "&&", "2>", "#"), words))
    while hasattr(command, "commands") and words and not words[0].startswith(("-", "…")):
        if words[0] not in command.commands:
            return words[0]
        command = command.commands[words.pop(0)]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    if command.name == "call" and words and words[0].islower() and words[0] not in headings("docs/reference/tools.md"):
        return words[0]
    return next((word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options), "")


def test_what_is_unknown_to_the_command_line_is_found() -> None:
    assert unknown(["status", "run-holds-0001", "--follow"]) == unknown(["call", "quantize", "run=x"]) == ""
    assert unknown(["dataset", "make"]) == "make" and unknown(["status", "--wait"]) == "--wait"
    assert unknown(["call", "train_model"]) == "train_model"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # which speaks of what was there
def test_commands_named_in_the_text_exist(page: str) -> None:
    named = [
        part.content
        for token in tokens(page)
        for part in token.children or []
        if part.type == "code_inline" and part.content.startswith("looptune ")
    ]
    for block in blocks(page):
        if block.language == "sh" and not block.is_run:
            lines = block.text.replace("\\\n", " ").splitlines()
            named += [line for line in lines if re.match(r"(\w+=\S* )*(\.venv/bin/)?looptune ", line)]
    wrong = {}
    for text in named:
        words = shlex.split(text, comments=True)
        after = next(place for place, word in enumerate(words) if word.endswith("looptune")) + 1
        if found := unknown(words[after:]):
            wrong[text] = found
    assert not wrong, f"{page}: unknown to the command line: {wrong}"


def test_the_sprint_file_that_is_shown_is_the_one_that_ships() -> None:
    shown = next(block for block in blocks("docs/loop.md") if block.language == "yaml")
    shipped = (ROOT / "datasets" / "sprints" / "soft-hold.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown.text) == yaml.safe_load(shipped)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    for block in blocks(page):
        where = f"{page}:{block.line}"
        assert block.language in (*COMMANDS, *SHOWN), f"{where}: {block.language or 'no'} language"
        assert len(block.marks.get("not run", "a reason")) > 5, f"{where}: say why it is not run"
        if block.language == "json":
            try:
                json.loads(block.text)
            except ValueError:
                for line in block.text.splitlines():
                    json.loads(line)
        elif block.language == "yaml":
            yaml.safe_load(block.text)


def workplace(folder: Path) -> Path:
    """A folder that looks like the checkout; what is written into it stays in it."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run_blocks(page: str, folder: Path, slow: bool) -> None:
    """Run a page's blocks in order and hold their output against what the page shows."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
    printed, ran = "", False
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.is_run and (slow or not block.is_slow):
            command = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-P", "-c"]
            done = subprocess.run(
                [*command, block.text],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=1500,
            )
            printed, ran = done.stdout, True
            assert done.returncode == int(block.marks.get("exit", "0")), f"{where}: {done.returncode}: {printed}"
        elif block.language in COMMANDS:
            ran = False
        elif "output" in block.marks and ran:
            wanted = r".*?".join(re.escape(" ".join(part.split())) for part in block.text.split("…"))
            assert re.search(wanted, " ".join(printed.split())), f"{where}: not in\n{printed}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.is_run and not b.is_slow for b in blocks(p))])
def test_what_a_page_shows_can_be_run(page: str, with_bases: Workspace, tmp_path: Path) -> None:
    run_blocks(page, workplace(tmp_path / "looptune"), slow=False)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.is_run and b.is_slow for b in blocks(p))])
def test_what_a_page_shows_and_takes_minutes_can_be_run(page: str, with_bases: Workspace, tmp_path: Path) -> None:
    run_blocks(page, workplace(tmp_path / "looptune"), slow=True)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "troubleshooting.html").is_file()


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "docs" / "build.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}Run `make docs`."


@pytest.mark.skipif(sys.platform != "linux", reason="the notices list what is installed on Linux")
def test_every_package_that_is_needed_stands_in_the_notices() -> None:
    needed = runpy.run_path(str(ROOT / "docs" / "notices.py"))["needed"]()
    text = (ROOT / "THIRD-PARTY.md").read_text(encoding="utf-8")
    missing = [name for name in needed if f"| {name} |" not in text]
    assert len(needed) > 50 and not missing, f"{', '.join(missing)}: run `make docs`"
