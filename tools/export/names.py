"""How llama.cpp names the matrices of a model, and how it orders their rows.

names = TensorNames(f16_gguf)
names.gguf("model.layers.0.self_attn.q_proj")       # 'blk.0.attn_q.weight'
"""

from pathlib import Path
from typing import Any

from tools.errors import InputError
from tools.export.gguf import open_header


class TensorNames:
    """Read from a GGUF of the model: its architecture, layers and heads."""

    def __init__(self, gguf: Path) -> None:
        import gguf as library

        try:
            fields = open_header(gguf).fields
            self.architecture = str(fields["general.architecture"].contents())
            layers = int(fields[f"{self.architecture}.block_count"].contents())
            self.heads = int(fields[f"{self.architecture}.attention.head_count"].contents())
            key = f"{self.architecture}.attention.head_count_kv"
            self.kv_heads = int(fields[key].contents()) if key in fields else self.heads
        except (ValueError, OSError, KeyError, IndexError) as error:
            raise InputError(f"{gguf.name} is not a whole GGUF file: {error}", "make it again with quantize") from error
        known = {name: number for number, name in library.MODEL_ARCH_NAMES.items()}
        self._map = library.get_tensor_name_map(known[self.architecture], layers)

    def gguf(self, name: str) -> str:
        """llama.cpp's name of the weight of module `name`.

        Raises:
            InputError: it has none.
        """
        found = self._map.get_name(name)
        if found is None:
            raise InputError(
                f"llama.cpp has no name for {name!r} in the architecture {self.architecture!r}.",
                "train linear layers of the decoder only",
            )
        return f"{found}.weight"

    def ordered(self, name: str, rows: Any) -> Any:
        """`rows` of module `name`'s output in llama.cpp's order: for Llama, q and k are interleaved for its rotary."""
        part = name.rpartition(".")[2]
        if self.architecture != "llama" or part not in ("q_proj", "k_proj"):
            return rows
        heads = self.heads if part == "q_proj" else self.kv_heads
        shape = rows.shape
        return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
