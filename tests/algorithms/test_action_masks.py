"""Invalid-action masking of PPO and RecurrentPPO, from the environment to the exported policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.algorithms.ppo import PPO
from lightning_rl.algorithms.recurrent_ppo import RecurrentPPO
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.few_valid_actions import FewValidActionsEnv
from lightning_rl.errors import ConfigError
from lightning_rl.runs.execution import evaluate_policy
from lightning_rl.runs.export import SUFFIXES, export_policy
from tests.envs.masked import Corridor, CorridorWithMethod

Fit = Callable[..., Any]
FEW = "LightningRL/FewValidActions-v0"
SMALL: dict[str, Any] = {
    "mask_actions": True,
    "num_steps": 32,
    "minibatch_size": 64,
    "learning_rate": 3e-3,
    "gamma": 0.5,
    "seed": 1,
    "hidden_sizes": (32,),
}
AGENTS: dict[str, Callable[..., Any]] = {
    "PPO": lambda env, steps=512, **more: PPO(env, steps, **{**SMALL, "compile": False, **more}),
    "RecurrentPPO": lambda env, steps=512, **more: RecurrentPPO(
        env, steps, **{**SMALL, "hidden_size": 32, **more}
    ),
}
CORRIDORS = [(Corridor, "discrete"), (CorridorWithMethod, "multi_discrete")]


@pytest.fixture(params=AGENTS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return AGENTS[request.param]


def corridor(task: Any, action: str, **fields: Any) -> EnvConfig:
    return EnvConfig(factory=task, num_envs=4, kwargs={"action": action}, **fields)


def is_valid(rollout: Rollout) -> np.ndarray:
    """Return for each action `(T, N)` of a rollout whether the mask stored with it allows it."""
    mask = rollout.observation["action_mask"][:-1]  # type: ignore[call-overload]
    if rollout.action.ndim == 2:
        return np.take_along_axis(mask, rollout.action[..., None], -1)[..., 0] == 1
    return np.take_along_axis(mask, np.add(rollout.action, [0, 2]), -1).all(-1)


class Memory:
    """What a recurrent policy needs of its source to act; episodes that never end."""

    def __init__(self, agent: Any) -> None:
        size = getattr(agent.network, "state_size", 0)
        self.state = np.zeros((agent.env_config.num_envs, size), dtype=np.float32)

    def state_before(self, step: int) -> np.ndarray:
        return self.state

    def keep(self, state: np.ndarray) -> None:
        self.state = state


# Nothing invalid is chosen: the corridors raise where it is.


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(("task", "action"), CORRIDORS)
@pytest.mark.parametrize("normalize", [False, True])
def test_training_and_evaluation_choose_among_valid_actions(
    make: Any, fit: Fit, task: Any, action: str, vectorization: str, normalize: bool
) -> None:
    if vectorization == "async" and normalize:
        return  # nothing more to see, and processes take a while to start
    config = corridor(task, action, vectorization=vectorization, normalize_observation=normalize)
    agent = make(config, 256)
    fit(agent, limit_val_batches=2, num_sanity_val_steps=1)
    assert agent.env_steps == 256
    assert agent.evaluation["lengths"] == [4, 4]
    if normalize:
        moments = agent.network.observation_normalizer.leaves["observation"]
        assert moments.count == 256
        assert moments.mean.item() == pytest.approx(1.5)


@pytest.mark.parametrize("wild", [False, True])
def test_no_invalid_action_in_a_million_draws(make: Any, wild: bool) -> None:
    """Of the acting path of training, and of `act`; also where logits are far apart."""
    num_envs, num_steps = 1_000, 50 if wild else 500
    agent = make({"id": FEW, "num_envs": num_envs}, num_steps=num_steps)
    if wild:
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.mul_(300.0)
    env = FewValidActionsEnv()
    generator = np.random.default_rng(0)
    rooms = generator.integers(env.num_rooms, size=(num_steps, num_envs))
    one_hot = np.eye(env.num_rooms, dtype=np.float32)
    agent.source = Memory(agent)
    act = agent.begin_rollout(num_steps)
    invalid = 0
    for step, room in enumerate(rooms):
        observation = {
            "observation": torch.from_numpy(one_hot[room]),
            "action_mask": torch.from_numpy(env.masks[room]),
        }
        for action in (act(observation, step), agent.act(observation, deterministic=False)):
            invalid += int((env.masks[room, action] == 0).sum())
    assert wild or 2 * num_envs * num_steps == 1_000_000
    assert invalid == 0


def test_every_valid_action_is_drawn_as_often_as_it_should_be() -> None:
    """The first policy is nearly uniform, over the valid actions only."""
    agent = AGENTS["PPO"](FEW)
    env = FewValidActionsEnv()
    rows = 20_000
    observation = {
        "observation": torch.eye(env.num_rooms)[:1].expand(rows, -1),
        "action_mask": torch.from_numpy(env.masks[:1]).expand(rows, -1),
    }
    shares = np.bincount(agent.act(observation, deterministic=False), minlength=50) / rows
    valid = env.masks[0] == 1
    assert not shares[~valid].any()
    assert shares[valid] == pytest.approx(1.0 / valid.sum(), abs=0.03)


# What is learned from.


@pytest.mark.parametrize(("task", "action"), CORRIDORS)
def test_the_stored_mask_is_that_of_the_stored_action(
    make: Any, fit: Fit, task: Any, action: str
) -> None:
    agent = make(corridor(task, action), 256)
    seen = []
    estimate = agent.estimate

    def check(rollout: Rollout) -> Any:
        assert is_valid(rollout).all()
        final = [observation["action_mask"] for observation in rollout.final_observation]  # type: ignore[index]
        assert not np.any(final)  # behind an episode's end stands the mask of the next one
        assert rollout.observation["action_mask"].any(-1).all()  # type: ignore[call-overload]
        experience = estimate(rollout)
        assert torch.isfinite(experience["log_prob"]).all()
        assert (experience["log_prob"] <= 0.0).all()
        seen.append(len(rollout.final_index))
        return experience

    agent.estimate = check
    fit(agent)
    assert seen == [32, 32]


def test_the_first_minibatch_has_ratio_one_and_entropy_of_the_valid_alone(
    make: Any, fit: Fit
) -> None:
    agent = make({"id": FEW, "num_envs": 4}, 128, minibatch_size=1_000, update_epochs=1)
    metrics: dict[str, float] = {}
    agent.log_metrics = metrics.update
    fit(agent)
    assert metrics["train/approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["train/clip_fraction"] == 0.0
    assert np.log(2) < -metrics["train/entropy_loss"] < np.log(5)


def test_invalid_actions_get_no_gradient(fit: Fit) -> None:
    """An action that is valid nowhere keeps its row of the last layer, weights and bias."""
    agent = AGENTS["PPO"]({"id": FEW, "num_envs": 4}, 256, ent_coef=0.1)
    last = agent.network.actor.layers[-1]
    before = last.weight.detach().clone(), last.bias.detach().clone()
    fit(agent)
    never = torch.from_numpy(~FewValidActionsEnv().masks.any(0))
    assert never.any() or FewValidActionsEnv().masks.any(0).all()
    moved = (last.weight != before[0]).any(1) | (last.bias != before[1])
    assert not moved[never].any()
    assert moved.any()


@pytest.mark.parametrize("name", AGENTS)
def test_it_learns_within_a_few_rollouts(fit: Fit, name: str) -> None:
    agent = AGENTS[name]({"id": FEW, "num_envs": 8}, 5_120, learning_rate=5e-3, update_epochs=10)
    fit(agent)
    result = evaluate_policy(agent, num_episodes=20)
    assert np.mean(result.episode_rewards) >= 0.95 * FewValidActionsEnv().optimal_return


# Checkpoints.


def test_a_stop_within_a_rollout_changes_nothing(make: Any, fit: Fit, tmp_path: Path) -> None:
    config, path = corridor(Corridor, "discrete"), tmp_path / "a.ckpt"

    def saving(at: int) -> Any:
        agent, polls = make(config, 384), [0]
        poll = agent.poll

        def counted() -> None:
            poll()
            polls[0] += 1
            if polls[0] == at:
                agent.trainer.save_checkpoint(path)

        agent.poll = counted
        return agent

    straight = saving(20)  # of 32 steps
    fit(straight)
    saved = torch.load(path, weights_only=True)["lightning_rl"]["source"]["rollout"]
    assert saved["cursor"] == 19
    assert saved["observation"]["action_mask"].shape == (20, 4, 4)
    resumed = make(config, 384)
    fit(resumed, ckpt_path=str(path))
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_checkpoint_is_a_complete_policy(make: Any, fit: Fit, tmp_path: Path) -> None:
    agent = make({"id": FEW, "num_envs": 4}, 128)
    path = tmp_path / "a.ckpt"
    fit(agent).save_checkpoint(path)
    loaded = type(agent).load_from_checkpoint(path)
    assert loaded.hyperparameters["env"] == {"id": FEW, "num_envs": 4}
    assert loaded.hyperparameters["mask_actions"] is True
    env = FewValidActionsEnv()
    observation, info = env.reset(seed=0)
    mask = info["action_mask"]
    assert loaded.predict(observation, action_mask=mask) == agent.predict(
        observation, action_mask=mask
    )
    plain = tmp_path / "plain.ckpt"
    fit(make({"id": FEW, "num_envs": 4}, 128, mask_actions=False)).save_checkpoint(plain)
    with pytest.raises(ConfigError, match="mask_actions: expected observations with an entry"):
        type(agent).load_from_checkpoint(plain, mask_actions=True)


# Acting outside of training.


@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_takes_the_mask_beside_the_observation(make: Any, deterministic: bool) -> None:
    agent = make(FEW)
    env = FewValidActionsEnv()
    rooms = np.eye(env.num_rooms, dtype=np.float32)
    actions = agent.predict(rooms, deterministic, action_mask=env.masks)
    assert actions.shape == (env.num_rooms,)
    assert env.masks[np.arange(env.num_rooms), actions].all()
    for room in range(5):  # one alone, also as the agent's own environments show it
        both = {"observation": rooms[room], "action_mask": env.masks[room]}
        action, _ = agent.predict_with_state(rooms[room], None, deterministic, env.masks[room])
        assert env.masks[room, int(action)]
        assert env.masks[room, int(agent.predict(both, deterministic))]
        if deterministic:
            assert action == agent.predict(both) == actions[room]


def test_the_best_action_is_the_best_of_the_valid_ones() -> None:
    agent = AGENTS["PPO"](corridor(Corridor, "discrete"))
    with torch.no_grad():
        agent.network.actor.layers[-1].bias.copy_(torch.tensor([5.0, 4.0, 3.0, 2.0]))
    act = lambda mask: int(agent.predict([0.0], action_mask=mask))  # noqa: E731
    # Actions of this space are counted from 3, masks from 0.
    assert [act([1, 1, 1, 1]), act([0, 1, 1, 1]), act([0, 0, 0, 1])] == [3, 4, 6]
    assert act([False, True, False, True]) == 4


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, r'action_mask=info\["action_mask"\]\), received none'),
        ([1, 1], r"a mask of shape \(4,\)"),
        ([0, 0, 0, 0], "at least one valid action"),
    ],
)
def test_mistakes_of_callers_are_named(mask: Any, message: str) -> None:
    agent = AGENTS["PPO"](corridor(Corridor, "discrete"))
    with pytest.raises(ConfigError, match=message):
        agent.predict([0.0], action_mask=mask)


def test_a_mask_without_the_flag_is_a_mistake() -> None:
    agent = PPO(FEW, mask_actions=False, seed=1)
    with pytest.raises(ConfigError, match="expected an agent with mask_actions"):
        agent.predict(np.zeros(50), action_mask=np.ones(50))


@pytest.mark.parametrize("env", ["Pendulum-v1", "LightningRL/ObservationAction-v0"])
def test_other_actions_and_environments_without_masks(make: Any, fit: Fit, env: str) -> None:
    message = "Discrete or MultiDiscrete" if env == "Pendulum-v1" else "expected the environment to"
    with pytest.raises(ConfigError, match=message) as caught:
        fit(make(env))
    assert "\n" not in str(caught.value)


def test_executing_takes_the_masks_of_any_environment(make: Any) -> None:
    agent = make(corridor(Corridor, "discrete"))
    for env in (None, Corridor(), Corridor, EnvConfig(factory=CorridorWithMethod)):
        result = evaluate_policy(agent, env, num_episodes=3, deterministic=False)
        assert result.error_message is None
        assert result.episode_lengths == [4, 4, 4]


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_an_exported_policy_takes_the_mask_as_an_input(
    make: Any, tmp_path: Path, format: Any
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    agent = make({"id": FEW, "num_envs": 4}).eval()
    path = tmp_path / f"policy{SUFFIXES[format]}"
    export = export_policy(agent, path, format, num_checks=200)
    names = ("action_mask", "observation")
    assert export.inputs[:2] == names
    if format == "torch":
        return
    env = FewValidActionsEnv()
    rooms = np.eye(env.num_rooms, dtype=np.float32)
    feed: dict[str, Any] = {"observation": rooms, "action_mask": env.masks}
    if isinstance(agent, RecurrentPPO):
        feed["state"] = np.zeros((env.num_rooms, 64), dtype=np.float32)
    action = onnxruntime.InferenceSession(str(path)).run(["action"], feed)[0]
    assert np.array_equal(action, agent.predict(rooms, action_mask=env.masks))
    assert env.masks[np.arange(env.num_rooms), action].all()
