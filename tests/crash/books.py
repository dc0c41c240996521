"""What must be true when a world has come to its end, each as one sentence if it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.channels import Channel

from .stage import Sale, Stage

SESSIONS = ("lsps", "lsps2", "sessions")
ORDERS = ("lsps", "lsps1", "orders")
NOISE = ("Traceback", "failed in our code", "a task failed", "failed in pyln-client")


def violations(stage: Stage, stats: dict[str, object]) -> list[str]:
    """Everything that is wrong."""
    return [
        *_node(stage),
        *_htlcs(stage),
        *_money(stage),
        *_fees(stage),
        *_channels(stage),
        *_coins(stage),
        *_journal(stage),
        *_orders(stage),
        *_memory(stage, stats),
        *stage.problems,
    ]


def _node(stage: Stage) -> Iterator[str]:
    if stage.lsp.state != "running":
        yield f"lightningd is {stage.lsp.state}: {stage.lsp.crash_log}"
    for _, source, text in stage.lsp.logs:
        if source.startswith("plugin-") and any(word in text for word in NOISE):
            yield f"the plugin broke: {text}"
    for process in stage.lsp.processes:
        for line in process.stderr:
            yield f"stderr: {line}"
    for party in stage.world.parties.values():
        for end in party.force_closed:
            yield f"{party.name} closed {end.channel.channel_id} by force"


def _htlcs(stage: Stage) -> Iterator[str]:
    for channel in stage.world.channels:
        for end in channel.ends:
            if end.live and (not channel.dead or channel.on_chain is not None):
                yield f"{len(end.live)} HTLCs of {end.owner.name} are open on {channel.channel_id[:8]}"
    if stage.lsp.htlcs.held:
        yield f"{len(stage.lsp.htlcs.held)} hook calls are open"


def _paid_msat(sale: Sale) -> int:
    """What payers lost on this invoice."""
    parts = [part for payment in sale.sent for part in payment.parts]
    return sum(part.amount_msat for part in parts if part.result.done() and part.result.result().code == 0)


def _money(stage: Stage) -> Iterator[str]:
    try:
        stage.world.check_books()
    except AssertionError as error:
        yield str(error)
    books = stage.world.books()
    for client in stage.clients:
        due = client.received_msat()
        if books[client.name] > due or (books[client.name] < due and not _gave_up(client)):
            yield f"{client.name} gave preimages for {due} msat and owns {books[client.name]}"
        if not stage.forgetful:
            for why in client.refused:
                yield f"{client.name} refused a part: {why}"
    if books[stage.lsp.name] < -stage.world.chain.fees_sat * 1000:
        yield f"the LSP lost {-books[stage.lsp.name]} msat, miners took {stage.world.chain.fees_sat} sat"
    lost = sum(-books[payer.name] for payer in stage.payers)
    lost -= stage.payers_spent_msat
    receipts = sum(_paid_msat(sale) for sale in stage.sales) + sum(ordered.paid_msat for ordered in stage.orders)
    if lost != receipts:
        yield f"payers lost {lost} msat for receipts of {receipts}"
    for sale in stage.sales:
        yield from _sale(sale, stage.forgetful)


def _gave_up(client: Client) -> bool:
    """Whether this client renounced a channel, and so whatever it had in it."""
    return any(deed in ("error", "close") for _, deed in client.script.done)


def _sale(sale: Sale, forgetful: bool) -> Iterator[str]:
    """`forgetful`: lightningd restarted, so the client may not have been told of the fee in a part (K-29)."""
    invoice, paid = sale.invoice, _paid_msat(sale)
    name = f"invoice {invoice.payment_hash.hex()[:8]}"
    if invoice.paid_msat is None:
        if paid:
            yield f"{name}: payers lost {paid} msat, the client has nothing"
        if sale.must_pay and not _gave_up(sale.client):
            yield f"{name} was never paid, though the payer tried again"
        return
    if sale.overpay_msat:  # that is for forwarding: each part pays so much for it
        if not invoice.paid_msat < paid <= invoice.paid_msat + 2 * sale.overpay_msat:
            yield f"{name}: {paid} paid for {invoice.paid_msat} received: more or less than forwarding costs"
        return
    if paid != invoice.paid_msat + invoice.fee_taken_msat and not forgetful and not _gave_up(sale.client):
        yield f"{name}: {paid} paid is not {invoice.paid_msat} received and {invoice.fee_taken_msat} fee"


def _fees(stage: Stage) -> Iterator[str]:
    """One opening fee for each scid that was paid over, whichever payment paid it; nothing for anything else."""
    by_scid: dict[str, list[Sale]] = {}
    outcomes = {scid: record["outcome"] for scid, record in records(stage, "finalized").items()}
    for sale in stage.sales:
        if sale.invoice.paid_msat is not None and not sale.overpay_msat and not _gave_up(sale.client):
            by_scid.setdefault(str(sale.invoice.scid), []).append(sale)
    for scid, sales in by_scid.items():
        taken = sum(_paid_msat(sale) - (sale.invoice.paid_msat or 0) for sale in sales)
        agreed = max(sale.fee_msat for sale in sales)
        if outcomes.get(scid) == "Reused":
            agreed = sum(sale.fee_msat * (sale.reuse_percent or 0) // 100 for sale in sales)
        if taken != agreed and not (taken < agreed and any(sale.may_be_partial for sale in sales)):
            yield f"scid {scid}: {taken} msat of opening fee taken, {agreed} agreed"


def jit_channels(stage: Stage, client: Client) -> list[Channel]:
    """Channels the LSP opened to this client."""
    private = [end.channel for end in client.ends if 50 in end.channel.channel_type]
    ours = [channel for channel in private if channel.opener.owner is stage.lsp]
    return [channel for channel in ours if channel.channel_id not in stage.foreign]


def _channels(stage: Stage) -> Iterator[str]:
    if stage.lsp.openings.pending or stage.lsp.openings.starting:
        yield "an open was left half made"
    for client in stage.clients:
        ordered = sum(each.client is client and each.paid_msat > 0 for each in stage.orders)
        scids = {sale.invoice.scid for sale in stage.sales if sale.client is client and sale.jit}
        public = 0
        for channel in jit_channels(stage, client):
            ours, theirs = channel.opener, channel.opener.other
            name = f"channel {channel.channel_id[:8]} to {client.name}"
            if channel.withheld and not ours.forgotten:
                yield f"{name} is still withheld: an orphan"
            if channel.withheld and theirs.to_us_msat and not _gave_up(client):
                yield f"{name} was never put on chain and holds {theirs.to_us_msat} msat of the client"
            if not channel.withheld:
                public += not (channel.dead and _gave_up(client))  # one that was closed on us may be replaced
                if not channel.dead and stage.world.chain.depth(channel.funding_txid) == 0:
                    yield f"{name}: its funding is not in a block"
                fees = ours.fee_base_msat, ours.fee_ppm
                if not channel.dead and fees != stage.fees_of(channel.channel_id):
                    yield f"{name} forwards for {ours.fee_base_msat} msat + {ours.fee_ppm} ppm"
        if public > len(scids) + ordered:
            yield f"{client.name} has {public} public channels for {len(scids)} jit scids and {ordered} orders"
        if public < ordered and not _gave_up(client):
            yield f"{client.name} has paid for {ordered} orders and has {public} channels"


def _coins(stage: Stage) -> Iterator[str]:
    for row in stage.lsp.wallet.rows():
        if row["reserved"]:
            yield f"coin {row['txid'][:8]}:{row['output']} stays reserved to block {row['reserved_to_block']}"


def records(stage: Stage, folder: str) -> dict[str, dict[str, object]]:
    """Journal records by jit scid."""
    rows = stage.lsp.datastore.rows.items()
    return {key[-1]: json.loads(value) for key, (value, _) in rows if key[:-1] == (*SESSIONS, folder)}


def owing(stage: Stage) -> set[str]:
    """Return jit scids whose channel lives on chain and owes its fee or a part of it:
    listed till it closes (people:S17).
    """
    live = {channel.channel_id for channel in stage.world.channels if not channel.withheld and not channel.dead}
    whole = {
        sale.invoice.scid for sale in stage.sales if sale.invoice.paid_msat is not None and not sale.may_be_partial
    }
    found = records(stage, "active").items()
    return {scid for scid, record in found if record.get("channel_id") in live and scid not in whole}


def _journal(stage: Stage) -> Iterator[str]:
    owed, sold = owing(stage), {str(sale.invoice.scid) for sale in stage.sales}
    for scid, record in records(stage, "active").items():
        if scid in owed or (stage.undeletable and "'stage': 'buy'" in str(record)):
            continue  # a lapsed buy that a start could not delete is left for the next one
        if stage.wrote_for_the_dead and "'stage': 'buy'" in str(record) and scid not in sold:
            continue  # no client heard of it: the next start finds it, and it ends with its offer
        yield f"an active record is left for {scid}: {record.get('lsps2fast')}"
    outcomes = {scid: record["outcome"] for scid, record in records(stage, "finalized").items()}
    honest = [sale for sale in stage.sales if sale.jit and not _gave_up(sale.client)]
    for scid in {sale.invoice.scid for sale in honest}:
        paid = any(sale.invoice.paid_msat is not None for sale in stage.sales if sale.invoice.scid == scid)
        if str(scid) in owed:
            continue
        may_reuse = any(sale.reuse_percent is not None for sale in stage.sales if sale.invoice.scid == scid)
        good = ("Succeeded", "Reused") if may_reuse else ("Succeeded",)
        if (outcomes.get(str(scid)) in good) != paid:
            yield f"the journal says {outcomes.get(str(scid))} of {scid}, which was {'paid' if paid else 'not paid'}"


def _orders(stage: Stage) -> Iterator[str]:
    """A payment that was taken has its channel, any other went back, and no order waits for anything."""
    rows = stage.lsp.datastore.rows.items()
    found = {key[-1]: json.loads(value) for key, (value, _) in rows if key[:-1] == ORDERS}
    for ordered in stage.orders:
        record, paid = found.pop(ordered.order_id, None), ordered.paid_msat > 0
        if record is None:
            if paid:
                yield f"order {ordered.order_id} is paid and forgotten"
        elif (record["state"] in ("sent", "done")) != paid or record["paid"] != paid:
            yield f"order {ordered.order_id} is {record['state']}, paid: {record['paid']}; the payer says {paid}"
        elif not paid and record["state"] not in ("failed", "expected"):
            yield f"order {ordered.order_id} is left {record['state']}"
    for order_id, record in found.items():  # its client never heard of it
        if record["paid"] or record["state"] not in ("failed", "expected"):
            yield f"order {order_id}, which is unknown to its client, is {record['state']}"


def _memory(stage: Stage, stats: dict[str, object]) -> Iterator[str]:
    """Nothing is left over, but for buys that are owed a fee; that another tool sent a funding may be unknown yet."""
    foreign = range(len(stage.foreign) + 1)
    allowed = {
        "live_buys": (len(owing(stage)),),
        "live_sessions": (0,),
        "held_parts": (0,),
        "withheld_channels": foreign,
    }
    for name, numbers in allowed.items():
        if stats.get(name) not in numbers:
            yield f"{name} is {stats.get(name)} at the end"
