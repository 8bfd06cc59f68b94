"""What validating costs, and what it finds, beside public tools on the same file in one run.

    .venv/bin/python -P benchmarks/validate.py [--quick] [--json] [--peers FOLDER]

The file is made here, of the rows of the core dataset: code, tags, tool calls and context windows stay what they are,
and each word of three letters or more becomes another word of the core dataset, the same one within a row. So all
parsers have their work, no row means what another means, and every 20th row comes again with one or two words changed:
it is known which pairs are near-duplicates. `looptune` does everything that `looptune validate` does; the others only
look for near-duplicates: datasketch (MinHash, 128 permutations, and its LSH index), rensa (MinHash and its own index),
scikit-learn (TF-IDF, all with all), and, when they lie in FOLDER, text-dedup (its minhash command) and semhash (with a
static model like its own, which would have to be downloaded: the token vectors of all-MiniLM-L6-v2). FOLDER is what
this makes:

    pip install --target FOLDER --no-deps text-dedup semhash model2vec vicinity usearch numkong frozendict pyversity \\
        xxhash click-option-group datasets pyarrow dill multiprocess pandas python-dateutil pytz regex ftfy wcwidth \\
        bitarray

Each runs in a process of its own; memory is that process's peak, and seconds count from its first import. Ratios say
how many times as long as looptune a tool took on the same file. The exit status is 1 when a bar is missed (`BARS`; the
million rows are left out with --quick).
"""

import argparse
import contextlib
import io
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import distributions, version
from itertools import pairwise
from pathlib import Path
from typing import Any

THRESHOLD = 0.7
BARS = {"seconds of 5,000 rows": (5_000, "seconds", 3.0), "MB of a million rows": (1_000_000, "peak_mb", 1500.0)}
# tags, tool calls and escapes in one piece; then words, of which those are kept that some language or form needs
WORD = re.compile(r"<[^>]*>|\\.|(?<![\w.`/-])[a-z]{3,12}(?![\w-])")
KEPT = frozenset(
    """
    abstract and any are array assert async await bash bool break case catch char class const continue create declare
    def default defer del delete drop elif else enum except export extends false final finally float fmt for foreach
    from func function global impl implements import index infer insert instanceof int integer interface into join
    json keyof lambda left let limit list loop map match mod module mut namespace never new nil none nonlocal not null
    number numeric object order override package pass primary private protected pub public python raise range readonly
    references require return rust satisfies select self set shell sql static str string struct super switch table
    text then throw trait true try tuple type typeof typescript undefined union unique unknown unsafe update use uuid
    values var vec void where while with yield yaml
    """.split()  # noqa: SIM905
)
Pairs = set[tuple[int, int]]


def core_rows() -> list[dict[str, Any]]:
    """The rows of the core dataset, as they stand in its files."""
    from tools.settings import shipped_data

    files = [shipped_data() / "core" / name for name in ("train.jsonl", "valid.jsonl")]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def reworded(value: Any, other: Callable[[re.Match[str]], str]) -> Any:
    """`value` with its words replaced, in every text that it holds; keys, tags and escapes stay."""
    if isinstance(value, str):
        return WORD.sub(other, value)
    if isinstance(value, list):
        return [item if isinstance(item, str) and ":" in item else reworded(item, other) for item in value]
    if isinstance(value, dict):
        kept = ("metadata", "role")
        return {key: item if key in kept else reworded(item, other) for key, item in value.items()}
    return value


def make_file(path: Path, rows: int) -> Pairs:
    """Write `rows` rows to `path`; the pairs of lines that are near-duplicates."""
    dice = random.Random(42)
    core = core_rows()
    words = sorted({match.group(0) for row in core for match in WORD.finditer(str(row["output"])) if is_word(match)})
    pairs: Pairs = set()
    last: dict[str, Any] = {}
    with path.open("w") as stream:
        for line in range(1, rows + 1):
            if line % 20 == 0 and last:
                row, changes = dict(last), dice.randint(1, 2)
                said = last["output"].split(" ")
                for i in dice.sample(plain_words(said), changes):
                    said[i] = dice.choice(words)
                row["output"] = " ".join(said)
                pairs.add((line - 1, line))
            else:
                row = reworded_row(core, words, dice, plain=line % 20 == 19)
            last = row if line % 20 == 19 else {}
            stream.write(json.dumps({**row, "id": f"row-{line}"}) + "\n")
    return pairs


