"""MToV in small: networks, models and settings that the tests of several rooms share."""

from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from src.lightning_modules.moditalker_mtov import MToV
from src.nn.moditalker_mtov import MToVUNet, TriplaneAutoencoder

SIDE, FRAMES = 16, 4
AUTOENCODER: dict[str, Any] = {
    "resolution": SIDE, "frames": FRAMES, "dim": 16, "latent_channels": 2, "patch": 4, "depth": 1, "heads": 2, "head_dim": 8,
    "readout_depth": 1,
}  # fmt: skip
UNET: dict[str, Any] = {
    "size": SIDE // 4, "frames": FRAMES, "latent_channels": 2, "model_channels": 16, "channel_mult": (1, 2), "num_res_blocks": 1,
    "attention_resolutions": (2,), "num_heads": 2, "norm_num_groups": 8,
}  # fmt: skip


def schedule(prediction_type: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, prediction_type=prediction_type
    )


def tiny_mtov(n_conditions: int = 2, *, prediction_type: str = "epsilon", **options: Any) -> MToV:
    """With weights that let every condition show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MToVUNet(**UNET, n_conditions=n_conditions)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        autoencoders = [TriplaneAutoencoder(**AUTOENCODER) for _ in range(2)]
    return MToV(net, *autoencoders, schedule(prediction_type), **{"sample_steps": 2} | options).eval()
