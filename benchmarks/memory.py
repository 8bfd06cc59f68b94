"""How fast the memory answers and how well it finds, against its bars.

    .venv/bin/python -P benchmarks/memory.py [--quick] [--json] [--write docs/memory.md]

Retrieval: the questions of datasets/retrieval/core.jsonl over the answers of all cards, each cut at 300 characters, so
that the embedder reads all of it; hybrid beside embedding alone and words alone, as nDCG@10. Speed: a store of 10,000
sentences of the cards, alone and in pairs, is filled through the import, and queried by those questions, embedding
included. Without --quick a store of 100,000 is queried as well (ten minutes more on two cores). That one is not filled
as a user would: to the 10,000 come 90,000 pairs whose vectors are the means of their sentences', put straight into the
ledger, so `filled_in_seconds` of it leaves out embedding and the import.

The exit status is 1 when a bar is missed. --write puts the retrieval table between the marks of a file;
tests/test_memory_search.py compares what stands there.
"""

import argparse
import json
import math
import os
import platform
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.data.cards import read_card
from tools.data.lessons import is_lesson, lesson_rows, read_lesson
from tools.memory import embedder, ledger
from tools.memory.embedder import embed
from tools.memory.entries import EVERYTHING, Filter, new_entry
from tools.memory.index import index_of
from tools.memory.search import search
from tools.memory.store import MemoryStore
from tools.memory.transfer import import_entries
from tools.settings import Settings, shipped_data
from tools.workspace import Workspace

BARS = {
    "query_p50_ms_10k": 25.0,
    "query_p99_ms_10k": 80.0,
    "query_p50_ms_100k": 60.0,
    "recall_at_10_10k": 0.99,
    "recall_at_10_100k": 0.99,
    "add_1000_seconds": 20.0,
    "first_query_seconds": 4.0,
    "embedding_min_cosine": 0.999,
}
AT_LEAST = ("recall", "embedding_min_cosine")
BEGIN, END = "<!-- retrieval: benchmarks/memory.py --write -->", "<!-- end of retrieval -->"
CUT = 300  # characters of an answer
PACKAGES = ("looptune", "chromadb", "onnxruntime", "sentence-transformers", "numpy")
FIRST_QUERY = """
import time
began = time.perf_counter()
from tools.memory.store import MemoryStore
from tools.workspace import Workspace
MemoryStore(Workspace.open()).query("How do we store prices?")
print(time.perf_counter() - began)
"""


