"""SAC: its losses in literal numbers, what each reaches, acting and options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_rl.algorithms.sac import SAC, STATISTICS, sac_losses
from lightning_rl.algorithms.tqc import TQC
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.errors import ConfigError
from lightning_rl.functional.joint_gradients import joint_gradient_function
from lightning_rl.functional.parameters import flatten_parameters

Fit = Callable[..., Any]
SMALL: dict[str, Any] = {
    "hidden_sizes": (16,),
    "batch_size": 16,
    "learning_starts": 16,
    "env_steps_per_iteration": 32,
    "compile": False,
    "seed": 1,
}

STATE_DEPENDENT = pytest.mark.parametrize("cls", [SAC, TQC])


def constant(value: float, count: int) -> Callable[..., Tensor]:
    """Critics that return `value` and `value + 1` plus the sum of the action."""

    def critic(observation: Tensor, action: Tensor, least: bool = False) -> Tensor:
        values = torch.full((count,), value) + action.sum(-1)
        return values if least else torch.stack((values, values + 1.0))

    return critic


def test_the_losses_in_literal_numbers():
    """A policy that returns tanh(noise) with standard deviation 1; alpha = e^0 = 1."""
    actor = lambda observation: torch.zeros(len(observation), 2)  # noqa: E731
    minibatch = {
        "observation": torch.zeros(2, 3),
        "next_observation": torch.zeros(2, 3),
        "action": torch.tensor([[0.5], [-0.5]]),
        "reward": torch.tensor([1.0, 2.0]),
        "terminated": torch.tensor([False, True]),
    }
    (critic_loss, actor_loss, alpha_loss), statistics = sac_losses(
        constant(1.0, 2),
        actor,
        lambda: torch.tensor(0.0),
        constant(3.0, 2),
        minibatch,
        torch.zeros(2, 2, 1),
        gamma=0.5,
        target_entropy=-1.0,
    )
    # Without noise the action is 0 and its log-density -log sqrt(2 pi) = -0.918939.
    # Target: 1 + 0.5 (min(3, 4) + 0.918939) = 2.959469, and 2. Q: (1.5, 0.5) and (2.5, 1.5).
    errors = [(1.5 - 2.959469) ** 2 + (0.5 - 2) ** 2, (2.5 - 2.959469) ** 2 + (1.5 - 2) ** 2]
    assert critic_loss.item() == pytest.approx(sum(errors) / 4, abs=1e-5)
    assert actor_loss.item() == pytest.approx(-0.918939 - 1.0, abs=1e-5)
    assert alpha_loss.item() == 0.0
    named = dict(zip(STATISTICS, statistics.tolist(), strict=True))
    assert named["train/mean_q"] == pytest.approx(1.5)
    assert named["train/entropy_loss"] == pytest.approx(-0.918939, abs=1e-5)
    assert named["train/alpha"] == 1.0


def test_what_the_losses_depend_on():
    """The target carries no gradient, and the actor's loss goes through the critics to the action.

    That they do not learn from it is the joint gradient's affair.
    """
    agent = SAC("Pendulum-v1", 64, **SMALL)
    minibatch = {
        "observation": torch.randn(8, 3),
        "next_observation": torch.randn(8, 3),
        "action": torch.rand(8, 1) * 2 - 1,
        "reward": torch.randn(8),
        "terminated": torch.zeros(8, dtype=torch.bool),
    }
    agent.target_critic.requires_grad_(True)
    networks = (agent.critic, agent.actor, agent.temperature, agent.target_critic)
    losses, _ = sac_losses(*networks, minibatch, torch.randn(2, 8, 1), 0.99, -1.0)
    reached = []
    for loss in losses:
        groups = []
        for network in networks:
            gradients = torch.autograd.grad(
                loss, list(network.parameters()), retain_graph=True, allow_unused=True
            )
            groups.append(any(g is not None and g.abs().max() > 0 for g in gradients))
        reached.append(groups)
    assert reached == [
        [True, False, False, False],
        [False, True, False, False],  # through the critics to the action, past their parameters
        [False, False, True, False],
    ]


@pytest.mark.parametrize("alpha", ["auto", 0.1])
def test_the_gradient_reaches_every_network_and_none_that_is_frozen(fit: Fit, alpha: Any):
    agent = SAC("Pendulum-v1", 64, alpha=alpha, **SMALL)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.named_parameters()}
    fit(agent)
    after = dict(agent.named_parameters())
    assert after.keys() == before.keys()
    for name, parameter in after.items():
        identity, old = before[name]
        assert id(parameter) == identity, name
        assert type(parameter) is nn.Parameter, name
        learns = not (name == "temperature.log_alpha" and alpha != "auto")
        assert torch.equal(parameter, old) is not learns, name
    # 64 env steps, of which the first 16 come before learning; one gradient step each.
    assert agent.gradient_steps == 49


def test_the_target_follows_by_tau(fit: Fit):
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(SAC):
        def apply_gradients(self, parameters: Any, gradients: Any) -> None:
            seen.append(
                (self.flats[0].flat.detach().clone(), self.flat_target.flat.detach().clone())
            )
            super().apply_gradients(parameters, gradients)

    agent = Watched("Pendulum-v1", 32, tau=0.25, **SMALL)
    fit(agent)
    assert torch.equal(*seen[0])
    for (_, target), (online, following) in pairwise(seen):
        assert torch.allclose(following, 0.75 * target + 0.25 * online, atol=1e-6)
    assert agent.flat_target.is_attached()


def test_actions_are_uniform_before_learning_starts_and_the_policy_s_afterwards(fit: Fit):
    steps = {"learning_starts": 4_000, "env_steps_per_iteration": 4_096, "train_frequency": 2}
    agent = SAC({"id": "Pendulum-v1", "num_envs": 2}, 4_096, **{**SMALL, **steps})
    fit(agent)
    action = agent.state.replay.take("action", np.arange(4_096)).numpy()
    assert action[:4_000].min() < -0.99
    assert action[:4_000].max() > 0.99
    assert action[:4_000].mean() == pytest.approx(0.0, abs=0.05)
    assert action[:4_000].std() == pytest.approx(1 / 3**0.5, abs=0.02)
    assert action[4_000:].std() > 0.1
    assert len(np.unique(action)) > 4_000


def test_each_network_has_its_learning_rate(fit: Fit):
    agent = SAC("Pendulum-v1", 32, learning_rate=1e-3, actor_learning_rate=1e-4, **SMALL)
    trainer = fit(agent)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == [1e-3, 1e-4, 1e-3]
    fixed = SAC("Pendulum-v1", 32, alpha=0.2, **SMALL)
    assert len(fit(fixed).optimizers) == 2


def test_the_temperature_steers_the_entropy(fit: Fit):
    rows: dict[float, list[Any]] = {}
    for target in (-5.0, 5.0):
        rows[target] = []
        note = lambda trainer, agent, metrics, at, to=rows[target]: to.append(metrics)  # noqa: E731
        arguments = {**SMALL, "target_entropy": target, "alpha_learning_rate": 1e-2}
        fit(SAC("Pendulum-v1", 128, **arguments), callbacks=[EventCallback(on_metrics=note)])
    assert rows[-5.0][-1]["train/alpha"] < 1.0 < rows[5.0][-1]["train/alpha"]


def test_normalisers_are_those_of_what_was_collected(fit: Fit):
    env = {"id": "Pendulum-v1", "num_envs": 2, "normalize_observation": True}
    agent = SAC(env, 128, **SMALL)
    fit(agent)
    moments = agent.observation_normalizer.leaves["observation"]
    assert moments.count.item() == 128
    stored = agent.state.replay.take("observation", np.arange(128))
    assert torch.allclose(moments.mean, stored.mean(0), atol=1e-4)
    shifted = agent.predict(stored[:5].numpy())
    moments.mean.add_(1.0)
    assert not np.allclose(shifted, agent.predict(stored[:5].numpy()))


@pytest.mark.parametrize("use_sde", [False, True])
def test_bf16_mixed_multiplies_in_bfloat16_and_learns_in_float32(fit: Fit, use_sde: bool):
    rows: list[Any] = []
    seen: set[Any] = set()
    note = lambda trainer, agent, metrics, at: rows.append(metrics)  # noqa: E731
    agent = SAC("Pendulum-v1", 64, use_sde=use_sde, **SMALL)
    before = torch.cat([p.detach().flatten() for p in agent.parameters()])
    agent.actor.network.register_forward_hook(lambda net, x, output: seen.add(output.dtype))
    fit(agent, precision="bf16-mixed", callbacks=[EventCallback(on_metrics=note)])
    assert torch.bfloat16 in seen
    assert all(p.dtype is torch.float32 for p in agent.parameters())
    after = torch.cat([p.detach().flatten() for p in agent.parameters()])
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    assert rows[-1]["train/grad_norm"] > 0.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
@pytest.mark.parametrize("use_sde", [False, True])
def test_bf16_gradients_are_nearly_the_same_compiled(use_sde: bool):
    with torch.autocast("cpu", torch.bfloat16):
        eager, compiled = gradients(use_sde)
    assert torch.allclose(eager, compiled, atol=0.03 * eager.abs().max().item())
    exact, _ = gradients(use_sde, compiled=False)
    assert not torch.equal(exact, eager)


@STATE_DEPENDENT
def test_the_last_rollout_s_actions_are_those_of_the_kept_matrix(fit: Fit, cls: Any):
    """They are tanh(mean + features @ matrix), in the order of the environments."""
    arguments = {**SMALL, "learning_starts": 0, "learning_rate": 0.0, "train_frequency": 16}
    env = {"id": "Pendulum-v1", "num_envs": 2}
    agent = cls(env, 64, use_sde=True, log_std_init=-1.0, **arguments)
    fit(agent)
    replay, rows = agent.state.replay, np.arange(48, 64)
    observation, action = (replay.take(name, rows) for name in ("observation", "action"))
    normal = np.random.default_rng(int(agent.state_noise.seed)).standard_normal(
        (2, 16, 1), dtype=np.float32
    )
    with torch.no_grad():
        mean = agent.actor(observation)[:, :1].numpy()
        features = agent.actor.network(observation).numpy()
    for index in range(16):
        noise = features[index] @ (normal[index % 2] * np.exp(np.float32(-1.0)))
        assert action[index].item() == pytest.approx(np.tanh(mean[index] + noise).item(), abs=1e-5)
    assert np.abs(action.numpy() - agent.act(observation)).max() > 1e-3
    assert agent.gradient_steps == 4


@STATE_DEPENDENT
def test_a_run_with_state_dependent_noise_resumes_exactly(fit: Fit, cls: Any, tmp_path: Any):
    env = {"id": "Pendulum-v1", "num_envs": 2}
    arguments = {**SMALL, "use_sde": True, "sde_sample_freq": 7, "schedule_env_steps": 64}
    path = tmp_path / "a.ckpt"
    fit(cls(env, 64, **arguments)).save_checkpoint(path)
    resumed, straight = (cls(env, 128, **arguments) for _ in range(2))
    fit(resumed, ckpt_path=str(path))
    fit(straight)
    assert int(straight.state_noise.steps) == 128 // 2 - 16 // 2  # the first 16 were uniform
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    alone = cls.load_from_checkpoint(path, env="Pendulum-v1")  # with one environment
    observation = np.zeros((4_000, 3), dtype=np.float32)
    assert np.unique(alone.predict(observation)).size == 1
    assert alone.predict(observation, deterministic=False).std() > 1e-3


def random_minibatch() -> tuple[dict[str, Tensor], Tensor]:
    """Return what an update of SAC gets: transitions and noise."""
    torch.manual_seed(0)
    minibatch = {
        "observation": torch.randn(16, 3),
        "next_observation": torch.randn(16, 3),
        "action": torch.rand(16, 1) * 2 - 1,
        "reward": torch.randn(16),
        "terminated": torch.zeros(16, dtype=torch.bool),
    }
    return minibatch, torch.randn(2, 16, 1)


def gradients(use_sde: bool, compiled: bool = True) -> tuple[Tensor, Tensor]:
    """Return SAC's gradients and statistics of one minibatch, eager and, if asked for, compiled."""
    inputs, results = random_minibatch(), []
    loss = partial(sac_losses, gamma=0.99, target_entropy=-1.0)
    for choice in (False, compiled):
        agent = SAC("Pendulum-v1", 48, **{**SMALL, "use_sde": use_sde})
        networks = [agent.critic, agent.actor, agent.temperature]
        flats = [flatten_parameters(network) for network in networks]
        frozen = [agent.target_critic]
        gradient = joint_gradient_function(loss, networks, flats, choice, frozen)
        parts, statistics = gradient(*inputs)
        results.append(torch.cat((*parts, statistics)))
    return results[0], results[1]


