"""What dishonest people do, one class for each row of the catalogue of attacks; parameters by chance."""

from __future__ import annotations

from .scene import Scene, Visitor


class Overpays(Visitor):
    """A small buy, paid far above it, by a wallet that takes nothing."""

    name = "overpays"
    row = "S1"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="fail")
        sale = await me.buy(wallet, me.sat(1_500, 5_000))
        if sale is None:
            return
        await me.end(me.pay(sale, me.bill(sale), [me.sat(100_000, 20_000_000) * 1000]))
        if me.maybe(0.5):
            await me.leave()


ALL: tuple[type[Visitor], ...] = (Overpays,)
KINDS: dict[str, type[Visitor]] = {kind.name: kind for kind in ALL}
