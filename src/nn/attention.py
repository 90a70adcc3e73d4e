"""Self-attention over feature maps in the head layout of guided-diffusion, through PyTorch's fused kernels."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend_by_head(qkv: Float[Tensor, "b channels n"], heads: int) -> Float[Tensor, "b c n"]:
    """Softmax attention of tokens whose channels are laid out `[head][q | k | v][channel of the head]`.

    This is the "legacy" order of https://github.com/openai/guided-diffusion (`guided_diffusion/unet.py`, `QKVAttentionLegacy`), in which
    published weights are stored. There q and k are each scaled by ch^(-1/4) and the softmax runs in float32; the fused kernels scale
    the products by ch^(-1/2) and accumulate in float32, without ever holding the n x n weights.

    Args:
        qkv: 3 c channels of n tokens; c is a multiple of `heads`.
        heads: attention heads of c / heads channels each.
    """
    parts = rearrange(qkv, "b (head part c) n -> part b head n c", head=heads, part=3)
    q, k, v = parts.contiguous()  # the fused kernels want the channels of a token side by side
    return rearrange(scaled_dot_product_attention(q, k, v), "b head n c -> b (head c) n")
