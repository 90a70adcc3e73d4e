"""Synthetic heads: rendered people who speak, with exact landmarks; the data set that needs no download.

`clip.synthesise_clip` makes one clip, `dataset.make_synthetic` a clip store.
"""
