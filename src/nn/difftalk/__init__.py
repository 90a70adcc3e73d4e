"""Networks of DiffTalk (arXiv:2301.03786): the autoencoder of the first stage, the conditioned U-Net of the second."""

from src.nn.difftalk.autoencoder import Quantised, VQAutoencoder
from src.nn.difftalk.discriminator import PatchDiscriminator
from src.nn.difftalk.net import DiffTalkNet

__all__ = ["DiffTalkNet", "PatchDiscriminator", "Quantised", "VQAutoencoder"]
