"""What there is to look at under a name, as data for a view and as text: a job, a dataset or an evaluation.

    view, data = look_at(workspace, "holds", Wanted(find="hold"))
    told(view, data)

An evaluation that has finished is shown as one; before that, and for every other job, the view is that of a run.
"""

from typing import Any, Literal, get_args
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field

from tools.errors import InputError, NotFoundError
from tools.evaluation.scores import Only
from tools.jobs.record import now, read
from tools.workspace import Workspace, check_name

View = Literal["run", "dataset", "evaluation"]
VIEWS: tuple[View, ...] = get_args(View)
_TOLD = 5  # rows in the text, as tools.data.view has it
ROWS = 10  # rows or probes of one page


class Wanted(BaseModel):
    """Which rows of a dataset (those that hold `find`) or probes of an evaluation (`only`), from the `first` on."""

    model_config = ConfigDict(extra="forbid")

    first: int = Field(default=0, ge=0, le=10_000_000)
    count: int | None = Field(default=ROWS, ge=1, le=1000)
    find: str = Field(default="", max_length=200)
    only: Only = "changed"

    @classmethod
    def of(cls, query: str) -> "Wanted":
        """What a query such as 'first=20&find=hold' asks for. Raises InputError and ValidationError."""
        given = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := [key for key in given if key not in cls.model_fields]:
            raise InputError(
                f"A query has no {unknown[0][:80]!r}; it has {', '.join(cls.model_fields)}.",
                f"write e.g. 'only={'|'.join(get_args(Only))}', 'find=TEXT', 'first=20&count=10'",
            )
        return cls.model_validate(given)


def look_at(workspace: Workspace, name: str, wanted: Wanted, masks: bool = True) -> tuple[View, dict[str, Any]]:
    """The view of `name` and its data; with `masks` a tokenizer is loaded to show the tokens of a dataset's rows.

    Raises:
        NotFoundError: neither a job nor a dataset has that name.
    """
    check_name(name)
    view, data = _found(workspace, name, wanted, masks)
    return view, data | {"view": view, "written": now()}


def _found(workspace: Workspace, name: str, wanted: Wanted, masks: bool) -> tuple[View, dict[str, Any]]:
    runs = workspace.names(workspace.runs, "state.json")
    datasets = workspace.names(workspace.datasets, "dataset.json")
    if name in runs:
        folder = workspace.run(name)
        if read(folder).kind in ("evaluate", "gate") and (folder / "reports" / "comparison.json").is_file():
            from tools.evaluation.view import evaluation_view

            return "evaluation", evaluation_view(folder, wanted.only, wanted.first, wanted.count)
        from tools.training.view import run_view

        return "run", run_view(folder)
    if name not in datasets and name in workspace.names(workspace.models, "manifest.json"):
        raise NotFoundError(
            f"{name!r} is a model, and there is no view of models.",
            f"read model://{name}; show the evaluation that judged it (run://index)",
        )
    if name not in datasets:
        known = [*datasets, *runs[::-1]]
        raise NotFoundError.named("run, evaluation or dataset", name, known, "read run://index or dataset://index")
    from tools.data.view import dataset_view
    from tools.training.view import masks_for

    found, note = masks_for(workspace, name) if masks else (None, "")
    data = dataset_view(workspace, name, wanted.first, wanted.count, wanted.find, found)
    data["page"]["note"] = note
    return "dataset", data


def told(view: View, data: dict[str, Any]) -> str:
    """The data in a few lines, for who cannot see the view; of a dataset's page the first rows."""
    if view == "run":
        from tools.training.view import told as said
    elif view == "dataset":
        from tools.data.view import told as said

        page = data["page"]
        data = {**data, "page": {**page, "rows": page["rows"][:_TOLD]}}
    else:
        from tools.evaluation.view import told as said
    return said(data)
