"""Write all-MiniLM-L6-v2, from its package's weights, as an ONNX file that onnxruntime reads.

    python -P -m tools.memory.export_onnx FILE      # in a process of its own: torch is needed here, and only here

The graph holds the whole way from token ids to a vector: the model, the mean over the tokens, unit length. Nothing is
downloaded. `tools/memory/embedder.py` calls this once a virtual environment and keeps the file.
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any


def export(folder: Path, target: Path) -> None:
    """Write the model in `folder` to `target`, whole or not at all."""
    import torch
    from sentence_transformers import SentenceTransformer
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    # This step adds functions written in onnxscript, of which a BERT has none, and needs the package `onnx` for it.
    onnx_proto_utils._add_onnxscript_fn = lambda model, functions: model
    bert = SentenceTransformer(str(folder), device="cpu", local_files_only=True)[0].auto_model.eval()

    class Sentence(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def forward(self, ids: Any, mask: Any) -> Any:
            tokens = bert(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
            weights = mask.unsqueeze(-1).to(tokens.dtype)
            mean = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    sentence = Sentence()
    sentence.bert = bert
    example = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "texts", 1: "tokens"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as beside, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's advice, and that there is a newer exporter, which needs `onnx`
        written = Path(beside, "model.onnx")
        torch.onnx.export(
            sentence,
            (example, example),
            str(written),
            dynamo=False,
            opset_version=17,
            input_names=["ids", "mask"],
            output_names=["vector"],
            dynamic_axes={"ids": axes, "mask": axes},
        )
        with written.open("rb") as stream:
            os.fsync(stream.fileno())
        written.replace(target)


if __name__ == "__main__":
    from tools.memory.embedder import be_offline, model_folder

    be_offline()
    export(model_folder(), Path(sys.argv[1]))
