"""Official checkpoints <-> ours: pure dict -> dict functions, one module per method."""