def updates(use_sde: bool) -> tuple[Tensor, Tensor]:
    """Return parameters, moments and statistics after SAC's updates, eager and compiled."""
    (minibatch, noise), results = random_minibatch(), []
    for choice in (False, True):
        agent = SAC("Pendulum-v1", 48, **{**SMALL, "use_sde": use_sde, "compile": choice})
        optimizers = agent.configure_optimizers()
        agent.trainer = SimpleNamespace(world_size=1, optimizers=optimizers)
        for _ in range(3):
            statistics = agent.update(minibatch, noise)
        assert agent.gradient_steps == 3
        states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
        moments = [value for state in states for value in state.values()]
        flats = [flat.flat for flat in (*agent.flats, agent.flat_target)]
        results.append(torch.cat([x.detach().view(-1) for x in (*flats, *moments, statistics)]))
    return results[0], results[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
@pytest.mark.parametrize("use_sde", [False, True])
def test_updates_are_the_same_compiled(use_sde: bool):
    assert torch.allclose(*updates(use_sde), atol=3e-5)  # each moved by 9e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inside the compiler
def test_a_compiled_run_resumes_exactly(fit: Fit, tmp_path: Any):
    arguments = {**SMALL, "compile": True, "schedule_env_steps": 64}
    path = tmp_path / "a.ckpt"
    fit(SAC("Pendulum-v1", 64, **arguments)).save_checkpoint(path)
    resumed, straight = (SAC("Pendulum-v1", 128, **arguments) for _ in range(2))
    optimizers = [fit(resumed, ckpt_path=str(path)).optimizers, fit(straight).optimizers]
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    for ours, theirs in zip(*optimizers, strict=True):
        states = (ours.state_dict()["state"][0], theirs.state_dict()["state"][0])
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert states[0]["step"].item() == straight.gradient_steps == 113


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_sde": True, "sde_sample_freq": 0}, "expected sde_sample_freq to be at least 1"),
        ({"use_sde": True, "hidden_sizes": ()}, "expected hidden_sizes with at least one layer"),
        ({"tau": 1.5}, r"expected tau to be in \[0.0, 1.0\], received 1.5"),
        ({"alpha": -1.0}, "expected alpha to be at least 0.0"),
        ({"target_entropy": "aut"}, "expected target_entropy among auto, received 'aut'"),
        ({"alpha_learning_rate": -1.0}, "expected alpha_learning_rate"),
        ({"gradient_steps": 0}, "expected gradient_steps"),
        ({"num_critics": 0}, "expected num_critics to be at least 1, received 0"),
        ({"num_critics": 0, "critic": nn.Linear}, "expected num_critics to be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_line(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        SAC("Pendulum-v1", **arguments)
    assert "\n" not in str(caught.value)
