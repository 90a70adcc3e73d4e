"""Networks of MToV, MoDiTalker's second stage (arXiv:2403.19144): video autoencoder, its discriminators, U-Net over its latents."""

from src.nn.moditalker_mtov.autoencoder import TriplaneAutoencoder
from src.nn.moditalker_mtov.discriminator import ClipDiscriminator
from src.nn.moditalker_mtov.planes import PlaneShape
from src.nn.moditalker_mtov.unet import MToVUNet

__all__ = ["ClipDiscriminator", "MToVUNet", "PlaneShape", "TriplaneAutoencoder"]
