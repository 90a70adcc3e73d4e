"""Faces: landmarks, index tables, alignment, masks and drawing. Pixels are (x, y), pixel centres at integer coordinates."""
