#!/usr/bin/env python3
"""A plugin without a will: the test pulls its strings. Standard library only.

PUPPET (environment) is a JSON object: `manifest` (members laid over the default one), `hooks` (hook name to the
result it answers with at once; a hook that is not named is held), `init` (answer to init), `init_hold` (true: answer
init only when told), `deaf` (true: no answer at all), `linger` (true: do not exit at shutdown).
Methods: puppet-open (ids and params of held calls), puppet-answer {id, result | error | raw}, puppet-set {hooks},
puppet-seen {method}, puppet-raw {text}, puppet-init, puppet-echo (gives its params back).
"""

import json
import os
import sys

plan = json.loads(os.environ.get("PUPPET", "{}"))
hooks = plan.get("hooks", {})
seen: list = []
held: dict = {}
init_id: list = []
METHODS = ["open", "answer", "set", "seen", "raw", "init", "echo"]
manifest = {
    "options": [],
    "rpcmethods": [{"name": f"puppet-{name}", "usage": "", "description": ""} for name in METHODS],
    "subscriptions": [],
    "hooks": [{"name": "htlc_accepted"}],
    "dynamic": True,
    "nonnumericids": True,
} | plan.get("manifest", {})


def send(**message):
    write(json.dumps({"jsonrpc": "2.0", **message}))


def write(text):
    sys.stdout.write(text + "\n\n")
    sys.stdout.flush()


def call(request):
    name, params = request["method"].removeprefix("puppet-"), request.get("params") or {}
    if name == "open":
        return [{"id": key, "method": item["method"], "params": item["params"]} for key, item in held.items()]
    if name == "answer":
        held.pop(params["id"], None)
        if "raw" in params:
            write(params["raw"])
        else:
            send(id=params["id"], **{key: params[key] for key in ("result", "error") if key in params})
    if name == "set":
        hooks.update(params["hooks"])
    if name == "seen":
        return [item for item in seen if item.get("method") == params.get("method")]
    if name == "raw":
        write(params["text"])
    if name == "init":
        send(id=init_id.pop(), result=plan.get("init"))
    return params if name == "echo" else {}


def take(message):
    method = message["method"]
    seen.append(message)
    if method == "getmanifest":
        send(id=message["id"], result=manifest)
    elif method == "init":
        init_id.append(message["id"])
        if not plan.get("init_hold"):
            send(id=init_id.pop(), result=plan.get("init"))
    elif method == "shutdown":
        if not plan.get("linger"):
            for key in list(held):
                if "going" in plan:
                    send(id=key, result=plan["going"])
            sys.exit(0)
    elif method.startswith("puppet-"):
        send(id=message["id"], result=call(message))
    elif method in hooks:
        send(id=message["id"], result=hooks[method])
    elif "id" in message:
        if method == "setconfig":
            send(id=message["id"], result={})
        else:
            held[message["id"]] = message


def main():
    if plan.get("deaf"):
        sys.stdin.read()
        return
    decoder = json.JSONDecoder(strict=False)
    rest = ""
    while chunk := os.read(0, 65536):
        rest = (rest + chunk.decode()).lstrip()
        while rest:
            try:
                message, end = decoder.raw_decode(rest)
            except ValueError:
                break
            rest = rest[end:].lstrip()
            take(message)


main()
