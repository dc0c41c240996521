"""The LSP: sells JIT channels, opens them, forwards, broadcasts. `app` wires it."""