def questions() -> list[dict[str, str]]:
    lines = (shipped_data() / "retrieval" / "core.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def cards() -> dict[str, list[str]]:
    """Each card's texts as memories would hold them: its title or meaning, and its answers."""
    texts: dict[str, list[str]] = {}
    for path in sorted((shipped_data() / "cards").glob("*/*.yaml")):
        name = f"{path.parent.name}/{path.stem}"
        if not is_lesson(path):
            card = read_card(name)
            texts[name] = [f"{card.term} is {card.meaning}", *(exchange.say for exchange in card.examples)]
            continue
        lesson = read_lesson(path)
        told = f"{lesson.term} is {lesson.meaning}" if lesson.term else lesson.title
        texts[name] = [told, *(row.answer for row in lesson_rows(lesson, name))]
    return texts


def sentences(texts: dict[str, list[str]], count: int) -> list[str]:
    """`count` different sentences of the cards, then pairs of them."""
    found = {
        " ".join(sentence.split())
        for answers in texts.values()
        for answer in answers
        for sentence in re.split(r"(?<=[.!?])\s+|\n+", answer)
    }
    single = sorted(sentence for sentence in found if 20 <= len(sentence) <= 300)
    dice = random.Random(7)
    dice.shuffle(single)
    taken = dict.fromkeys(single[:count])
    while len(taken) < count:
        taken[" ".join(dice.sample(single, 2))] = None
    return list(taken)


def crowded(home: Path, texts: list[str], count: int) -> tuple[Workspace, float]:
    """A store of `texts` and of pairs of them, `count` in all, and the seconds that making it took.

    A pair's vector is the mean of its sentences', which is close to its own and a hundred times as quick to make.
    """
    import numpy as np

    single = np.array(embed(texts), np.float32)
    dice = np.random.default_rng(7)
    pairs = dice.integers(0, len(texts), (count - len(texts), 2))
    means = single[pairs].mean(1)
    vectors = np.concatenate([single, means / np.linalg.norm(means, axis=1, keepdims=True)])
    entries = [new_entry(text) for text in texts]
    entries += [new_entry(f"{texts[one]} {texts[other]} ({n})") for n, (one, other) in enumerate(pairs)]
    workspace = Workspace.open(Settings(home=home))
    began = time.perf_counter()
    with MemoryStore(workspace)._open() as (db, index):
        for begin in range(0, count, 2000):
            with ledger.transaction(db):
                ledger.put(db, entries[begin : begin + 2000], vectors[begin : begin + 2000])
        index.catch_up(db, everything=True)
    return workspace, time.perf_counter() - began


def filled(home: Path, texts: list[str]) -> tuple[Workspace, float]:
    """A store of `texts`, and the seconds that importing them took."""
    workspace = Workspace.open(Settings(home=home))
    file = home / "entries.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(new_entry(text).model_dump_json() + "\n" for text in texts), encoding="utf-8")
    began = time.perf_counter()
    import_entries(workspace, file)
    return workspace, time.perf_counter() - began


def retrieval(home: Path, texts: dict[str, list[str]]) -> dict[str, Any]:
    """nDCG@10 over cards: the first hit of a card is its rank."""
    card_of = {new_entry(text[:CUT]).id: card for card, answers in texts.items() for text in answers if text.strip()}
    known = {text[:CUT] for answers in texts.values() for text in answers if text.strip()}
    workspace, _ = filled(home, sorted(known))
    asked = questions()
    table: dict[str, Any] = {"questions": len(asked), "cards": len(texts), "entries": len(card_of)}
    with MemoryStore(workspace)._open() as (db, index):
        for ways in ("hybrid", "meaning", "words"):
            gains, first = [], 0
            for question in asked:
                hits = search(db, index, question["question"], Filter(), 50, ways=ways).hits  # type: ignore[arg-type]
                ranked = list(dict.fromkeys(card_of[hit.id] for hit in hits))[:10]
                place = ranked.index(question["card"]) if question["card"] in ranked else None
                gains.append(0.0 if place is None else 1 / math.log2(place + 2))
                first += place == 0
            table[ways] = {"ndcg_at_10": round(statistics.mean(gains), 4), "first": round(first / len(asked), 3)}
    return table


def speed(workspace: Workspace, seconds: float, rounds: int) -> dict[str, float]:
    """Latency of warm queries (embedding included), and recall against exact search."""
    memory = MemoryStore(workspace)
    asked = [question["question"] for question in questions()]
    memory.query(asked[0])
    took, busy = [], []
    for number in range(rounds):
        began, worked = time.perf_counter(), time.process_time()
        memory.search(asked[number % len(asked)], limit=10)
        took.append((time.perf_counter() - began) * 1000)
        busy.append((time.process_time() - worked) * 1000)
    shared = []
    with memory._open() as (db, index):
        for vector in embed(asked[:100]):
            exact = ledger.cosines(db, vector, EVERYTHING)
            best = set(sorted(exact, key=lambda id: -exact[id])[:10])
            shared.append(len(best & {id for id, _ in index.nearest(db, vector, 200)[:10]}) / 10)
    began = time.perf_counter()
    memory.search(asked[0], {"kinds": ["rule"]})  # nothing passes: the widest exact search
    filtered = (time.perf_counter() - began) * 1000
    index_of(workspace).close()
    return {
        "filled_in_seconds": round(seconds, 1),
        "query_p50_ms": round(statistics.median(took), 2),
        "query_p99_ms": round(sorted(took)[int(0.99 * len(took))], 2),
        "query_cpu_p50_ms": round(statistics.median(busy), 2),
        "narrow_filter_ms": round(filtered, 1),
        "recall_at_10": round(statistics.mean(shared), 4),
    }


def adding(home: Path, texts: list[str]) -> tuple[float, float]:
    """Seconds, and seconds of CPU, for remembering `texts` one by one, with the look for duplicates and conflicts."""
    memory = MemoryStore(Workspace.open(Settings(home=home)))
    embed(["warm"])
    began, worked = time.perf_counter(), time.process_time()
    for text in texts:
        memory.remember(text)
    return round(time.perf_counter() - began, 2), round(time.process_time() - worked, 2)


def first_query(home: Path) -> float:
    """Seconds from a new process's first import to its first answer, the median of three."""
    took = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-P", "-c", FIRST_QUERY],
            env={**os.environ, "LOOPTUNE_HOME": str(home)},
            capture_output=True,
            text=True,
            check=True,
        )
        took.append(float(done.stdout))
    return round(statistics.median(took), 2)


def embedding(texts: list[str]) -> dict[str, float]:
    """Texts a second of both ways, in turns, and how far their vectors agree."""
    folder = embedder.model_folder()
    embedder.be_offline()
    ways = {"onnx": embedder.onnx_encoder(folder), "plain": embedder.plain_encoder(folder)}
    vectors: dict[str, Any] = {}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    single: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, encode in ways.items():
            encode(texts[:8])
            began = time.perf_counter()
            vectors[name] = encode(texts)
            speeds[name].append(len(texts) / (time.perf_counter() - began))
            for text in texts[:20]:
                began = time.perf_counter()
                encode([text])
                single[name].append((time.perf_counter() - began) * 1000)
    onnx, plain = (statistics.median(speeds[name]) for name in ways)
    return {
        "onnx_texts_per_second": round(onnx, 1),
        "plain_texts_per_second": round(plain, 1),
        "ratio": round(onnx / plain, 2),
        "onnx_one_text_ms": round(statistics.median(single["onnx"]), 2),
        "plain_one_text_ms": round(statistics.median(single["plain"]), 2),
        "min_cosine": round(float((vectors["onnx"] * vectors["plain"]).sum(1).min()), 6),
    }


