"""The wallet's side of LSPS2, one idea a file. `lsps2fast_plugin.client` wires them to lightningd.

options   what the owner allows: fees, trust, time-outs
records   what is kept of buys, approvals and channels, and its JSON
book      all records, in memory and in the datastore
talk      LSPS0 requests to LSPs, and peers that lie
purchase  from a menu to an invoice: the RPC methods
invoices  the BOLT 11 invoice that lightningd signs
opening   which channel an LSP may open (pure)
incoming  HTLCs of approved payments, from the hook to the answer
chain     what the chain says about a channel's funding
watch     channels after the sale: funding owed, abandoned, never seen
reconnect staying with an LSP that owes us a channel
status    what the owner sees
"""
