"""What the DataModules of clip stores have in common: splits, features that are made where they are missing, a look at the first clips."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, Unpack

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from src.datamodules.resumable import LoaderOptions, ResumableDataModule, limited
from src.datamodules.speech_features import Features, clips_with_features, ensure_features
from src.datamodules.store import Clip, ClipStore


class ClipDataset(Dataset):
    """Samples drawn of clips; `self[epoch * len(self) + row]` is determined by seed, epoch and row.

    Attributes:
        clips: of a clip store.
    """

    clips: Sequence[Clip]

    @abstractmethod
    def __len__(self) -> int:
        """Samples of an epoch."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The items at `indices`, collated."""
        return default_collate([self[i] for i in indices])


D = TypeVar("D", bound=ClipDataset)


class SplitOptions(LoaderOptions, total=False):
    """Settings that the DataModules of clip stores share.

    Attributes:
        limit_clips: use only the first n clips of each split; None, the default: all.
        train_split: split of the store for training, `train`.
        val_split: split of the store for validation, `validation`.
    """

    limit_clips: int | None
    train_split: str
    val_split: str


class StoreDataModule(ResumableDataModule[D], Generic[D]):
    """Training and validation samples of a clip store; order and resuming as `ResumableDataModule` has them.

    A subclass says in `dataset` how samples are drawn of clips.

    Args:
        root: the clip store.
        batch_size: training samples per process and step.
        features: speech features that samples need: what the store lacks of them is extracted before training. None: none.
        train: options of `dataset` for training.
        val: idem, for validation.
        limit_clips: see `SplitOptions`.
        train_split: idem.
        val_split: idem.
        seed: of the order.
        loading: see `src.datamodules.resumable.LoaderOptions`.

    Raises:
        StoreError: the store or a split is missing.
    """

    def __init__(
        self,
        root: str | Path,
        batch_size: int,
        *,
        features: Features | None = None,
        train: Mapping[str, Any],
        val: Mapping[str, Any],
        limit_clips: int | None = None,
        train_split: str = "train",
        val_split: str = "validation",
        seed: int = 42,
        **loading: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size, seed=seed, **loading)
        self.prepare_data_per_node = False  # the nodes of a cluster see one store
        self.root = Path(root)
        self.features = features
        self.limit_clips = limit_clips
        self.train_split, self.train_options = train_split, dict(train)
        self.val_split, self.val_options = val_split, dict(val)

    @abstractmethod
    def dataset(self, clips: Sequence[Clip], **options: Any) -> D:
        """The samples of clips."""

    def prepare_data(self) -> None:
        """Extract the speech features that the store lacks."""
        if self.features is not None:
            ensure_features(self.root, self.features)

    def setup(self, stage: str | None = None) -> None:
        """Read the store's tables and the shapes of the features; no video is opened."""
        if stage in (None, "fit"):
            self.train_dataset = self.dataset(self._clips(self.train_split), **self.train_options)
        if stage in (None, "fit", "validate"):
            self.val_dataset = self.dataset(self._clips(self.val_split), **self.val_options)

    def _clips(self, split: str) -> Sequence[Clip]:
        clips: Sequence[Clip] = ClipStore(self.root, split).clips
        if self.features is not None:
            clips = clips_with_features(clips, self.features)
        return limited(clips, self.limit_clips)

    def preview(self, n_samples: int) -> dict[str, Tensor]:
        """The first validation items, of as many clips as possible, always with pictures."""
        return self.val_dataset.batch(range(min(n_samples, len(self.val_dataset))))
