"""A module of `evaluate`; its file says what it measures."""
