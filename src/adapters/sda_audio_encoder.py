"""State dicts of Speech-Driven Animation's audio encoder and of `SDAAudioEncoder`."""

from collections.abc import Mapping

from torch import Tensor

from src.adapters.renaming import rename

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# Original key -> ours; {} is the number of a layer.
TABLE = {
    **{f"encoder.cl.{{}}.{kind}": f"encoder.layers.{{}}.0.{kind}" for kind in ("weight", "bias")},
    **{f"encoder.activations.{{}}.0.{kind}": f"encoder.layers.{{}}.1.{kind}" for kind in _NORM},
    **{f"rnn.{kind}_{way}_l{{}}": f"gru.{kind}_{way}_l{{}}" for kind in ("weight", "bias") for way in ("ih", "hh")},
}


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `SDAAudioEncoder` from the original's; CheckpointError lists keys that the table does not know."""
    return rename(state_dict, TABLE, "sda_audio_encoder")


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict from that of `SDAAudioEncoder`; inverse of `from_official`."""
    return rename(state_dict, {ours: theirs for theirs, ours in TABLE.items()}, "sda_audio_encoder")
