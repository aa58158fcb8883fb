import { fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type CaKey, createPinFile, initToken, nodeVerify, openToken, type TokenConfig } from "../../../hsm/index.ts";
import { parseCertificate } from "../../../lib/pki/certificate.ts";
import { buildCrl, lintCrl, parseCrl } from "../../../lib/pki/crl.ts";
import { checkCsr, parseCsr } from "../../../lib/pki/csr.ts";
import { issuerFromCertificate, type IssuerInfo, validityFor } from "../../../lib/pki/issuer.ts";
import { lintTbs } from "../../../lib/pki/lint.ts";
import { PROFILES } from "../../../lib/pki/profiles.ts";
import { newSerial } from "../../../lib/pki/serial.ts";
import { buildTbs } from "../../../lib/pki/tbs.ts";
import { FaultHsm } from "../../../test/support/fault-hsm.ts";
import { PROJECT_ROOT, softhsmDir, tempDir } from "../../../test/support/index.ts";
import { issue, throwawayKey, throwawayRoot } from "../../../test/support/issuing.ts";
import { IssuingProcess } from "./issuing-process.ts";
import { IssuingProcesses } from "./issuing-processes.ts";
import type { Outcome } from "./protocol.ts";

let dir: string;
let hsm: FaultHsm;
let token: TokenConfig;
let issuer: IssuerInfo;
let processes: IssuingProcesses;
let key: CaKey;
const spki = throwawayKey().spki;
const faults: string[] = [];

beforeAll(async () => {
  softhsmDir();
  dir = tempDir("processes");
  hsm = new FaultHsm(dir);
  const pin = await createPinFile(join(dir, "pin"));
  await initToken({ module: hsm.module, label: "ca-token", pin });
  const limits = { callTimeoutMs: 1_000, retryAfterMs: 50 };
  token = { module: hsm.module, uri: "pkcs11:token=ca-token", pin, limits };
  const own = await openToken(token);
  const { spki: caSpki } = await own.generateCaKey({ label: "ca", algorithm: "ec-p256" });
  await own.close();
  const root = throwawayRoot({ commonName: "Root" });
  issuer = issuerFromCertificate(issue(root, "intermediate-embedded", { commonName: "CA" }, caSpki, { pathLen: 0 }));
  const onFault = ({ message }: Error) => void faults.push(message);
  processes = await IssuingProcesses.start({ token, processes: 2, sessions: 2, silentMs: 1_500, onFault });
  key = await processes.caKey("ca");
});
afterEach(() => hsm.set());
afterAll(() => processes.stop());

const tbsOf = (device: string) =>
  buildTbs(PROFILES.idevid, {
    issuer,
    serial: newSerial(randomBytes),
    ...validityFor(PROFILES.idevid, new Date(), issuer),
    subject: { commonName: device },
    spki,
  });
const linted = (device: string) => lintTbs(tbsOf(device), PROFILES.idevid, issuer);

/** A login writes to SoftHSM's token: a process that is killed in that moment would leave it damaged. */
const bothOpen = () =>
  expect
    .poll(() => processes.health().filter(({ token: open }) => open !== undefined).length, { timeout: 60_000 })
    .toBe(2);

async function certify(count: number): Promise<{ valid: number; errors: { code: string; message: string }[] }> {
  const answers = await Promise.allSettled(
    Array.from({ length: count }, (_, i) => key.signCertificate(linted(`dev-${i}`))),
  );
  let valid = 0;
  const errors: { code: string; message: string }[] = [];
  for (const [i, answer] of answers.entries()) {
    if (answer.status === "rejected") {
      errors.push(answer.reason);
      continue;
    }
    const { tbs, signature, subject } = parseCertificate(answer.value);
    expect(subject.rdns.flat().map(({ text }) => text)).toEqual([`dev-${i}`]);
    const check = { spki: key.spki, algorithm: key.algorithm, message: tbs, signature };
    expect(nodeVerify(check)).toBe(true);
    valid++;
  }
  return { valid, errors };
}

