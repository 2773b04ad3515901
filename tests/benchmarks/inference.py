"""How fast models are run, against plain PyTorch and the device's own limits in the same run.

`python -m tests.benchmarks.inference [--device cuda] [--out DIR]` prints tables and writes `DEVICE.json` with its
manifest and `DEVICE-roofline.png`, anew after each network. Contenders take turns. Each number is the median over the
rounds, but the limits of the device are the best that was seen. On the CPU, time is CPU time divided by the number of
threads, so that what else the machine does does not count.

`--search` has cuDNN try its algorithms out (`torch.backends.cudnn.benchmark`). That is for a whole process: cuDNN keeps
what it chose first for a convolution, searched for or not, so that one process cannot compare both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backends.runner import ModelRunner, Way
from backends.torch_backend import TorchBackend
from experiments.run.manifest import git_revision, versions
from parity.networks import LeNet5, Mlp, MobileNetV2, Network, ResNet18
from parity.shape import Shape
from sim.errors import ParmError
from tests.benchmarks import stages
from tests.benchmarks.roofline import draw

SEED = 1
Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A way to run a network."""

    way: Way
    half: bool = False
    wide_stem: bool = False
    resident: bool = False
    """Whether the images are on the device in half precision and channel by channel already."""

    def __str__(self) -> str:
        with_what = " wide stem" * self.wide_stem + " resident" * self.resident
        return f"{self.way}{with_what}, {'half' if self.half else 'single'}"


ON_CPU = (Attempt("onnx"), Attempt("folded"), Attempt("folded", half=True))
ON_CUDA = (
    Attempt("folded"),
    Attempt("folded", half=True),
    Attempt("folded", half=True, wide_stem=True),
    Attempt("folded", half=True, resident=True),
    Attempt("cudnn", half=True),
    Attempt("cudnn", half=True, wide_stem=True),
)
COMPILED = (Attempt("compiled", half=True), Attempt("compiled", half=True, wide_stem=True))
"""Minutes of compiling, so that they have to be asked for."""
FEW = 256
"""Images at most that are run one at a time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device can do, measured: 10^9 per second."""

    single: float
    """Floating-point operations in single precision, by a big matrix product."""
    tf32: float
    """The same in TF32, which is single precision with ten bits of mantissa on CUDA, and the same elsewhere."""
    half: float
    """The same in half precision."""
    bytes: float
    """Bytes read and written by a copy that fits no cache."""


@dataclass(frozen=True, slots=True)
class Speed:
    """One way to run one network."""

    network: str
    contender: str
    batch: int
    images: float
    """Per second."""
    gflops: float
    """Arithmetic done per second, 10^9."""
    share: float
    """Of the measured matrix rate in the precision used."""
    ratio: float
    """Times as fast as eager single precision at its best batch size, or one at a time as well."""
    intensity: float
    """Operations per byte of weights, inputs and outputs of all layers."""


class Clock:
    """Seconds that are the device's own: CPU seconds on one thread, which leave out whoever else had the core.

    On several threads it is the wall clock's, since those that wait for the others spin, which is no work.
    """

    def __init__(self, backend: TorchBackend) -> None:
        self._wait = backend.wait
        alone = backend.device.type == "cpu" and torch.get_num_threads() == 1
        self._now = time.process_time if alone else time.perf_counter

    def __call__(self, work: Work) -> float:
        """Run `work` to its end on the device; return the seconds."""
        self._wait()
        begin = self._now()
        work()
        self._wait()
        return self._now() - begin


def take_turns(
    works: Mapping[Any, Work], clock: Clock, rounds: int, of: Callable[[list[float]], float] = statistics.median
) -> dict[Any, float]:
    """Return the median seconds of each work over `rounds` rounds, or what `of` makes of them, after one discarded."""
    seconds: dict[Any, list[float]] = {name: [] for name in works}
    for step in range(rounds + 1):
        for name, work in works.items():
            took = clock(work)
            if step:
                seconds[name].append(took)
    return {name: of(times) for name, times in seconds.items()}


