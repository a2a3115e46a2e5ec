"""A program that passes for QEMU where labs look: -pidfile, QMP, the guest's agent, sockets of cards. It has no guest.

`fake_qemu(folder)` is the path of such a program. The agent is our images' own, in the host's perl and with its shell;
when it ends, that is a reset; one by QMP waits until nobody hears of it. The guest's /run is the folder `run` beside
the pid file, which a reset empties. QMP knows what a lab sends; every command is a line of `qmp.log` there. Told
`-refuse` it complains and ends, as QEMU.
"""

import sys
from pathlib import Path
from typing import Final

from vbackend.images.recipe import RECIPES

__all__ = ["fake_qemu"]

_PROGRAM: Final = r"""
import asyncio, json, os, socket, sys

def value(option):
    return sys.argv[sys.argv.index(option) + 1]

def parsed(text):
    return dict(word.partition("=")[::2] for word in text.split(","))

pidfile = value("-pidfile")
folder = os.path.dirname(pidfile)
devices, netdevs, snapshots, jobs = [], {}, [], []
talk, host_is_there = {}, asyncio.Event()
for option, text in zip(sys.argv, sys.argv[1:]):
    if option == "-device" and "netdev=" in text:
        devices.append(parsed(text)["id"])

run_folder = folder + "/run/"

async def requests(reader):
    text = ""
    while data := await reader.read(65536):
        text += data.decode()
        while text := text.lstrip():
            try:
                request, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:]
            yield request

async def qmp(reader, writer):
    def send(**message):
        writer.write(json.dumps(message).encode() + b"\r\n")
    send(QMP={"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []})
    async for request in requests(reader):
        command, args = request["execute"], request.get("arguments", {})
        with open(folder + "/qmp.log", "a") as log:
            log.write(json.dumps([command, args]) + "\n")
        answer, events = {}, []
        if command == "qom-list":
            answer = [{"name": name, "type": "child<x>"} for name in devices]
        elif command == "query-block":
            answer = [{"device": "disk0", "inserted": {"node-name": "disk", "ro": False}}, {"device": "cd0"}]
        elif command == "query-named-block-nodes":
            answer = [{"node-name": "vmstate", "image": {"snapshots": [{"name": name} for name in snapshots]}}]
        elif command == "system_reset":
            talk["reset"] = True
        elif command == "query-jobs":
            answer = jobs
        elif command == "netdev_add":
            if args["type"] == "stream":
                await listen(args["addr"]["path"], swallow)
        elif command == "device_add":
            if args["driver"] == "virtio-net-none":
                problem = {"class": "GenericError", "desc": "'virtio-net-none' is not a valid device"}
                send(error=problem, id=request.get("id"))
                continue
            devices.append(args["id"])
        elif command == "device_del":
            devices.remove(args["id"])
            events.append(("DEVICE_DELETED", {"device": args["id"], "path": "/machine/peripheral/x"}))
        elif command.startswith("snapshot-"):
            if command == "snapshot-save":
                snapshots.append(args["tag"])
            jobs[:] = [{"id": args["job-id"], "status": "concluded"}]
            if (args["tag"], command) in (("broken", "snapshot-save"), ("spoiled", "snapshot-load")):
                jobs[0]["error"] = "no space"
            events.append(("JOB_STATUS_CHANGE", {"id": args["job-id"], "status": "concluded"}))
        send(**{"return": answer}, **({"id": request["id"]} if "id" in request else {}))
        for name, data in events:
            send(event=name, data=data, timestamp={"seconds": 0, "microseconds": 0})
        await writer.drain()
        if command == "quit":
            os._exit(0)

# A shell restarts the agent: a child of this process would pass for it, between fork and exec.
GUEST = '''exec 3<&0
while [ ${status:-137} -gt 128 ]; do
    rm -rf "$1"
    mkdir "$1"
    perl "$2" - <&3 &
    echo $! >"$1.agent"
    wait $!
    status=$?
done'''

async def guest():
    ours, theirs = socket.socketpair()
    await asyncio.create_subprocess_exec("sh", "-c", GUEST, "sh", folder + "/run", AGENT, stdin=theirs)
    theirs.close()
    reader, talk["agent"] = await asyncio.open_connection(sock=ours)
    return asyncio.create_task(listen_to(reader))

async def listen_to(reader):
    while data := await reader.read(65536):
        await host_is_there.wait()
        talk["host"].write(data)

async def agent(reader, writer):
    talk["host"] = writer
    host_is_there.set()
    while data := await reader.read(65536):
        talk["agent"].write(data.replace(b"/run/", run_folder.encode()))
    host_is_there.clear()
    if talk.pop("reset", False):
        with open(folder + "/run.agent") as file:
            os.kill(int(file.read()), 9)

async def swallow(reader, writer):
    while await reader.read(65536):
        pass

async def listen(path, serve):
    if os.path.exists(path):
        os.unlink(path)
    await asyncio.start_unix_server(serve, path, limit=1 << 24)

async def main():
    if "-refuse" in sys.argv:
        sys.exit("fake-qemu: -refuse: invalid option")
    with open(pidfile, "w") as file:
        print(os.getpid(), file=file)
    for option, text in zip(sys.argv, sys.argv[1:]):
        if option == "-netdev" and text.startswith("stream"):
            await listen(parsed(text)["addr.path"], swallow)
        if option == "-chardev" and "path" in (found := parsed(text)) and "server" in found:
            if found["id"] == "agent":
                talk["guest"] = await guest()
            await listen(found["path"], {"qmp": qmp, "agent": agent}.get(found["id"], swallow))
    await asyncio.Event().wait()

asyncio.run(main())
"""


def fake_qemu(folder: Path) -> str:
    """Write the program; returns its path."""
    path = folder / "fake-qemu"
    path.write_text(f"#!{sys.executable} -IS\nAGENT = {str(RECIPES / 'overlay/sbin/agent')!r}\n{_PROGRAM}")
    path.chmod(0o755)
    return str(path)
