"""Service in stages, and work that several cores share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential, Uniform
from sim.distributions.stages import Makespan, Stage, Stages
from sim.trace import Role

N = 200_000


def drawn(one: Makespan | Stages, n: int = N) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return one.sample(np.random.default_rng(1), n)


@pytest.mark.parametrize(("count", "cores", "expected"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (3, 1, 3)])
def test_equal_pieces_take_whole_rounds(count: int, cores: int, expected: int) -> None:
    one = Makespan(of=Deterministic(value=0.002), count=count, cores=cores)
    assert np.all(drawn(one, 10) == pytest.approx(0.002 * expected))
    assert one.mean() == pytest.approx(0.002 * expected)


def test_the_mean_of_a_maximum_of_exponentials_is_a_harmonic_number() -> None:
    one = Makespan(of=Exponential(mean=1.0), count=4, cores=4)
    assert one.mean() == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4, rel=2e-3)
    assert drawn(one).mean() == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4, rel=0.01)


def test_the_first_free_core_takes_the_next_piece() -> None:
    # Two cores, three exponential pieces: E[min] until a core is free, then the maximum of two memoryless pieces.
    one = Makespan(of=Exponential(mean=1.0), count=3, cores=2)
    assert drawn(one).mean() == pytest.approx(0.5 + 1.5, rel=0.01)
    assert one.mean() is None


@given(p=st.floats(0, 1), count=st.integers(1, 5))
def test_quantiles_and_cdf_are_inverse(p: float, count: int) -> None:
    one = Makespan(of=Uniform(low=1.0, high=2.0), count=count, cores=5)
    quantiles = one.quantiles(np.array([p]))
    assert quantiles is not None
    back = one.cdf(quantiles)
    assert back is not None
    assert back[0] == pytest.approx(p, abs=1e-9)


def service(**model: float) -> Stages:
    return Stages(
        stages=(
            Stage(seconds=Exponential(mean=0.004), cores=2),
            Stage(seconds=Deterministic(value=0.010), **model),
        )
    )


def test_each_stage_has_its_own_rule_for_batches() -> None:
    cluster = Cluster(instances=1, service=service(batch_cost=0.25), batch_cost=9.0)
    assert cluster.service_of(Role.DEPLOYED, 1).mean() == pytest.approx(0.014)
    assert cluster.service_of(Role.DEPLOYED, 2).mean() == pytest.approx(0.004 * 1.5 + 0.0125, rel=1e-3)
    four = cluster.service_of(Role.DEPLOYED, 4)
    assert drawn(four).mean() == pytest.approx(0.0175 + 0.002 * 2 + 0.006, rel=0.01)  # type: ignore[arg-type]


def test_without_a_rule_a_stage_takes_each_query_in_turn() -> None:
    assert Stages(stages=(Stage(seconds=Deterministic(value=0.01)),)).at_batch(3).mean() == pytest.approx(0.03)


def test_a_stage_has_one_rule() -> None:
    with pytest.raises(ValidationError, match="'cores' or 'batch_cost', not both"):
        Stage(seconds=Deterministic(value=0.01), cores=2, batch_cost=0.5)
