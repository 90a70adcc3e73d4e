"""Motion templates: round trips, other rates, the original's files, and files that are none."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from src.adapters.liveportrait_motion import MotionTemplate, check_new, is_motion_template, load, save
from src.errors import ConfigError, MediaError
from src.nn.liveportrait.corrections import Ratios
from src.nn.liveportrait.keypoints import Motion, head_angles, rotation_matrix


def template(n: int = 5, fps: float = 25.0) -> MotionTemplate:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(n, *shape, generator=generator)

    angles = {name: 20 * normal(1) for name in ("pitch", "yaw", "roll")}
    motion = Motion(t=normal(3), exp=normal(21, 3), scale=normal(1), kp=normal(21, 3), **angles)
    return MotionTemplate(motion, Ratios(normal(2).abs(), normal(1).abs()), fps)


def original(some: MotionTemplate, *, old: bool = False) -> dict:
    """What the original pickles of a template; `old`: as its first version did."""
    rows = []
    for i in range(len(some)):
        row = {name: getattr(some.motion, name)[i : i + 1].numpy() for name in ("scale", "exp", "t", "kp")}
        row["R"] = some.motion.rotation[i : i + 1].numpy()
        row["x_s"] = some.motion.points()[i : i + 1].numpy()
        rows.append({"R_d": row["R"], **{k: row[k] for k in ("scale", "exp", "t")}} if old else row)
    eyes, lip = ([part[i : i + 1].numpy() for i in range(len(some))] for part in (some.ratios.eyes, some.ratios.lip))
    names = ("c_d_eyes_lst", "c_d_lip_lst") if old else ("c_eyes_lst", "c_lip_lst")
    return {
        "n_frames": len(some),
        "output_fps": int(some.fps),
        "motion": rows,
        **dict(zip(names, (eyes, lip), strict=True)),
    }


def assert_same(ours: MotionTemplate, theirs: MotionTemplate, *, but: tuple[str, ...] = ()) -> None:
    for name, value in (vars(theirs.motion) | vars(theirs.ratios)).items():
        found = (vars(ours.motion) | vars(ours.ratios))[name]
        assert name in but or torch.allclose(found, value, atol=1e-3 if name in ("pitch", "yaw", "roll") else 1e-6), (
            name
        )


def test_there_and_back(tmp_path):
    save(tmp_path / "x.safetensors", template(fps=29.97))
    again = load(tmp_path / "x.safetensors")
    assert_same(again, template())
    assert again.fps == 29.97


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_templates_of_the_original_are_read(tmp_path, old, protocol):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(original(template(), old=old), protocol=protocol))
    assert_same(load(path), template(), but=("kp",) if old else ())


def test_templates_without_ratios_serve_where_none_are_asked_for(tmp_path):
    content = original(template())
    del content["c_eyes_lst"], content["c_lip_lst"]
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content))
    found = load(path)
    assert torch.isnan(found.ratios.eyes).all()
    with pytest.raises(ConfigError, match="does not say how far eyes and lips are open"):
        found.require_ratios()


def test_nothing_else_is_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"motion": [Harm()]}))
    with pytest.raises(MediaError, match=r"refused for safety: it holds more than numbers \(\w+.mkdir\)"):
        load(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"motion": []}), pickle.dumps({"motion": [{"R": 1}]})],
)
def test_other_files_are_one_sentence(tmp_path, content):
    for name in ("x.pkl", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=r"^[^\n]+\.$"):
            load(tmp_path / name)


def test_weights_are_no_motion(tmp_path):
    save_file({"t": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(MediaError, match="holds no motion"):
        load(tmp_path / "x.safetensors")
    with pytest.raises(MediaError, match="there is no such motion template"):
        load(tmp_path / "y.safetensors")


def test_other_rates_take_the_frames_that_are_nearest_in_time():
    some = template(6, fps=50.0)
    half = some.at(25)
    assert torch.equal(half.motion.t, some.motion.t[[0, 2, 4]])
    assert len(some.at(100)) == 12
    assert some.at(50) is some


@pytest.mark.parametrize(
    ("given", "is_one"), [("a.safetensors", True), (Path("a.PKL"), True), ("a.mp4", False), (np.zeros(1), False)]
)
def test_templates_are_known_by_their_suffix(given, is_one):
    assert is_motion_template(given) is is_one


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "x.safetensors"
    check_new(path, "pipeline.save_motion")
    path.touch()
    with pytest.raises(ConfigError, match="exists: give driving="):
        check_new(path, "pipeline.save_motion")
    with pytest.raises(ConfigError, match=r"end the name with .safetensors"):
        check_new(tmp_path / "x.pkl", "pipeline.save_motion")


def test_angles_of_rotations_are_those_they_were_made_of():
    angles = [torch.tensor([[value]]) for value in (12.0, -57.0, 100.0)]
    for found, given in zip(head_angles(rotation_matrix(*angles)), angles, strict=True):
        assert torch.allclose(found, given, atol=1e-3)
