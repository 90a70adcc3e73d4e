"""evaluate.py as its user runs it."""

import csv
import json
import sys

import pytest

import evaluate
from src.media import read_image
from src.metrics import evaluation
from tests.talking import talking, write_talking_store


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A store of three clips, and the same videos with sound in a folder."""
    root = tmp_path_factory.mktemp("data")
    for name, clip in write_talking_store(root / "store").items():
        clip.write(root / "out" / f"{name}.mp4")
    return root


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run main in this process; returns exit status, standard output and standard error."""

    def call(*overrides):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(
            sys, "argv", ["evaluate.py", "landmarks=false", "workers=1", "metrics=[image,mouth_pixels]", *overrides]
        )
        try:
            evaluate.main()
            status = 0
        except SystemExit as leaving:
            status = leaving.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_a_folder_against_a_store(run, data, tmp_path):
    status, out, _ = run(f"generated={data}/out", f"reference={data}/store", "split=test", "metrics=null")
    assert status == 0
    assert "3 of 3 clips" in out
    assert "psnr" in out
    assert "not computed" in out
    written = tmp_path / "out/evaluation"
    metrics = json.loads((written / "metrics.json").read_text())
    assert metrics["metrics"]["psnr"]["n"] == 3
    assert metrics["metrics"]["pixel_audio_correlation"]["mean"] > 0.8
    assert metrics["settings"]["split"] == "test"
    assert len(list(csv.DictReader((written / "metrics.csv").open()))) == 3
    for name in ("distributions.png", "mouths.png"):
        assert read_image(written / name).shape[2] == 3
    assert "| psnr (dB) ↑ |" in (written / "metrics.md").read_text()
    assert "Worst clips by" in (written / "report.html").read_text()


def test_a_run_goes_on_where_it_was(run, data, tmp_path, monkeypatch):
    overrides = f"generated={data}/out", f"reference={data}/store", "metrics=[image]"
    assert run(*overrides)[0] == 0
    first = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    monkeypatch.setattr(evaluation.Evaluator, "__call__", lambda *_: pytest.fail("measured again"))
    assert run(*overrides)[0] == 0
    assert json.loads((tmp_path / "out/evaluation/metrics.json").read_text()) == first


def test_only_what_is_asked_for_is_measured(run, data, tmp_path):
    status, out, _ = run(f"generated={data}/out", f"reference={data}/store", "metrics=[psnr,cpbd]", "resume=false")
    assert status == 0
    assert list(json.loads((tmp_path / "out/evaluation/metrics.json").read_text())["metrics"]) == ["psnr", "cpbd"]
    assert "not computed" not in out
    assert not (tmp_path / "out/evaluation/clips").exists()


def test_a_protocol_fixes_size_frames_and_metrics(run, data, tmp_path):
    overrides = f"generated={data}/out", f"reference={data}/store"
    status, _, err = run(*overrides, "protocol=diffused_heads")
    assert status == 2
    assert "fewer than size=128: generate at that size" in err
    status, out, _ = run(*overrides, "protocol=diffused_heads", "size=32", "metrics=[image,fvd]")
    assert status == 0
    metrics = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    assert {(c["height"], c["width"], c["frames"]) for c in metrics["clips"]} == {(32, 32, 39)}
    assert (
        "not computed: fvd: needs i3d_pretrained_400.pt, get it with: python tools/download_models.py names=[i3d_pretrained_400.pt]"
        in out
    )


def test_a_list_pairs_what_names_do_not(run, data, tmp_path):
    (tmp_path / "pairs.csv").write_text("generated,reference\nclip0,clip1\nclip2,clip1\n")
    overrides = f"generated={data}/out", f"reference={data}/store", f"pairs={tmp_path}/pairs.csv", "metrics=[image]"
    assert run(*overrides)[0] == 0
    metrics = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    assert [clip["name"] for clip in metrics["clips"]] == ["clip0", "clip2"]
    (tmp_path / "pairs.csv").write_text("generated,reference\nclip0,nobody\nx,clip1\n")
    sentence = one_sentence(run(*overrides))
    assert "no generated video named x" in sentence
    assert "no real one named nobody" in sentence


@pytest.mark.slow  # a process takes seconds to import the libraries
def test_several_processes_find_what_one_finds(run, data, tmp_path):
    overrides = f"generated={data}/out", f"reference={data}/store", "metrics=[image]", "resume=false"
    found = []
    for workers in (1, 2):
        assert run(*overrides, f"workers={workers}", f"out=by{workers}")[0] == 0
        found.append(json.loads((tmp_path / f"by{workers}/metrics.json").read_text())["clips"])
    assert found[0] == found[1]


