"""The server over HTTP: only on the loopback address, only with the token, only for its own host and origin.

.venv/bin/python -P -m pytest tests/test_http.py
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from server.http import token_of
from tools.errors import InputError

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, "subprocess.Popen[str]"]]:
    """The address, the workspace, and the process of a server that somebody started on the command line."""
    home = tmp_path_factory.mktemp("http") / "home"
    program = Path(sys.executable).with_name("looptune")
    server = subprocess.Popen(
        [str(program), "serve", "--http", "--port", "0"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "LOOPTUNE_HOME": str(home)},
    )  # fmt: skip
    assert server.stderr
    said = server.stderr.readline()
    found = re.match(r"(http://127\.0\.0\.1:\d+/mcp), with the token of ", said)
    assert found, said
    assert (home / "http-token").read_text().strip() not in said
    yield found[1], home, server
    server.terminate()
    server.wait(timeout=20)


def post(address: str, token: str = "", **headers: str) -> tuple[int, str]:
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(address, json.dumps(HELLO).encode(), sent)
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError:  # it is still starting
            import time

            time.sleep(0.1)
    raise AssertionError("the server never listened")


def test_the_token_opens_and_nothing_else_does(served: Any) -> None:
    address, home, _ = served
    status, said = post(address, token_of(home))
    assert status == 200 and '"serverInfo"' in said and "looptune" in said
    for wrong in ("", "x" * 43, token_of(home)[:-1], token_of(home) + "x"):
        status, said = post(address, wrong)
        assert status == 401 and "Bearer" in said


@pytest.mark.parametrize("era", ["legacy", "auto"])
def test_a_client_lists_and_calls_with_the_token(era: Any, served: Any) -> None:
    address, home, _ = served
    assert post(address, token_of(home))[0] == 200

    async def talk() -> None:
        headers = {"Authorization": f"Bearer {token_of(home)}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(streamable_http_client(address, http_client=http), mode=era) as client,
        ):
            assert "check_preservation" in {tool.name for tool in (await client.list_tools()).tools}
            result = await client.call_tool("check_preservation", {"original": "a", "modified": "a", "level": "strict"})
            assert (result.structured_content or {})["allowed"] is True
            found = await client.read_resource("run://index")
            assert json.loads(found.contents[0].text)["count"] == 0  # type: ignore[union-attr]

    anyio.run(talk)


def test_another_host_or_origin_is_refused_even_with_the_token(served: Any) -> None:
    address, home, _ = served
    token = token_of(home)
    assert post(address, token, Host="evil.example.com")[0] == 421
    assert post(address, token, Origin="https://evil.example.com")[0] == 403
    assert post(address, token, Origin="null")[0] == 403
    port = address.rsplit(":", 1)[1].split("/")[0]
    assert post(address, token, Origin=f"http://localhost:{port}")[0] == 200


def test_it_listens_on_the_loopback_address_alone(served: Any) -> None:
    address, home, server = served
    post(address, token_of(home))
    listening = {c.laddr.ip for c in psutil.Process(server.pid).net_connections("inet") if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


def test_the_token_is_its_owners_alone(served: Any, tmp_path: Path) -> None:
    _, home, _ = served
    path = home / "http-token"
    assert path.stat().st_mode & 0o777 == 0o600 and len(path.read_text().strip()) >= 40
    weak = tmp_path / "http-token"
    weak.write_text("short\n")
    with pytest.raises(InputError, match="at least 16"):
        token_of(tmp_path)
    weak.write_text("x" * 40)
    weak.chmod(0o644)
    with pytest.raises(InputError, match="may be read by others"):
        token_of(tmp_path)
