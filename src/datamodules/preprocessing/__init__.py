"""Raw recordings -> clip store: what `tools/preprocess.py` runs."""
