"""The policy: menus, clients, terms and limits.

`policy` is asked; `rules` are the shapes; `file`, `toml` and `watch` read the operator's file; `menu`, `tokens`,
`limits`, `trust` and `preflight` decide one thing each; `external` asks another plugin instead.
"""
