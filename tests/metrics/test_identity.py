"""CSIM of embeddings, and faces on their template."""

import numpy as np
import pytest
import torch
from torch import nn

from src.face.arcface_crop import TEMPLATE, aligned_faces, five_points, template_transforms
from src.metrics.identity import IdentitySimilarity, embed_faces


def test_the_same_direction_is_one_and_frames_without_a_face_are_counted_apart():
    metric = IdentitySimilarity()
    embeddings = torch.randn(3, 512)
    metric.update(embeddings, 2 * embeddings)
    assert metric.compute().item() == pytest.approx(1)
    metric.update(torch.full((2, 512), torch.nan), embeddings[:2])
    assert (metric.frames.item(), metric.skipped.item()) == (3, 2)
    metric.update(-embeddings[:1].expand(3, -1), embeddings[:1])  # one source for all frames
    assert metric.compute().item() == pytest.approx(0, abs=1e-6)
    assert IdentitySimilarity().compute().isnan()


def test_faces_are_brought_onto_the_template():
    turn = np.array([[0.0, -2.0], [2.0, 0.0]])
    points = (TEMPLATE @ turn.T + [400, 30])[None]
    assert template_transforms(points)[0, :2, :2] @ turn == pytest.approx(np.eye(2), abs=1e-9)
    frame = np.full((1, 300, 500, 3), 90, np.uint8)
    assert aligned_faces(frame, points).shape == (1, 112, 112, 3)
    landmarks = np.random.default_rng(0).uniform(0, 100, (2, 478, 3))
    assert five_points(landmarks).shape == (2, 5, 2)


def test_faces_are_embedded_in_minus_one_to_one():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 112 * 112, 512, bias=False))
    nn.init.constant_(network[1].weight, 1 / (3 * 112 * 112))
    faces = torch.stack([torch.zeros(3, 112, 112), torch.full((3, 112, 112), 255.0)]).byte()
    assert embed_faces(network, faces)[:, 0].tolist() == pytest.approx([-1, 1], abs=1e-4)
