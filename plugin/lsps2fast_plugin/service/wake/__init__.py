"""Calls to the webhooks of clients that are away (bLIP-55), and what is held until they are back."""
