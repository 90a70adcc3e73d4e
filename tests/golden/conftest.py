"""Golden cases: tensors made by the original implementations, read from the folder named by GOLDEN_DIR."""

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR", Path(os.environ.get("SHARED_DIR", "../shared")) / "golden"))


@dataclass(frozen=True)
class GoldenCase:
    """One fixture: the JSON beside its tensors.

    `weights`, `inputs`, `mids` and `outputs` drop their prefix (`weight/`, `in/`, `mid/`, `out/`). All tensors are clones: tensors that
    share the file's unaligned memory take other kernels and move results by 1e-6.
    """

    path: Path
    meta: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def check(self) -> str:
        return self.meta["check"]

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        file = self.path.with_suffix(".safetensors")
        return {k: v.clone() for k, v in load_file(file).items()} if file.exists() else {}

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix + "/"): v for k, v in self.tensors.items() if k.startswith(prefix + "/")}

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return self.group("in")

    @property
    def mids(self) -> dict[str, torch.Tensor]:
        return self.group("mid")

    @property
    def outputs(self) -> dict[str, torch.Tensor]:
        return self.group("out")

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """Stored weights, with those of the case named by `weights_from`; empty where the recipe of the JSON makes them."""
        shared: dict[str, torch.Tensor] = {}
        if named := self.shares():
            other, prefix = named
            shared = {k.removeprefix(prefix): v for k, v in other.weights.items() if k.startswith(prefix)}
        return shared | self.group("weight")

    def shares(self) -> tuple["GoldenCase", str] | None:
        """The case that `weights_from` names, and what stands before its names of the weights ("" where there are several prefixes).

        The field holds a case, its file, or `{"file": ..., "prefix": ...}`.
        """
        named = self.meta.get("weights_from")
        if not named:
            return None
        file, prefix = (named["file"], named.get("prefix", "")) if isinstance(named, dict) else (named, "")
        name = file.removesuffix(".safetensors").removesuffix(".json")
        path = self.path.with_name(f"{name}.json")  # a file of nothing but weights has none
        other = load_case(path) if path.exists() else GoldenCase(path, {})
        return other, prefix if isinstance(prefix, str) else ""


def load_case(path: Path) -> GoldenCase:
    return GoldenCase(path, json.loads(path.read_text()))


def golden_cases(method: str) -> list[GoldenCase]:
    """Every case of a method's folder, sorted by name; empty when the golden folder does not exist."""
    return [load_case(p) for p in sorted((GOLDEN_DIR / method).glob("*.json"))]
