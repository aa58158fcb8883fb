import { monitorEventLoopDelay } from "node:perf_hooks";
import { renameSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Signer } from "../lib/domain/signing.ts";
import { type CKR, type Fault, FaultHsm } from "../test/support/fault-hsm.ts";
import { type SoftHsm, softhsmDir, tempDir } from "../test/support/index.ts";
import { recovered, signAtOnce } from "../test/support/signing-load.ts";
import { type Token, createPinFile, initToken, openToken } from "./index.ts";
import { loadModule } from "./module.ts";
import { pinnedCount } from "./pooled-session.ts";

const LIMITS = { callTimeoutMs: 400, waitTimeoutMs: 5_000, maxWaiting: 300, failures: 5, retryAfterMs: 40 };
/** Any one answer: waiting in line behind others who time out, then timing out. */
const BOUND_MS = 3_000;

let store: SoftHsm;
let hsm: FaultHsm;
let dir: string;
let token: Token;
let keys: Signer[];
beforeAll(async () => {
  store = softhsmDir();
  dir = tempDir("faults");
  hsm = new FaultHsm(dir);
  const pin = await createPinFile(join(dir, "pin"));
  await initToken({ module: hsm.module, label: "faulty", pin });
  token = await openToken({ module: hsm.module, uri: "pkcs11:token=faulty", pin, sessions: 4, limits: LIMITS });
  keys = [
    await token.generateKey({ label: "act", algorithm: "ec-p256" }),
    await token.generateKey({ label: "log", algorithm: "ed25519" }),
  ];
});
afterEach(async () => {
  hsm.set();
  await recovered(keys);
  expect(token.health()).toMatchObject({ circuit: "closed", failures: 0 });
});
afterAll(async () => {
  await token.close();
});

const load = (count = 120) => signAtOnce(keys, count, "faulty");
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const LOST = [
  "SESSION_HANDLE_INVALID",
  "SESSION_CLOSED",
  "DEVICE_REMOVED",
  "DEVICE_ERROR",
  "TOKEN_NOT_PRESENT",
  "USER_NOT_LOGGED_IN",
  "KEY_HANDLE_INVALID",
  "GENERAL_ERROR",
] as const satisfies readonly (keyof typeof CKR)[];

