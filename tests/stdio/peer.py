"""A server that starts quickly and misbehaves on request: `peer.py [modern] [legacy] [word …]`.  Words: see `WORDS`.

Its tools say who it is, what came in, and do what makes trouble.
"""

import json
import os
import signal
import sys
import threading
import time

WORDS = set(sys.argv[1:])
VERSION, KEY = "2026-07-28", "io.modelcontextprotocol/"
FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}
seen, listening, era, asked = [], [], "", {}
lock = threading.Lock()


def say(message):
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def unknown(message):
    if "dies" in WORDS:
        os._exit(9)
    if "silent" not in WORDS:
        say({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})


def tool(message):
    name, arguments = message["params"]["name"], message["params"].get("arguments", {})
    if name == "crash":
        os._exit(3)
    if name == "slow":
        return None  # until it is cancelled
    if name == "ask":  # answered when the answer has come
        number = arguments.get("as", len(asked) + 1)
        asked[number] = message["id"]
        say({"id": number, "method": arguments.get("method", "elicitation/create"), "params": arguments.get("params", FORM)})
        return None
    if name == "tell":
        for method, params in arguments["said"]:
            say({"method": "notifications/" + method, "params": params})
    if name == "progress":
        token = message["params"]["_meta"]["progressToken"]
        say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
    if name == "log":
        say({"method": "notifications/message", "params": {"level": "info", "data": arguments.get("data")}})
    if name == "change":
        for number in listening:
            meta = {KEY + "subscriptionId": number}
            say({"method": "notifications/tools/list_changed", "params": {"_meta": meta}})
    if name == "rest":
        time.sleep(arguments["seconds"])
    if name == "garbage":
        sys.stdout.write("not a message\n{}\n[1]\n\xff\x00\n" + json.dumps({"jsonrpc": "2.0", "id": 10**9, "result": {}}) + "\n")
    if name == "stderr":
        sys.stderr.write("x" * 3_000_000 + "\n")
        sys.stderr.flush()
    said = {"pid": os.getpid(), "id": message["id"], "meta": message["params"].get("_meta", {}), "seen": list(seen), "era": era}
    result = {"content": [{"type": "text", "text": json.dumps(said)}]}
    return {**result, "resultType": "complete"} if era == "modern" else result


if "stubborn" in WORDS:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "leaves" in WORDS:
    sys.exit(5)
if "deaf" in WORDS:
    while True:
        time.sleep(60)
if "babbles" in WORDS:
    while True:
        sys.stdout.write("y" * 1000)
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method", "")
    seen.append([method, message.get("params", {}).get("requestId")])
    if method == "notifications/cancelled":
        say({"id": message["params"]["requestId"], "error": {"code": -32800, "message": "cancelled"}})
    if "method" not in message and message.get("id") in asked:
        text = json.dumps({"answer": message, "pid": os.getpid()})
        say({"id": asked.pop(message["id"]), "result": {"content": [{"type": "text", "text": text}]}})
    if "id" not in message or "method" not in message:
        continue
    if method == "server/discover" and "modern" in WORDS and era != "legacy":
        era = "modern"
        result = {"supportedVersions": [VERSION], "capabilities": {"tools": {"listChanged": True}}, "resultType": "complete"}
    elif method == "initialize" and "legacy" in WORDS and era != "modern":
        era = "legacy"
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {
                "tools": {"listChanged": True},
                "logging": {},
                "resources": {"subscribe": True, "listChanged": True},
            },
            "serverInfo": {"name": "peer", "version": "1", "pid": os.getpid()},
            "instructions": json.dumps(message["params"]),
        }
    elif method == "initialize" and era == "modern":
        say({"id": message["id"], "error": {"code": -32022, "message": "Unsupported", "data": {"supported": [VERSION]}}})
        continue
    elif method == "subscriptions/listen" and era == "modern":
        listening.append(message["id"])
        asked = message["params"]["notifications"]
        meta = {KEY + "subscriptionId": message["id"]}
        say({"method": "notifications/subscriptions/acknowledged", "params": {"notifications": asked, "_meta": meta}})
        continue
    elif method in ("resources/subscribe", "resources/unsubscribe") and era == "legacy":
        result = {}
    elif method == "tools/list":
        result = {"tools": [{"name": "who", "inputSchema": {"type": "object"}}]}
        result |= {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"} if era == "modern" else {}
    elif method == "tools/call" and era:
        result = tool(message)
        if result is None:
            continue
    else:
        unknown(message)
        continue
    say({"id": message["id"], "result": result})
while "stubborn" in WORDS:
    signal.pause()
