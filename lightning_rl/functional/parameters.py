"""Parameters of a module as one flat tensor: one optimizer kernel, one all-reduce, one clipping."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FlatParameters:
    """All trainable parameters of a module as views of one contiguous buffer.

    A step of an optimizer on `flat` changes the module's parameters, whose objects stay what they
    were. The views last until something replaces their data: move the module to its device first,
    and see `is_attached`.

    Attributes:
        flat: `(P,)` parameter to hand to an optimizer; not registered in the module, so it has no
            name there.
        named: Name in the module to parameter, in the order of `flat`.
    """

    def __init__(self, named: dict[str, nn.Parameter]) -> None:
        """Move the data of `named` into one buffer; `flatten_parameters` checks them first."""
        self.named = named
        self.flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in named.values()]))
        self._names = tuple(named)
        for parameter, view in zip(named.values(), self._views(), strict=True):
            parameter.data = view

    def flatten_gradients(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return gradients, by parameter name, as one `(P,)` tensor in the order of `flat`."""
        return torch.cat([gradients[name].reshape(-1) for name in self._names])

    def is_attached(self) -> bool:
        """Return whether every parameter is still a view of `flat` (`module.to()` may end that)."""
        pairs = zip(self.named.values(), self._views(), strict=True)
        return all(p.data_ptr() == view.data_ptr() and p.shape == view.shape for p, view in pairs)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return the parts of a `(P,)` tensor that belong to the parameters, as views of it."""
        parameters = list(self.named.values())
        chunks = flat.split([p.numel() for p in parameters])
        return [chunk.view(p.shape) for chunk, p in zip(chunks, parameters, strict=True)]

    def _views(self) -> list[Tensor]:
        return self.split(self.flat.detach())


def flatten_parameters(module: nn.Module) -> FlatParameters:
    """Re-point every trainable parameter of `module` to a view of one flat buffer.

    Args:
        module: On its final device; parameters without `requires_grad` are left alone.

    Returns:
        The flat parameter and what belongs to it.

    Raises:
        ValueError: A parameter is registered under two names (`torch.func.functional_call` would
            replace it by a plain tensor or lose its gradient), none is trainable, or they differ in
            dtype or device.
    """
    check_unique_names(module)
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError(
            f"expected a module with trainable parameters, got {type(module).__name__}"
        )
    kinds = {(p.dtype, p.device) for p in named.values()}
    if len(kinds) > 1:
        listing = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(f"expected parameters of one dtype on one device, got {listing}")
    return FlatParameters(named)


def check_unique_names(module: nn.Module) -> None:
    """Raise a ValueError with both names of a parameter that `module` registers twice."""
    names: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        earlier = names.setdefault(id(parameter), name)
        if earlier != name:
            raise ValueError(
                "expected every parameter under one name, got one registered as"
                f" {earlier!r} and as {name!r}; register the shared module once"
            )


@torch.no_grad()
def polyak_update(
    target: nn.Module | FlatParameters, online: nn.Module | FlatParameters, tau: float
) -> None:
    """Set `target := (1 - tau) * target + tau * online` in place.

    The soft target update of Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971.

    Args:
        target: Module, or its flat parameters (one operation instead of one per tensor).
        online: Of the same form; never changed. Its buffers (running statistics) are copied, not
            averaged.
        tau: Weight of the online network in [0, 1]; 1 copies.

    Raises:
        ValueError: One argument is a module and the other is not, or their parameters differ in
            number.
    """
    if isinstance(target, FlatParameters) and isinstance(online, FlatParameters):
        target.flat.lerp_(online.flat, tau)
        return
    if isinstance(target, FlatParameters) or isinstance(online, FlatParameters):
        raise ValueError("expected two modules or two FlatParameters, got one of each")
    targets: list[Tensor] = list(target.parameters())
    onlines: list[Tensor] = list(online.parameters())
    if len(targets) != len(onlines):
        raise ValueError(f"expected equal networks, got {len(targets)} and {len(onlines)} tensors")
    if targets:
        torch._foreach_lerp_(targets, onlines, tau)
    for buffer, source in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(source)


def hard_update(target: nn.Module | FlatParameters, online: nn.Module | FlatParameters) -> None:
    """Copy `online` into `target`, as `polyak_update` with `tau=1`."""
    polyak_update(target, online, 1.0)


def clip_by_global_norm(gradient: Tensor, max_norm: float | Tensor) -> tuple[Tensor, Tensor]:
    """Scale a flat gradient down to at most `max_norm`.

    Pascanu et al., 2013, https://arxiv.org/abs/1211.5063.

    Args:
        gradient: `(P,)`, all gradients.
        max_norm: Largest Euclidean norm; `inf` turns clipping off.

    Returns:
        The clipped `(P,)` gradient, and the norm before clipping as a scalar tensor.
    """
    norm = torch.linalg.vector_norm(gradient)
    # 1e-6 as in torch.nn.utils.clip_grad_norm_, so that results agree with it.
    return gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0), norm
