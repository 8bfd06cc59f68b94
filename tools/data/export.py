"""The rows of a dataset in the forms that other trainers read.

    export_dataset(workspace, "holds", "messages", Path("for-mlx"))     # for-mlx/train.jsonl and valid.jsonl
    export_dataset(workspace, "holds", "alpaca", Path("holds.jsonl"))   # all rows in one file

`messages` is what mlx-lm, TRL, LLaMA-Factory and axolotl take for chats. `alpaca` has the plain fields only, each of
them in every row, and a text as answer: a context window is its JSON. Both say what looptune itself trains.
"""

from pathlib import Path

from tools.data.datasets import read_split
from tools.data.examples import Example, write_alpaca, write_messages
from tools.errors import ConflictError, InputError
from tools.workspace import Workspace

FORMS = {"messages": write_messages, "alpaca": write_alpaca}


def export_dataset(workspace: Workspace, name: str, form: str, to: Path) -> dict[Path, int]:
    """Write the rows of the valid dataset `name`, and say how many went into which file.

    Args:
        form: `messages` or `alpaca`.
        to: a folder for train.jsonl and valid.jsonl; or, when it ends in .jsonl, one file for training rows and then
            those held out.

    Raises:
        NotFoundError: no such dataset.
        CheckError: it is not valid, so it has no split.
        ConflictError: a file of that name is there already.
        InputError: no such form.
    """
    if form not in FORMS:
        raise InputError(f"Expected one of {', '.join(FORMS)}, got {form!r}.", "name one of these forms")
    train, valid, _ = read_split(workspace, name)
    files: dict[Path, list[Example]] = {to / "train.jsonl": train, to / "valid.jsonl": valid}
    if to.suffix == ".jsonl":
        files = {to: [*train, *valid]}
    if there := [path for path in files if path.exists()]:
        raise ConflictError(f"{there[0]} is there already.", "name a new file or folder")
    for path, rows in files.items():
        FORMS[form](path, rows)
    return {path: len(rows) for path, rows in files.items()}
