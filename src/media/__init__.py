"""Video, sound and picture files: probe, read, resample, write."""
