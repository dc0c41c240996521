"""What the LSP's operator is told of each sale, held to the msat against what came over its parts.

Three accounts are kept by the plugin: the sales ledger (a file that outlives restarts), the record of each buy in the
node's datastore, and the counters of its metrics. The books know what the embedded nodes did.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from lsps2fast_plugin.service.sales_ledger.ledger import reading

from .books import Account, Books, Sale
from .town import Town

FEE_OF_SCID = "SELECT SUM(fee_taken_msat) FROM attempts WHERE jit_scid = ?"
MINING_OF_CHANNEL = "SELECT mining_msat FROM channels WHERE channel_id = ? AND sent_ms IS NOT NULL"
WRITTEN_S = 86_400.0  # after a funding was sent, its miners' fee is in the ledger
FINAL = ("lsps", "lsps2", "sessions", "finalized")


class Told:
    """Compares each sale that is over with what ledger and record say of it."""

    def __init__(self, town: Town, books: Books) -> None:
        self._town = town
        self._books = books
        self._agreed: set[str] = set()  # scids of sales that were found to be told as they were
        self.compared = 0

    def wrong(self) -> str | None:
        """Return what is told otherwise than it was, None when all is told well."""
        over = [sale for sale in self._books.sales if sale.scid not in self._agreed and self._books.is_over(sale)]
        if not over:
            return None
        try:
            with reading(self._town.ledger_path) as db:
                ledger = {sale.scid: _number(db, FEE_OF_SCID, sale.scid) or 0 for sale in over}
                for account in self._sent_long_ago():
                    channel_id = account.channel.channel_id
                    told = _number(db, MINING_OF_CHANNEL, bytes.fromhex(channel_id))
                    if told != account.mining_sat * 1000:
                        cost = f"the funding of {channel_id}, which cost {account.mining_sat} sat"
                        return f"the sales ledger has {told} msat of mining for {cost}"
        except sqlite3.Error as error:
            return f"the sales ledger cannot be read: {error}"
        records = dict(self._records(over))
        for sale in over:
            if (said := ledger[sale.scid]) != sale.all_fees_msat:
                return f"the sales ledger has {said} msat of fees over {sale.scid}, {_came(sale)}"
            if (said := records.get(sale.scid, sale.all_fees_msat)) != sale.all_fees_msat:
                return f"the record of {sale.scid} says that {said} msat of its fee were paid, {_came(sale)}"
        for sale in over:
            self._agreed.add(sale.scid)
            self.compared += 1
        self._agreed.intersection_update({sale.scid for sale in self._books.sales})
        return None

    def _sent_long_ago(self) -> Iterator[Account]:
        before_s = self._town.loop.time() - WRITTEN_S
        for account in self._books.accounts.values():
            sold = account.funding is not None and account.order is None  # the ledger is about those just in time
            if sold and account.sent_s < before_s and account.is_on_chain:
                yield account

    def _records(self, sales: list[Sale]) -> Iterator[tuple[str, int]]:
        for sale in sales:
            value, _ = self._town.lsp.datastore.rows.get((*FINAL, sale.scid), (None, 0))
            if value is not None:
                yield sale.scid, int(json.loads(value)["lsps2fast"]["fee_paid_msat"])


def _number(db: sqlite3.Connection, query: str, key: str | bytes) -> int | None:
    row = db.execute(query, (key,)).fetchone()
    return None if row is None else row[0]


def _came(sale: Sale) -> str:
    return f"and {sale.all_fees_msat} came"
