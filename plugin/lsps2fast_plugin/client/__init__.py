"""The wallet: buys JIT channels and receives over them. `app` wires it."""
