"""The clip store, and one dataset and LightningDataModule per method."""
