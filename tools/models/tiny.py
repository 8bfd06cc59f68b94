"""A tiny base: a real Llama or Qwen2 in Hugging Face layout with random weights and the embedded base's own tokenizer.

    make_tiny(embedded, folder)                                # 2 layers, 64 wide: 13 MB
    make_tiny(embedded, folder, layers=6, width=256, inner=512)

Every part of looptune, mlx-lm and llama.cpp does its real work on it, in seconds. It is for tests and benchmarks.
"""

import shutil
from pathlib import Path
from typing import Literal

from tools.files import read_json, write_json

_HEAD = 16  # width of a head


def make_tiny(
    embedded: Path,
    folder: Path,
    *,
    layers: int = 2,
    width: int = 64,
    inner: int = 128,
    kind: Literal["llama", "qwen2"] = "llama",
) -> None:
    """Write the base into the existing `folder`; the same arguments give the same weights."""
    import numpy as np
    from safetensors.numpy import save_file

    config = read_json(embedded / "config.json")
    heads, vocabulary = width // _HEAD, config["vocab_size"]
    keys = heads // 2 * _HEAD
    config.update(
        architectures=["LlamaForCausalLM" if kind == "llama" else "Qwen2ForCausalLM"],
        model_type=kind,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=_HEAD,
        tie_word_embeddings=True,
    )
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (width, width),
            f"{at}.self_attn.k_proj.weight": (keys, width),
            f"{at}.self_attn.v_proj.weight": (keys, width),
            f"{at}.self_attn.o_proj.weight": (width, width),
            f"{at}.mlp.gate_proj.weight": (inner, width),
            f"{at}.mlp.up_proj.weight": (inner, width),
            f"{at}.mlp.down_proj.weight": (width, inner),
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.post_attention_layernorm.weight": (width,),
        }
        if kind == "qwen2":
            shapes |= {
                f"{at}.self_attn.{name}_proj.bias": (size,) for name, size in (("q", width), ("k", keys), ("v", keys))
            }
    dice = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32) if name.endswith("norm.weight") else dice.normal(0, 0.05, shape).astype("f4")
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(embedded / name, folder / name)
