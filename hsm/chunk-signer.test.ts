import { randomBytes } from "node:crypto";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { Signer } from "../lib/domain/signing.ts";
import { type CKR, type Fault, FaultHsm } from "../test/support/fault-hsm.ts";
import { softhsmDir, tempDir } from "../test/support/index.ts";
import { recovered, signAtOnce, together } from "../test/support/signing-load.ts";
import { CHUNK, MAX_MESSAGE_BYTES } from "./chunk-protocol.ts";
import { type Token, createPinFile, initToken, nodeVerify, openToken } from "./index.ts";
import { pinnedCount } from "./pooled-session.ts";
import { SigningThread } from "./signing-thread.ts";

const LIMITS = { callTimeoutMs: 400, waitTimeoutMs: 5_000, maxWaiting: 300, failures: 5, retryAfterMs: 40 };

let hsm: FaultHsm;
let token: Token;
let keys: Signer[];
/** how many messages each chunk had that went to the thread */
let chunks: number[] = [];

const load = (count = 120) => signAtOnce(keys, count, "faulty");
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const onThread = () => chunks.reduce((sum, n) => sum + n, 0);

/** Until nearly all of a load goes to the thread: it has started, and found the token quick, which it still is. */
async function warm(): Promise<void> {
  await expect
    .poll(
      async () => {
        chunks = [];
        await load();
        return onThread();
      },
      { timeout: 15_000, interval: 50 },
    )
    .toBeGreaterThanOrEqual(116);
  chunks = [];
}

beforeAll(async () => {
  softhsmDir();
  const dir = tempDir("chunks");
  hsm = new FaultHsm(dir);
  const pin = await createPinFile(join(dir, "pin"));
  await initToken({ module: hsm.module, label: "faulty", pin });
  token = await openToken({ module: hsm.module, uri: "pkcs11:token=faulty", pin, sessions: 4, limits: LIMITS });
  keys = [together(await token.generateKey({ label: "act", algorithm: "ec-p256" }))];
  const { sign } = SigningThread.prototype;
  vi.spyOn(SigningThread.prototype, "sign").mockImplementation(function (this: SigningThread, messages, order) {
    chunks.push(messages.length);
    return sign.call(this, messages, order);
  });
});
beforeEach(warm);
afterEach(async () => {
  hsm.set();
  await recovered(keys);
  while (pinnedCount() > 0) await pause(5);
  expect(token.health()).toMatchObject({ circuit: "closed", failures: 0 });
  expect(token.health().sessions).toMatchObject({ size: 4, inUse: 0, waiting: 0, abandoned: 0 });
});
afterAll(async () => {
  await token.close();
  vi.restoreAllMocks();
});

const LOST = [
  "SESSION_HANDLE_INVALID",
  "SESSION_CLOSED",
  "DEVICE_REMOVED",
  "USER_NOT_LOGGED_IN",
  "KEY_HANDLE_INVALID",
  "GENERAL_ERROR",
] as const satisfies readonly (keyof typeof CKR)[];

