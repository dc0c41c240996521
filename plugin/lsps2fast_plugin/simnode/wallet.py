"""The on-chain wallet: outputs, reservations that end with blocks, coin selection (cln:O1, cln:O9)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import psbt
from .address import script_to_address
from .chain import Chain, Coins
from .errors import INVALID_PARAMS, LIGHTNINGD, ChainReject, RpcError
from .frames import Kept
from .psbt import Outpoint, Output, Tx

RESERVE_BLOCKS = 72
INPUT_WEIGHT = 230  # one taproot key spend
OUTPUT_WEIGHT = 172
FEERATE_PERKW = 253
CHANGE_MIN_SAT = 330


@dataclass(frozen=True, slots=True)
class Need:
    """What `fundpsbt` or `utxopsbt` was asked for."""

    amount_sat: int | None  # None: "all"
    startweight: int
    feerate_perkw: int
    minconf: int
    reserve_blocks: int
    excess_as_change: bool
    emergency_sat: int = 0  # what must be left for the anchors of channels (cln:O18)


@lru_cache(maxsize=512)
def _listed(amount_sat: int, script: bytes) -> dict[str, Any]:
    """Return what listfunds says of a coin without a block; it is shared, so not to be changed."""
    row: dict[str, Any] = {"amount_msat": amount_sat * 1000, "scriptpubkey": script.hex()}
    return row | {"address": script_to_address(script), "status": "unconfirmed"}


class Wallet:
    """Owns every output whose script it made; `reserved` maps an outpoint to the height where that ends."""

    def __init__(self, chain: Chain, secret: bytes) -> None:
        self.chain = chain
        self.secret = secret
        self.scripts: dict[bytes, None] = {}
        self._made = 0  # scripts
        self.too_cheap = 0  # so many reasons why bitcoind takes nothing that is sent: dearer ones fill its mempool
        self.reserved: dict[Outpoint, int] = {}
        self._mine = Coins()  # kept by the chain
        self._rows: dict[Outpoint, tuple[Any, Kept]] = {}  # of listfunds, as last listed, and what each was made of

    def new_script(self) -> bytes:
        key = hashlib.sha256(self.secret + b"address %d" % self._made).digest()
        self._made += 1
        script = b"\x51\x20" + key
        self.scripts[script] = None
        self.chain.unspent.owned[script] = self._mine
        return script

    def outputs(self) -> dict[Outpoint, Output]:
        return dict(self._mine)

    def balance_sat(self) -> int:
        return self._mine.sum_sat

    def dispose(self) -> None:
        """Its owner is gone: the chain need not sort outputs for it any longer."""
        for script in self.scripts:
            del self.chain.unspent.owned[script]

    def forget_scripts(self, kept: int) -> None:
        """Drop all but so many of the newest that own nothing now."""
        used = {output.script for output in self._mine.values()}
        for script in [each for each in list(self.scripts)[:-kept] if each not in used]:
            del self.scripts[script], self.chain.unspent.owned[script]

    def is_reserved(self, point: Outpoint) -> bool:
        return self.reserved.get(point, 0) > self.chain.height

    def fund(self, need: Need) -> dict[str, Any]:
        """Choose confirmed, unreserved outputs; raises 301 with the sum that is missing."""
        free = {point: output for point, output in self.outputs().items() if self._usable(point, need.minconf)}
        chosen: dict[Outpoint, Output] = {}
        weight = need.startweight
        target_sat = need.amount_sat if need.amount_sat is not None else 0
        for point, output in free.items():
            if need.amount_sat is not None and self._excess(chosen, target_sat, weight, need.feerate_perkw) >= 0:
                break
            chosen[point] = output
            weight += INPUT_WEIGHT
        excess_sat = self._excess(chosen, target_sat, weight, need.feerate_perkw)
        if excess_sat < 0 or not chosen:
            asked = "all" if need.amount_sat is None else f"{need.amount_sat}sat"
            text = f"Could not afford {asked} using all {len(free)} available UTXOs: {-excess_sat}sat short"
            raise RpcError(301, text)
        return self._build(chosen, weight, excess_sat, need)

    def fund_from(self, points: list[Outpoint], need: Need, reserved_ok: bool) -> dict[str, Any]:
        """Spend exactly these; raises -32602 for one that cannot be spent, 301 when they do not reach."""
        ours = self.outputs() | self._in_the_mempool()
        for point in points:
            name = f"{point[0]}:{point[1]}"
            if point not in ours:
                raise RpcError(INVALID_PARAMS, f"Unknown UTXO {name}")
            if self.is_reserved(point) and not reserved_ok:
                raise RpcError(INVALID_PARAMS, f"UTXO {name} already reserved")
        chosen = {point: ours[point] for point in points}
        weight = need.startweight + INPUT_WEIGHT * len(chosen)
        excess_sat = self._excess(chosen, need.amount_sat or 0, weight, need.feerate_perkw)
        if excess_sat < 0:
            total_sat = sum(output.amount_sat for output in chosen.values())
            text = f"Could not afford {need.amount_sat}sat using UTXOs totalling {total_sat}sat"
            raise RpcError(301, f"{text} with weight {weight} at feerate {need.feerate_perkw}")
        return self._build(chosen, weight, excess_sat, need)

    def _in_the_mempool(self) -> dict[Outpoint, Output]:
        """Coins that a transaction without a block spends: they may be spent again, for a higher fee."""
        pairs = (pair for tx in self.chain.mempool.values() for pair in zip(tx.inputs, tx.spent, strict=True))
        return {point: output for point, output in pairs if output.script in self.scripts}

    def _usable(self, point: Outpoint, minconf: int) -> bool:
        # h_no_funds: a deposit in the mempool is not seen even with minconf=0
        return not self.is_reserved(point) and self.chain.depth(point[0]) >= max(minconf, 1)

    @staticmethod
    def _excess(chosen: dict[Outpoint, Output], target_sat: int, weight: int, feerate_perkw: int) -> int:
        have_sat = sum(output.amount_sat for output in chosen.values())
        return have_sat - target_sat - weight * feerate_perkw // 1000

    def _build(self, chosen: dict[Outpoint, Output], weight: int, excess_sat: int, need: Need) -> dict[str, Any]:
        outputs: tuple[Output, ...] = ()
        fee_all = (weight + OUTPUT_WEIGHT) * need.feerate_perkw // 1000
        change_sat = excess_sat - (fee_all - weight * need.feerate_perkw // 1000)
        wanted_sat = self._emergency_sat(chosen, need)
        if wanted_sat > max(change_sat, 0):
            raise RpcError(313, f"We would not have enough left for min-emergency-msat {need.emergency_sat}sat")
        with_change = change_sat >= CHANGE_MIN_SAT and (need.excess_as_change or wanted_sat > 0)
        if with_change:
            kept_sat = change_sat if need.excess_as_change else max(wanted_sat, CHANGE_MIN_SAT)
            outputs, excess_sat = (Output(kept_sat, self.new_script()),), change_sat - kept_sat
            weight += OUTPUT_WEIGHT
        tx = Tx(tuple(chosen), outputs, tuple(chosen.values()), self.chain.height)
        answer: dict[str, Any] = {
            "psbt": psbt.encode(tx),
            "feerate_per_kw": need.feerate_perkw,
            "estimated_final_weight": weight,
            "excess_msat": excess_sat * 1000,
        }
        if with_change:
            answer["change_outnum"] = 0
        if need.reserve_blocks:
            answer["reservations"] = self.reserve(tx, need.reserve_blocks, exclusive=True)
        return answer

    def _emergency_sat(self, chosen: dict[Outpoint, Output], need: Need) -> int:
        """Return what the change must hold, because the rest of the wallet does not."""
        rest = (
            output for point, output in self.outputs().items() if point not in chosen and not self.is_reserved(point)
        )
        return max(0, need.emergency_sat - sum(output.amount_sat for output in rest)) if need.emergency_sat else 0

    def reserve(self, tx: Tx, blocks: int, exclusive: bool) -> list[dict[str, Any]]:
        """Add `blocks` to each reservation, counted from now if there is none."""
        mine = [point for point in tx.inputs if point in self._mine]
        for point in mine:
            if exclusive and self.is_reserved(point):
                raise RpcError(INVALID_PARAMS, f"{point[0]}:{point[1]} already reserved")
        rows = []
        for txid, vout in mine:
            before = self.is_reserved((txid, vout))
            start = self.reserved[txid, vout] if before else self.chain.height
            self.reserved[txid, vout] = start + blocks
            row = {"txid": txid, "vout": vout, "was_reserved": before, "reserved": True}
            rows.append({**row, "reserved_to_block": self.reserved[txid, vout]})
        return rows

    def unreserve(self, tx: Tx, blocks: int) -> list[dict[str, Any]]:
        """Take `blocks` off each reservation; a row only for what was reserved (cln:O9: none is no error)."""
        rows = []
        for txid, vout in tx.inputs:
            if not self.is_reserved((txid, vout)):
                continue
            self.reserved[txid, vout] -= blocks
            still = self.is_reserved((txid, vout))
            row: dict[str, Any] = {"txid": txid, "vout": vout, "was_reserved": True, "reserved": still}
            if still:
                row["reserved_to_block"] = self.reserved[txid, vout]
            else:
                del self.reserved[txid, vout]
            rows.append(row)
        return rows

    def release(self, tx: Tx) -> None:
        """Drop the whole reservation, as closing a withheld channel does (cln:A2)."""
        for point in tx.inputs:
            self.reserved.pop(point, None)

    def check_reserved(self, tx: Tx) -> None:
        """signpsbt takes no input of ours that is not reserved (cln:O1); spent ones pass (cln:O6)."""
        ours = self.outputs()
        for point in tx.inputs:
            if point in ours and not self.is_reserved(point):
                text = f"Aborting PSBT signing. UTXO {point[0]}:{point[1]} is not reserved"
                raise RpcError(LIGHTNINGD, text)

    def sign(self, tx: Tx) -> Tx:
        """Sign inputs that are ours."""
        self.check_reserved(tx)
        return tx.sign(self.secret)

    def send(self, tx: Tx) -> dict[str, Any]:
        """Broadcast; raises -1 with bitcoind's words (cln:O6)."""
        raw = tx.serialize().hex()
        try:
            if self.too_cheap and not self.chain.knows(tx.txid):
                raise ChainReject("error code: -26\\nerror message:\\nmempool min fee not met\\n")
            txid = self.chain.submit(tx)
        except ChainReject as refused:
            text = f"Error broadcasting transaction: {refused}. Unsent tx discarded {raw}"
            raise RpcError(LIGHTNINGD, text) from None
        return {"tx": raw, "txid": txid}

    def rows(self, syncing: bool = False) -> list[dict[str, Any]]:
        """Return `outputs` of listfunds. `syncing`: after a start, when the latest blocks have not been read again
        (cln:R2).
        """
        rows = {}
        for point in self._mine:
            mined = None if syncing else self.chain.confirmed.get(point[0])
            made_of = (mined, self.reserved[point] if self.is_reserved(point) else None)
            known = self._rows.get(point)
            rows[point] = known if known is not None and known[0] == made_of else (made_of, self._row(point, *made_of))
        self._rows = rows
        return [row for _, row in rows.values()]

    def _row(self, point: Outpoint, mined: tuple[int, int] | None, reserved_to: int | None) -> Kept:
        txid, vout = point
        output = self._mine[point]
        row: dict[str, Any] = {"txid": txid, "output": vout, **_listed(output.amount_sat, output.script)}
        if mined is not None:
            row |= {"status": "confirmed", "blockheight": mined[0]}
        row["reserved"] = reserved_to is not None
        if reserved_to is not None:
            row["reserved_to_block"] = reserved_to
        return Kept(row)
