"""A GGUF file answering through llama.cpp, under the chat template that it carries."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.errors import InputError
from tools.inference.engine import MIN_P, SPEED_PROMPT, SPEED_TOKENS, Generated, Heard, Options, Said
from tools.models.templates import require_harmless

CONTEXT = 2048
_TEMPLATE_ERRORS = (TypeError, KeyError, AttributeError, OverflowError, RecursionError)  # of what a template computes


def open_llama(path: Path, context: int, logits_all: bool = False, lora: Path | None = None) -> Any:
    """The file as llama.cpp's binding opens it; with `logits_all`, the logits of every token are kept.

    Raises:
        InputError: llama.cpp cannot load it, or its chat template is broken or hostile.
    """
    from jinja2 import TemplateError
    from llama_cpp import Llama

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        for template in _templates(path):  # the binding compiles each as soon as it opens the file
            require_harmless(template, path.name)
        return Llama(
            str(path),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=-1,
            logits_all=logits_all,
            lora_path=str(lora) if lora else None,
            seed=0,
            verbose=False,
        )
    except (ValueError, OSError, RuntimeError, AssertionError) as error:
        raise InputError(f"llama.cpp cannot load {path.name}: {error}", "make it again with quantize") from error
    except (TemplateError, *_TEMPLATE_ERRORS) as error:
        raise _bad_template(path, error) from error


def _templates(path: Path) -> list[str]:
    """The chat templates in a file, of which nothing but the header and the vocabulary is read."""
    import llama_cpp
    from llama_cpp._internals import LlamaModel

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = LlamaModel(path_model=str(path), params=params, verbose=False)
    try:
        return [value for key, value in model.metadata().items() if key.startswith("tokenizer.chat_template")]
    finally:
        model.close()


def _bad_template(path: Path, error: Exception) -> InputError:
    return InputError(
        f"The chat template in {path.name} cannot be rendered: {type(error).__name__}: {str(error)[:200]}",
        "take the model from where you can trust it, or make it again with quantize",
    )


class GgufEngine:
    """A loaded GGUF. Raises InputError when llama.cpp cannot load it."""

    def __init__(self, path: Path, context: int = CONTEXT) -> None:
        self.path, self.context = path, context
        self.llama = open_llama(path, context)

    def _chat(self, prompt: str, max_tokens: int, **options: Any) -> Any:
        return self._completed(prompt, max_tokens=max_tokens, temperature=0.0, **options)

    def _completed(self, prompt: str, **options: Any) -> Any:
        """The binding's completion of one question; its template is rendered here, and its tokens may come later."""
        from jinja2 import TemplateError

        asked = [{"role": "user", "content": prompt}]
        try:
            return self.llama.create_chat_completion(asked, repeat_penalty=1.0, **options)
        except (TemplateError, ValueError, *_TEMPLATE_ERRORS) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> InputError:
        """What the binding's error is about; both a prompt that is too long and a template's own no are ValueErrors."""
        if isinstance(error, ValueError) and "exceed context window" in str(error):
            return InputError(f"The prompt does not fit into {self.context} tokens: {error}", "ask something shorter")
        return _bad_template(self.path, error)

    def answer(self, prompts: Sequence[str], max_tokens: int, said: Said | None = None) -> list[str]:
        """Greedy answers, one prompt after the other; the common beginning of prompts is computed once."""
        answers = []
        for number, prompt in enumerate(prompts, start=1):
            answers.append(self._chat(prompt, max_tokens)["choices"][0]["message"]["content"].strip())
            if said:
                said(number)
        return answers

    def generate(self, prompt: str, options: Options, heard: Heard | None = None) -> Generated:
        """One answer, token by token."""
        began = time.perf_counter()
        first, text, tokens, finish = 0.0, "", 0, "length"
        try:
            parts = self._completed(
                prompt,
                max_tokens=options.max_tokens,
                temperature=options.temperature,
                seed=options.seed,
                stop=list(options.stop),
                top_k=0,
                top_p=1.0,
                min_p=MIN_P,
                stream=True,
            )
            for part in parts:
                choice = part["choices"][0]
                if piece := choice["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    text, tokens = text + piece, tokens + 1
                    if heard:
                        heard(text, tokens)
                finish = choice["finish_reason"] or finish
        except ValueError as error:
            raise self._refused(error) from error
        seconds = time.perf_counter() - began
        return Generated(text.strip(), tokens, "stop" if finish == "stop" else "length", first or seconds, seconds)

    def losses(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """One pass a text; texts longer than 512 tokens are cut there."""
        import numpy as np

        scorer = open_llama(self.path, 512, logits_all=True)
        found = []
        try:
            for text in texts:
                ids = scorer.tokenize(text.encode(), add_bos=False, special=False)[: scorer.n_ctx()]
                scorer.reset()
                scorer.eval(ids)
                logits = np.asarray(scorer.scores[: len(ids) - 1], dtype=np.float64)
                top = logits.max(axis=1)
                log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
                found.append((float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).sum()), len(ids) - 1))
        finally:
            scorer.close()
        return found

    def tokens_per_second(self) -> float:
        """Speed of `SPEED_TOKENS` tokens after the first."""
        times: list[float] = []
        for part in self._chat(SPEED_PROMPT, SPEED_TOKENS, stream=True):
            if "content" in part["choices"][0]["delta"]:
                times.append(time.perf_counter())
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9)

    def close(self) -> None:
        """Free the weights and the context."""
        self.llama.close()
