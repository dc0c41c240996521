"""Several nodes that sell as one LSP: what they share, in a PostgreSQL database of the operator's."""
