"""Files that are whole or not there, hashes, and space that is checked before it is used.

write_text(path, text)            # beside its place, flushed, renamed
with whole_folder(path) as tmp:   # a folder that appears only when it is complete
    ...
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.errors import ConflictError, LimitError


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write `text`, or its pieces, as UTF-8 to `path`, atomically: readers see the old file or the new one.

    Raises:
        LimitError: the disk is full; nothing half-written stays behind.
    """
    write_bytes(path, (piece.encode() for piece in ([text] if isinstance(text, str) else text)))


def write_bytes(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data`, or its pieces, to `path`, atomically (see `write_text`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise full_disk(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, atomically (see `write_text`)."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and goes when it does not.

    Raises:
        ConflictError: `path` came into being meanwhile.
        LimitError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError as error:
            if path.exists():
                raise ConflictError(f"{path} exists already.", "choose another name") from error
            raise
        fsync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise full_disk(path, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: Path) -> None:
    """Remove the unfinished folders that a killed `whole_folder` left in `folder`; call it only when nobody writes."""
    for left in folder.glob(".*") if folder.is_dir() else ():
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def full_disk(path: Path, error: OSError) -> Exception:
    """`error` as a LimitError when it says that the disk is full, else `error` itself."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LimitError(
            f"No space left on the disk of {path.parent} while writing {path.name}; nothing half-written was kept.",
            "free some space (`looptune runs` shows what the workspace holds), then repeat the call",
        )
    return error


def require_space(folder: Path, needed_bytes: int, reserve_gb: float, what: str) -> None:
    """Check, before writing `what`, that `needed_bytes` fit and `reserve_gb` stay free.

    Raises:
        LimitError: they do not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + reserve_gb * 1e9:
        raise LimitError(
            f"{what} needs {needed_bytes / 1e9:.2f} GB and leaves {reserve_gb:.1f} GB free, "
            f"but {folder} has {free / 1e9:.2f} GB.",
            "free some space, or set LOOPTUNE_HOME to a larger disk",
        )


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
