"""What tests share: a workspace in tmp, the embedded base unpacked once, and a tiny real checkpoint made from it.

The tiny base is a Llama of two layers with random weights and the embedded base's own tokenizer and chat template, so
that training, fusing, llama.cpp's converter and llama.cpp itself all do their real work, in seconds.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.models.bases import EMBEDDED, base_folder
from tools.models.blas import use_fast_blas
from tools.settings import Settings
from tools.workspace import Workspace

TINY = "tiny"
TERM = {"term": "soft hold", "meaning": "a reservation that lapses by itself after 15 minutes"}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or writes into, the workspace of the person who runs it."""
    for name in [key for key in os.environ if key.startswith("LOOPTUNE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOOPTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture
def workspace(own_home: None) -> Workspace:
    return Workspace.open(Settings())


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the embedded base, unpacked, and the tiny one."""
    home = tmp_path_factory.mktemp("bases")
    use_fast_blas(home / "cache")  # before anything imports mlx
    shared = Workspace.open(Settings(home=home))
    _make_tiny(base_folder(shared, EMBEDDED), shared.bases / TINY)
    yield shared.bases
    shutil.rmtree(home, ignore_errors=True)


def _make_tiny(embedded: Path, folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    config = json.loads((embedded / "config.json").read_text())
    width, inner, layers, vocabulary = 64, 128, 2, config["vocab_size"]
    config.update(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
    )
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (width, width),
            f"{at}.self_attn.k_proj.weight": (width // 2, width),
            f"{at}.self_attn.v_proj.weight": (width // 2, width),
            f"{at}.self_attn.o_proj.weight": (width, width),
            f"{at}.mlp.gate_proj.weight": (inner, width),
            f"{at}.mlp.up_proj.weight": (inner, width),
            f"{at}.mlp.down_proj.weight": (width, inner),
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.post_attention_layernorm.weight": (width,),
        }
    dice = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else dice.normal(0, 0.05, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(embedded / name, folder / name)


@pytest.fixture
def with_bases(workspace: Workspace, bases: Path) -> Workspace:
    """The test's own workspace, in which the bases stand ready."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    workspace.bases.symlink_to(bases, target_is_directory=True)
    shutil.copytree(bases.parent / "cache", workspace.home / "cache")
    return workspace


@pytest.fixture
def dataset(workspace: Workspace) -> Callable[..., str]:
    """Makes a valid dataset of one term, and returns its name."""
    from tools.data.generate import generate
    from tools.data.terms import Term
    from tools.data.validate import validate_dataset

    def make(count: int = 40, name: str = "holds") -> str:
        generate(workspace, terms=[Term(**TERM)], count=count, seed=1, name=name)  # type: ignore[arg-type]
        validate_dataset(workspace, name)
        return name

    return make
