"""Fetch the pretrained files that preprocessing and sampling need (see --help)."""

from omegaconf import DictConfig
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from src.cli import command
from src.errors import ConfigError
from src.model_files import MODEL_FILES, download, files_of, models_dir


@command("download_models")
def main(cfg: DictConfig) -> None:
    """Download what is missing, one progress bar per file."""
    names = list(cfg.names or of_method(cfg.method))
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


def of_method(method: str | None) -> list[str]:
    """Names of the files that preprocessing and sampling need, or those of a method."""
    names = [name for name, file in MODEL_FILES.items() if not file.on_request]
    if method is None:
        return names
    if not (own := files_of(method)):
        known = sorted({method for file in MODEL_FILES.values() for method in file.methods})
        raise ConfigError(f"method={method}: there are files to download for {' and '.join(known)}.")
    return [*names, *own]


if __name__ == "__main__":
    main()
