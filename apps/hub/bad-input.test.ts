import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect as netConnect, createServer, type Socket } from "node:net";
import { setTimeout as after } from "node:timers/promises";
import { connect as tlsConnect, type TLSSocket } from "node:tls";
import fc from "fast-check";
import rhea, { type EventContext } from "rhea";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ownLoopback, registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { mutatedBytes } from "../../test/support/mutated-bytes.ts";
import { CONNACK, dial, type RawCertificate } from "../../test/support/raw-mqtt.ts";
import { CLIENT_AUTH, SERVER_AUTH, testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";
import { connectPacket, publishPacket, subscribePacket } from "../device/mqtt-packets.ts";

/** To repeat a failure, or to look further. */
const SEED = Number(process.env["HUB_FUZZ_SEED"] ?? Date.now() % 2 ** 31);
const BAD_CERTIFICATES = Number(process.env["HUB_BAD_CERTIFICATES"] ?? 240);
const DEADLINE_MS = 1_500;

let hub: TestHub;
let dpsHost: string;
let dpsPort: number;
let amqpPort: number;
let root: TestCertificate;
let technician: TestCertificate;
let steady: Steady;
let pid: number;

beforeAll(async () => {
  [dpsHost, dpsPort, amqpPort] = [ownLoopback(), 8883, 5671];
  const host = ownLoopback();
  const deadlines = { connectTimeoutMs: DEADLINE_MS };
  hub = await startTestHub(
    { ...deadlines, drainTimeoutMs: 4_000, maxHalfOpen: 100 },
    {
      host,
      amqp: { port: amqpPort, ...deadlines },
      dps: { host: dpsHost, port: dpsPort, assignedHub: host, ...deadlines },
    },
    undefined,
    { ips: [dpsHost] },
  );
  pid = hub.pid;
  root = await testCertificate("CN=root", { ca: true });
  technician = await testCertificate("CN=technician", { ca: true, issuer: root });
  await registerTestCa(hub, "company-x", root);
  steady = await Steady.start(await deviceOf("steady"));
});

afterAll(async () => {
  steady?.end();
  await hub?.stop();
});

const address = (): { host: string } => ({ host: hub.address.split(":")[0]! });
const reach = (device: RawCertificate, options: { host?: string; port?: number; from?: string } = {}) =>
  dial(hub, device, { ...address(), ...options });

async function deviceOf(id: string, issuer = technician): Promise<RawCertificate> {
  const leaf = await testCertificate(`CN=${id}`, { issuer, eku: [CLIENT_AUTH] });
  return { leaf, chain: leaf.pem + issuer.pem };
}

/** A good device that says something all the time. */
class Steady {
  acknowledged = 0;
  longestMs = 0;
  open = true;
  readonly #socket: TLSSocket;
  readonly #closed: Promise<void>;

  private constructor(socket: TLSSocket) {
    this.#socket = socket;
    this.#closed = new Promise((resolve) => {
      socket.once("close", () => {
        this.open = false;
        resolve();
      });
    });
  }

  static async start(device: RawCertificate): Promise<Steady> {
    const { socket } = await reach(device);
    const steady = new Steady(socket);
    socket.write(connectPacket("steady"));
    const [first] = (await once(socket, "data")) as [Buffer];
    expect(first).toEqual(CONNACK);
    void steady.#talk();
    return steady;
  }

  async #talk(): Promise<void> {
    for (let n = 1; this.open; n++) {
      const said = performance.now();
      const answered = once(this.#socket, "data");
      answered.catch(() => undefined);
      this.#socket.write(publishPacket("devices/steady/messages/events/", `${n}`, (n % 65_535) + 1));
      await Promise.race([answered, this.#closed]);
      if (!this.open) return;
      this.acknowledged++;
      this.longestMs = Math.max(this.longestMs, performance.now() - said);
      await after(20);
    }
  }

  /** Its telemetry goes on through all of `work`. */
  async through(work: () => Promise<void>): Promise<void> {
    const before = this.acknowledged;
    this.longestMs = 0;
    const began = performance.now();
    await work();
    await expect.poll(() => this.acknowledged, { timeout: 10_000 }).toBeGreaterThan(before + 2);
    expect(this.open).toBe(true);
    expect(this.longestMs).toBeLessThan(Math.max(5_000, (performance.now() - began) / 2));
    expect(hub.pid).toBe(pid);
  }

  end(): void {
    this.open = false;
    this.#socket.destroy();
  }
}

const memory = (): number => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))![1]) / 1024;
const descriptors = (): number => readdirSync(`/proc/${pid}/fd`).length;

