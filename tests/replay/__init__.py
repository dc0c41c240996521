"""Replay of recorded lightningd talk against the real service process (recordings: `tests/data/recordings`)."""