def limits(backend: TorchBackend, clock: Clock, rounds: int) -> Limits:
    """Measure the device's matrix rates and its memory."""
    on_cuda = backend.device.type == "cuda"
    n, values = (8192, 2**28) if on_cuda else (1024, 2**25)
    single = backend.place(torch.randn(n, n))
    half = single.to(torch.float16 if on_cuda else torch.bfloat16)
    big = backend.place(torch.ones(values))
    other = torch.empty_like(big)
    works: dict[str, Work] = {
        "single": lambda: with_tf32(False, lambda: single @ single),
        "tf32": lambda: with_tf32(True, lambda: single @ single),
        "half": lambda: half @ half,
        "copy": lambda: other.copy_(big),
    }
    took = take_turns(works, clock, 4 * rounds, min)
    work = 2 * n**3 / 1e9
    return Limits(work / took["single"], work / took["tf32"], work / took["half"], 8 * values / 1e9 / took["copy"])


def with_tf32(allowed: bool, work: Work) -> object:
    """Do the work with or without TF32 in convolutions and matrix products; only CUDA knows the difference."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        return work()
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def arithmetic(module: nn.Module, shape: Shape) -> tuple[float, float]:
    """Return the floating-point operations of one sample, and the bytes that its layers read and write in float32.

    Weights count once per batch, and are left out: batches are large.
    """
    moved = 0

    def look(_module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        nonlocal moved
        moved += 4 * (sum(given.numel() for given in inputs) + outputs.numel())

    leaves = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [part.register_forward_hook(look) for part in leaves]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.randn(1, *shape))
    for hook in hooks:
        hook.remove()
    return float(counter.get_total_flops()), float(moved)


def race(
    network: Network,
    shape: Shape,
    attempts: Sequence[Attempt],
    backend: TorchBackend,
    clock: Clock,
    rounds: int,
    images: int,
    peak: Limits,
) -> list[Speed]:
    """Let ways to run one network take turns over the same images; return each at its best batch size."""
    torch.manual_seed(SEED)
    module = network.build(shape, 10)
    flops, moved = arithmetic(module, shape)
    inputs = backend.place(torch.randn(images, *shape))
    eager = network.build(shape, 10).to(backend.device).eval()
    on_cuda = backend.device.type == "cuda"
    sizes = (512, 2048, 4096) if on_cuda else (16, 32, 64, 128, 256)

    def plainly(batch: int, some: Tensor, tf32: bool = False) -> Work:
        return lambda: with_tf32(tf32, lambda: [eager(chunk) for chunk in torch.split(some, batch)])

    works: dict[tuple[str, int], Work] = {("eager, single", size): plainly(size, inputs) for size in sizes}
    if on_cuda:
        works |= {("eager, TF32", size): plainly(size, inputs, True) for size in sizes}
    # A way that a network or a device lacks is left out, and said.
    failed: dict[str, str] = {}
    converted = inputs.half().contiguous(memory_format=torch.channels_last) if on_cuda else inputs
    for attempt in attempts:
        given = converted if attempt.resident else inputs
        runner = ModelRunner(module, backend.device, half=attempt.half, way=attempt.way, wide_stem=attempt.wide_stem)

        def work(runner: ModelRunner = runner, given: Tensor = given) -> Tensor:
            return runner.outputs(images, lambda chunk: given[chunk])

        began = time.perf_counter()
        try:
            with torch.inference_mode():
                batch = runner.batch_for(lambda chunk: inputs[chunk])
                work()
        except Exception as error:
            failed[str(attempt)] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        print(f"  {attempt}: {runner.how}; ready in {time.perf_counter() - began:.1f} s", flush=True)
        works[str(attempt), batch] = work
    # As a server that does not batch has them.
    few, one = inputs[: max(1, min(FEW, images // 8))], backend.runner(network.build(shape, 10))
    works["eager, one at a time", 1] = plainly(1, few)
    works["parm, one at a time", 1] = lambda: [one(chunk) for chunk in torch.split(few, 1)]
    with torch.inference_mode():
        took = take_turns(works, clock, rounds)
    took = {key: seconds * (images / len(few) if key[1] == 1 else 1) for key, seconds in took.items()}
    for name, reason in failed.items():
        print(f"  {name} left out: {reason}")
    best: dict[str, tuple[int, float]] = {}
    for (name, batch), seconds in took.items():
        if name not in best or images / seconds > best[name][1]:
            best[name] = batch, images / seconds
    base = best["eager, single"][1]
    return [
        Speed(
            label(network),
            name,
            batch,
            speed,
            speed * flops / 1e9,
            speed * flops / 1e9 / (peak.half if "half" in name else peak.tf32 if "TF32" in name else peak.single),
            speed / (best["eager, one at a time"][1] if batch == 1 else base),
            flops / (moved / 2 if "half" in name else moved),
        )
        for name, (batch, speed) in best.items()
    ]


def networks(only: str | None, *, full_size: bool) -> list[tuple[Network, Shape]]:
    """Return the networks that take part, and the shape of their images; ResNet-18 as the paper has it if `full_size`.

    Raises ParmError where none is called `only`.
    """
    found: list[tuple[Network, Shape]] = [
        (ResNet18(width=16), (3, 32, 32)),
        (MobileNetV2(width=0.25), (3, 32, 32)),
        (LeNet5(), (1, 28, 28)),
        (Mlp(), (1, 28, 28)),
    ]
    if full_size:
        found.insert(0, (ResNet18(), (3, 32, 32)))
    found = [(network, shape) for network, shape in found if only in (None, label(network))]
    if not found:
        raise ParmError(f"no network of the benchmark is called '{only}'")
    return found


def label(network: Network) -> str:
    """Name a network in tables."""
    return str(network.name_in_yaml()) + (f", width {network.width:g}" if hasattr(network, "width") else "")


def main() -> None:
    """Run the benchmarks, print them and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="on the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, help="per round")
    parser.add_argument("--only", help="a network by its name in the table, such as 'resnet18, width 64'")
    parser.add_argument("--search", action="store_true", help="have cuDNN try its algorithms out")
    parser.add_argument("--compiled", action="store_true", help="have torch.compile take part, on CUDA")
    parser.add_argument("--out", type=Path, help="folder for the results")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = given.search
    backend = TorchBackend(given.device)
    on_cuda = backend.device.type == "cuda"
    clock, images = Clock(backend), given.images or (32768 if on_cuda else 256)
    attempts = (ON_CUDA + (COMPILED if given.compiled else ())) if on_cuda else ON_CPU
    peak = limits(backend, clock, given.rounds)
    print(f"{backend.name}, torch {torch.__version__}, median of {given.rounds}")
    tf32 = f", {peak.tf32:,.0f} TF32" if on_cuda else ""
    print(
        f"matrix rate {peak.single:,.0f} GFLOP/s single{tf32}, {peak.half:,.0f} half; memory {peak.bytes:,.0f} GB/s\n"
    )
    speeds: list[Speed] = []
    found = None
    for network, shape in networks(given.only, full_size=on_cuda):
        new = race(network, shape, attempts, backend, clock, given.rounds, images, peak)
        speeds += new
        for speed in new:
            print(
                f"{speed.network:<26}{speed.contender:<24}batch {speed.batch:<6}{speed.images:>10,.0f} images/s"
                f"{speed.gflops:>9,.0f} GFLOP/s {speed.share:>6.0%} of the matrix rate{speed.ratio:>7.2f} x",
                flush=True,
            )
        write(given, backend, images, peak, speeds, found)
    if given.only is None:
        found = stages.measure(backend, clock, given.rounds)
        print(f"\n{found.title}")
        for name, seconds in found.seconds.items():
            print(f"  {name:<44}{seconds * 1e3:>10.1f} ms")
        write(given, backend, images, peak, speeds, found)