/** Neither memory nor connections are left behind; in megabytes, as garbage collection leaves room. */
async function leavesNothing(work: () => Promise<void>): Promise<void> {
  const [memoryBefore, descriptorsBefore] = [memory(), descriptors()];
  await steady.through(work);
  await expect.poll(descriptors, { timeout: 10_000 }).toBeLessThan(descriptorsBefore + 10);
  expect(memory() - memoryBefore).toBeLessThan(150);
}

/** Runs `one` for each, some at a time. */
async function lanes<T>(
  count: number,
  list: readonly T[],
  one: (item: T, lane: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: count }, async (_, lane) => {
      while (next < list.length) await one(list[next++]!, lane);
    }),
  );
}

/** Refusals are counted by address: each lane has its own, now and then another. */
const elsewhere = (n: number): string => `127.9.${(n >> 8) & 0xff}.${1 + (n & 0x7f)}`;
const sampled = (samples: readonly Buffer[], count: number) =>
  fc.sample(mutatedBytes(samples), { numRuns: count, seed: SEED });

/** Says it, hangs up, and waits until the hub has, too. */
async function say(
  bytes: readonly Buffer[],
  device: RawCertificate,
  options: Parameters<typeof reach>[1],
): Promise<void> {
  const { socket, closed } = await reach(device, options);
  for (const one of bytes) socket.write(one);
  socket.end();
  await Promise.race([
    closed,
    after(10_000, undefined, { ref: false }).then(() => {
      throw new Error(`seed ${SEED}: the hub holds on to ${Buffer.concat(bytes).toString("hex")}`);
    }),
  ]);
}

describe(`fuzzed packets, seed ${SEED}`, () => {
  it("CONNECT: the hub stays as it was", async () => {
    const device = await deviceOf("fuzz-c");
    const samples = [connectPacket("fuzz-c"), connectPacket("fuzz-c", "localhost/fuzz-c/m/?api-version=2021-04-12")];
    let n = 0;
    await leavesNothing(() =>
      lanes(12, sampled(samples, 400), (bytes) => say([bytes], device, { from: elsewhere(n++ >> 4) })),
    );
  }, 60_000);

  it("PUBLISH and SUBSCRIBE of a device that is in: the hub stays as it was", async () => {
    const devices = await Promise.all(Array.from({ length: 8 }, (_, lane) => deviceOf(`fuzz-${lane}`)));
    const topics = ["messages/events/%24.mid=m-1&%24.ct=application%2Fjson&a=b", "messages/events/"];
    const bursts = Array.from({ length: 200 }, (_, burst) => burst);
    await leavesNothing(() =>
      lanes(8, bursts, async (burst, lane) => {
        const id = `fuzz-${lane}`;
        const samples = [
          ...topics.map((topic) => publishPacket(`devices/${id}/${topic}`, '{"temperature":31}', 7)),
          publishPacket("$iothub/twin/GET/?$rid=1", " "),
          publishPacket("$iothub/twin/PATCH/properties/reported/?$rid=2", '{"a":{"b":1}}'),
          publishPacket("$iothub/methods/res/200/?$rid=3", "{}"),
          subscribePacket(`devices/${id}/messages/devicebound/#`),
          subscribePacket("$iothub/twin/res/#"),
        ];
        const packets = fc.sample(mutatedBytes(samples), { numRuns: 10, seed: SEED + burst });
        await say([connectPacket(id), ...packets], devices[lane]!, { from: elsewhere(burst) });
      }),
    );
  }, 60_000);

  it("provisioning: the hub stays as it was", async () => {
    const device = await deviceOf("fuzz-dps");
    const user = "0ne00C0FFEE/registrations/fuzz-dps/api-version=2019-03-31&ClientVersion=test";
    const samples = [
      connectPacket("fuzz-dps", user),
      subscribePacket("$dps/registrations/res/#"),
      publishPacket("$dps/registrations/PUT/iotdps-register/?$rid=1", '{"registrationId":"fuzz-dps"}'),
    ];
    const at = { host: dpsHost, port: dpsPort };
    let n = 0;
    await leavesNothing(() =>
      lanes(8, sampled(samples, 120), async (bytes) => {
        const from = elsewhere(n++);
        await say(n % 2 === 0 ? [bytes] : [samples[0]!, bytes], device, { ...at, from });
      }),
    );
  }, 60_000);

  it("AMQP frames: the hub stays as it was", async () => {
    const device = await deviceOf("fuzz-amqp");
    const frames = await recorded(device, "fuzz-amqp");
    const at = { port: amqpPort };
    let n = 0;
    await leavesNothing(() =>
      lanes(8, sampled(frames, 200), async (bytes) => {
        // Any number of good frames first, in their order.
        const good = frames.slice(0, n % (frames.length + 1));
        await say([...good, bytes], device, { ...at, from: elsewhere(n++) });
      }),
    );
  }, 60_000);
});

