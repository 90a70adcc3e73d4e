"""Fetch the pretrained files that preprocessing and sampling need (see --help)."""

from omegaconf import DictConfig
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from src.cli import command
from src.errors import ConfigError
from src.model_files import MODEL_FILES, download, models_dir


@command("download_models")
def main(cfg: DictConfig) -> None:
    """Download what is missing, one progress bar per file."""
    names = list(cfg.names or (name for name, file in MODEL_FILES.items() if not file.on_request))
    unknown = [name for name in names if name not in MODEL_FILES]
    if unknown:
        raise ConfigError(f"names={unknown[0]}: there is no such model file; choose from {', '.join(MODEL_FILES)}.")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as bars:
        for name in names:
            file = MODEL_FILES[name]
            bar = bars.add_task(name, total=file.size)
            download(
                file,
                models_dir(),
                mirror=cfg.mirror,
                progress=lambda done, total, bar=bar: bars.update(bar, completed=done, total=total),
            )
            bars.update(bar, completed=file.size)


if __name__ == "__main__":
    main()
