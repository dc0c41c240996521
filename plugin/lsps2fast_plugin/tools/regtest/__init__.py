"""A playground and test bench of real nodes on loopback: bitcoind, an LSP, wallets and payers with our plugins.

    with Town(directory) as town:
        alice = town.wallet("alice")
        bill = town.bill(alice, 10_000_000)          # an invoice over a JIT channel just bought
        assert town.pay(bill, [2_000_000] * 5).paid

processes  the children and their RPC;   recorder  what a plugin and its lightningd say to each other;
town       the nodes and what they do;   playground  `lsps2fast regtest`
"""

from .processes import Bitcoind, Lightningd, Programs, find_programs, until
from .town import Bill, Paid, Town

__all__ = ["Bill", "Bitcoind", "Lightningd", "Paid", "Programs", "Town", "find_programs", "until"]
