"""The tables of a fleet, and the functions that are all that a node may call.

One function call is one transaction and one round trip. A node's rows are absolute values that it alone writes, so a
call that is repeated, or whose answer was lost, changes nothing twice. `join` gives a node a new epoch and waits for
what an earlier one of it still has under way; calls of an earlier epoch are refused from then on.
"""

from __future__ import annotations

from typing import Final

from lsps2fast_plugin.service.fleet import migration_1, migration_2, migration_3

VERSION: Final = 3

# Each migration brings the schema from the version before it; a version that was released is never edited.
MIGRATIONS: Final = (migration_1.SQL, migration_2.SQL, migration_3.SQL)
CALLABLE: Final = (
    "network_and_version()",
    "join_fleet(text, text, text, text)",
    "place_buy(text, bigint, text, integer, integer, text[], bigint[], bigint[], bigint[])",
    "tell_and_hear(text, bigint, text[], bigint[], bigint[], bigint[], text[], json, timestamptz, timestamptz)",
    "forget_untold(text, bigint)",
    "seen_now(text, text)",
    "list_nodes()",
    "ship(text, bigint, text, bigint, bigint, json)",
)