def measure(quick: bool, say: Any) -> dict[str, Any]:
    texts = cards()
    found: dict[str, Any] = {}
    bars: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        say("adding 1,000 entries one by one")
        bars["add_1000_seconds"], found["add_1000_cpu_seconds"] = adding(home / "adding", sentences(texts, 1000))
        for name, count in {"10k": 10_000, **({} if quick else {"100k": 100_000})}.items():
            say(f"filling a store of {count} entries, and querying it")
            known = sentences(texts, 10_000)
            made = filled(home / name, known) if count == len(known) else crowded(home / name, known, count)
            found[name] = speed(*made, 300)
            bars[f"query_p50_ms_{name}"] = found[name]["query_p50_ms"]
            bars[f"recall_at_10_{name}"] = found[name]["recall_at_10"]
        bars["query_p99_ms_10k"] = found["10k"]["query_p99_ms"]
        say("first query of a new process, over 10,000 entries")
        bars["first_query_seconds"] = first_query(home / "10k")
        say("retrieval")
        found["retrieval"] = retrieval(home / "retrieval", texts)
        say("embedding, both ways")
        found["embedding"] = embedding(sentences(texts, 128 if quick else 512))
        bars["embedding_min_cosine"] = found["embedding"]["min_cosine"]
    table = found["retrieval"]
    passed = {
        name: (value >= BARS[name] if name.startswith(AT_LEAST) else value <= BARS[name])
        for name, value in bars.items()
    }
    passed["hybrid_beats_both"] = beats_both(table)
    return {
        **found,
        "figures": bars,
        "bars": BARS,
        "passed": passed,
        "versions": {"sqlite": sqlite3.sqlite_version, **{name: version(name) for name in PACKAGES}},
        "blas": blas(),
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.platform()}",
        "load": round(os.getloadavg()[0], 1),
    }


def beats_both(found: dict[str, Any]) -> bool:
    """Whether hybrid search is better than meaning alone and words alone."""
    return all(found["hybrid"]["ndcg_at_10"] > found[ways]["ndcg_at_10"] for ways in ("meaning", "words"))


def retrieval_table(found: dict[str, Any]) -> str:
    """What `retrieval` found, as Markdown."""
    names = {"hybrid": "hybrid", "meaning": "meaning alone", "words": "words alone"}
    counts = f"{found['questions']} questions over {found['entries']:,} texts of {found['cards']} cards"
    lines = [
        f"{counts}, each cut at {CUT} characters:",
        "",
        "| | nDCG@10 | right card first |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {found[ways]['ndcg_at_10']:.3f} | {found[ways]['first']:.3f} |" for ways, name in names.items()
    ]
    return "\n".join(lines)


def blas() -> str:
    """What computes the matrix products: numpy's BLAS for exact search, onnxruntime's own kernels for the embedder."""
    import numpy as np

    built: Any = np.show_config(mode="dicts")
    found = built["Build Dependencies"]["blas"]
    return f"numpy: {found['name']} {found['version']}; onnxruntime: its own (MLAS)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under 3 minutes: without the store of 100,000 entries")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--write", type=Path, help="the document whose retrieval table is replaced")
    options = parser.parse_args()
    found = measure(options.quick, lambda text: sys.stderr.write(f"  {text}\n"))
    status = 0 if all(found["passed"].values()) else 1
    if options.write:
        text = options.write.read_text(encoding="utf-8")
        table = f"{BEGIN}\n\n{retrieval_table(found['retrieval'])}\n\n{END}"
        options.write.write_text(f"{text.split(BEGIN)[0]}{table}{text.split(END)[1]}", encoding="utf-8")
    if options.json:
        print(json.dumps(found))
        sys.exit(status)
    for name, value in found["figures"].items():
        sign = "≥" if name.startswith(AT_LEAST) else "≤"
        print(f"{name:22} {value:<10g} {sign} {BARS[name]:<8g} {'ok' if found['passed'][name] else 'NOT MET'}")
    table = found["retrieval"]
    print(f"\n{table['questions']} questions over {table['entries']} texts of {table['cards']} cards")
    for ways in ("hybrid", "meaning", "words"):
        print(f"  {ways:8} nDCG@10 {table[ways]['ndcg_at_10']:.4f}   first {table[ways]['first']:.3f}")
    print(f"  hybrid beats both: {'ok' if found['passed']['hybrid_beats_both'] else 'NOT MET'}")
    if "100k" in found:
        print(
            "\n100k: 90,000 of its vectors are means of pairs, put straight into the ledger; its filling is no import"
        )
    figures = found["embedding"]
    print(
        f"\nembedding: onnxruntime {figures['onnx_texts_per_second']:g} texts/s, sentence-transformers "
        f"{figures['plain_texts_per_second']:g} (× {figures['ratio']:g}), cosine ≥ {figures['min_cosine']:g}; one text "
        f"{figures['onnx_one_text_ms']:g} ms, {figures['plain_one_text_ms']:g} ms"
    )
    print(f"{found['machine']}, load {found['load']}; BLAS of {found['blas']}")
    print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    sys.exit(status)


if __name__ == "__main__":
    main()
