"""`make pages`: write every page of docs/ that is made from the code. A test holds that each is up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lsps2fast_plugin.tools import (
    command_line_page,
    errors_page,
    log_page,
    machine_picture,
    metrics_page,
    options_page,
    policy_file_page,
    records_page,
    runbook_page,
    service_rpc_page,
    wallet_rpc_page,
)

PAGES: Final[MappingProxyType[str, Callable[[], str]]] = MappingProxyType(
    {
        "how-to/runbook.md": runbook_page.reference,
        "pictures/session-machine.svg": machine_picture.svg,
        "reference/command-line.md": command_line_page.reference,
        "reference/errors.md": errors_page.reference,
        "reference/log-events.md": log_page.reference,
        "reference/metrics.md": metrics_page.reference,
        "reference/options.md": options_page.reference,
        "reference/policy-file.md": policy_file_page.reference,
        "reference/records.md": records_page.reference,
        "reference/service-rpc.md": service_rpc_page.reference,
        "reference/session-machine.md": machine_picture.reference,
        "reference/wallet-rpc.md": wallet_rpc_page.reference,
    }
)


def main(docs: Path = Path("docs")) -> None:
    """Write all of them."""
    for name, make in PAGES.items():
        (docs / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
