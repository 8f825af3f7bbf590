"""A target network follows every few env steps, and a restored one goes on counting."""

from __future__ import annotations

import torch
from torch import nn

from lightning_rl.networks.target import IntervalUpdate


def pair() -> tuple[nn.Linear, nn.Linear]:
    target, online = nn.Linear(2, 2), nn.Linear(2, 2)
    nn.init.zeros_(target.weight)
    nn.init.ones_(online.weight)
    return target, online


def test_it_follows_once_per_interval() -> None:
    target, online = pair()
    update = IntervalUpdate(interval=10, tau=0.5)
    seen = []
    for env_steps in (4, 9, 10, 11, 19, 25, 27, 59, 60):
        update.follow(env_steps, target, online)
        seen.append(target.weight[0, 0].item())
    assert seen == [0.0, 0.0, 0.5, 0.5, 0.5, 0.75, 0.75, 0.875, 0.9375]


def test_a_restored_one_waits_for_the_next_interval() -> None:
    target, online = pair()
    update, restored = IntervalUpdate(10, 1.0), IntervalUpdate(10, 1.0)
    update.follow(35, *pair())
    restored.load_state_dict(update.state_dict())
    restored.follow(39, target, online)
    assert target.weight.sum().item() == 0.0
    restored.follow(40, target, online)
    assert torch.equal(target.weight, online.weight)
