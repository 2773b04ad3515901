"""Outcomes as cells would leave them, made up, for whoever summarises or draws them."""

import dataclasses

import numpy as np

from experiments.analysis.outcome import COSTS, GRID, Measured, Outcome


def measured(generator, queries, scale, degraded, model):
    latency = generator.exponential(scale, queries)
    ordered = np.sort(latency)  # once, since each of many quantiles would sort anew as far as it needs
    p50, p99, p999 = np.quantile(ordered, (0.5, 0.99, 0.999))
    values = {"mean": latency.mean(), "p50": p50, "p99": p99, "p999": p999, "gap": p999 - p50}
    lost = int(degraded * queries)
    routes = {"own": queries - lost, "reconstruction": lost, "replica": 0, "backup": 0, "default": 0}
    accuracy = None
    if model:
        right = {"available": 0.97, "degraded": 0.9}
        accuracy = {"available": queries - lost, "degraded": lost}
        for name, share in right.items():
            correct = int(generator.binomial(accuracy[name], share))
            accuracy |= {f"{name}_correct": correct, f"{name}_top5": correct, f"{name}_agrees": correct}
    return {
        "queries": queries,
        "latency": {name: float(value) for name, value in values.items()},
        "routes": routes,
        "accuracy": accuracy,
    }, ordered


def outcome(policy, trial, scale=0.01, degraded=0.0, model=True, instances=12, point=None, queries=20_000, **more):
    generator = np.random.default_rng([trial, *policy.encode()])
    whole, latency = measured(generator, queries, scale, degraded, model)
    parts = [Measured(**measured(generator, queries // 10, scale, degraded, model)[0]) for _ in range(10)]
    fields = {
        "policy": policy,
        "kind": policy.split("_")[0],
        "point": point or {},
        "trial": trial,
        "warmup": 100,
        "settled": True,
        "cost": dict(zip(COSTS, (instances, instances, 0.5, 0.012, 2500.0), strict=True)),
        "quantiles": {"probabilities": GRID.tolist(), "seconds": np.quantile(latency, GRID).tolist()},
        "blocks": tuple(parts),
    }
    return Outcome(**(whole | fields | more))


def with_tail(one, p50, p999):
    """Return the outcome with an exponential latency beyond its median; both percentiles are in seconds."""
    beyond = np.maximum(1 - np.asarray(GRID), 1e-6)
    seconds = p50 + (p999 - p50) * np.log(0.5 / beyond) / np.log(500)
    seconds = np.where(beyond > 0.5, p50 * (1 - (beyond - 0.5)), seconds)
    p99 = float(np.interp(0.99, GRID, seconds))
    latency = one.latency | {"p50": p50, "p99": p99, "p999": p999, "gap": p999 - p50}
    quantiles = {"probabilities": GRID.tolist(), "seconds": seconds.tolist()}
    return dataclasses.replace(one, latency=latency, quantiles=quantiles)
