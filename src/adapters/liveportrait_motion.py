"""Motion templates: files that hold how a face moves, so that it need not be found in a video again.

Ours are safetensors. The original's are pickles, programs that may call anything; of those only what an array consists of is let through.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from src.errors import ConfigError, MediaError
from src.media import atomic_path
from src.nn.liveportrait.corrections import Ratios
from src.nn.liveportrait.keypoints import NUM_KEYPOINTS, Motion, head_angles

SUFFIX, ORIGINAL_SUFFIX = ".safetensors", ".pkl"
FORMAT = "viseme motion template 1"

_SHAPES = {
    "pitch": (1,), "yaw": (1,), "roll": (1,), "t": (3,), "scale": (1,), "exp": (NUM_KEYPOINTS, 3), "kp": (NUM_KEYPOINTS, 3),
    "eyes": (2,), "lip": (1,),
}  # fmt: skip

# What a pickled array of numbers calls, before and after numpy 2 moved it.
_ARRAY_PARTS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


@dataclass(frozen=True)
class MotionTemplate:
    """How a face moves.

    Attributes:
        motion: one row per frame.
        ratios: how far eyes and lips are open; NaN where that is not known.
        fps: frames per second.
    """

    motion: Motion
    ratios: Ratios
    fps: float

    def __len__(self) -> int:
        return len(self.motion)

    def first(self, n: int) -> "MotionTemplate":
        """The first n frames, or what there is."""
        return MotionTemplate(self.motion[slice(n)], self.ratios[slice(n)], self.fps)

    def to(self, device: torch.device | str) -> "MotionTemplate":
        """The template on another device."""
        ratios = Ratios(self.ratios.eyes.to(device), self.ratios.lip.to(device))
        return MotionTemplate(self.motion.to(device), ratios, self.fps)

    def require_ratios(self) -> None:
        """ConfigError where it is not known how far eyes and lips are open."""
        if torch.isnan(self.ratios.eyes).any() or torch.isnan(self.ratios.lip).any():
            raise ConfigError(
                "The motion template does not say how far eyes and lips are open: leave eye_retargeting and lip_retargeting out."
            )

    def at(self, fps: float | int) -> "MotionTemplate":
        """The frames that are nearest in time at another rate."""
        if fps == self.fps:
            return self
        n = max(round(len(self) * fps / self.fps), 1)
        rows: Int64[np.ndarray, " n"] = np.rint(np.arange(n) * self.fps / fps).astype(np.int64)
        index = torch.from_numpy(np.minimum(rows, len(self) - 1)).tolist()
        return MotionTemplate(self.motion[index], self.ratios[index], float(fps))


def is_motion_template(given: object) -> bool:
    """True for the path of one, by its suffix."""
    return isinstance(given, str | Path) and Path(given).suffix.lower() in (SUFFIX, ORIGINAL_SUFFIX)


def check_new(path: Path, setting: str) -> None:
    """ConfigError where a template cannot be written: it exists, or is named otherwise."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"{setting}={path}: end the name with {SUFFIX}.")
    if path.exists():
        raise ConfigError(f"{setting}={path} exists: give driving={path} to use it, another name, or remove it.")


def save(path: Path, template: MotionTemplate) -> None:
    """Write a template; atomic."""
    tensors = vars(template.motion) | vars(template.ratios)
    with atomic_path(path) as temporary:
        save_file(
            {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"format": FORMAT, "fps": repr(template.fps)},
        )


def load(path: str | Path) -> MotionTemplate:
    """A template, ours or the original's.

    Raises:
        MediaError: it is missing, damaged, holds more than numbers, or no motion.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"{path}: there is no such motion template.")
    tensors, fps = _read_original(path) if path.suffix.lower() == ORIGINAL_SUFFIX else _read(path)
    n = len(tensors["t"]) if "t" in tensors and tensors["t"].ndim else 0
    wrong = [name for name, shape in _SHAPES.items() if name not in tensors or tensors[name].shape != (n, *shape)]
    if n == 0 or wrong or not 0 < fps < float("inf"):
        raise MediaError(
            f"{path} is no motion template: {wrong[0] if wrong else 'motion'} is missing or of another form."
        )
    tensors = {name: tensors[name].float() for name in _SHAPES}
    ratios = Ratios(tensors.pop("eyes"), tensors.pop("lip"))
    return MotionTemplate(Motion(**tensors), ratios, fps)


def _read(path: Path) -> tuple[dict[str, Tensor], float]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("format") != FORMAT:
            raise MediaError(f"{path} holds no motion: make a template with pipeline.save_motion=NAME{SUFFIX}.")
        return tensors, float(metadata["fps"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise MediaError(f"{path} is damaged: make the motion template again.") from error


class _RefusedError(Exception):
    """A pickle asks for something that no array needs."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, plain values and arrays; anything else that a file asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise _RefusedError(f"{module}.{name}")
        return super().find_class(module, name)


def _read_original(path: Path) -> tuple[dict[str, Tensor], float]:
    """Tensors and rate of an original template; older ones name the rotation `R_d`, and may lack canonical points and ratios."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
        rows: Sequence[Mapping[str, Any]] = content["motion"]
        n = len(rows)
        pitch, yaw, roll = head_angles(_stacked([row["R"] if "R" in row else row["R_d"] for row in rows], (3, 3)))
        points = [row.get("kp", np.zeros((NUM_KEYPOINTS, 3))) for row in rows]
        tensors = {"pitch": pitch, "yaw": yaw, "roll": roll, "kp": _stacked(points, _SHAPES["kp"])}
        tensors |= {name: _stacked([row[name] for row in rows], _SHAPES[name]) for name in ("t", "scale", "exp")}
        for name, keys in (("eyes", ("c_eyes_lst", "c_d_eyes_lst")), ("lip", ("c_lip_lst", "c_d_lip_lst"))):
            known = next((content[key] for key in keys if content.get(key)), [np.full(_SHAPES[name], np.nan)] * n)
            tensors[name] = _stacked(known[:n], _SHAPES[name])
        return tensors, float(content.get("output_fps", 25))
    except _RefusedError as error:
        raise MediaError(f"{path} was refused for safety: it holds more than numbers ({error}).") from error
    except (
        pickle.UnpicklingError,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        MemoryError,
        ImportError,
    ) as error:
        raise MediaError(f"{path} is damaged or no motion template of LivePortrait.") from error


def _stacked(rows: Sequence[Any], shape: tuple[int, ...]) -> Float[Tensor, "t *shape"]:
    """Numbers of all frames as one tensor."""
    return torch.from_numpy(np.stack([np.asarray(row, np.float32).reshape(shape) for row in rows]))