/** What rhea's client writes while it sends telemetry, write by write. */
async function recorded(device: RawCertificate, id: string): Promise<Buffer[]> {
  const { socket } = await reach(device, { port: amqpPort });
  const written: Buffer[] = [];
  const write = socket.write.bind(socket) as (chunk: Buffer) => boolean;
  socket.write = ((chunk: Buffer) => {
    written.push(Buffer.from(chunk));
    return write(chunk);
  }) as typeof socket.write;
  const container = rhea.create_container();
  const details = {
    connect: (_port: number, _host: string, _options: object, done: () => void) => (setImmediate(done), socket),
  };
  const connection = container.connect({
    connection_details: () => details,
    reconnect: false,
    container_id: id,
  } as never);
  const sender = connection.open_sender(`/devices/${id}/messages/events`);
  await new Promise<void>((resolve, reject) => {
    sender.once("sendable", () =>
      sender.send({ message_id: "m-1", application_properties: { a: "b" }, body: "hello" }),
    );
    sender.once("accepted", () => resolve());
    container.once("disconnected", ({ error }: EventContext) => reject(new Error(String(error))));
  });
  connection.close();
  await once(socket, "close");
  return written.filter((part) => part.length > 0);
}

describe("what is too large", () => {
  let large: RawCertificate | undefined;

  it.each([
    ["a message of 256 KiB and one octet", "", 256 * 1024 + 1],
    ["a packet above the limit", "", 300 * 1024],
    ["a topic of 20 KB", `a=${"b".repeat(20_000)}`, 2],
    ["a property more than there may be", Array.from({ length: 129 }, (_, i) => `p${i}=1`).join("&"), 2],
    ["a topic of many levels", "a/b/c/d/e/f/g/h/i/j", 2],
  ])("%s isn't taken: the connection ends", async (_what, bag, size) => {
    const { socket, said, closed } = await reach((large ??= await deviceOf("large")));
    socket.write(connectPacket("large"));
    await once(socket, "data");
    socket.write(publishPacket(`devices/large/messages/events/${bag}`, Buffer.alloc(size, 0x20)));
    await closed;
    expect(said()).toEqual(CONNACK);
    expect((await hub.api("GET", "/api/v1/devices/large")).body).toMatchObject({ telemetry: 0 });
  });
});

/** Writes octet by octet until it is closed. */
async function drip(socket: Socket, bytes: Buffer): Promise<void> {
  for (const octet of bytes) {
    if (socket.destroyed) return;
    socket.write(Uint8Array.of(octet));
    await after(60);
  }
}

/** The time until the hub has closed it. */
async function heldFor(socket: Socket): Promise<number> {
  const began = performance.now();
  socket.on("error", () => undefined).resume();
  if (!socket.closed) await once(socket, "close");
  return performance.now() - began;
}

