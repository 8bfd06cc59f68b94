"""The stdio server: `python -P -m server`, or `looptune serve`.

stdout belongs to the protocol. While libraries are imported, and after the last answer, file descriptor 1 points at
stderr, so that whatever a library prints ends there; the SDK does the same while it serves.
"""

import os
import sys
import threading


def serve() -> None:
    """Serve the workspace of the environment's settings over stdin and stdout until the client leaves."""
    wire = os.dup(1)
    os.dup2(2, 1)
    try:
        from server.app import build_server

        server = build_server()
        # what was queued, or may go on by itself, when the machine or the last server went down
        threading.Thread(target=_tend, daemon=True, name="tend").start()
        sys.stdout.flush()
        os.dup2(wire, 1)
        server.run("stdio")
    except KeyboardInterrupt:
        pass
    finally:
        os.dup2(2, 1)
        os.close(wire)
    # The client waits two seconds before it kills; a thread that is answering must not hold the exit up.
    sys.stderr.flush()
    os._exit(0)


def _tend() -> None:
    from tools.jobs.queue import tend
    from tools.workspace import Workspace

    tend(Workspace.open())


if __name__ == "__main__":
    serve()
