"""The fused model once more, made of base and adapter in a folder that goes again.

    with fused_again(workspace, manifest, workspace.models) as (folder, different):
        ...

An export keeps no fused weights, since they are as large as the f16 file; the chain holds their hashes, so that what is
made again can be told from what was converted.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.export.chain import hashes
from tools.export.fuse import Fused, fuse
from tools.files import require_space
from tools.models.bases import base_folder, describe
from tools.workspace import Workspace


@contextmanager
def fused_again(
    workspace: Workspace, manifest: dict[str, Any], within: Path, told: Fused | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """A folder inside `within` that holds the fused model, and the names of its files that came out otherwise than
    those that were converted, as they may on another kind of device.

    Raises:
        NotFoundError, MissingError, InputError: base or adapter is gone, or they do not fit.
        LimitError: the disk has no room for it.
    """
    base = base_folder(workspace, manifest["made_from"]["base"])
    adapter = workspace.run(str(manifest["made_from"]["run"])) / "adapter"
    require_space(within, describe(base).parameters * 2, workspace.settings.min_free_gb, "Fusing again")
    expected: dict[str, Any] = next((link["values"] for link in manifest["chain"] if link["stage"] == "fused"), {})
    with tempfile.TemporaryDirectory(dir=within, prefix=".fused-") as temporary:
        folder = Path(temporary)
        fuse(base, adapter, folder, told)
        found = hashes(folder, "fused")
        yield folder, [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
