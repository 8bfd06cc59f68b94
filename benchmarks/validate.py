"""What validating costs, and what it finds, beside public tools on the same file in one run.

    .venv/bin/python -P benchmarks/validate.py [--quick] [--json]

The file is made here: rows of random words, every 20th again with one or two words changed. So it is known which pairs
are near-duplicates. `looptune` does everything that `looptune validate` does; the others only look for near-duplicates:
datasketch (MinHash, 128 permutations, and its LSH index), rensa (MinHash and its own index) and scikit-learn (TF-IDF,
all with all, for small files). Each runs in a process of its own; memory is that process's peak.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

THRESHOLD = 0.7
Pairs = set[tuple[int, int]]


def make_file(path: Path, rows: int) -> Pairs:
    """Write `rows` rows to `path`; the pairs of lines that are near-duplicates."""
    dice = random.Random(42)
    words = ["".join(dice.choices("abcdefghiklmnoprstuvw", k=dice.randint(3, 9))) for _ in range(20_000)]
    pairs: Pairs = set()
    last: tuple[list[str], list[str]] = ([], [])
    with path.open("w") as stream:
        for line in range(1, rows + 1):
            if line % 20 == 0:
                question, answer = last[0][:], last[1][:]
                for _ in range(dice.randint(1, 2)):
                    answer[dice.randrange(len(answer))] = dice.choice(words)
                pairs.add((line - 1, line))
            else:
                question, answer = dice.choices(words, k=10), dice.choices(words, k=dice.randint(30, 90))
            last = question, answer
            stream.write(json.dumps({"instruction": " ".join(question), "output": " ".join(answer)}) + "\n")
    return pairs


def texts(path: Path) -> list[str]:
    """Every row as one text."""
    with path.open() as stream:
        rows = map(json.loads, stream)
        return [f"{row['instruction']}\n{row['output']}" for row in rows]


def looptune(path: Path) -> Pairs:
    """Everything that validation does."""
    from tools.data.validate import validate_file

    report = validate_file(path)
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
    """TF-IDF over words and pairs of words, all with all, cosine 0.8."""
    from tools.data.similar import find_alike

    return {(one + 1, other + 1) for one, other, _ in find_alike(texts(path), 0.8)}


CONTESTANTS: dict[str, Callable[[Path], Pairs]] = {
    "looptune": looptune,
    "datasketch": datasketch,
    "rensa": rensa,
    "scikit-learn": sklearn,
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
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root})
    found = json.loads(done.stdout)
    pairs = {(a, b) for a, b in found.pop("pairs")}
    return {
        "tool": name,
        "rows": rows,
        **{key: round(value, 2) for key, value in found.items()},
        "planted": len(planted),
        "recall": round(len(pairs & planted) / len(planted), 4),
        "others": len(pairs - planted),
    }


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under three minutes: up to 100,000 rows, not a million")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one[0], Path(arguments.one[1]))
        return
    sizes = [1000, 5000, 100_000] if arguments.quick else [1000, 5000, 100_000, 1_000_000]
    most = {"datasketch": 5000 if arguments.quick else 100_000, "rensa": 100_000, "scikit-learn": 5000}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            path = Path(folder) / f"{rows}.jsonl"
            planted = make_file(path, rows)
            for name in CONTESTANTS:
                if rows <= most.get(name, rows):
                    results.append(measure(name, path, rows, planted))
                    if not arguments.json:
                        print("  ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
            path.unlink()
    if arguments.json:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        versions = {name: version(name) for name in ("datasketch", "rensa", "scikit-learn", "numpy")}
        print(json.dumps({"results": results, "versions": versions, **machine}))


if __name__ == "__main__":
    main()