describe("signatures asked for together", () => {
  it("go to the thread by the chunk, each answered with its own", async () => {
    expect(await load(200)).toMatchObject({ signed: 200, refused: {} });
    expect(onThread()).toBeGreaterThanOrEqual(192);
    expect(Math.max(...chunks)).toBe(CHUNK);
  });

  it("of several keys, few, or long: each by its own key", async () => {
    const others = await Promise.all(
      (["ec-p384", "ed25519", "rsa-2048"] as const).map(async (algorithm) =>
        together(await token.generateKey({ label: `other-${algorithm}`, algorithm })),
      ),
    );
    const messages = [0, 1, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1, 20_000].map((length) => randomBytes(length));
    const all = [keys[0]!, ...others].flatMap((key) => [...messages, ...messages].map((message) => ({ key, message })));
    const signatures = await Promise.all(all.map(({ key, message }) => key.sign(message)));
    for (const [i, { key, message }] of all.entries()) {
      const { spki, algorithm } = key;
      expect(nodeVerify({ spki, algorithm, message, signature: signatures[i]! })).toBe(true);
    }
    chunks = [];
    await Promise.all([keys[0]!.sign(messages[1]!), keys[0]!.sign(messages[2]!)]);
    expect(chunks).toEqual([]);
  });

  it.each(LOST)("CKR_%s in the middle of a chunk: nobody notices, and nothing is asked for twice", async (fail) => {
    hsm.set(
      { function: "C_Sign", from: 7, count: 1, does: { fail } },
      { function: "C_SignInit", from: 40, count: 1, does: { fail } },
    );
    const before = hsm.calls("C_Sign");
    expect(await load()).toMatchObject({ signed: 120, refused: {} });
    expect(hsm.calls("C_Sign") - before).toBe(121);
  });

  it("restarts in the middle of chunks: every session and the login are gone, again and again", async () => {
    hsm.set(...[10, 60, 61, 150].map((from): Fault => ({ function: "C_Sign", from, count: 1, does: "restart" })));
    expect(await load(240)).toMatchObject({ signed: 240, refused: {} });
  });

  it("of a token that fails for a while: told so at once, and works again by itself", async () => {
    hsm.set({ does: { fail: "DEVICE_REMOVED" } });
    const tally = await load();
    expect(tally).toMatchObject({ signed: 0, refused: { "hsm-unavailable": 120 } });
    expect(tally.errors[0]!.message).toMatch(/^can't .*"faulty".*\(CKR_[A-Z_]+\): .{20,}/);
    expect(token.health().circuit).not.toBe("closed");
  });

  it("releases nothing wrong, wherever in a chunk, and all the rest", async () => {
    hsm.set(...[2, 17, 33, 34].map((from): Fault => ({ function: "C_Sign", from, count: 1, does: "corrupt" })));
    const tally = await load();
    expect(tally).toMatchObject({ signed: 116, refused: { "hsm-signature-invalid": 4 } });
    expect(tally.errors[0]!.message).toMatch(
      /key "act" in token "faulty" gave a signature that its public key doesn't/,
    );
    expect(onThread()).toBeGreaterThan(60);
  });

  it("of a token that signs wrongly all the time: none, and it is out of order", async () => {
    hsm.set({ function: "C_Sign", does: "corrupt" });
    const tally = await load();
    expect(tally.signed).toBe(0);
    expect(tally.refused["hsm-signature-invalid"]).toBeGreaterThanOrEqual(5);
    expect(token.health().circuit).not.toBe("closed");
  });

  it.each([
    ["C_Sign", "hang"],
    // Not for ever: PKCS#11 has only a blocking form of it, and one that goes by itself would hold up this test.
    ["C_SignInit", { delayMs: 1_500 }],
  ] as const)("%s that hangs in a chunk loses that one", async (name, does) => {
    hsm.set({ function: name, from: 9, count: 1, does });
    const delay = monitorEventLoopDelay({ resolution: 5 });
    delay.enable();
    const before = hsm.calls(name);
    const tally = await load();
    delay.disable();
    expect(tally).toMatchObject({ signed: 119, refused: { "hsm-unavailable": 1 } });
    expect(tally.errors[0]!.message).toMatch(/didn't answer within 400 ms.*given up/);
    // Those before it are released, those after it go on, and none of them is asked for twice.
    expect(hsm.calls(name) - before).toBe(120);
    expect(delay.max / 1e6).toBeLessThan(400);
    expect(pinnedCount()).toBe(1);
    expect(token.health().sessions).toMatchObject({ inUse: 0, abandoned: 1 });
  });

  it("of a token that hangs in all of them: given up, without a stop to anything else", async () => {
    hsm.set({ function: "C_Sign", does: "hang" });
    expect(await load()).toMatchObject({ signed: 0, refused: { "hsm-unavailable": 120 } });
    expect(token.health().circuit).not.toBe("closed");
    for (let i = 0; i < 10; i++) await load(20);
  });

  it("of a token that grows slow have a session each, and go back to the thread when it is quick again", async () => {
    hsm.set({ function: "C_Sign", from: 30, does: { delayMs: 10 } });
    expect(await load(240)).toMatchObject({ signed: 240, refused: {} });
    // One chunk came back half done, and in the next all were slow.
    expect(chunks.length).toBeLessThanOrEqual(3);
    hsm.set();
    await warm();
  });

  it("are refused at once when too many wait", async () => {
    const tally = await load(400);
    expect(tally).toMatchObject({ signed: 300, refused: { "hsm-unavailable": 100 } });
    expect(tally.errors[0]!.message).toMatch(/can't keep up: 300 signatures wait/);
    expect(tally.errors[0]!.details).toMatchObject({ refused: "queue-full" });
  });
});
