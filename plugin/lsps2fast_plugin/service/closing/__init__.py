"""Channels that are closed because a rule of the operator says so: facts, decision, journal, close."""
