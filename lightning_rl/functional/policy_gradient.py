"""The policy gradient as a loss."""

from __future__ import annotations

from torch import Tensor


def policy_gradient_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Return `-mean(log pi(a|s) A)`, whose gradient is the policy gradient with the sign turned.

    Williams, 1992, https://doi.org/10.1007/BF00992696, theorem 1. No gradient reaches `advantage`.

    Args:
        log_prob: `(B,)` of the actions taken, under the policy that learns.
        advantage: `(B,)` returns, less whatever does not depend on the action.
    """
    return -(log_prob * advantage.detach()).mean()
