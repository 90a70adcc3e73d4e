"""Muon for the matrices of a network and AdamW for all else, as one optimiser: fewer steps than AdamW alone, for short trainings."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from src.errors import CheckpointError, ConfigError
from src.lightning_modules.optimization import run_closure


class MuonWithAdamW(Optimizer):
    """Weights of linear layers and convolutions move by orthogonalised momentum (Muon), biases and norms by AdamW.

    Muon: Jordan et al., https://kellerjordan.github.io/posts/muon; the update is that of `torch.optim.Muon`. The shape alone decides: what
    is a matrix once all axes but the first are joined is Muon's, tables of embeddings included. Schedules that multiply the learning rate
    scale both rates alike; a `base_lr` sets that of AdamW alone. Not for parameters that are sharded over processes.

    Args:
        params: parameters; a network should be given whole.
        lr: learning rate of AdamW.
        matrix_lr: of Muon, whose steps have a size of their own: about twenty times as large.
        betas: of AdamW.
        momentum: of Muon.
        weight_decay: of both, decoupled.
        fused: AdamW in one kernel.

    Raises:
        ConfigError: a number out of its range.
        ValueError: no parameters.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 6e-4,
        matrix_lr: float = 0.012,
        betas: Sequence[float] = (0.9, 0.98),
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        if lr < 0 or matrix_lr < 0 or weight_decay < 0 or not all(0 <= b < 1 for b in (*betas, momentum)):
            raise ConfigError(
                f"MuonWithAdamW: lr={lr}, matrix_lr={matrix_lr} and weight_decay={weight_decay} must not be negative, betas={list(betas)} "
                f"and momentum={momentum} must lie between 0 and 1."
            )
        parameters = list(params)
        self._matrices = [p for p in parameters if p.ndim >= 2 and min(len(p), p[0].numel()) > 1]
        chosen = {id(p) for p in self._matrices}
        others = [p for p in parameters if id(p) not in chosen]
        super().__init__(
            [{"params": group, "lr": rate} for group, rate in ((self._matrices, matrix_lr), (others, lr)) if group],
            {"lr": lr},
        )
        # Muon takes matrices alone: it is given views, which lead to the weights again in every step.
        self._views = [torch.nn.Parameter(p.detach().flatten(1)) for p in self._matrices]
        self._parts: list[Optimizer] = []
        if self._views:
            self._parts.append(Muon(self._views, lr=matrix_lr, momentum=momentum, weight_decay=weight_decay))
        if others:
            self._parts.append(AdamW(others, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=fused))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # ty: ignore[incompatible-method-override]
        """One step for all parameters that have a gradient."""
        loss = run_closure(closure)
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
        for weight, view in zip(self._matrices, self._views, strict=True):
            view.data = weight.detach().flatten(1)
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts:
            part.step()
        for weight, view in zip(self._matrices, self._views, strict=True):
            view.grad = None
            if view.data_ptr() != weight.data_ptr():  # a convolution laid out by channels had to be copied
                weight.copy_(view.view(weight.shape))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Learning rates, and what both parts remember."""
        return {**super().state_dict(), "parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        parts = state_dict.get("parts", ())
        if len(parts) != len(self._parts):
            raise CheckpointError(
                "the checkpoint was trained with another optimiser than MuonWithAdamW: set model.optimizer as it was, or begin anew."
            )
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for part, saved in zip(self._parts, parts, strict=True):
            part.load_state_dict(saved)