def write(
    given: argparse.Namespace,
    backend: TorchBackend,
    images: int,
    peak: Limits,
    speeds: Sequence[Speed],
    found: stages.Stages | None,
) -> None:
    """Write what has been measured so far, if a folder was given."""
    if given.out is None:
        return
    given.out.mkdir(parents=True, exist_ok=True)
    threads, on_cuda = torch.get_num_threads(), backend.device.type == "cuda"
    of_cpu = "cpu" if threads == 1 else f"cpu-{threads}-threads"
    stem = backend.name.lower().replace("nvidia ", "").replace(" ", "-") if on_cuda else of_cpu
    options = "" if given.only is None else f" --only '{given.only}'"
    for option in ("search", "compiled"):
        if getattr(given, option):
            options, stem = f"{options} --{option}", f"{stem}-{option}"
    document = {
        "manifest": {
            "command": f"python -m tests.benchmarks.inference --device {backend.device} --rounds {given.rounds}"
            + options
            + ("" if on_cuda else f" --threads {threads}"),
            "device": backend.name,
            "seed": SEED,
            "revision": git_revision(),
            "versions": versions(),
            "images": images,
        },
        "limits": asdict(peak),
        "speeds": [asdict(speed) for speed in speeds],
        "stages": asdict(found) if found else None,
    }
    (given.out / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(speeds, peak, backend.name, given.out / f"{stem}-roofline.png")


if __name__ == "__main__":
    main()