describe("slow peers", () => {
  it("are cut off by deadlines: in the TCP connection, the TLS handshake and before CONNECT, at each listener", async () => {
    const device = await deviceOf("slow");
    const hello = await clientHello();
    const doors = [
      { ...address(), port: hub.mqttPort, first: connectPacket("slow") },
      { ...address(), port: amqpPort, first: Buffer.from("AMQP\0\x01\0\0\0\0\0\x20\x02\0\0\0\0\x53\x10\xc0\x10\x02") },
      { host: dpsHost, port: dpsPort, first: connectPacket("slow", "0ne00C0FFEE/registrations/slow/api-version=1") },
    ];
    await steady.through(async () => {
      const times = doors.flatMap(({ host, port, first }) => {
        const silent = netConnect(port, host);
        const dripping = netConnect(port, host);
        dripping.once("connect", () => void drip(dripping, hello));
        const inside = (then: (socket: TLSSocket) => void): Promise<number> =>
          reach(device, { host, port }).then(({ socket }) => (then(socket), heldFor(socket)));
        return [
          heldFor(silent),
          heldFor(dripping),
          inside(() => undefined),
          inside((socket) => void drip(socket, first)),
        ];
      });
      const limit = 3 * DEADLINE_MS + 2_000;
      const late = after(limit + 1_000, Number.POSITIVE_INFINITY);
      const held = await Promise.all(times.map((time) => Promise.race([time, late])));
      expect(held.map((ms) => (ms < limit ? "cut off" : "held"))).toEqual(held.map(() => "cut off"));
    });
  }, 30_000);

  it("that ask and never read are cut off, and not answered into memory", async () => {
    const device = await deviceOf("deaf");
    const large = JSON.stringify({ a: "x".repeat(4_000), b: "y".repeat(4_000), c: "z".repeat(4_000) });
    await leavesNothing(async () => {
      const { socket } = await reach(device);
      socket.write(connectPacket("deaf"));
      socket.write(publishPacket("$iothub/twin/PATCH/properties/reported/?$rid=0", large));
      await after(200);
      socket.pause();
      const before = memory();
      const asking = publishPacket("$iothub/twin/GET/?$rid=1", " ");
      const until = performance.now() + 15_000;
      let most = 0;
      // Reads nothing, and so sees no end either: a write fails when it is over.
      while (!socket.destroyed && !socket.errored && performance.now() < until) {
        if (socket.writableLength < 1 << 20) for (let i = 0; i < 200; i++) socket.write(asking);
        most = Math.max(most, memory() - before);
        await after(5);
      }
      expect(socket.destroyed || socket.errored !== null).toBe(true);
      expect(most).toBeLessThan(100);
      socket.destroy();
    });
  }, 30_000);

  it("that only hold places make room for a device", async () => {
    const idle: Socket[] = [];
    await steady.through(async () => {
      for (let n = 0; n < 160; n++) {
        idle.push(
          netConnect({ port: hub.mqttPort, ...address(), localAddress: elsewhere(n) }).on("error", () => undefined),
        );
      }
      const { socket, said } = await reach(await deviceOf("late"));
      socket.write(connectPacket("late"));
      await expect.poll(() => said().length).toBe(4);
      expect(said()).toEqual(CONNACK);
      socket.destroy();
    });
    expect((await hub.api("GET", "/api/v1/status")).body["refusals"]["hub-half-open-limited"]).toBeGreaterThan(50);
    for (const socket of idle) socket.destroy();
  }, 30_000);
});

describe(`${BAD_CERTIFICATES} connects with bad certificates`, () => {
  it(
    "let none of them in, and the good devices' telemetry goes on",
    async () => {
      const stranger = await testCertificate("CN=root", { ca: true });
      const HOUR = 3_600_000;
      const past = { notBefore: new Date(Date.now() - 2 * HOUR), notAfter: new Date(Date.now() - HOUR) };
      const own = async (options: object): Promise<RawCertificate> => {
        const leaf = await testCertificate("CN=bad", { issuer: technician, eku: [CLIENT_AUTH], ...options });
        return { leaf, chain: leaf.pem + technician.pem };
      };
      const good = await deviceOf("bad");
      const bad = [
        await deviceOf("bad", stranger),
        await own(past),
        await own({ eku: [SERVER_AUTH] }),
        await own({ ca: true }),
        await deviceOf("another"),
        { leaf: good.leaf, chain: good.leaf.pem },
        { ...(await deviceOf("bad", stranger)), chain: (await deviceOf("bad", stranger)).chain },
      ].slice(0, 6);
      const tries = Array.from({ length: BAD_CERTIFICATES }, (_, n) => n);
      await leavesNothing(() =>
        lanes(16, tries, async (n) => {
          const dialled = await reach(bad[n % bad.length]!, { from: elsewhere(n >> 6) }).catch(() => undefined);
          if (dialled === undefined) return; // its address was refused too often
          dialled.socket.write(connectPacket("bad"));
          await dialled.closed;
          expect(dialled.said().subarray(0, 4)).not.toEqual(CONNACK);
        }),
      );
      expect((await hub.api("GET", "/api/v1/devices/bad")).status).toBe(404);
    },
    60_000 + BAD_CERTIFICATES * 100,
  );
});

/** A ClientHello's octets. */
async function clientHello(): Promise<Buffer> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const caught = once(server, "connection").then(async ([socket]) => {
    const [bytes] = (await once(socket as Socket, "data")) as [Buffer];
    (socket as Socket).destroy();
    return bytes;
  });
  const { port } = server.address() as { port: number };
  tlsConnect({ port, host: "127.0.0.1", servername: "localhost" }).on("error", () => undefined);
  const bytes = await caught;
  server.close();
  return bytes;
}
