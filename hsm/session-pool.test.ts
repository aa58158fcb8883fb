import { pbkdf2, randomBytes } from "node:crypto";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Signer } from "../lib/domain/signing.ts";
import { type SoftHsm, softhsmDir, tempDir } from "../test/support/index.ts";
import { type PinSource, type Token, createPinFile, initToken, nodeVerify, openToken } from "./index.ts";
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
  token = await openToken({ module: hsm.module, uri: "pkcs11:token=pool", pin, sessions: 16 });
  ec = await token.generateKey({ label: "act", algorithm: "ec-p256" });
  ed = await token.generateKey({ label: "log", algorithm: "ed25519" });
});
afterAll(async () => {
  await token.close();
});

const check = ({ spki, algorithm }: Signer, message: Uint8Array, signature: Uint8Array): boolean =>
  nodeVerify({ spki, algorithm, message, signature });

describe("a token's sessions", () => {
  it("give 2,000 signatures asked for at once, all right, under forced garbage collection", async () => {
    let done = false;
    let collections = 0;
    // Sixteen sessions on libuv's four threads, which other work keeps busy: signatures wait there with their raw
    // pointers, as they do for a slow HSM, while the collector runs and what it freed is written over.
    const busy = async (): Promise<void> => {
      while (!done) {
        await new Promise((resolve) => pbkdf2("p", "s", 500, 32, "sha256", resolve));
        for (let i = 0; i < 100; i++) new Uint8Array(new ArrayBuffer(i % 2 === 0 ? 32 : 400)).fill(0xaa);
        if (++collections % 4 === 0) collectGarbage();
      }
    };
    const load = Promise.all([busy(), busy(), busy(), busy()]);
    const messages = Array.from({ length: 2000 }, () => randomBytes(400));
    const signatures = await Promise.all(messages.map((message, i) => (i % 4 === 0 ? ed : ec).sign(message)));
    done = true;
    await load;
    const wrong = signatures.filter((signature, i) => !check(i % 4 === 0 ? ed : ec, messages[i]!, signature));
    expect(wrong).toEqual([]);
    expect(collections).toBeGreaterThan(80);
    expect(new Set(signatures.map((signature) => Buffer.from(signature).toString("hex"))).size).toBe(2000);
  });

  it("are opened again, and logged in, after the token dropped them all", async () => {
    const module = loadModule(hsm.module);
    const slot = listSlots(module).find(({ label }) => label === "pool")!.slot;
    for (let round = 0; round < 3; round++) {
      module.api.C_CloseAllSessions(slot);
      const messages = Array.from({ length: 20 }, () => randomBytes(64));
      const signatures = await Promise.all(messages.map((message) => ec.sign(message)));
      expect(signatures.every((signature, i) => check(ec, messages[i]!, signature))).toBe(true);
    }
  });
});

describe("a session pool", () => {
  const source = () => {
    const log = { opened: 0, closed: 0 };
    const open = async () => Buffer.from([++log.opened]);
    const close = () => void log.closed++;
    return { log, open, close };
  };

  it("never lends a session twice, serves in order, and replaces one that failed", async () => {
    const sessions = source();
    const pool = await SessionPool.open(sessions, 2);
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
    const pool = await SessionPool.open(sessions, 1);
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
    const pool = await SessionPool.open({ ...sessions, open }, 1);
    broken = true;
    const fail = () => pool.use(async () => Promise.reject(new Error("CKR_DEVICE_ERROR:48")));
    await expect(fail()).rejects.toThrow("CKR_DEVICE_ERROR");
    await expect(fail()).rejects.toThrow("CKR_DEVICE_REMOVED");
    broken = false;
    await expect(pool.use(async (session) => session.handle[0])).resolves.toBe(2);
    await expect(SessionPool.open(sessions, 0)).rejects.toMatchObject({ code: "input-invalid" });
    await pool.close();
  });
});
