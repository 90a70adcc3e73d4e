"""A face and what drives it -> a video: one pipeline per method."""