def reworded_row(core: list[dict[str, Any]], words: list[str], dice: random.Random, plain: bool) -> dict[str, Any]:
    """Some row of `core` in other words; with `plain` one whose answer is prose that is long enough to be changed."""
    row = dice.choice(core)
    while plain and (not isinstance(row["output"], str) or "<" in row["output"] or row["output"].count(" ") < 60):
        row = dice.choice(core)
    known: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        return known.setdefault(match.group(0), dice.choice(words)) if is_word(match) else match.group(0)

    new = {
        key: reworded(value, other) if key in ("instruction", "input", "output") else value
        for key, value in row.items()
    }
    if plain and len(plain_words(new["output"].split(" "))) < 10:
        return reworded_row(core, words, dice, plain)
    return new


def plain_words(said: list[str]) -> list[int]:
    """Where in `said` a word of prose stands, without a mark at its side."""
    return [i for i, word in enumerate(said) if word.isalpha() and word.islower()]


def is_word(match: re.Match[str]) -> bool:
    """Whether what `WORD` found is a word that may become another one."""
    return match.group(0)[0].isalpha() and match.group(0) not in KEPT


def texts(path: Path) -> list[str]:
    """Every row as one text."""
    with path.open() as stream:
        rows = map(json.loads, stream)
        return [f"{row['instruction']}\n{row['input']}\n{row['output']}" for row in rows]


def looptune(path: Path) -> Pairs:
    """Everything that validation does."""
    from tools.data import validate

    validate.LISTED = sys.maxsize  # a report lists ten thousand duplicates and counts the others; here all are wanted
    report = validate.validate_file(path)
    return {(lines[0], line) for d in report.duplicates if (lines := d.lines) for line in lines[1:]}


def shingles(text: str) -> list[str]:
    """Words and pairs of words, as all the tools get them."""
    words = text.split()
    return [*words, *(f"{a} {b}" for a, b in pairwise(words))]


def datasketch(path: Path) -> Pairs:
    """MinHash and MinHashLSH of datasketch, as its documentation shows them."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    pairs: Pairs = set()
    for line, text in enumerate(texts(path), start=1):
        print_ = MinHash(num_perm=128)
        print_.update_batch([s.encode() for s in shingles(text)])
        pairs |= {(other, line) for other in index.query(print_)}
        index.insert(line, print_)
    return pairs


def rensa(path: Path) -> Pairs:
    """RMinHash and RMinHashLSH of rensa."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=16)
    pairs: Pairs = set()
    for line, text in enumerate(texts(path), start=1):
        print_ = RMinHash(num_perm=128, seed=42)
        print_.update(shingles(text))
        pairs |= {(other, line) for other in index.query(print_)}
        index.insert(line, print_)
    return pairs


