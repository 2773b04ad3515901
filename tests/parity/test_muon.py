from __future__ import annotations

import pytest
import torch
from torch import nn

from parity.muon import BETAS, TINY, MuonOptimiser, orthogonal
from parity.recipes import Muon


@pytest.mark.parametrize("size", [(20, 90), (90, 20), (32, 32)])
def test_orthogonal_keeps_singular_vectors_and_brings_singular_values_near_one(size: tuple[int, int]) -> None:
    u, s, v = torch.linalg.svd(torch.randn(size), full_matrices=False)
    found = orthogonal(u * s.clamp_min(0.1 * float(s.max())) @ v)
    # As the source has it: anywhere between 0.7 and 1.2 does.
    assert 0.6 < float((u.T @ found @ v.T).diag().min()) < float((u.T @ found @ v.T).diag().max()) < 1.3
    assert float((u.T @ found @ v.T).fill_diagonal_(0).abs().max()) < 0.1


def test_a_convolution_moves_by_the_rate_times_its_norm_and_others_as_by_adamw() -> None:
    convolution, linear, plain = nn.Conv2d(16, 8, 3, bias=False), nn.Linear(6, 4), nn.Linear(6, 4)
    plain.load_state_dict(linear.state_dict())
    optimiser = MuonOptimiser([*convolution.parameters(), *linear.parameters()], 0.1, 0.6, 0.05, 0.2)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.005, betas=BETAS, eps=TINY, weight_decay=0.2)
    for _ in range(4):
        before = convolution.weight.detach() * 8**0.5 / convolution.weight.detach().norm()
        convolution.weight.grad = torch.randn_like(convolution.weight)
        for own, other in zip(linear.parameters(), plain.parameters(), strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        optimiser.step()
        reference.step()
        assert float((convolution.weight.detach() - before).norm() / before.norm()) == pytest.approx(0.1, rel=0.2)
    for own, other in zip(linear.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_the_recipe_makes_the_optimiser_of_its_options() -> None:
    frozen, free = nn.Parameter(torch.ones(2, 2, 1, 1), requires_grad=False), nn.Parameter(torch.ones(3))
    free.grad = torch.ones(3)
    optimiser = Muon(lr=0.2, momentum=0.5, others=0.1, weight_decay=0).optimiser([frozen, free])
    optimiser.step()
    assert torch.equal(frozen, torch.ones(2, 2, 1, 1))
    torch.testing.assert_close(free.detach(), torch.full((3,), 1 - 0.02))
