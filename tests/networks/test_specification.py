"""Networks named in a configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_rl.errors import ConfigError
from lightning_rl.networks.policies import MLPActor
from lightning_rl.networks.specification import network_factory


class Own(nn.Linear):
    """Somebody's own network."""


def test_none_means_the_default():
    assert network_factory(None) is None


@pytest.mark.parametrize(
    "spec",
    [
        "lightning_rl.networks.policies.MLPActor",
        {"class_path": "lightning_rl.networks.policies.MLPActor"},
        {"class_path": "lightning_rl.networks.policies.MLPActor", "init_args": None},
        MLPActor,
    ],
)
def test_every_spelling_gives_the_network(spec: Any):
    network = network_factory(spec)(3, 2)
    assert type(network) is MLPActor
    assert network(torch.zeros(5, 3)).shape == (5, 2)


def test_arguments_reach_the_class():
    path = "lightning_rl.networks.policies.MLPActor"
    network = network_factory({"class_path": path, "init_args": {"hidden_sizes": [7]}})(3, 2)
    assert [p.shape for p in network.parameters()][:1] == [torch.Size([7, 3])]
    mlp = network_factory({"class_path": "lightning_rl.networks.mlp.MLP"})(3, 2)
    assert [p.shape for p in mlp.parameters()][::2] == [(64, 3), (64, 64), (2, 64)]
    bare = network_factory({"class_path": "torch.nn.Linear", "init_args": {"bias": False}})(3, 2)
    assert len(list(bare.parameters())) == 1


def test_classes_and_functions_are_called_with_the_sizes():
    assert type(network_factory(Own)(3, 2)) is Own
    assert (
        network_factory(lambda inputs, outputs: nn.Linear(inputs, outputs))(3, 2).in_features == 3
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (nn.Linear(3, 2), "received Linear; pass the class"),
        (5, "received int"),
        ("os.getcwd", "not on the allow-list"),
        ("torch.nn.functional.relu", "must name a subclass of Module"),
        ({"class_path": "torch.nn.Linaer"}, "did you mean 'Linear'"),
        ({"class_path": "torch.nn.Linear", "init_args": {"hidden": 1}}, "hidden"),
        ({"class_path": "torch.optim.Adam"}, "must name a subclass of Module"),
    ],
)
def test_mistakes_are_named_in_one_line(spec: Any, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        network_factory(spec)(3, 2)
    assert "\n" not in str(caught.value)
