"""The server over HTTP, for inspectors and agents of the same machine: `looptune serve --http`.

    app = http_app(build_server(), port, token)     # an ASGI application
    serve_http(settings, port)                      # until it is interrupted

It listens on the loopback address and nowhere else. A request has to name this host and port, come from no other
origin (a page in a browser could reach a loopback port through DNS), and carry the token. The token lies in the
workspace's `http-token`, which its owner alone may read; it is never printed.
"""

import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from tools.errors import ConflictError, InputError
from tools.files import write_text
from tools.settings import Settings

HOST = "127.0.0.1"
PATH = "/mcp"
_LEAST = 16  # characters of a token that somebody chose


def http_app(server: Any, port: int, token: str) -> Any:
    """An ASGI application that serves `server` at /mcp to requests that carry `token`."""
    from mcp.server.transport_security import TransportSecuritySettings

    names = [f"{HOST}:{port}", f"localhost:{port}"]
    app = server.streamable_http_app(
        host=HOST,
        streamable_http_path=PATH,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=names,
            allowed_origins=[f"http://{name}" for name in names],
        ),
    )
    return WithToken(app, token)


class WithToken:
    """Lets a request through when its Authorization header is `Bearer TOKEN`."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 401 without the token."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                from starlette.responses import PlainTextResponse

                refusal = PlainTextResponse(
                    "Expected the header 'Authorization: Bearer TOKEN'; the token is in the workspace's http-token.",
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def token_of(home: Path) -> str:
    """The workspace's token; it is made when there is none.

    Raises:
        InputError: somebody wrote a token that is too short, or a file that others may read.
    """
    path = home / "http-token"
    if not path.exists():
        write_text(path, secrets.token_urlsafe(32) + "\n")  # 0600, as temporary files are
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < _LEAST:
        raise InputError(f"Expected at least {_LEAST} characters in {path}.", "remove it; a new one is made")
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path} may be read by others.", f"chmod 600 {path}")
    return token


def serve_http(settings: Settings, port: int) -> None:
    """Serve the workspace of `settings` on the loopback address until somebody interrupts it.

    Raises:
        ConflictError: the port is taken.
        InputError: the token's file is not as it should be.
    """
    import uvicorn

    from server.app import build_server

    token = token_of(settings.home)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise ConflictError(f"Port {port} is taken: {error.strerror}.", "choose another with --port") from error
        port = listening.getsockname()[1]
        sys.stderr.write(f"http://{HOST}:{port}{PATH}, with the token of {settings.home / 'http-token'}\n")
        sys.stderr.flush()
        config = uvicorn.Config(
            http_app(build_server(settings), port, token), log_level="warning", access_log=False, lifespan="on"
        )
        uvicorn.Server(config).run(sockets=[listening])