describe("issuing processes", () => {
  it("sign certificates, CRLs and requests as the token's own CA key does", async () => {
    expect(await certify(400)).toEqual({ valid: 400, errors: [] });
    // A process says how it is now and then; the first word may still be on its way.
    await expect
      .poll(() => processes.health().map(({ token: one }) => one?.circuit), { timeout: 10_000 })
      .toEqual(["closed", "closed"]);
    const now = new Date(Math.floor(Date.now() / 1000) * 1000);
    const nextUpdate = new Date(now.getTime() + 86_400_000);
    const crl = lintCrl(buildCrl({ issuer, number: 7n, thisUpdate: now, nextUpdate, revoked: [] }), issuer);
    expect(parseCrl(await key.signCrl(crl)).number).toBe(7n);
    const csr = parseCsr(await key.signRequest({ cn: "CA", challengePassword: "nonce" }));
    await checkCsr(csr, nodeVerify);
    expect(csr.spki).toEqual(key.spki);
    await expect(processes.caKey("ca-2")).rejects.toMatchObject({ code: "hsm-key-missing" });
  });

  it("give one certificate for one lint, and none for another issuer's or an unlinted one", async () => {
    const once = linted("dev-once");
    const both = await Promise.allSettled([key.signCertificate(once), key.signCertificate(once)]);
    expect(both.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    const other = issuerFromCertificate(throwawayRoot({ commonName: "Other" }).certificate);
    const profile = PROFILES["intermediate-embedded"];
    const validity = validityFor(profile, new Date(), other);
    const params = { issuer: other, serial: newSerial(randomBytes), ...validity, spki, pathLen: 0 };
    const foreign = lintTbs(buildTbs(profile, { ...params, subject: { commonName: "X" } }), profile, other);
    await expect(key.signCertificate(foreign)).rejects.toMatchObject({ code: "profile-violation" });
    const { profile: name, signatureAlgorithm, issuerKeyId } = linted("dev-x");
    const lookAlike = { bytes: tbsOf("dev-x"), profile: name, signatureAlgorithm, issuerKeyId, issuer };
    await expect(key.signCertificate(lookAlike as never)).rejects.toMatchObject({ code: "profile-violation" });
  });

  it("lint again themselves: what this side would let through, they refuse", async () => {
    const outcomes: Outcome[] = [];
    const one = new IssuingProcess(token, 1, { outcome: (o) => outcomes.push(o), ended: () => undefined });
    await one.ready;
    const good = tbsOf("dev-good");
    const spoiled = good.slice();
    spoiled[good.length - 8]! ^= 1;
    const label = "ca";
    one.take([
      { id: 1, kind: "certificate", label, tbs: spoiled, profile: "idevid", issuer },
      { id: 2, kind: "certificate", label, tbs: good, profile: "server", issuer },
      { id: 3, kind: "certificate", label, tbs: randomBytes(300), profile: "idevid", issuer },
      { id: 4, kind: "certificate", label, tbs: good, profile: "no-such", issuer },
      { id: 5, kind: "certificate", label, tbs: good, profile: "idevid", issuer: { ...issuer, spki } },
      { id: 6, kind: "crl", label, tbs: good, issuer },
      { id: 7, kind: "sign", label, tbs: good, issuer } as never,
      { id: 8, kind: "certificate", label, tbs: good, profile: "idevid", issuer },
    ]);
    while (outcomes.length < 8) await new Promise((resolve) => setTimeout(resolve, 10));
    const refused = outcomes.filter((o) => "error" in o).map(({ id }) => id);
    expect(refused.sort()).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(outcomes.find(({ id }) => id === 8)).toHaveProperty("der");
    await one.stop();
  });

  it("lose nothing when they are killed at work, and are started again", async () => {
    for (let round = 0; round < 3; round++) {
      await bothOpen();
      hsm.set({ function: "C_Sign", does: { delayMs: 5 } });
      const work = certify(300);
      await new Promise((resolve) => setTimeout(resolve, 40));
      process.kill(processes.health()[round % 2]!.pid!, "SIGKILL");
      expect(await work).toEqual({ valid: 300, errors: [] });
    }
    hsm.set();
    await bothOpen();
    expect(await certify(100)).toEqual({ valid: 100, errors: [] });
    expect(faults.length).toBeGreaterThanOrEqual(3);
  });

  it("that hang in a call that blocks them are killed, and their work is done by others", async () => {
    await bothOpen();
    hsm.set({ function: "C_SignInit", from: 1, count: 1, does: "hang" });
    const before = faults.length;
    // So few go by themselves, on the main thread as far as PKCS#11 has only blocking calls.
    const work = certify(2);
    while (faults.length === before) await new Promise((resolve) => setTimeout(resolve, 20));
    hsm.set();
    expect(await work).toEqual({ valid: 2, errors: [] });
  });

  it("survive a call that hangs among many, and lose only that one", async () => {
    await bothOpen();
    expect(await certify(200)).toEqual({ valid: 200, errors: [] });
    const pids = processes.health().map(({ pid }) => pid);
    hsm.set({ function: "C_Sign", from: 20, count: 1, does: "hang" });
    const { valid, errors } = await certify(60);
    // Each process counts its own calls.
    expect(errors.map(({ code }) => code)).toEqual(Array.from({ length: 60 - valid }, () => "hsm-unavailable"));
    expect(valid).toBeGreaterThanOrEqual(58);
    expect(errors[0]!.message).toMatch(/"ca-token" didn't answer within 1000 ms/);
    expect(processes.health().map(({ pid }) => pid)).toEqual(pids);
  });

  it("outlive an HSM that is away, and say meanwhile what is wrong", async () => {
    await bothOpen();
    await certify(20);
    const pids = processes.health().map(({ pid }) => pid);
    hsm.set({ does: { fail: "DEVICE_REMOVED" } });
    const away = await certify(80);
    expect(away.valid).toBe(0);
    // A process that is still starting knows only its module.
    for (const { code, message } of away.errors) {
      expect(code).toBe("hsm-unavailable");
      expect(message).toMatch(/"ca-token"|through module/);
    }
    hsm.set();
    const until = Date.now() + 8_000;
    while ((await certify(64)).valid < 64 && Date.now() < until)
      await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await certify(100)).toEqual({ valid: 100, errors: [] });
    expect(processes.health().map(({ pid }) => pid)).toEqual(pids);
  });

  it("offer a PIN that is wrong once, however many they are", async () => {
    const file = join(dir, "wrong");
    writeFileSync(file, "not-the-pin", { mode: 0o600 });
    const before = hsm.calls("C_Login");
    const start = IssuingProcesses.start({ token: { ...token, pin: { file } }, processes: 3, sessions: 2 });
    await expect(start).rejects.toMatchObject({ code: "hsm-pin-wrong" });
    expect(hsm.calls("C_Login") - before).toBe(1);
  });

  it("end with their site, also when it is killed", async () => {
    const script = join(dir, "site.ts");
    writeFileSync(
      script,
      `const { IssuingProcesses } = await import(${JSON.stringify(join(PROJECT_ROOT, "apps/site/issuing/issuing-processes.ts"))});
       const all = await IssuingProcesses.start(${JSON.stringify({ token, processes: 2, sessions: 1 })});
       process.send(all.health().map(({ pid }) => pid));`,
    );
    const site = fork(script, { execArgv: [], env: { ...process.env, NODE_OPTIONS: "" } });
    const pids = await new Promise<number[]>((resolve) => site.once("message", (m) => resolve(m as number[])));
    expect(pids.every(alive)).toBe(true);
    site.kill("SIGKILL");
    const until = Date.now() + 8_000;
    while (pids.some(alive) && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(pids.filter(alive)).toEqual([]);
  });
});

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
