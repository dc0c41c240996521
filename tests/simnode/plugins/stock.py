#!/usr/bin/env python3
"""A plugin as people write them with pyln-client: the embedded node must be good enough for it."""

from pyln.client import Plugin

plugin = Plugin()
plugin.add_option("stock-word", "none", "a word")
startup = []


@plugin.init()
def init(options, configuration, plugin, **_):
    startup.append(configuration["startup"])


@plugin.method("stock-info")
def info(plugin):
    """The option, and what the node says of itself over RPC."""
    return {"word": plugin.get_option("stock-word"), "id": plugin.rpc.getinfo()["id"], "startup": startup[0]}


def accepted(request, onion, htlc, plugin, **_):
    if int(htlc["amount_msat"]) == 13:
        raise ValueError("thirteen")
    request.set_result({"result": "fail", "failure_message": "10070000"})


plugin.add_hook("htlc_accepted", accepted, background=True)
plugin.run()
