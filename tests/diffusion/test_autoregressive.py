import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from src.diffusion.autoregressive import audio_windows, generate_frames

IDENTITY = torch.full((2, 3, 4, 4), -1.0)


def rows(*counts: int) -> Tensor:
    """Features whose only value tells sample and row: 100 b + i; zero behind a sample's own rows."""
    audio = torch.zeros(len(counts), max(counts), 1)
    for b, count in enumerate(counts):
        audio[b, :count, 0] = 100 * b + torch.arange(count)
    return audio


def generated(
    audio: Tensor, n_motion_frames: int = 2, **options: object
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Frame i has the value i everywhere; frames, motion frames and windows that were seen."""
    motions, windows = [], []

    def denoise(noise: Tensor, motion: Tensor, window: Tensor, i: int) -> Tensor:
        motions.append(motion[0, ::3, 0, 0])
        windows.append(window[..., 0])
        return noise

    frames = generate_frames(
        denoise,
        IDENTITY[: len(audio)],
        audio,
        lambda i: torch.full((len(audio), 3, 4, 4), float(i)),
        n_motion_frames=n_motion_frames,
        audio_radius=2,
        **options,
    )
    return list(frames), motions, windows


def test_motion_frames_begin_with_the_face_and_follow_the_video():
    frames, motions, _ = generated(rows(4))
    assert [frame[0, 0, 0, 0].item() for frame in frames] == [0, 1, 2, 3]
    assert [m.tolist() for m in motions] == [[-1, -1], [-1, 0], [0, 1], [1, 2]]  # oldest first


def test_stabilising_puts_the_face_in_the_place_of_the_oldest():
    _, motions, _ = generated(rows(6), n_motion_frames=3, stabilize_every=2)
    assert [m.tolist() for m in motions] == [
        [-1, -1, -1], [-1, -1, 0], [-1, 0, 1], [0, 1, 2], [-1, 2, 3], [2, 3, 4]
    ]  # fmt: skip


def test_without_motion_frames_only_the_sound_counts():
    frames, motions, _ = generated(rows(3), n_motion_frames=0, stabilize_every=1)
    assert len(frames) == 3
    assert all(m.numel() == 0 for m in motions)


def test_windows_repeat_the_first_and_last_row():
    _, _, windows = generated(rows(4))
    assert [w[0].tolist() for w in windows] == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]


@pytest.mark.parametrize("count", [1, 2])
def test_sound_shorter_than_a_window_is_enough(count):
    frames, _, windows = generated(rows(count))
    assert len(frames) == len(windows) == count


def test_shorter_samples_of_a_batch_do_not_see_the_padding():
    audio = rows(5, 3)
    _, _, windows = generated(audio, lengths=torch.tensor([5, 3]))
    assert windows[2][1].tolist() == [100, 101, 102, 102, 102]
    _, _, original = generated(audio)
    assert original[2][1].tolist() == [100, 101, 102, 0, 0]


@given(st.integers(1, 9), st.integers(0, 3), st.integers(1, 9))
def test_windows_are_those_of_each_sample_alone(n, radius, shorter):
    shorter = min(n, shorter)
    audio = rows(n, shorter)
    windows = audio_windows(audio, torch.arange(n), radius, torch.tensor([n, shorter]))
    assert windows.shape == (2, n, 2 * radius + 1, 1)
    alone = audio_windows(audio[1:, :shorter], torch.arange(shorter), radius)
    assert torch.equal(windows[1:, :shorter], alone)
    assert torch.equal(windows[:, :shorter, radius], audio[:, :shorter])


def test_frames_come_one_by_one_as_noise_is_asked_for():
    asked = []

    def noise(i: int) -> Tensor:
        asked.append(i)
        return torch.zeros(1, 3, 4, 4)

    frames = generate_frames(
        lambda noise, motion, window, i: noise, IDENTITY[:1], rows(1000), noise, n_motion_frames=1, audio_radius=0
    )
    next(frames)
    next(frames)
    assert asked == [0, 1]


def test_motion_frames_are_transformed_once_and_frames_are_not():
    calls = []

    def grey(frame: Tensor) -> Tensor:
        calls.append(frame)
        return frame.mean(dim=1, keepdim=True)

    frames = generate_frames(
        lambda noise, motion, window, i: noise + motion[:, -1:],
        IDENTITY, rows(3, 3), lambda i: torch.zeros(2, 3, 4, 4), n_motion_frames=2, audio_radius=1, motion_transform=grey,
    )  # fmt: skip
    assert [frame.shape[1] for frame in frames] == [3, 3, 3]
    assert len(calls) == 1 + 3