def test_two_files(run, data, tmp_path):
    status, *_ = run(f"generated={data}/out/clip0.mp4", f"reference={data}/store/video/clip0.mp4", "out=here")
    assert status == 0
    assert json.loads((tmp_path / "here/metrics.json").read_text())["clips"][0]["name"] == "clip0"


def test_a_corrupt_file_is_listed_and_the_status_is_one(run, data, tmp_path):
    generated = tmp_path / "generated"
    for name in ("clip0", "clip1"):
        talking(int(name[-1])).write(generated / f"{name}.mp4")
    (generated / "clip2.mp4").write_bytes(b"broken")
    status, out, _ = run(f"generated={generated}", f"reference={data}/store")
    assert status == 1
    assert "2 of 3 clips" in out
    metrics = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    (failed,) = metrics["failed"]
    assert failed["name"] == "clip2"
    assert str(generated / "clip2.mp4") in failed["reason"]
    assert (metrics["metrics"]["psnr"]["n"], metrics["metrics"]["psnr"]["left_out"]) == (2, 1)


def one_sentence(result):
    status, _, err = result
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert "Traceback" not in err
    return line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reference={data}/store"], "generated has no value"),
        (["generated=nowhere", "reference={data}/store"], "generated=nowhere: there is no such file or folder"),
        (["generated={data}/out", "reference=nowhere"], "reference=nowhere: there is no such file or folder"),
        (["generated={data}/out", "reference={data}/store/audio"], "the folder holds no video"),
        (["generated={data}/out", "reference={data}/store", "split=train"], "no clips of split 'train'"),
        (["generated={data}/out", "reference={data}/out", "split=test"], "split=test needs a clip store"),
        (["generated={data}/out", "reference={data}/store", "missing=maybe"], "missing=maybe: choose error or skip"),
        (["generated={data}/out", "reference={data}/store", "metrics=[psn]"], "metrics: there is no 'psn'"),
        (["generated={data}/out", "reference={data}/store", "pairs=none.csv"], "pairs=none.csv cannot be read"),
        (
            ["generated={data}/out", "reference={data}/store", "transcripts=none.csv"],
            "transcripts=none.csv cannot be read",
        ),
        (["generated={data}/out", "reference={data}/store", "skip_frame=1"], "did you mean 'skip_frames'"),
    ],
)
def test_mistakes_end_in_one_sentence(run, data, overrides, message):
    assert message in one_sentence(run(*(o.format(data=data) for o in overrides)))


def test_missing_pairs_are_all_listed_or_skipped_on_request(run, data, tmp_path):
    generated = tmp_path / "generated"
    for name in ("clip0", "other", "more"):
        talking(0).write(generated / f"{name}.mp4")
    overrides = f"generated={generated}", f"reference={data}/store"
    sentence = one_sentence(run(*overrides))
    assert "no real video for 2: more, other" in sentence
    assert "no generated video for 2: clip1, clip2" in sentence
    status, out, _ = run(*overrides, "missing=skip")
    assert status == 0
    assert "1 of 1 clips" in out
    metrics = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())
    assert metrics["without_partner"] == {"generated": ["more", "other"], "reference": ["clip1", "clip2"]}


def test_no_common_name_is_an_error(run, data, tmp_path):
    for name in ("x", "y"):
        talking(0).write(tmp_path / "generated" / f"{name}.mp4")
    assert "No generated video has the name of a real one" in one_sentence(
        run(f"generated={tmp_path}/generated", f"reference={data}/store")
    )


def test_another_rate_is_an_error_unless_resampled(run, data, tmp_path):
    fast = talking(0, fps=30.0).write(tmp_path / "fast.mp4")
    overrides = f"generated={fast}", f"reference={data}/store/video/clip0.mp4"
    assert "resample=true" in one_sentence(run(*overrides))
    assert run(*overrides, "resample=true", "max_length_difference=10")[0] == 0


def test_nothing_to_compare_writes_nothing(run, data, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    result = run(f"generated={tmp_path}/broken.mp4", f"reference={data}/store/video/clip0.mp4")
    assert "None of the 1 pairs can be compared; the first, broken:" in one_sentence(result)
    assert not (tmp_path / "out").exists()


def test_help_names_the_settings_and_the_exit_status(run):
    status, out, _ = run("--help")
    assert not status
    for word in ("generated=", "max_lag", "Exit status"):
        assert word in out
