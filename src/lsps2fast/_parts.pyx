# cython: language_level=3, binding=True
"""One part of a payment, and what is reckoned over several: the opening fee, its shares, which parts give way.

Nothing here decides anything: the rules are in `_fsm.pyx`. Amounts are u64; sums, products and differences are checked
before they are made, so that the compiled and the interpreted run never differ.
"""

import cython

from lsps2fast.actions import Forward, PartStatus

HELD = cython.declare(cython.int, int(PartStatus.HELD))
FAILED = cython.declare(cython.int, int(PartStatus.FAILED))
MOST_MSAT = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)


@cython.final
@cython.cclass
class IncomingHtlc:
    """IncomingHtlc(*, jit_scid, payment_hash, in_scid, htlc_id, amount_msat, amt_to_forward_msat, cltv_expiry, outgoing_cltv_value, in_channel='')
--

    One HTLC that names a jit scid as its next hop: the input of `Sessions.part`, and from then on the part it became.

    `amount_msat` and `cltv_expiry` are the HTLC's own, `amt_to_forward_msat` and `outgoing_cltv_value` the onion's.
    `in_channel` is the id of the channel it came over, which no splice changes (rule:25); where it is not known
    `in_scid` takes its place in `key`. `status` (a `PartStatus`) and `extra_fee_msat`, what is taken from it, are the
    machine's.
    """  # fmt: skip  # noqa: E501

    def __init__(
        self,
        *,
        jit_scid: object,
        payment_hash: bytes,
        in_scid: cython.ulonglong,
        htlc_id: cython.ulonglong,
        amount_msat: cython.ulonglong,
        amt_to_forward_msat: cython.ulonglong,
        cltv_expiry: cython.ulonglong,
        outgoing_cltv_value: cython.ulonglong,
        in_channel: str = "",
    ):
        self.jit_scid = jit_scid
        self.payment_hash = payment_hash
        self.in_scid = in_scid
        self.htlc_id = htlc_id
        self.amount_msat = amount_msat
        self.amt_to_forward_msat = amt_to_forward_msat
        self.cltv_expiry = cltv_expiry
        self.outgoing_cltv_value = outgoing_cltv_value
        self.in_channel = in_channel
        self.key = (in_channel, htlc_id) if in_channel else (in_scid, htlc_id)
        self.status = HELD
        self.extra_fee_msat = 0
        self.session = None  # the `Session` it belongs to while that lives

    def __repr__(self):
        return f"IncomingHtlc({self.key}, {self.amt_to_forward_msat} msat, {PartStatus(self.status).name})"

    @cython.cfunc
    def forward(self) -> object:
        """Return the `actions.Forward` of this part."""
        out_msat = less(self.amt_to_forward_msat, self.extra_fee_msat)
        return Forward(self.in_scid, self.htlc_id, out_msat, self.extra_fee_msat, self.in_channel)


@cython.cfunc
@cython.exceptval(check=False)
def less(amount: cython.ulonglong, by: cython.ulonglong) -> cython.ulonglong:
    """Return the difference, 0 where it would be negative."""
    return amount - by if amount > by else 0


