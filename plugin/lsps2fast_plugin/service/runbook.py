"""What to do about each kind of alarm: docs/how-to/runbook.md is made of it, and the page for the browser shows it.

`make pages` writes docs/how-to/runbook.md from them.
"""

from __future__ import annotations

from typing import Final

ADVICE: Final = {  # kind: text, paragraphs between empty lines; names and commands between backticks
    "fleet": (
        "The database that the nodes of the fleet share does not answer, or refuses this node; the alarm says which, "
        "and what to do. This node goes on alone: it sells from what it holds of each quota and budget, and clients "
        "that it was told nothing of get channels in the safe mode only. Payments for what was sold need no database. "
        "It tries to join after pauses that grow to 16 seconds, and the log says when it has. `lsps2-fleet` shows what "
        "it holds.\n\n"
        "A sales ledger that was copied from another node, as with the disk of a machine, is not shipped, or sales of "
        "both would lie in one: end the node, move the file away, start it again."
    ),
    "ledger": (
        "The sales ledger cannot be written; selling goes on, and what is sold is written later. The alarm says what "
        "is wrong: free some space, see to the rights of the file and its folder, end the program that locks it, or "
        "move a damaged file away. Then nothing else is needed: it is tried again at least every minute, and the log "
        "says when it works."
    ),
    "wake-up": (
        "`lsps2-webhooks` is set, and nothing signs notifications, so LSPS5 is off and clients that are away are not "
        "called; all else goes on. lightningd's own `signmessage` cannot sign them: set `lsps2-webhook-signer` as in "
        "[wake sleeping wallets](wake-sleeping-wallets.md), and look whether its command runs as lightningd's user. "
        "One that signs nothing is tried again, at least every minute; one that signs with another key is not."
    ),
    "coins": (
        "A payment failed, or will, because there are no confirmed coins that are not reserved. The payer may try "
        "again while the offer lasts. Send coins to `lightning-cli newaddr`, or wait for change to confirm; "
        "`lsps2-coin-pool` splits coins ahead of time so that one opening does not bind the change of another, and "
        "`lsps2-coin-low-water-sat` says from where on you are warned. `free_coins_sat` in `lsps2-stats`."
    ),
    "bug": (
        "A step broke in a way that no code expects, and its payment was ended safely: parts failed, coins and "
        "channels given back. Keep the log with its traceback and report it. If it repeats at each sale, "
        "`lsps2-pause` until it is mended."
    ),
    "unknown-channel": (
        "lightningd has one of our withheld channels that no record speaks of, so its funding will never be sent. It "
        "binds coins until it is closed. Look whether another tool made it; if not, `lightning-cli close <channel "
        "id>` frees the coins. It is never closed by itself."
    ),
    "paid-twice": (
        "A client has paid for an ordered channel, and lightningd has taken another payment of the same invoice while "
        "this plugin was dead. The alarm names the order, its client and the sum: pay that back once, for no code "
        "does. `lightning-cli listinvoices lsps2fast-order-<order id>` shows the second payment; keep that row until "
        "you have. The channel is there and stays."
    ),
    "perhaps-paid": (
        "The invoice of an order has gone from lightningd, by hand or by `autoclean`, while this plugin did not run, "
        "and no bookkeeper runs that could say whether it was paid first. The order has ended without a channel. Look "
        "for the payment hash of the alarm in your own records and in lightningd's log; if it was paid, pay the sum "
        "back. Let `bookkeeper` run, and `autoclean` keep paid invoices for a day at least, and it cannot come again."
    ),
    "journal": (
        "lightningd's datastore cannot be written, or holds a record that this program does not understand. While "
        "writing fails nothing irreversible is done: payments fail temporarily. See to the disk of lightningd's "
        "database. A record that is not understood is kept, its coins are not touched and its payments fail for now: "
        "it was made by a newer version, or damaged. Upgrade, or look at it with `lightning-cli listdatastore "
        '\'["lsps","lsps2","sessions"]\'`.'
    ),
    "paid-late": (
        "The client took a payment after we had given its channel up, or the channel shows money of the client and no "
        "notification said so. If the channel lives its funding is sent now, and the client loses nothing. Where the "
        "alarm says that nothing is sent, lightningd has deleted the channel: the client has given it up."
    ),
    "false-preimage": (
        "A forward was reported settled with a preimage that does not belong to it. It was ignored. A plugin or a "
        "caller that forges notifications on this node is the likely cause: look at what else runs there."
    ),
    "given-up": (
        "A client ended its channel before its funding was sent, by an error message or a close. Nothing is sent, the "
        "coins are free. One such client does no harm; many from one client or app point to a fault of that app, and "
        "`lsps2-quote` shows what is held against it. Where the alarm speaks of a channel that *is not funded*, its "
        "own client did nothing: it shared a funding transaction with the one that was given up."
    ),
    "stray-funding": (
        "A client gave its channel up in the milliseconds between our last look and `sendpsbt`, and the funding went "
        "out for a channel that is no more. If the alarm ends with a transaction that *takes its coins back*, nothing"
        " is to be done: it pays the miners more than the funding does, and the budget for mining fees counts it. "
        "Where the alarm says *cannot be taken back*, its end says why. While the funding is in no block, try it by "
        "hand: `utxopsbt` of the same coins with `reservedok=true` and a higher feerate, `addpsbtoutput`, `signpsbt`,"
        " `sendpsbt`. Once a block has the funding its amount is lost, unless the client signs it back. "
        "Where the alarm says that a channel *is closed* and its client *holds* a sum in it, this node itself has paid "
        "the client over it before the close: pay that sum another way. "
        "`lsps2-listsales` tells who it was; see [what an LSP can lose](../explanation/lsp-risk.md)."
    ),
    "unpaid-channel": (
        "An offer has ended and its channel lies on chain, not paid for, or in part. It counts against the budget "
        "until it is closed. `lsps2-listsessions` lists it under `unpaid_channels`. Close it, or let "
        "`lsps2-close-unpaid` do so after a stated time; the client can never use it for anything but its payment. "
        "Where the alarm speaks of an order, lightningd lost its payment in the moment in which the funding went out: "
        "`lsps2-listorders` shows its channel, which is used as any other and promised to no one. Close it."
    ),
    "funding-late": (
        "A client was paid and the funding of its channel is not in the mempool or in no block. It is sent again, "
        "with growing pauses and every six blocks. Look whether bitcoind runs, has peers, and takes the transaction "
        "(`bitcoin-cli getmempoolentry <txid>`); at a high feerate bump it with a child of its change, which has your "
        "own address. Do not spend its coins elsewhere."
    ),
    "stuck": (
        "A step that must be done in the end keeps failing: closing, releasing coins, restoring routing fees, writing "
        "a final record. The alarm names it and the error. It is tried until it works, over restarts. Usually "
        "lightningd or bitcoind is busy or away; if the error is the same for hours, the text says which call to try "
        "by hand."
    ),
    "other": ("An alarm without a kind of its own: the text says all that is known. Report it, so that it gets one."),
}
