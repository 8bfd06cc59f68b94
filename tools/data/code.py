"""Code inside answers: whether it parses, and what it does.

    code_errors(text)                         # what does not compile or parse, block by block
    file_errors("a.py", "x = 1")              # the same for a file, whose language its name says
    run_after(text, "assert x == 1")          # '' when the answer's Python and the check run

Python is compiled, JSON and YAML are loaded, and TypeScript, Go, Rust, SQL and shell are parsed with tree-sitter. What
is executed runs in a process of its own, isolated from the installed packages' user site, for ten seconds at most.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import yaml

from tools.syntax import Block as Block
from tools.syntax import blocks as blocks
from tools.syntax import first_error, known_language, parser

SECONDS = 10
MEMORY = 4 * 2**30
FILE = 16 * 2**20
_BOUNDED = f"""
import resource, runpy, sys
for what, most in ((resource.RLIMIT_AS, {MEMORY}), (resource.RLIMIT_CPU, {SECONDS}), (resource.RLIMIT_FSIZE, {FILE})):
    try:
        resource.setrlimit(what, (most, most))
    except (ValueError, OSError):  # macOS does not bound every one of them
        pass
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def code_errors(text: str) -> list[str]:
    """What is broken in the code blocks of `text`."""
    if text.count("```") % 2:
        return ["a code fence is not closed"]
    return [f"{block.language}: {problem}" for block in blocks(text) if (problem := _problem(block))]


def file_errors(path: str, code: str) -> list[str]:
    """What is broken in a file of this name; a file of a language that is not parsed is taken as it is."""
    name, _, suffix = path.rpartition("/")[2].rpartition(".")
    problem = _problem(Block(known_language(suffix), code)) if name else ""
    return [f"{path}: {problem}"] if problem else []


def _problem(block: Block) -> str:
    try:
        if block.language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `x is 1` warns, and is code all the same
                compile(block.code, "<block>", "exec", dont_inherit=True)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "yaml":
            list(yaml.safe_load_all(block.code))
        elif reader := parser(block.language):
            return first_error(reader.parse(block.code.encode()).root_node)
    except (SyntaxError, ValueError, RecursionError, MemoryError, yaml.YAMLError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def run_after(text: str, check: str) -> str:
    """Run the Python blocks of `text` and then `check`; what went wrong, or ''.

    The code may be a model's: it runs in a process group of its own, in an empty folder, without this process's
    environment, within `SECONDS`, `MEMORY` and `FILE` bytes. An answer that ends before the check has failed it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, empty = Path(name), Path(name) / "empty"
        empty.mkdir()
        ran = f"open({str(folder / 'ran')!r}, 'w').close()"
        code = [block.code for block in blocks(text) if block.language == "python"]
        (folder / "answer.py").write_text("\n\n".join([*code, check, ran]), encoding="utf-8", errors="replace")
        with (folder / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOUNDED, str(folder / "answer.py")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=empty,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(empty), "TMPDIR": name, "LANG": "C.UTF-8"},
                start_new_session=True,
            )
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                return f"it ran longer than {SECONDS} s"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and whatever it started
                process.wait()
        said = (folder / "stderr").read_bytes()[-4000:].decode("utf-8", "replace").strip().splitlines()
        if process.returncode:
            return said[-1] if said else f"exit {process.returncode}"
        return "" if (folder / "ran").exists() else "it ended before the check"
