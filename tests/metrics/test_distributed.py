"""Two processes that each see a part of the data compute what one process computes that sees all of it."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from src.metrics.cpbd import CPBD
from src.metrics.frechet import Features, FrechetDistance
from src.metrics.head_motion import PoseDiversity
from src.metrics.identity import IdentitySimilarity
from src.metrics.images import PSNR, SSIM
from src.metrics.landmarks import LandmarkDistance
from src.metrics.lip_sync import CurveCorrelation, MouthAudioCorrelation
from src.metrics.sync import AudioVisualSync
from src.metrics.transcripts import WordErrors


def updates():
    """Per metric: five updates."""
    rng = np.random.default_rng(0)
    images = [tuple(torch.rand(2, 3, 12, 12) for _ in range(2)) for _ in range(5)]
    points = [tuple(256 * torch.rand(3, 68, 2) for _ in range(2)) for _ in range(5)]
    curves = [tuple(torch.from_numpy(rng.random(40)) for _ in range(2)) for _ in range(5)]
    return {
        "psnr": (PSNR(), images),
        "ssim": (SSIM(), images),
        "lmd": (LandmarkDistance("mouth"), [(*p, (256, 256)) for p in points]),
        "curve": (CurveCorrelation(), curves),
        "audio": (MouthAudioCorrelation(), curves),
        "cpbd": (CPBD(), [(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8),) for _ in range(5)]),
        "frechet": (FrechetDistance(Features(4)), [(torch.randn(6, 4), i % 2 == 0) for i in range(5)]),
        "sync": (AudioVisualSync(3), [(torch.randn(8, 4), torch.randn(8, 4)) for _ in range(5)]),
        "identity": (IdentitySimilarity(), [(torch.randn(3, 8), torch.randn(3, 8)) for _ in range(5)]),
        "words": (WordErrors(), [(["a b"], ["a c d"[: 1 + 2 * (i % 3)]]) for i in range(5)]),
        "pose": (PoseDiversity(), [(torch.randn(9, 3),) for _ in range(5)]),
    }


def flat(value):
    return [v.item() for v in (value.values() if isinstance(value, dict) else [value])]


def work(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    values = {}
    for name, (metric, data) in updates().items():
        for item in data[rank * 2 : 2 if rank == 0 else 5]:  # uneven shares: two and three
            metric.update(*item)
        values[name] = flat(metric.compute())
    torch.save(values, out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow  # new processes import everything; forked ones would inherit the locks of threads
def test_two_processes_agree_with_one(tmp_path):
    mp.start_processes(work, (tmp_path / "store", tmp_path), nprocs=2, start_method="spawn")
    torch.manual_seed(0)
    expected = {}
    for name, (metric, data) in updates().items():
        for item in data:
            metric.update(*item)
        expected[name] = flat(metric.compute())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, abs=1e-5), name
