"""What is owed on a CUDA device, in three commands that each end within nine minutes and write at most eight files.

    python -m tests.benchmarks.device check --out DIR                correctness, all ways to run and to train a network
    python -m tests.benchmarks.device train --data DATA --out DIR    CIFAR-10, trained and measured
    python -m tests.benchmarks.device serve --data DATA --out DIR    a million queries jointly, profiles, in the loop

`--tiny` rehearses each on small inputs; with `--device cpu`, on any machine. Each part gets what is left of the time;
what one could not finish is said, and what it had written is kept. A table of the parts is printed last.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 540.0
"""Seconds for all parts of a command."""
MOST_FILES = 8

TINY_STUDY = """
study: accuracy
name: tiny
models:
  - network: {kind: resnet18, width: 4}
    dataset: digits
    label: CIFAR-10
    recipe: {kind: best, epochs: 1}
    recipes: {best: {kind: best, epochs: 1}}
codes: [{k: 2}]
figures: []
"""
PARM = (sys.executable, "-m", "experiments.cli")


@dataclass(frozen=True)
class Part:
    """One program of a command."""

    name: str
    arguments: Sequence[str]
    kept: Sequence[str] = ()
    """Of the files that it writes in its folder, those that are wanted, as patterns."""
    most: float = LIMIT
    """Seconds that it may take, so that something is left for the others."""


def parts(command: str, folder: Path, data: Path | None, device: str, tiny: bool) -> list[Part]:
    """Return the parts of a command, which write into `folder`, most valuable first."""
    found = ["--data", str(data)] if data else []
    on = ["--device", device]

    def parm(verb: str, file: str, name: str, *options: str) -> list[str]:
        return [*PARM, verb, file, "--out", str(folder / name), *options, *found, *on]

    if command == "check":
        small = ["--rounds", "1", "--images", "32"] if tiny else []
        widest = ["--only", f"resnet18, width {16 if tiny else 64}"]

        def inference(name: str, kept: Sequence[str], most: float, *options: str) -> Part:
            program = [sys.executable, "-m", "tests.benchmarks.inference", *on, *options, *small]
            return Part(name, [*program, "--out", str(folder / name)], kept, most)

        steps = ["--width", "16", "--batches", "16", "--steps", "2", "--rounds", "1"] if tiny else []
        training = [sys.executable, "-m", "tests.benchmarks.training", *on, *steps, "--out", str(folder / "steps")]
        # Each result is said at once, so that a run that is cut off has told of those before.
        tests = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "tests/backends/test_cuda.py"]
        return [
            Part("tests", [*tests, "-k", "not compiled"], most=150),
            inference("inference", ("*.json", "*.png"), 200),
            inference("searched", ("*.json",), 90, *widest, "--search"),
            Part("steps", training, ("*.json",), 90),
            inference("compiled", ("*.json",), LIMIT, *widest, "--compiled", "--images", "8192"),
            Part("tests_of_it", [*tests, "-k", "compiled"]),
        ]
    if command == "train":
        study, only = "experiments/paper/beyond.yaml", ("--only", "CIFAR-10")
        if tiny:
            study = str(folder / "tiny.yaml")
            Path(study).write_text(TINY_STUDY, encoding="utf-8")
        training = parm("accuracy", study, "cifar10", *only, "--models", str(folder / "models"))
        return [Part("cifar10", training, ("accuracy.csv", "manifest.json", "*.png"))]
    tables = ("summary.csv", "manifest.json")
    shortened = ("workload.queries=500", "trials=1", "model.recipe.epochs=1", "model.parity_recipe.epochs=1")
    few = [text for setting in shortened for text in ("--set", setting)] if tiny else []
    million = "experiments/quickstart.yaml" if tiny else "experiments/joint-million.yaml"
    looped = few or ["--set", "workload.queries=5000", "--set", "trials=1"]
    sizes = ("1,2", "5") if tiny else ("1,2,4,8,16,32,64,128,256", "500")
    network = ("--network", "lenet5" if tiny else "resnet18", "--batches", sizes[0], "--repeats", sizes[1])
    profile = [*PARM, "profile", *network, *on]
    return [
        Part("million", parm("run", million, "million", *few), (*tables, "latency_accuracy.png")),
        Part("profile", [*profile, "--out", str(folder / "profile" / "profile.json")], ("profile.json",)),
        Part(
            "contended",
            [*profile, "--contention", "2", "--out", str(folder / "contended" / "profile.json")],
            ("profile.json",),
        ),
        Part(
            "loop",
            parm("run", "experiments/quickstart.yaml", "loop", "--set", "execution=in_the_loop", *looped),
            tables,
        ),
    ]


def main() -> None:
    """Run one command's parts and keep what they write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("check", "train", "serve"))
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small inputs, to rehearse")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + LIMIT
    lines, written = [], 0
    # A rehearsal shares its machine: threads that wait for each other would spin.
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if given.tiny else {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in parts(given.command, folder, given.data, given.device, given.tiny):
            (folder / part.name).mkdir()
            print(f"\n== {part.name}: {' '.join(part.arguments)}", flush=True)
            began = time.monotonic()
            allowed = max(1.0, min(LIMIT if given.tiny else part.most, ends - began))
            try:
                done = subprocess.run(part.arguments, timeout=allowed, check=False, env=environment)
                status = str(done.returncode)
            except subprocess.TimeoutExpired:
                status = "ran out of time"
            files = sorted({file for pattern in part.kept for file in (folder / part.name).rglob(pattern)})
            for file in files[: MOST_FILES - written]:
                shutil.copy(file, given.out / f"{given.command}-{part.name}-{file.name}")
                written += 1
            seconds = time.monotonic() - began
            lines.append(f"{part.name:<12} status {status:<18}{seconds:6.0f} s   {len(files)} files")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
