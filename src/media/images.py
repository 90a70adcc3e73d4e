"""Pictures, and the resizing of pictures and frames."""

import os

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from src.errors import MediaError
from src.media.files import atomic_path, check_readable, describe


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as upright RGB.

    Grey and palette pictures become RGB, 16 bits become 8, transparent pixels are laid on white, EXIF's orientation is applied.

    Raises:
        MediaError: the file is missing, empty, damaged or no picture.
    """
    path = check_readable(path, "picture")
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else describe(error)
        raise MediaError(f"{path} is no picture that can be read ({reason}); give a PNG, JPEG or WebP file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(
        "I"
    ):  # 16 bits (PIL calls some of them 32); its own conversion would clip instead of scaling
        grey = np.clip(np.asarray(image).astype(np.float64) * (255 / 65535), 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def write_image(
    path: str | os.PathLike[str], image: UInt8[np.ndarray, "h w 3"], description: str | None = None
) -> None:
    """Write a picture, atomically, in the format that the suffix names.

    Args:
        path: the file to write.
        image: RGB.
        description: what made it: noted in the file, as EXIF's description.

    Raises:
        MediaError: the suffix is unknown, the folder cannot be written, or the disk is full.
    """
    exif = Image.Exif()
    if description is not None:
        exif[Base.ImageDescription] = description
    with atomic_path(path) as temporary:
        try:
            Image.fromarray(image).save(temporary, exif=exif)
        except ValueError as error:
            raise MediaError(f"{path}: unknown picture format; end the name with .png or .jpg.") from error


def resize(
    frames: UInt8[np.ndarray, "*t h w c"], size: tuple[int, int], antialias: bool = True
) -> UInt8[np.ndarray, "*t height width c"]:
    """Frames resized to `size`, (height, width), bilinearly; `antialias` averages over the pixels that fall into one when it shrinks."""
    if frames.shape[-3:-1] == tuple(size):
        return frames
    # Here, because processes that read and write videos without resizing start in a third of the time without it.
    import torch
    import torch.nn.functional as F

    batch = torch.from_numpy(np.ascontiguousarray(frames.reshape(-1, *frames.shape[-3:])))
    batch = rearrange(batch, "t h w c -> t c h w")
    if antialias:
        resized = F.interpolate(batch, size=tuple(size), mode="bilinear", antialias=True)
    else:  # bytes would be a quarter of a grey level off on average
        resized = F.interpolate(batch.float(), size=tuple(size), mode="bilinear").round_().to(torch.uint8)
    return (
        rearrange(resized, "t c h w -> t h w c")
        .contiguous()
        .numpy()
        .reshape(*frames.shape[:-3], *size, frames.shape[-1])
    )
