"""A plugin of a few lines, to test the player: it answers every hook with the JSON results given as argument.

After init it asks for its node's id and for the journal over the RPC socket, and logs what it got.
"""

import json
import socket
import sys


def write(message: dict) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n\n")
    sys.stdout.flush()


def ask_node(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as rpc:
        rpc.connect(path)
        for number, (method, params) in enumerate(
            [("getinfo", {}), ("listdatastore", {"key": ["lsps", "lsps2", "sessions", "active"]}), ("nonsense", {})]
        ):
            rpc.sendall(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode())
            answer = b""
            while not answer.endswith(b"\n\n"):
                answer += rpc.recv(1 << 16)
            write({"method": "log", "params": {"level": "info", "message": answer.decode()}})


MANIFEST = {
    "options": [
        {"name": "experimental-lsps2-service", "type": "flag", "default": False, "description": ""},
        {"name": "dev-lsps2-collect-timeout", "type": "int", "default": "90", "description": ""},
    ],
    "rpcmethods": [],
    "subscriptions": ["shutdown", "connect"],
    "hooks": [{"name": "htlc_accepted"}, {"name": "custommsg", "filters": [37913]}],
    "dynamic": True,
}

for line in sys.stdin:
    request = json.loads(line) if line.strip() else {}
    match request.get("method"):
        case "getmanifest":
            write({"id": request["id"], "result": MANIFEST})
        case "init":
            configuration = request["params"]["configuration"]
            ask_node(f"{configuration['lightning-dir']}/{configuration['rpc-file']}")
            write({"id": request["id"], "result": {}})
        case "htlc_accepted" | "custommsg":
            for result in json.loads(sys.argv[1]):
                write({"id": request["id"], "result": result})
        case "shutdown":
            break
