"""The block chain: unspent outputs, a mempool, and blocks that come when they are mined."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from .errors import ChainReject
from .psbt import Outpoint, Output, Tx

BlockListener = Callable[[int, str], None]


class Coins(dict[Outpoint, Output]):
    """What one wallet owns; `sum_sat` goes along."""

    def __init__(self) -> None:
        super().__init__()
        self.sum_sat = 0

    def __setitem__(self, point: Outpoint, output: Output) -> None:
        if point in self:
            del self[point]
        super().__setitem__(point, output)
        self.sum_sat += output.amount_sat

    def __delitem__(self, point: Outpoint) -> None:
        self.sum_sat -= self[point].amount_sat
        super().__delitem__(point)


class Unspent(dict[Outpoint, Output]):
    """Outputs that are not spent. `owned` has those of each wallet, by script: who owns it keeps the inner dict."""

    def __init__(self) -> None:
        super().__init__()
        self.owned: dict[bytes, Coins] = {}

    def __setitem__(self, point: Outpoint, output: Output) -> None:
        if point in self:
            del self[point]
        super().__setitem__(point, output)
        owned = self.owned.get(output.script)
        if owned is not None:
            owned[point] = output

    def __delitem__(self, point: Outpoint) -> None:
        owned = self.owned.get(self[point].script)
        if owned is not None:
            del owned[point]
        super().__delitem__(point)


class Chain:
    """`height` and `hashes` describe the best chain; `issued_sat` minus `fees_sat` is all money there is."""

    def __init__(self, height: int = 109) -> None:
        self.height = height
        self.unspent = Unspent()
        self.mempool: dict[str, Tx] = {}
        self.confirmed: dict[str, tuple[int, int]] = {}  # txid: height, index in its block
        self.transactions: dict[str, Tx] = {}
        self.listeners: list[BlockListener] = []
        self.issued_sat = 0
        self.fees_sat = 0
        self.reorgs: list[int] = []  # heights from which blocks were replaced

    def hash_of(self, height: int) -> str:
        """Return the hash of a height; each reorg below it gives it another."""
        branch = sum(height >= first for first in self.reorgs)
        return hashlib.sha256(b"block %d" % height + b" branch %d" % branch * bool(branch)).hexdigest()

    def grant(
        self, amount_sat: int, script: bytes, confirmed: bool = True, at: tuple[int, int] | None = None
    ) -> Outpoint:
        """Money out of nothing, as a mined coinbase would give it; `at` is height and index in the block."""
        origin = hashlib.sha256(b"grant %d %d" % (len(self.transactions), self.issued_sat)).hexdigest()
        tx = Tx(((origin, 0),), (Output(amount_sat, script),))
        self.transactions[tx.txid] = tx
        self.unspent[tx.txid, 0] = tx.outputs[0]
        self.issued_sat += amount_sat
        if confirmed:
            self.confirmed[tx.txid] = at or (self.height, 1)
        else:
            self.mempool[tx.txid] = tx
        return tx.txid, 0

    def submit(self, tx: Tx) -> str:
        """Put a signed transaction into the mempool; raises ChainReject with bitcoind's words."""
        txid = tx.txid
        if txid in self.mempool:
            return txid
        if txid in self.confirmed:
            raise ChainReject("error code: -27\\nerror message:\\nTransaction outputs already in utxo set\\n")
        if not tx.signed:
            raise ChainReject("error code: -26\\nerror message:\\nmandatory-script-verify-flag-failed\\n")
        self._make_way(tx)
        if any(outpoint not in self.unspent for outpoint in tx.inputs):
            raise ChainReject("error code: -25\\nerror message:\\nbad-txns-inputs-missingorspent\\n")
        for outpoint in tx.inputs:
            del self.unspent[outpoint]
        for vout, output in enumerate(tx.outputs):
            self.unspent[txid, vout] = output
        self.mempool[txid] = tx
        self.transactions[txid] = tx
        self.fees_sat += tx.fee_sat
        return txid

    def _make_way(self, tx: Tx) -> None:
        """Drop what spends the same coins and pays less; raises ChainReject when it does not pay less (BIP-125)."""
        rivals = [txid for txid, other in self.mempool.items() if set(other.inputs) & set(tx.inputs)]
        if sum(self.mempool[txid].fee_sat for txid in rivals) >= tx.fee_sat and rivals:
            raise ChainReject("error code: -26\\nerror message:\\ninsufficient fee, rejecting replacement\\n")
        for txid in rivals:
            if txid in self.mempool:
                self.forget(txid)

    def forget(self, txid: str) -> None:
        """Drop a transaction and what spends it from the mempool, as bitcoind does when it is full; raises KeyError."""
        tx = self.mempool.pop(txid)
        for child in [child for child, each in self.mempool.items() if any(spot[0] == txid for spot in each.inputs)]:
            self.forget(child)
        for outpoint in tx.inputs:
            self.unspent[outpoint] = self.transactions[outpoint[0]].outputs[outpoint[1]]
        for vout in range(len(tx.outputs)):
            del self.unspent[txid, vout]
        self.fees_sat -= tx.fee_sat

    def replace(self, txid: str, script: bytes, fee_sat: int = 1_000) -> str:
        """Another transaction takes the inputs of one in the mempool and pays them to `script`; its txid."""
        old = self.mempool[txid]
        self.forget(txid)
        left_sat = sum(output.amount_sat for output in old.spent) - fee_sat
        return self.submit(Tx(old.inputs, (Output(left_sat, script),), old.spent, self.height).sign(b"replacement"))

    def unwind(self, blocks: int) -> list[str]:
        """Take the last blocks back: their transactions wait in the mempool again. Return their txids."""
        self.height -= blocks
        gone = [txid for txid, (height, _) in self.confirmed.items() if height > self.height]
        for txid in gone:
            del self.confirmed[txid]
            self.mempool[txid] = self.transactions[txid]
        self.reorgs.append(self.height + 1)
        return gone

    def mine(self, blocks: int = 1) -> None:
        """Mine blocks: the first takes the whole mempool; every listener learns of each."""
        for _ in range(blocks):
            self.height += 1
            for index, txid in enumerate(self.mempool, start=1):
                self.confirmed[txid] = (self.height, index)
            self.mempool.clear()
            for listener in list(self.listeners):
                listener(self.height, self.hash_of(self.height))

    def knows(self, txid: str) -> bool:
        """Return whether it is in the mempool or in a block."""
        return txid in self.mempool or txid in self.confirmed

    def depth(self, txid: str) -> int:
        """Return the confirmations; 0 when it is only in the mempool or unknown."""
        mined = self.confirmed.get(txid)
        return self.height - mined[0] + 1 if mined else 0
