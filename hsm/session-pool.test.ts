import { pbkdf2, randomBytes } from "node:crypto";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Signer } from "../lib/domain/signing.ts";
import { type SoftHsm, softhsmDir, tempDir } from "../test/support/index.ts";
import { type PinSource, type Token, createPinFile, initToken, nodeVerify, openToken } from "./index.ts";
import { DEFAULT_LIMITS } from "./limits.ts";
import { loadModule } from "./module.ts";
import { SessionPool } from "./session-pool.ts";
import { listSlots } from "./slots.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

let hsm: SoftHsm;
let pin: PinSource;
let token: Token;
let ec: Signer;
let ed: Signer;
beforeAll(async () => {
  hsm = softhsmDir();
  pin = await createPinFile(join(tempDir("pool"), "pin"));
  await initToken({ module: hsm.module, label: "pool", pin });
  token = await openToken({ module: hsm.module, uri: "pkcs11:token=pool", pin, sessions: 4 });
  ec = await token.generateKey({ label: "act", algorithm: "ec-p256" });
  ed = await token.generateKey({ label: "log", algorithm: "ed25519" });
});
afterAll(async () => {
  await token.close();
});

const check = ({ spki, algorithm }: Signer, message: Uint8Array, signature: Uint8Array): boolean =>
  nodeVerify({ spki, algorithm, message, signature });

/** Signs `count` messages at once, a quarter of them with Ed25519. @returns how many signatures were wrong */
async function signMany(signers: readonly [ec: Signer, ed: Signer], count: number): Promise<number> {
  const jobs = Array.from({ length: count }, (_, i) => ({
    signer: signers[i % 4 === 0 ? 1 : 0],
    message: randomBytes(400),
  }));
  const signatures = await Promise.all(jobs.map(({ signer, message }) => signer.sign(message)));
  expect(new Set(signatures.map((signature) => Buffer.from(signature).toString("hex"))).size).toBe(count);
  return jobs.filter(({ signer, message }, i) => !check(signer, message, signatures[i]!)).length;
}

/** Memory of the sizes that signing uses, so that whatever the collector freed is written over. */
function overwriteFreed(): void {
  for (let i = 0; i < 400; i++) new Uint8Array(new ArrayBuffer(i % 2 === 0 ? 32 : 400)).fill(0xaa);
}

describe("a token's sessions", () => {
  it("give 2,000 signatures asked for at once, all right, under forced garbage collection", async () => {
    let signed = 0;
    const collecting = (signer: Signer): Signer => ({
      spki: signer.spki,
      algorithm: signer.algorithm,
      sign: async (message) => {
        const signature = await signer.sign(message);
        if (++signed % 100 === 0) {
          collectGarbage(); // the other sessions are at work now
          overwriteFreed();
        }
        return signature;
      },
    });
    expect(await signMany([collecting(ec), collecting(ed)], 2000)).toBe(0);
  });

  it("keep their buffers while a slow HSM holds raw pointers to them", async () => {
    const wide = await openToken({ module: hsm.module, uri: "pkcs11:token=pool", pin, sessions: 48 });
    const signers = [await wide.signer("act"), await wide.signer("log")] as const;
    let done = false;
    let collections = 0;
    // Other work fills libuv's four threads, round after round, longer than a collection takes: signatures wait behind
    // it as they would for a slow HSM, while the collector runs and what it freed is written over.
    const slow = () => new Promise((resolve) => pbkdf2("p", "s", 150_000, 32, "sha256", resolve));
    const load = (async () => {
      while (!done) {
        const round = Promise.all([slow(), slow(), slow(), slow()]);
        await new Promise((resolve) => setTimeout(resolve, 5)); // by now the threads are taken and signatures queue up
        collectGarbage();
        collections++;
        overwriteFreed();
        await round;
      }
    })();
    let wrong = 0;
    while (collections < 6) wrong += await signMany(signers, 144);
    done = true;
    await load;
    expect(wrong).toBe(0);
    await wide.close();
  });

  it("are opened again, and logged in, after the token dropped them all", async () => {
    const module = loadModule(hsm.module);
    const slot = listSlots(module).find(({ label }) => label === "pool")!.slot;
    for (const arrivals of ["at once", "one by one"] as const) {
      for (let round = 0; round < 5; round++) {
        module.api.C_CloseAllSessions(slot);
        const messages = Array.from({ length: 12 }, () => randomBytes(64));
        const signing: Promise<Uint8Array>[] = [];
        for (const message of messages) {
          signing.push(ec.sign(message));
          if (arrivals === "one by one") await new Promise((resolve) => setImmediate(resolve));
        }
        const signatures = await Promise.all(signing);
        expect(signatures.every((signature, i) => check(ec, messages[i]!, signature))).toBe(true);
      }
    }
  });
});

describe("a session pool", () => {
  const source = () => {
    const log = { opened: 0, closed: 0 };
    const open = async () => Buffer.from([++log.opened]);
    const close = () => void log.closed++;
    return { label: "t", epoch: 0, log, open, close };
  };

  it("never lends a session twice, serves in order, and replaces one that failed", async () => {
    const sessions = source();
    const pool = await SessionPool.open(sessions, 2, DEFAULT_LIMITS);
    const inUse = new Set<unknown>();
    const order: number[] = [];
    const results = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) =>
        pool.use(async (session) => {
          expect(inUse.has(session)).toBe(false);
          inUse.add(session);
          order.push(i);
          await new Promise((resolve) => setImmediate(resolve));
          inUse.delete(session);
          if (i % 5 === 0) throw new Error("CKR_DEVICE_ERROR:48");
          return i;
        }),
      ),
    );
    expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect(results.filter(({ status }) => status === "rejected")).toHaveLength(4);
    expect(sessions.log).toEqual({ opened: 6, closed: 4 });
    await pool.close();
    expect(sessions.log).toEqual({ opened: 6, closed: 6 });
  });

  it("waits for work under way when it closes, and refuses what waits", async () => {
    const sessions = source();
    const pool = await SessionPool.open(sessions, 1, DEFAULT_LIMITS);
    let finish = (): void => undefined;
    const working = pool.use(() => new Promise<void>((resolve) => (finish = resolve)));
    const waiting = pool.use(async () => undefined);
    waiting.catch(() => undefined);
    const closing = pool.close();
    await expect(waiting).rejects.toMatchObject({ code: "hsm-unavailable" });
    await expect(pool.use(async () => undefined)).rejects.toMatchObject({ code: "hsm-unavailable" });
    expect(sessions.log.closed).toBe(0);
    await new Promise((resolve) => setImmediate(resolve));
    finish();
    await Promise.all([working, closing]);
    expect(sessions.log).toEqual({ opened: 1, closed: 1 });
  });

  it("keeps its size and goes on when a session can't be opened for a while", async () => {
    const sessions = source();
    let broken = false;
    const open = async () => {
      if (broken) throw new Error("CKR_DEVICE_REMOVED:50");
      return sessions.open();
    };
    const pool = await SessionPool.open({ ...sessions, open }, 1, DEFAULT_LIMITS);
    broken = true;
    const fail = () => pool.use(async () => Promise.reject(new Error("CKR_DEVICE_ERROR:48")));
    await expect(fail()).rejects.toThrow("CKR_DEVICE_ERROR");
    await expect(fail()).rejects.toThrow("CKR_DEVICE_REMOVED");
    broken = false;
    await expect(pool.use(async (session) => session.handle[0])).resolves.toBe(2);
    await expect(SessionPool.open(sessions, 0, DEFAULT_LIMITS)).rejects.toMatchObject({ code: "input-invalid" });
    await pool.close();
  });
});
