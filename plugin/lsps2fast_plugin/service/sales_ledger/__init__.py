"""The sales ledger: a durable account of every buy, attempt and sale, and the questions it answers.

Not to be taken for `policy.trust`, which remembers what unpaid channels cost us, nor for the records in lightningd's
datastore, which say how a payment goes on after a crash. Nothing about money depends on this ledger: it is told what
has happened, never on the path of a payment, and what it has missed it reads from the records.
"""
