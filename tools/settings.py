"""Settings: where the workspace is and what looptune may do. Read from the environment, `LOOPTUNE_*`.

from tools.settings import Settings
Settings().home          # LOOPTUNE_HOME, or ~/.looptune
"""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, IPvAnyAddress, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tools.errors import InputError


class Settings(BaseSettings):
    """Every setting, its unit and its default. Unknown `LOOPTUNE_*` variables are ignored.

    Raises:
        InputError: a variable's value is not what its setting takes.
    """

    model_config = SettingsConfigDict(env_prefix="LOOPTUNE_", frozen=True)

    home: Annotated[Path, Field(description="the workspace: bases, datasets, runs, models, memory")] = Path(
        "~/.looptune"
    )
    roots: Annotated[
        list[Path], Field(description="folders from which tools may read files given by path (JSON list)")
    ] = []
    allow_downloads: Annotated[bool, Field(description="whether model hubs may be reached")] = False
    min_free_gb: Annotated[float, Field(description="disk space that is always left free, in GB", ge=0)] = 0.5
    warm_memory_gb: Annotated[float, Field(description="bound on models kept loaded by ask_model, in GB", gt=0)] = 10.0

    max_controls_broken: Annotated[
        float,
        Field(description="share of the controls that quantizing may break; 0 lets the gate refuse one", ge=0, le=0.1),
    ] = 0.1
    hosts: Annotated[
        list[IPvAnyAddress], Field(description="machines that a training may use, by address (JSON list)")
    ] = []
    memory_url: Annotated[
        str, Field(description="a Chroma server, e.g. http://127.0.0.1:8000, instead of an index in the workspace")
    ] = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except SettingsError as error:  # a list that is no JSON
            raise InputError(
                f"A LOOPTUNE_ variable cannot be read: {error}.",
                "write a list as JSON, e.g. LOOPTUNE_ROOTS='[\"/home/me/data\"]'",
            ) from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(
                f"LOOPTUNE_{str(first['loc'][0]).upper()}: {first['msg'].lower()}, got {first['input']!r:.80}.",
                "mend the variable, or unset it; docs/reference/settings.md lists them",
            ) from error

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("roots")
    @classmethod
    def _absolute_roots(cls, roots: list[Path]) -> list[Path]:
        return [root.expanduser().resolve() for root in roots]


def shipped_data() -> Path:
    """The folder of cards, templates, probes and the core dataset that ships with looptune.

    In a wheel it travels inside the package; in a checkout it is `datasets/` at the root.
    """
    packaged = Path(str(resources.files("tools"))) / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "datasets"
