"""Commands end a user's mistake in one sentence and exit status 2; a defect keeps its traceback."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

COMMAND = """
import sys
sys.path.insert(0, {root!r})
import src.cli
from pathlib import Path
src.cli.CONF_DIR = Path({conf!r})
from src.errors import MediaError

class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise MediaError("clip.mp4 is empty; record it again.")

@src.cli.command("demo")
def main(cfg):
    if cfg.mode == "mistake":
        try:
            raise MediaError("clip.mp4 is\\n  empty; record it again.")
        except MediaError as error:
            raise RuntimeError("wrapped, as Hydra's instantiate does") from error
    if cfg.mode == "worker":
        from torch.utils.data import DataLoader
        list(DataLoader(Broken(), num_workers=1))
    if cfg.mode == "defect":
        raise ZeroDivisionError("a bug")
    if cfg.mode == "missing":
        cfg.group.size
    print("ran with", cfg.group.size, sys.argv[1:])

main()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "conf" / "group").mkdir(parents=True)
    (folder / "conf" / "demo.yaml").write_text(
        textwrap.dedent("""
        defaults: [_self_, group: small]
        mode: fine
        hydra: {run: {dir: .}, output_subdir: null, sweep: {dir: ., subdir: .}}
        """)
    )
    (folder / "conf" / "group" / "small.yaml").write_text("size: 8\n")
    (folder / "conf" / "group" / "open.yaml").write_text("size: ???\n")
    script = folder / "demo.py"
    script.write_text(COMMAND.format(root=str(ROOT), conf=str(folder / "conf")))

    def call(*overrides: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(script), *overrides], capture_output=True, text=True, cwd=folder, check=False
        )

    return call


def last_line(result: subprocess.CompletedProcess) -> str:
    return result.stderr.strip().splitlines()[-1]


def test_a_good_command_runs(run):
    result = run("group.size=3")
    assert result.returncode == 0
    assert "ran with 3" in result.stdout


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["mode=mistake"], ["clip.mp4 is empty; record it again."]),
        (["mode=missing", "group=open"], ["group.size", "has no value"]),
        (["group.sise=3"], ["'group.sise'", "did you mean 'group.size'?"]),
        (["modus=fine"], ["'modus'", "did you mean 'mode'?"]),
        (["group=smal"], ["conf/group has no 'smal'", "did you mean 'small'?"]),
        (["group=null"], ["to do without group write ~group"]),
        (["mode=a (1)"], ["mode=a (1) cannot be read", """'mode="a (1)"'"""]),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(run, overrides, says):
    result = run(*overrides)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [last_line(result)]
    for words in says:
        assert words in errors[0]


def test_a_mistake_in_a_worker_of_a_loader_is_the_same_sentence(run):
    result = run("mode=worker")
    assert result.returncode == 2
    assert result.stderr.strip() == "error: clip.mp4 is empty; record it again."


def test_a_defect_keeps_its_traceback(run):
    result = run("mode=defect")
    assert result.returncode == 1
    assert "ZeroDivisionError: a bug" in result.stderr
    assert "Traceback" in result.stderr


def test_a_job_of_a_sweep_sees_its_own_overrides_in_argv(run):
    """Lightning starts further processes with sys.argv: in a sweep they must repeat the job, not the whole sweep."""
    result = run("-m", "group.size=3,4")
    assert result.returncode == 0
    assert "ran with 3 ['group.size=3']" in result.stdout
    assert "ran with 4 ['group.size=4']" in result.stdout
