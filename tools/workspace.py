"""The workspace: where bases, datasets, runs, models and memory live, and the names they go by.

    ws = Workspace.open(Settings())
    ws.dataset("forty-two")     # a folder, or a NotFoundError that lists the names there are

Layout: `bases/ datasets/ probes/ reports/ runs/ models/ memory/`, a folder (of probes, a file) for each thing, named
by a slug.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tools.errors import ConflictError, InputError, NotFoundError
from tools.settings import Settings

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
# What Windows keeps for devices, with whatever suffix: a workspace may be copied there.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


def check_name(name: str, what: str = "name") -> str:
    """`name` itself when it is a safe slug: 1 to 64 of a-z, 0-9, `.`, `_`, `-`, no separators, no `..`.

    Raises:
        InputError: it is not; names never become paths outside the workspace.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"A {what} is 1 to 64 characters of a-z, 0-9, '.', '_' and '-', starting and ending with a letter or "
            f"digit; got {name[:80]!r}.",
            f"choose a {what} such as 'forty-two'",
        )
    if _DEVICE.fullmatch(name):
        raise InputError(
            f"{name!r} is a device on Windows, so it is no {what}.", f"choose a {what} such as 'forty-two'"
        )
    return name


def slug(text: str) -> str:
    """A safe name made from free text: 'Paid Order!' → 'paid-order'."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    return cleaned or "unnamed"


@dataclass(frozen=True)
class Workspace:
    """Paths and names; it holds no open files."""

    home: Path
    settings: Settings

    @classmethod
    def open(cls, settings: Settings | None = None) -> "Workspace":
        """The workspace of `settings`; its folders are made when something is written into them."""
        settings = settings or Settings()
        return cls(settings.home, settings)

    @property
    def bases(self) -> Path:
        return self.home / "bases"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def memory(self) -> Path:
        return self.home / "memory"

    @property
    def probes(self) -> Path:
        return self.home / "probes"

    @property
    def reports(self) -> Path:
        """What validation found in files that belong to no dataset."""
        return self.home / "reports"

    def readable(self, path: str) -> Path:
        """The file that `path` stands for, links resolved, when it lies in the workspace or in an allowed root.

        Raises:
            InputError: it does not, or is no file.
        """
        roots = [self.home.resolve(), *self.settings.roots]
        try:
            found = Path(path).expanduser().resolve()
            inside = any(found.is_relative_to(root) for root in roots) and found.is_file()
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside:
            raise InputError(
                f"Expected a file inside {', '.join(map(str, roots))}; got {path[:200]!r}.",
                "name such a file, or set LOOPTUNE_ROOTS to a JSON list of the folders that may be read",
            )
        return found

    def names(self, folder: Path, marker: str) -> list[str]:
        """The names in `folder` that are complete, which is: hold the file `marker`. Oldest first."""
        if not folder.is_dir():
            return []
        found = [
            p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_symlink() and (p / marker).is_file()
        ]
        return [p.name for p in sorted(found, key=lambda p: ((p / marker).stat().st_mtime, p.name))]

    def _existing(self, folder: Path, marker: str, what: str, name: str, next_step: str) -> Path:
        check_name(name, f"{what} name")
        # a link could lead out of the workspace, so it stands for nothing
        if (folder / name).is_symlink() or not (folder / name / marker).is_file():
            raise NotFoundError.named(what, name, self.names(folder, marker), next_step)
        return folder / name

    def dataset(self, name: str) -> Path:
        """The folder of dataset `name`. Raises NotFoundError."""
        return self._existing(
            self.datasets,
            "dataset.json",
            "dataset",
            name,
            "make one with generate_examples, or read dataset://index",
        )

    def run(self, name: str) -> Path:
        """The folder of run or job `name`. Raises NotFoundError."""
        return self._existing(
            self.runs, "state.json", "run", name, "read run://index, or start one with start_training"
        )

    def model(self, name: str) -> Path:
        """The folder of exported model `name`. Raises NotFoundError."""
        return self._existing(
            self.models, "manifest.json", "model", name, "read model://index, or make one with quantize"
        )

    @contextmanager
    def lock(self, name: str, timeout: float = 10.0) -> Iterator[None]:
        """Hold the workspace-wide lock `name`; other processes wait.

        Raises:
            ConflictError: another process held it for `timeout` seconds.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.home / f".{name}.lock", timeout=timeout):
                yield
        except Timeout as error:
            raise ConflictError(
                f"Another looptune process has held the lock {name!r} for {timeout:.0f} s.",
                "try again in a moment",
            ) from error
