"""Optimizers for one flat parameter: the kernels without the bookkeeping around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_ONE = torch.ones(())  # a Python number would be made a tensor at every step


class FlatAdam(torch.optim.Adam):
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980) on one contiguous parameter.

    The same mathematics, state and checkpoint as `torch.optim.Adam(fused=True)`. For small networks
    the kernel takes a fifth of that class's `step`, whose rest groups tensors, looks for graphs to
    capture and runs hooks; one tensor on one device needs none of it.

    Args:
        parameter: `(P,)` leaf tensor.
        lr: Learning rate, above 0; read anew from `param_groups` at each step.
        eps: Added to the denominator.
        betas: Decay of the running mean and of the running mean square, in [0, 1).
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        lr: float,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__([parameter], lr=lr, betas=betas, eps=eps, fused=True)
        self.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step with the gradient in `parameter.grad`; `closure` is not supported."""
        group = self.param_groups[0]
        parameter: Tensor = group["params"][0]
        if parameter.grad is None:
            return
        self.count_step()
        state = self.state[parameter]
        beta1, beta2 = group["betas"]
        torch._fused_adam_(
            [parameter.detach()],  # the same memory, of which autograd records nothing
            [parameter.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def count_step(self) -> None:
        """Count a step, which `step` does itself and who steps by `adam_update` has to."""
        self.state[self.param_groups[0]["params"][0]]["step"] += _ONE

    def scales(self) -> tuple[float, float]:
        """Return the factors of the running mean and of the root of the running mean square.

        They are `lr / (1 - beta1^t)` and `1 / sqrt(1 - beta2^t)` at step t.
        """
        group = self.param_groups[0]
        beta1, beta2 = group["betas"]
        count = self.state[group["params"][0]]["step"].item()
        return group["lr"] / (1.0 - beta1**count), (1.0 - beta2**count) ** -0.5

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load in place: a compiled update holds on to the tensors of the state."""
        parameter = self.param_groups[0]["params"][0]
        kept = self.state[parameter]
        super().load_state_dict(state_dict)
        loaded = self.state[parameter]
        for name, tensor in kept.items():
            tensor.copy_(loaded[name]) if name in loaded else tensor.zero_()
        self.state[parameter] = kept

    # `Optimizer` wraps the step of every class that does not say it has been wrapped in a profiler
    # range, which costs more than the kernel.
    step.hooked = True  # type: ignore[attr-defined]


def adam_update(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    scales: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Make a step of Adam in place, of tensor operations alone, for a program that is compiled.

    Args:
        parameter: Of any shape, as are its gradient and the running means.
        gradient: Of the loss.
        exp_avg: Running mean of gradients.
        exp_avg_sq: Of their squares.
        scales: `(2,)`, what `FlatAdam.scales` returns.
        betas: Decays of the two.
        eps: Added to the denominator.
    """
    beta1, beta2 = betas
    exp_avg.lerp_(gradient, 1.0 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    parameter.sub_(scales[0] * exp_avg / (exp_avg_sq.sqrt() * scales[1] + eps))


class FlatRMSprop(torch.optim.Optimizer):
    """RMSprop as A3C has it, on one contiguous parameter.

    Mnih et al., 2016, https://arxiv.org/abs/1602.01783, equation S2 and S3: `g := alpha g +
    (1 - alpha) d^2`, `parameter -= lr d / sqrt(g + eps)`. PyTorch's adds `eps` outside of the root.

    Args:
        parameter: `(P,)` leaf tensor.
        lr: Learning rate, above 0; read anew from `param_groups` at each step.
        alpha: Decay of the running mean square, in [0, 1).
        eps: Added under the root.
    """

    def __init__(
        self, parameter: nn.Parameter, lr: float, alpha: float = 0.99, eps: float = 1e-5
    ) -> None:
        super().__init__([parameter], {"lr": lr, "alpha": alpha, "eps": eps})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step with the gradient in `parameter.grad`; `closure` is not supported."""
        group = self.param_groups[0]
        parameter: Tensor = group["params"][0]
        gradient = parameter.grad
        if gradient is None:
            return
        state = self.state[parameter]
        if not state:
            state["square_avg"] = torch.zeros_like(parameter, requires_grad=False)
        square = state["square_avg"]
        square.mul_(group["alpha"]).addcmul_(gradient, gradient, value=1.0 - group["alpha"])
        # Detached: the same memory, of which autograd records nothing.
        parameter.detach().addcdiv_(gradient, (square + group["eps"]).sqrt_(), value=-group["lr"])

    step.hooked = True  # type: ignore[attr-defined]  # as for `FlatAdam`
