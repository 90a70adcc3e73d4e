import pytest
import torch

from src.nn.attention import attend_by_head


def written_out(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """The attention head by head, as its docstring defines it."""
    outputs = []
    for head in qkv.chunk(heads, dim=1):
        q, k, v = head.chunk(3, dim=1)
        scale = q.shape[1] ** -0.25
        weights = torch.softmax((q * scale).transpose(1, 2) @ (k * scale), dim=-1)  # query, key
        outputs.append(v @ weights.transpose(1, 2))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_each_head_attends_with_its_own_queries_keys_and_values(heads):
    qkv = torch.randn(2, 36, 10, generator=torch.Generator().manual_seed(heads))
    torch.testing.assert_close(attend_by_head(qkv, heads), written_out(qkv, heads), atol=1e-6, rtol=1e-5)


def test_the_softmax_of_large_products_does_not_overflow_in_half_precision():
    qkv = 30 * torch.randn(1, 24, 8, generator=torch.Generator().manual_seed(0))
    exact = attend_by_head(qkv, 2)
    halved = attend_by_head(qkv.bfloat16(), 2)
    assert torch.isfinite(halved).all()
    assert (halved.float() - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_the_fused_kernel_never_holds_the_weights():
    """On the CPU and on GPUs alike: the flash kernel works in blocks, the plain one would hold n x n weights."""
    qkv = torch.randn(1, 12, 64)
    with torch.profiler.profile() as profile:
        attend_by_head(qkv, 1)
    names = {event.key for event in profile.key_averages()}
    assert any("flash_attention" in name for name in names)
