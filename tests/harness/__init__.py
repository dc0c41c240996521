"""What several test files stand on: wings staged in one process or several, their peers, nodes and logs. No tests."""