@cython.ccall
def opening_fee_msat(
    payment_size_msat: cython.ulonglong, min_fee_msat: cython.ulonglong, proportional: cython.ulonglong
) -> object:
    """Return the opening fee of a payment, or None when a step leaves 64 bits (F-01 to F-03).

    bLIP-52's prose prints the divisor as 10000000; its two code samples say 1000000, and so do the other
    implementations (F-01, X-01).
    """
    if proportional != 0 and payment_size_msat > MOST_MSAT // proportional:
        return None
    product: cython.ulonglong = payment_size_msat * proportional
    if product > MOST_MSAT - 999_999:
        return None
    return max((product + 999_999) // 1_000_000, min_fee_msat)


@cython.cfunc
@cython.exceptval(-1)
def fee_fits(parts: list, floor_msat: cython.ulonglong, fee_msat: cython.ulonglong) -> cython.bint:
    """Return whether the held ones of these parts can bear this fee.

    None may lie below the floor (C-04), the sum must stay in u64 (H-07), and what is above the floor must suffice
    (H-05).
    """
    part: IncomingHtlc
    value: cython.ulonglong
    room: cython.ulonglong = 0  # above the floor
    left: cython.ulonglong = MOST_MSAT  # of u64
    for part in parts:
        if part.status == HELD:
            value = part.amt_to_forward_msat
            if value < floor_msat or value > left:
                return False
            left -= value
            room += value - floor_msat
    return fee_msat <= room


@cython.cfunc
@cython.exceptval(-1)
def lay_fee(parts: list, floor_msat: cython.ulonglong, fee_msat: cython.ulonglong) -> cython.bint:
    """Lay the fee on the held ones of these parts, each its share (H-04); False, and nothing laid, if it does not fit.

    A share is in proportion to the part's value, rounded down, and leaves it at least the floor; what remains goes to
    the first parts that have room. So every subset of the parts pays its share, and all of them the fee to the msat.
    """
    part: IncomingHtlc
    share: cython.ulonglong
    more: cython.ulonglong
    total: cython.ulonglong = 0
    rest: cython.ulonglong = fee_msat
    if not fee_fits(parts, floor_msat, fee_msat):
        return False
    for part in parts:
        if part.status == HELD:
            total += part.amt_to_forward_msat
    for part in parts:
        if part.status == HELD:
            share = _share(fee_msat, part.amt_to_forward_msat, total)
            part.extra_fee_msat = min(share, part.amt_to_forward_msat - floor_msat)
            rest -= part.extra_fee_msat
    for part in parts:
        if rest == 0:
            break
        if part.status == HELD:
            more = min(rest, part.amt_to_forward_msat - floor_msat - part.extra_fee_msat)
            part.extra_fee_msat += more
            rest -= more
    return True


@cython.cfunc
@cython.exceptval(check=False)
def _share(fee_msat: cython.ulonglong, value: cython.ulonglong, total: cython.ulonglong) -> cython.ulonglong:
    """Return floor(fee * value / total) for 0 < value <= total; by Python's integers where the product leaves u64."""
    if fee_msat <= MOST_MSAT // value:
        return fee_msat * value // total
    fee: object = fee_msat
    return fee * value // total


def allocate(values_msat, floor_msat, fee_msat):
    """Lay `fee_msat` on parts worth `values_msat`; return what each gives (H-04), or None if it does not fit.

    The floor is never below 1 msat (H-03). The sum taken is the fee to the msat (H-06).
    """
    parts = [
        IncomingHtlc(
            jit_scid=0, payment_hash=b"", in_scid=0, htlc_id=number, amount_msat=value, amt_to_forward_msat=value,
            cltv_expiry=0, outgoing_cltv_value=0,
        )
        for number, value in enumerate(values_msat)
    ]  # fmt: skip
    if not lay_fee(parts, max(1, floor_msat), fee_msat):
        return None
    return [part.extra_fee_msat for part in parts]


@cython.cfunc
@cython.exceptval(0, check=True)
def carried(parts: list, status: cython.int) -> cython.ulonglong:
    """Return the fee taken from the parts of this status; of any but FAILED for -1."""
    part: IncomingHtlc
    taken: cython.ulonglong = 0
    for part in parts:
        if part.status == status or (status < 0 and part.status != FAILED):
            taken += min(part.extra_fee_msat, MOST_MSAT - taken)
    return taken


@cython.cfunc
def smallest(
    parts: list,
    newcomer: IncomingHtlc,
    besides: list,
    over_parts: cython.longlong,
    over_msat: cython.ulonglong,
) -> list:
    """Return the held parts, the smallest first, that give way to `newcomer` (rule:24); None where it is no larger.

    So many that `over_parts` and `over_msat` (of `amt_to_forward_msat`) are gone. Parts in `besides` are left out.
    """
    part: IncomingHtlc
    value: cython.ulonglong = newcomer.amt_to_forward_msat
    least: IncomingHtlc = None
    smaller = []
    for part in parts:
        if part.status == HELD and part.amt_to_forward_msat < value and part not in besides:
            smaller.append(part)
            if least is None or part.amt_to_forward_msat < least.amt_to_forward_msat:
                least = part
    if least is not None and over_parts <= 1 and over_msat <= least.amt_to_forward_msat:
        return [least]
    chosen = []
    for part in sorted(smaller, key=_size):
        if over_parts <= 0 and over_msat == 0:
            break
        chosen.append(part)
        over_parts -= 1
        over_msat = less(over_msat, part.amt_to_forward_msat)
    return None if over_parts > 0 or over_msat > 0 else chosen


def _size(part: IncomingHtlc):
    return part.amt_to_forward_msat
