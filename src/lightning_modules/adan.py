"""Adan, the optimiser that AToM was trained with; no library that this project uses has it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from src.errors import ConfigError
from src.lightning_modules.optimization import run_closure

_MOMENTS = ("m", "v", "n", "last_grad")


class Adan(Optimizer):
    """Adaptive Nesterov momentum (Xie et al., arXiv:2208.06677, algorithm 1), in the form that EDGE and AToM use.

    With the gradient g, its difference d from the last one, and k the number of the step from 1 on:

        m <- (1 - b1) m + b1 g,   v <- (1 - b2) v + b2 d,   n <- (1 - b3) n + b3 (g + (1 - b2) d)^2,   c_i = 1 / (1 - (1 - b_i)^k)
        theta <- (theta - lr / (sqrt(c3 n) + eps) (c1 m + (1 - b2) c2 v)) / (1 + lr weight_decay)

    In the first step, which knows no difference yet, m, v and n stay 0 but k counts, as there. A parameter without a gradient stays.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: b1, b2, b3: the share of the new value, not of the old one as elsewhere.
        eps: against division by zero.
        weight_decay: decoupled, applied last.

    Raises:
        ConfigError: a number out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 4e-4,
        betas: Sequence[float] = (0.02, 0.08, 0.01),
        eps: float = 1e-8,
        weight_decay: float = 0.02,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or len(betas) != 3 or not all(0 < b < 1 for b in betas):
            raise ConfigError(
                f"Adan: lr={lr}, eps={eps} and weight_decay={weight_decay} must not be negative, and the three betas={list(betas)} "
                "must lie between 0 and 1."
            )
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # ty: ignore[incompatible-method-override]
        """One step for all parameters that have a gradient."""
        loss = run_closure(closure)
        for group in self.param_groups:
            for step, parameters in self._by_step(group["params"]).items():
                self._update(parameters, step, group)
        return loss

    def _by_step(self, parameters: Iterable[Tensor]) -> dict[int, list[Tensor]]:
        """Those that have a gradient, by the number of steps that they have made: one may have had none before."""
        found: dict[int, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is not None:
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0} | {name: torch.zeros_like(parameter) for name in _MOMENTS}
                found[state["step"]].append(parameter)
        return found

    def _update(self, parameters: list[Tensor], step: int, group: dict[str, Any]) -> None:
        """One step of parameters that have made `step` ones, all at once."""
        b1, b2, b3 = group["betas"]
        states = [self.state[parameter] for parameter in parameters]
        m, v, n, last = ([state[name] for state in states] for name in _MOMENTS)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if step:
            difference = torch._foreach_sub(grads, last)
            ahead = torch._foreach_add(grads, difference, alpha=1 - b2)
            torch._foreach_lerp_(m, grads, b1)
            torch._foreach_lerp_(v, difference, b2)
            torch._foreach_lerp_(n, torch._foreach_mul(ahead, ahead), b3)
        c1, c2, c3 = (1 / (1 - (1 - b) ** (step + 1)) for b in (b1, b2, b3))
        direction = torch._foreach_add(torch._foreach_mul(m, c1), v, alpha=(1 - b2) * c2)
        size = torch._foreach_add(torch._foreach_sqrt(torch._foreach_mul(n, c3)), group["eps"])
        torch._foreach_addcdiv_(parameters, direction, size, value=-group["lr"])
        torch._foreach_div_(parameters, 1 + group["lr"] * group["weight_decay"])
        torch._foreach_copy_(last, grads)
        for state in states:
            state["step"] += 1
