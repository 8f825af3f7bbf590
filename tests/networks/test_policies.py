"""Actor-critic modules: spaces, sharing, gradients, inference."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from lightning_rl.errors import ConfigError
from lightning_rl.functional.parameters import flatten_parameters
from lightning_rl.networks.distributions import make_action_head
from lightning_rl.networks.mlp import MLP
from lightning_rl.networks.policies import ActorCritic, MLPActor

VECTOR = spaces.Box(-1, 1, (4,))
IMAGE = spaces.Box(0, 255, (8, 8, 2), np.uint8)
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "box": spaces.Box(-1, 1, (2,)),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}
OBSERVATIONS = {
    "vector": (VECTOR, torch.randn(5, 4)),
    "image": (IMAGE, torch.randint(0, 256, (5, 8, 8, 2), dtype=torch.uint8)),
    "discrete": (spaces.Discrete(5), torch.tensor([0, 1, 2, 3, 4])),
    "dict": (
        spaces.Dict({"a.b": VECTOR, "c": spaces.Discrete(2)}),
        {"a.b": torch.randn(5, 4), "c": torch.tensor([0, 1, 1, 0, 1])},
    ),
}


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_pair_of_spaces(observation, action, shared_trunk):
    space, batch = OBSERVATIONS[observation]
    head = make_action_head(ACTIONS[action])
    agent = ActorCritic(
        space, ACTIONS[action], shared_trunk=shared_trunk, normalize_observation=True
    )
    agent.observation_normalizer.update(batch)
    parameters, value = agent(batch)
    assert parameters.shape == (5, head.num_outputs * (2 if head.has_log_std else 1))
    assert value.shape == (5,)
    assert torch.equal(agent.distribution_parameters(batch), parameters)
    assert torch.equal(agent.value(batch), value)
    acting = agent.inference_function()(batch)
    assert torch.equal(acting, parameters)
    assert not acting.requires_grad
    chosen = head.sample(acting, head.draw_noise((5,)))
    (head.log_prob(parameters, chosen).sum() + value.sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in agent.parameters())


def test_default_networks_are_separate_and_start_small():
    agent = ActorCritic(VECTOR, ACTIONS["discrete"])
    names = [name for name, _ in agent.named_parameters()]
    assert names == [
        f"{net}.layers.{i}.{kind}"
        for net in ("actor", "critic")
        for i in range(3)
        for kind in ("weight", "bias")
    ]
    parameters, _ = agent(torch.randn(64, 4))
    assert parameters.abs().max() < 0.1


def test_shared_trunk_is_registered_once_and_survives_functional_updates():
    agent = ActorCritic(VECTOR, ACTIONS["box"], shared_trunk=True, hidden_sizes=(8, 6))
    objects = dict(agent.named_parameters())
    flat = flatten_parameters(agent)
    modules = [name.split(".")[0] for name in objects]
    assert modules == ["log_std", *["trunk"] * 4, *["actor"] * 2, *["critic"] * 2]
    x = torch.randn(7, 4)

    def loss(parameters):
        outputs, value = torch.func.functional_call(agent, parameters, (x,))
        return outputs.square().sum() + value.square().sum()

    gradients = torch.func.grad(loss)({k: p.detach() for k, p in objects.items()})
    assert all(gradient.any() for name, gradient in gradients.items() if name != "log_std")
    flat.flat.grad = flat.flatten_gradients(gradients)
    torch.optim.Adam([flat.flat], lr=1e-2, fused=True).step()
    assert all(p is objects[name] for name, p in agent.named_parameters())
    assert torch.equal(agent.inference_function()(x), agent.distribution_parameters(x))


def test_trunk_needs_a_hidden_layer():
    with pytest.raises(ConfigError, match="at least one layer"):
        ActorCritic(VECTOR, ACTIONS["box"], shared_trunk=True, hidden_sizes=())


def test_log_std_starts_where_told():
    agent = ActorCritic(VECTOR, ACTIONS["box"], log_std_init=-0.5)
    parameters = agent.distribution_parameters(torch.randn(3, 4))
    assert parameters[:, 2:].tolist() == [[-0.5, -0.5]] * 3
    assert ActorCritic(VECTOR, ACTIONS["discrete"]).log_std is None


def test_networks_of_ones_own():
    critic = nn.Sequential(nn.Linear(4, 3), nn.ELU(), nn.Linear(3, 1))
    agent = ActorCritic(VECTOR, ACTIONS["discrete"], actor=nn.Linear, critic=critic)
    assert agent.critic is critic
    assert agent.actor.weight.shape == (3, 4)
    x = torch.randn(2, 4)
    parameters, value = agent(x)
    assert value.shape == (2,)
    assert torch.equal(agent.inference_function()(x), parameters)
    wide = ActorCritic(
        VECTOR, ACTIONS["box"], actor=lambda i, o: MLPActor(i, o, (256,), "elu"), shared_trunk=True
    )
    assert isinstance(wide.actor, MLP)
    assert wide.actor.layers[0].weight.shape == (256, 64)


def test_a_network_in_both_roles_is_refused():
    body = nn.Linear(4, 1)
    with pytest.raises(ConfigError, match=r"'actor\.weight' and as 'critic\.weight'"):
        ActorCritic(VECTOR, spaces.Discrete(1), actor=body, critic=body)


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_function_compiles_whole(normalize):
    torch.compiler.reset()
    agent = ActorCritic(VECTOR, ACTIONS["box"], normalize_observation=normalize)
    flat, x = flatten_parameters(agent), torch.randn(6, 4)
    state = {**{k: p.detach() for k, p in flat.named.items()}, **dict(agent.named_buffers())}

    def loss(parameters, x):
        outputs, value = torch.func.functional_call(agent, {**state, **parameters}, (x,))
        return outputs.square().sum() + value.square().sum()

    def gradient(parameters, x):
        return flat.flatten_gradients(torch.func.grad(loss)(parameters, x))

    parameters = {k: p.detach() for k, p in flat.named.items()}
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(parameters, x), gradient(parameters, x))


def test_bf16_autocast_acts_with_the_rounding_of_the_update():
    agent, x = ActorCritic(VECTOR, ACTIONS["box"]), torch.randn(6, 4)
    act = agent.inference_function()
    act(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        parameters, value = agent(x)
        assert torch.equal(act(x), parameters)
    assert parameters.dtype == value.dtype == torch.float32


def test_unsupported_spaces():
    with pytest.raises(ConfigError, match="action space Text"):
        ActorCritic(VECTOR, spaces.Text(2))
    with pytest.raises(ConfigError, match="observation space Text"):
        ActorCritic(spaces.Text(2), ACTIONS["box"])
