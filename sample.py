"""Make a talking video: `python sample.py ckpt=last.ckpt source=face.png driving=clip.mp4 out=talk.mp4` (see --help)."""

import logging
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import CONF_DIR, command, exit_with, require_file
from src.errors import CheckpointError, ConfigError, MediaError, VisemeError, require_choice

log = logging.getLogger(__name__)

SOME_FAILED = 1  # exit status: the other videos are written

PRECISIONS = ("float32", "bfloat16", "float16")
WEIGHTS = ("ema", "last")
WORST_CRF = 51
DOWNLOADED = ("liveportrait", "liveportrait_talker")  # methods that run on downloaded weights alone


@command("sample")
def main(cfg: DictConfig) -> None:
    """Load the checkpoint's pipeline, run it, write the file(s)."""
    downloaded = downloaded_method(cfg)
    if downloaded is None:
        require_file(cfg.ckpt, "ckpt")
    for name, choices in (("precision", PRECISIONS), ("weights", WEIGHTS)):
        require_choice(name, cfg[name], choices)
    for name, least in (("seed", 0), ("n_batches", 1), ("crf", 1)):
        chosen = name != "n_batches" or cfg[name] is not None
        if chosen and not (isinstance(cfg[name], int) and cfg[name] >= least):
            raise ConfigError(f"{name}={cfg[name]}: give a whole number from {least} on.")
    if cfg.crf > WORST_CRF:
        raise ConfigError(f"crf={cfg.crf}: give 1 (best) to {WORST_CRF}.")
    # Imported this late because it takes seconds: --help and mistakes answer at once.
    import torch

    from src.checkpoint import load, load_downloaded
    from src.media import Provenance
    from src.pipelines.loading import load_pipeline
    from src.pipelines.many import generate, read_jobs
    from src.pipelines.video import write

    checkpoint = load(cfg.ckpt, cfg.weights) if downloaded is None else load_downloaded(downloaded)
    jobs = None if cfg.inputs is None else read_jobs(cfg.inputs, cfg.split)
    pipeline = load_pipeline(checkpoint, device=cfg.device, compile=cfg.compile, options=own_options(cfg))
    provenance, out = Provenance(checkpoint.method, checkpoint.fingerprint), Path(cfg.out)
    with torch.autocast(pipeline.device.type, getattr(torch, cfg.precision), enabled=cfg.precision != "float32"):
        if jobs is None:
            video = pipeline(source=cfg.source, audio=cfg.audio, driving=cfg.driving, seed=cfg.seed)
            for path in write(video, out, provenance, crf=cfg.crf):
                log.info("wrote %s", path)
            return
        folder = out.with_suffix("") if out.suffix == ".mp4" else out
        options = {"seed": cfg.seed, "n_batches": cfg.n_batches, "overwrite": cfg.overwrite, "crf": cfg.crf}
        made = generate(pipeline, jobs, folder, provenance, **options)
    log.info("wrote %d videos to %s", len(made.written), folder)
    if made.failures and not made.written:
        raise MediaError(
            f"None of the {len(made.failures)} videos could be made (first: {next(iter(made.failures.values()))})"
        )
    if made.failures:
        sys.exit(SOME_FAILED)


def downloaded_method(cfg: DictConfig) -> str | None:
    """The method of `pipeline=METHOD` where its downloaded weights are to be taken: there is no checkpoint given, and it has some."""
    method = HydraConfig.get().runtime.choices.get("pipeline")
    return method if cfg.ckpt is None and method in DOWNLOADED else None


def own_options(cfg: DictConfig) -> dict[str, object]:
    """The pipeline settings that stand on the command line, and features=... among them; all others come from the checkpoint."""
    given = [o.split("=")[0].lstrip("+") for o in HydraConfig.get().overrides.task]
    options = {
        key.removeprefix("pipeline."): OmegaConf.select(cfg, key) for key in given if key.startswith("pipeline.")
    }
    if cfg.motion_ckpt is not None and cfg.atom_ckpt is not None:
        raise ConfigError("motion_ckpt and atom_ckpt are two names of one thing: give one of them.")
    for name in ("motion_ckpt", "atom_ckpt"):
        if cfg[name] is not None:
            require_file(cfg[name], name)
            options["motion_ckpt"] = cfg[name]
    if any(key.split(".")[0] == "features" for key in given):
        options["features"] = OmegaConf.to_container(cfg.features, resolve=True)
    return options


def add_method(arguments: list[str]) -> list[str]:
    """`arguments` with `pipeline=METHOD` of the checkpoint added, so that Hydra knows and checks the method's options."""
    given = dict(a.split("=", 1) for a in arguments if a.startswith(("ckpt=", "pipeline=")))
    if "ckpt" not in given:
        return arguments
    from src.checkpoint import method_of

    method = method_of(given["ckpt"])
    if given.get("pipeline", method) != method:
        raise CheckpointError(f"ckpt={given['ckpt']} is of {method}, not of {given['pipeline']}: leave pipeline out.")
    if not (CONF_DIR / "pipeline" / f"{method}.yaml").is_file():
        raise CheckpointError(
            f"ckpt={given['ckpt']} is of {method}, which makes no videos by itself: give a checkpoint of a method's last stage."
        )
    if "pipeline" in given:
        return arguments
    place = arguments.index(f"ckpt={given['ckpt']}")  # settings have to stand together, --help before or behind them
    return [*arguments[:place], f"pipeline={method}", *arguments[place:]]


if __name__ == "__main__":
    try:
        sys.argv[1:] = add_method(sys.argv[1:])
    except VisemeError as error:
        exit_with(str(error))
    main()