describe("a token whose calls fail", () => {
  it.each(LOST)("CKR_%s now and then: nobody notices", async (fail) => {
    hsm.set(
      { function: "C_Sign", from: 7, count: 1, does: { fail } },
      { function: "C_SignInit", from: 40, count: 1, does: { fail } },
    );
    expect(await load()).toMatchObject({ signed: 120, refused: {} });
  });

  it.each(LOST)("CKR_%s at every call for a while: told so at once, and works again by itself", async (fail) => {
    const loginsBefore = hsm.calls("C_Login");
    hsm.set({ does: { fail } });
    const tally = await load();
    expect(tally.signed).toBe(0);
    expect(Object.keys(tally.refused).every((code) => code.startsWith("hsm-"))).toBe(true);
    expect(tally.slowestMs).toBeLessThan(BOUND_MS);
    const [first] = tally.errors.filter(({ details }) => details["refused"] === undefined);
    expect(first!.message).toMatch(/^can't .*"faulty".*\(CKR_[A-Z_]+\): .{20,}/);
    const refusal = tally.errors.find(({ details }) => details["refused"] === "circuit-open");
    expect(refusal!.message).toMatch(
      /"faulty" is out of order since .* is tried again in .* its last failure: .*CKR_.*/,
    );
    expect(token.health().failures).toBeGreaterThanOrEqual(LIMITS.failures);
    expect(token.health().circuit).not.toBe("closed");
    const refusedAt = performance.now();
    // Refused, or the probe that found it still failing.
    await expect(keys[0]!.sign(new Uint8Array(3))).rejects.toThrow(/"faulty"/);
    expect(performance.now() - refusedAt).toBeLessThan(BOUND_MS);
    hsm.set();
    await recovered(keys);
    // A busy machine can have a call time out of itself.
    await expect.poll(async () => (await load()).signed).toBe(120);
    expect(hsm.calls("C_Login") - loginsBefore).toBeLessThan(20);
  });

  it.each([
    "C_OpenSession",
    "C_GetSessionInfo",
    "C_Login",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_GetAttributeValue",
  ] as const)("%s while it reconnects", async (name) => {
    hsm.set(
      { function: "C_SignInit", from: 5, count: 1, does: "restart" },
      { function: name, from: 1, count: 3, does: { fail: "DEVICE_ERROR" } },
    );
    const tally = await load();
    expect(tally.signed + tally.errors.length).toBe(120);
    expect(tally.slowestMs).toBeLessThan(BOUND_MS);
  });

  it("CKR_GENERAL_ERROR at the first look, while another process writes to it: is looked at again", async () => {
    const pin = { file: join(dir, "pin") };
    const open = () => openToken({ module: hsm.module, uri: "pkcs11:token=faulty", pin, sessions: 2, limits: LIMITS });
    hsm.set({ function: "C_GetTokenInfo", from: 1, count: 2, does: { fail: "GENERAL_ERROR" } });
    await (await open()).close();
    hsm.set({ function: "C_OpenSession", does: { fail: "GENERAL_ERROR" } });
    const since = performance.now();
    await expect(open()).rejects.toMatchObject({
      code: "hsm-unavailable",
      message: expect.stringMatching(/"faulty".*CKR_GENERAL_ERROR/) as string,
    });
    expect(performance.now() - since).toBeLessThan(BOUND_MS);
  });

  it("restarts under load: every session and the login are gone, again and again", async () => {
    hsm.set(...[10, 60, 61, 150].map((from): Fault => ({ function: "C_Sign", from, count: 1, does: "restart" })), {
      function: "C_SignInit",
      from: 30,
      count: 1,
      does: "restart",
    });
    const tally = await load(240);
    expect(tally).toMatchObject({ signed: 240, refused: {} });
  });
});

describe("a token that vanishes and comes back", () => {
  it("from the list of slots", async () => {
    hsm.set({ function: "C_GetSlotList", does: "empty" }, { function: "C_Sign", does: { fail: "TOKEN_NOT_PRESENT" } });
    const tally = await load();
    expect(tally.refused["hsm-token-missing"]).toBe(120);
    await expect(token.hasKey("act")).rejects.toMatchObject({ code: "hsm-token-missing" });
  });

  it("from the disk, which SoftHSM gets over only when it is initialised anew", async () => {
    const tokens = join(store.dir, "tokens");
    const { generation } = loadModule(hsm.module);
    renameSync(tokens, `${tokens}.away`);
    const tally = await load();
    expect(tally.signed).toBe(0);
    await pause(300);
    expect((await load()).signed).toBe(0);
    renameSync(`${tokens}.away`, tokens);
    await recovered(keys);
    expect(loadModule(hsm.module).generation).toBeGreaterThan(generation);
    expect(await load()).toMatchObject({ signed: 120 });
  });
});

describe("a slow or hung token", () => {
  it("that takes 10 ms a signature is only slow", async () => {
    hsm.set({ function: "C_Sign", does: { delayMs: 10 } });
    expect(await load()).toMatchObject({ signed: 120 });
  });

  it("that hangs in one signature loses that one", async () => {
    hsm.set({ function: "C_Sign", from: 9, count: 1, does: "hang" });
    const tally = await load();
    expect(tally).toMatchObject({ signed: 119, refused: { "hsm-unavailable": 1 } });
    expect(tally.errors[0]!.message).toMatch(/didn't answer within 400 ms.*given up/);
    // The native call still has its buffers.
    expect(pinnedCount()).toBe(1);
    expect(token.health().sessions).toMatchObject({ size: 4, inUse: 0, abandoned: 1, waiting: 0 });
    hsm.set();
    while (pinnedCount() > 0) await pause(5);
    expect(token.health().sessions.abandoned).toBe(0);
  });

  it("that hangs in all of them is given up, without a stop to anything else", async () => {
    const delay = monitorEventLoopDelay({ resolution: 5 });
    hsm.set({ function: "C_Sign", does: "hang" });
    delay.enable();
    const tally = await load();
    expect(tally).toMatchObject({ signed: 0, refused: { "hsm-unavailable": 120 } });
    expect(tally.slowestMs).toBeLessThan(BOUND_MS);
    expect(token.health().circuit).not.toBe("closed");
    for (let i = 0; i < 10; i++) await load(20);
    delay.disable();
    expect(delay.max / 1e6).toBeLessThan(400);
    hsm.set();
    await recovered(keys);
    while (pinnedCount() > 0) await pause(5);
    expect(await load()).toMatchObject({ signed: 120 });
    expect(token.health().sessions).toMatchObject({ size: 4, abandoned: 0, inUse: 0 });
  });

  it.each(["C_OpenSession", "C_Login", "C_FindObjects", "C_GetSlotList"] as const)(
    "that hangs in %s while it reconnects holds up neither the event loop nor those who wait",
    async (name) => {
      const delay = monitorEventLoopDelay({ resolution: 5 });
      hsm.set({ function: "C_SignInit", from: 3, count: 1, does: "restart" }, { function: name, does: "hang" });
      delay.enable();
      const tally = await load();
      delay.disable();
      expect(tally.signed + tally.errors.length).toBe(120);
      expect(tally.errors.length).toBeGreaterThan(0);
      expect(tally.slowestMs).toBeLessThan(BOUND_MS);
      expect(delay.max / 1e6).toBeLessThan(400);
    },
  );

  it("refuses at once what its line can't hold", async () => {
    hsm.set({ function: "C_Sign", does: { delayMs: 5 } });
    const tally = await load(400);
    expect(tally).toMatchObject({ signed: 304, refused: { "hsm-unavailable": 96 } });
    expect(tally.errors[0]!.message).toMatch(/can't keep up: 300 signatures wait/);
  });
});

describe("a token that signs wrongly", () => {
  it("releases nothing wrong, in whichever session", async () => {
    hsm.set(...[2, 17, 33, 34].map((from): Fault => ({ function: "C_Sign", from, count: 1, does: "corrupt" })));
    expect(await load()).toMatchObject({ signed: 116, refused: { "hsm-signature-invalid": 4 } });
  });

  it("all the time is out of order", async () => {
    hsm.set({ function: "C_Sign", does: "corrupt" });
    const tally = await load();
    expect(tally.signed).toBe(0);
    expect(tally.refused["hsm-signature-invalid"]).toBeGreaterThanOrEqual(5);
    expect(token.health().circuit).not.toBe("closed");
  });
});