def sklearn(path: Path) -> Pairs:
    """TfidfVectorizer over words and pairs of words, all with all, cosine 0.8."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b|[^\w\s]").fit_transform(texts(path))
    pairs: Pairs = set()
    for begin in range(0, vectors.shape[0], 1000):
        near = (vectors[begin : begin + 1000] @ vectors.T).tocoo()
        keep = (near.data >= 0.8) & (near.row + begin < near.col)
        pairs |= set(zip((near.row[keep] + begin + 1).tolist(), (near.col[keep] + 1).tolist(), strict=True))
    return pairs


def text_dedup(path: Path) -> Pairs:
    """The minhash command of text-dedup, on pairs of words."""
    from text_dedup import minhash

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(path)))
        options = {"path": "json", "data_files": str(source), "split": "train", "column": "text", "ngram": 2}
        options |= {"min_length": 1, "num_perm": 128, "threshold": THRESHOLD, "num_proc": 1}
        options |= {"cache_dir": f"{folder}/cache", "output": f"{folder}/out"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with contextlib.redirect_stdout(io.StringIO()):
            minhash.main(words, standalone_mode=False)
    clusters: dict[int, list[int]] = {}
    for row in sorted(minhash.uf.parent):
        clusters.setdefault(minhash.uf.find(row), []).append(row + 1)
    return {(lines[0], line) for lines in clusters.values() for line in lines[1:]}


def semhash(path: Path) -> Pairs:
    """SemHash.self_deduplicate at its default threshold."""
    from model2vec import StaticModel
    from safetensors.numpy import load_file
    from semhash import SemHash
    from tokenizers import Tokenizer

    from tools.memory.embedder import model_folder

    folder = model_folder()
    vectors = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    vectors -= vectors.mean(axis=0)  # else all texts are alike
    encoder = StaticModel(vectors=vectors, tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")))
    said = texts(path)
    lines = {text: line for line, text in enumerate(said, start=1)}
    found = SemHash.from_records(said, model=encoder).self_deduplicate()
    pairs = [sorted((lines[twin.record], lines[twin.duplicate_of])) for twin in found.filtered]
    return {(one, other) for one, other in pairs}


CONTESTANTS: dict[str, Callable[[Path], Pairs]] = {
    "looptune": looptune,
    "datasketch": datasketch,
    "rensa": rensa,
    "scikit-learn": sklearn,
    "text-dedup": text_dedup,
    "semhash": semhash,
}
# the largest file that each is given, in rows: with --quick, and without; looptune gets them all
MOST = {
    "datasketch": (5_000, 100_000),
    "rensa": (5_000, 100_000),
    "scikit-learn": (5_000, 5_000),
    "text-dedup": (5_000, 100_000),
    "semhash": (5_000, 5_000),
}


def run_one(name: str, path: Path) -> None:
    """In a process of its own: run one contestant and print what it took and found."""
    began = time.perf_counter()
    pairs = CONTESTANTS[name](path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time(),
                "peak_mb": peak / (1e6 if sys.platform == "darwin" else 1e3),
                "pairs": sorted(pairs),
            }
        )
    )


def measure(name: str, path: Path, rows: int, planted: Pairs) -> dict[str, Any]:
    """One contestant on one file."""
    command = [sys.executable, "-P", __file__, "--one", name, str(path)]
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    if done.returncode:
        return {"tool": name, "rows": rows, "failed": done.stderr.strip().rpartition("\n")[2][:300]}
    found = json.loads(done.stdout.strip().rpartition("\n")[2])  # a tool may print before it
    pairs = {(a, b) for a, b in found.pop("pairs")}
    return {
        "tool": name,
        "rows": rows,
        **{key: round(value, 2) for key, value in found.items()},
        "planted": len(planted),
        "recall": round(len(pairs & planted) / len(planted), 4),
        "others": len(pairs - planted),
    }


def with_ratios(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`results`, each beside looptune's on the same file."""
    own = {found["rows"]: found["seconds"] for found in results if found["tool"] == "looptune" and "seconds" in found}
    return [
        {**found, "times_looptune": round(found["seconds"] / own[found["rows"]], 2)}
        if "seconds" in found and found["rows"] in own
        else found
        for found in results
    ]


def bars(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What looptune took of each bar that was measured, and whether it stayed below."""
    found = {}
    for name, (rows, figure, most) in BARS.items():
        for result in results:
            if result["tool"] == "looptune" and result["rows"] == rows:
                value = result.get(figure)
                found[name] = {"value": value, "at_most": most, "passed": value is not None and value <= most}
    return found


def surroundings(peers: str) -> dict[str, Any]:
    """The machine, its BLAS, and the versions of everybody."""
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = {name: version(name) for name in ("looptune", "datasketch", "rensa", "scikit-learn", "scipy", "numpy")}
    if peers:
        there = {found.metadata["Name"]: found.version for found in distributions(path=[peers])}
        versions |= {name: there[name] for name in ("text-dedup", "semhash", "model2vec") if name in there}
    return {
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "blas": f"{blas['name']} {blas['version']}",
        "versions": versions,
        "load": [round(part, 2) for part in os.getloadavg()],
    }


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="about a minute: up to 20,000 rows, not a million")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peers", default="", help="a folder with text-dedup and semhash")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peers:
        os.environ["LOOPTUNE_PEERS"] = str(Path(arguments.peers).resolve())
    if arguments.one:
        sys.path.append(os.environ.get("LOOPTUNE_PEERS", ""))  # last, so that what is installed here stays
        run_one(arguments.one[0], Path(arguments.one[1]))
        return
    sizes = [1_000, 5_000, 20_000] if arguments.quick else [1_000, 5_000, 20_000, 100_000, 1_000_000]
    absent = set() if arguments.peers else {"text-dedup", "semhash"}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            path = Path(folder) / f"{rows}.jsonl"
            planted = make_file(path, rows)
            for name in CONTESTANTS:
                if name not in absent and rows <= MOST.get(name, (rows, rows))[not arguments.quick]:
                    results = with_ratios([*results, measure(name, path, rows, planted)])
                    if not arguments.json:
                        print("  ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
            path.unlink()
    found = {"results": results, "bars": bars(results), **surroundings(arguments.peers)}
    found["passed"] = all(bar["passed"] for bar in found["bars"].values())
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, bar in found["bars"].items():
            print(f"{name}: {bar['value']}, at most {bar['at_most']:g}: {'ok' if bar['passed'] else 'NOT MET'}")
        print(f"{found['machine']}, Python {found['python']}, BLAS {found['blas']}, load {found['load']}")
        print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
