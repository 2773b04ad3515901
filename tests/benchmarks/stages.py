"""Where the time of deferred answers goes: 100,000 simulated queries, k = 2, LeNet-5, about 5% reconstructed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from backends.answers import Predictor, in_top, reconstruct, top_answer
from backends.reconstruction import reconstructed_words
from backends.torch_backend import TorchBackend
from parity.codes import Addition
from parity.networks import LeNet5
from sim.cluster import Cluster
from sim.distributions.families import Gamma
from sim.policies import Coded
from sim.simulation import simulate
from sim.stragglers import SlowPeriods
from sim.streams import Streams
from sim.trace import Route, Trace
from tests.worlds import poisson

if TYPE_CHECKING:
    from tests.benchmarks.inference import Clock

QUERIES, SAMPLES = 100_000, 10_000


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds by stage."""

    title: str
    seconds: dict[str, float] = field(default_factory=dict)


def trace_of(queries: int) -> Trace:
    """Simulate a coded cluster in which about one query in twenty is reconstructed."""
    law = Gamma(mean=0.02, shape=400)
    # A parity query takes a little longer, so that it is not as often as not the first of equals to be back.
    cluster = Cluster(instances=12, extra=6, service=law, parity_service=Gamma(mean=0.024, shape=400))
    slow = (SlowPeriods(mean_normal=8.0, mean_slow=1.0),)
    return simulate(cluster, Coded(k=2), slow, poisson(270.0, queries, Streams(1)), Streams(1))


def measure(backend: TorchBackend, clock: Clock, rounds: int) -> Stages:
    """Time each stage by itself over all reconstructed queries, and the whole as an experiment runs it."""
    from tests.benchmarks.inference import take_turns

    torch.manual_seed(1)
    code, trace = Addition(), trace_of(QUERIES)
    samples = np.random.default_rng(1).integers(0, SAMPLES, QUERIES)
    labels = np.random.default_rng(2).integers(0, 10, SAMPLES)
    noise = torch.randn(SAMPLES, 1, 28, 28)
    deployed, parity = (LeNet5().build((1, 28, 28), 10) for _ in range(2))
    images, place = backend.place(noise), backend.place
    words = reconstructed_words(trace)
    members = place(torch.from_numpy(samples[words.members]))
    with torch.inference_mode():
        outputs = place(backend.predict(deployed, noise))
        gathered = images[members]
        encoded = code.encode(gathered, 1)[:, 0]
        answers = place(backend.predict(parity, encoded))[:, None]
        word, lost_labels = place(torch.from_numpy(words.word)), place(torch.from_numpy(labels[samples[words.query]]))
        used, slot = backend.place_indices([words.used, words.slot])

        def decode() -> Tensor:
            returned = torch.from_numpy(words.used)
            return reconstruct(code, outputs[members[word]], answers[word], returned, used, slot)

        mine = decode()
        rows = torch.arange(SAMPLES, device=backend.device)
        works: dict[str, Callable[[], object]] = {
            "whole, models' outputs not yet known": lambda: Predictor(
                backend, deployed, noise, labels, default_answer=0
            ).answer(trace, samples, code, [parity]),
            "find words": lambda: reconstructed_words(trace),
            "deployed model, each sample once": lambda: backend.outputs(deployed, SAMPLES, lambda c: images[rows[c]]),
            "gather": lambda: images[members],
            "encode": lambda: code.encode(gathered, 1),
            "parity model": lambda: backend.outputs(parity, len(encoded), lambda c: encoded[c]),
            "decode": decode,
            "metrics": lambda: (top_answer(mine), in_top(mine, lost_labels)),
        }
        took = take_turns(works, clock, rounds)
    share = float((trace.queries.route == Route.RECONSTRUCTION).mean())
    return Stages(f"Deferred answers of {QUERIES:,} queries, LeNet-5, k = 2, {share:.1%} reconstructed", took)
