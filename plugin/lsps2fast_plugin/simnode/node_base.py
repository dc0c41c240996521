"""The part of a node that its parts know: settings, stores, channels by name; `lightningd` puts the rest on top."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .channels import U64_MAX, End, Htlc
from .datastore import Datastore
from .faults import Faults
from .feerates import Feerates
from .parts import Forward
from .party import Surroundings
from .plugins import PluginOwner
from .waiters import Waiters


class NodeBase(PluginOwner, ABC):
    """What HTLCs, invoices, openings and RPC methods ask of their node."""

    def __init__(self, world: Surroundings, name: str, directory: Path, *, fee_base_msat: int, fee_ppm: int) -> None:
        super().__init__(world, name)
        self.fee_base_msat = fee_base_msat
        self.fee_ppm = fee_ppm
        self.cltv_delta = 6
        self.cltv_final = 10
        self.htlc_minimum_msat = 0
        self.htlc_maximum_msat = U64_MAX
        self.max_dust_exposure_msat = 50_000_000
        self.max_concurrent_htlcs = 483
        self.to_self_delay = 6
        self.emergency_sat = 25_000  # min-emergency-msat
        self.feerates = Feerates()
        self.falls_back: frozenset[int] = frozenset()  # bits of a type that an open drops by itself after a refusal
        self.directory = directory / "regtest"
        self.directory.mkdir(parents=True)
        self.lightning_dir = str(self.directory)
        self.rpc_path = str(self.directory / "lightning-rpc")
        self.online = False
        self.height = self.chain.height
        self.generation = 0  # grows with every start: answers of a former life are void
        self.datastore = Datastore()
        self.faults = Faults()
        self.syncing = False  # as right after a start, when the latest blocks have not been read again (cln:R2)
        self.waiters = Waiters()
        self.closed: list[dict[str, Any]] = []
        self.htlc_log: list[tuple[Htlc, str]] = []  # in order of creation, with direction
        self.developer = True
        self.says_failure_reason = False  # of a later lightningd, in forwards (cln:N9)
        self.signs_what_is_meant = False  # `signmessage` of a mended lightningd (cln:N14)
        self.forward_listeners: list[Callable[[Forward], None]] = []  # for those who want to watch

    @abstractmethod
    def crash(self, reason: str) -> None:
        """lightningd aborts (cln:H9); `crash_log` says why."""

    # channels

    def forward_event(self, row: Forward) -> None:
        for listener in self.forward_listeners:
            listener(row)
        self.notify("forward_event", row.event())
        kind = "updated" if row.updated_index else "created"
        htlc = row.part.htlc
        details = {"status": row.status, "in_channel": row.in_channel, "in_htlc_id": htlc.id}
        details |= {"in_msat": htlc.amount_msat, "out_channel": row.out_channel}
        self.waiters.wake("forwards", kind, row.updated_index or row.created_index, details)

    def has_anchors(self) -> bool:
        return any(end.channel.anchors and not end.forgotten for end in self.ends)

    def end_by_id(self, channel_id: str) -> End | None:
        return next((end for end in self.ends.of(channel_id) if not end.forgotten), None)

    def end_by_scid(self, scid: str) -> End | None:
        for end in self.ends:
            if end.is_named(scid) and not end.forgotten:
                return end
        return None

    def end_defaults(self, end: End) -> None:
        """Our policy on a new end."""
        end.fee_base_msat, end.fee_ppm = self.fee_base_msat, self.fee_ppm
        end.cltv_delta = self.cltv_delta
        end.htlc_maximum_msat = min(end.htlc_maximum_msat or U64_MAX, self.htlc_maximum_msat)
