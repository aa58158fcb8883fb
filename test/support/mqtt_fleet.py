"""Many devices at once, outside Node: MQTT 3.1.1 over mutual TLS, connected until told otherwise.

stdin: one line of JSON {host, port, ca, devices: [{id, chain, key}]} (files), then lines of commands:
  wait N   answers when N connections are closed since the start: {"closed": {id: Unix time in ms}}
stdout: {"up": n, "refused": {id: why}, "seconds": s} once every device was tried, then the answers.
"""

import asyncio, json, ssl, sys, time

closed, streams, changed = {}, {}, None


def text(value):
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def connect_packet(device, host):
    user = f"{host}/{device}/?api-version=2021-04-12"
    body = text("MQTT") + bytes([4, 0x80, 0x07, 0x08]) + text(device) + text(user)
    size, n = b"", len(body)
    while True:
        size += bytes([n % 128 | (128 if n > 127 else 0)])
        n //= 128
        if n == 0:
            return b"\x10" + size + body


async def device(job, one, gate, refused):
    async with gate:
        try:
            context = ssl.create_default_context(cafile=job["ca"])
            context.load_cert_chain(one["chain"], one["key"])
            reader, writer = await asyncio.open_connection(
                job["host"], job["port"], ssl=context, server_hostname="localhost"
            )
            writer.write(connect_packet(one["id"], job["host"]))
            answer = await asyncio.wait_for(reader.readexactly(4), 30)
            if answer[3] != 0:
                raise ConnectionError(f"CONNACK {answer[3]}")
        except Exception as error:
            refused[one["id"]] = f"{type(error).__name__} {error}"[:100]
            return
    streams[one["id"]] = writer
    asyncio.ensure_future(watch(one["id"], reader))


async def watch(name, reader):
    try:
        while await reader.read(1024):
            pass
    except Exception:
        pass
    closed[name] = time.time() * 1000
    changed.set()


def say(value):
    print(json.dumps(value), flush=True)


async def main():
    global changed
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    job = json.loads(await stdin.readline())
    gate, refused, started = asyncio.Semaphore(24), {}, time.time()
    await asyncio.gather(*(device(job, one, gate, refused) for one in job["devices"]))
    say({"up": len(streams), "refused": refused, "seconds": round(time.time() - started, 3)})
    while line := await stdin.readline():
        _, wanted = line.split()
        while len(closed) < int(wanted):
            changed.clear()
            await asyncio.wait_for(changed.wait(), 30)
        say({"closed": closed})


asyncio.run(main())
