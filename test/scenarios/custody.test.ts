import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, cp, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bytesReader, firmwareFormat } from "../../lib/firmware/index.ts";
import { pemDecode } from "../../lib/pki/pem.ts";
import { passport as passportSchema } from "../../lib/records/passport.ts";
import { receipt as receiptSchema } from "../../lib/records/receipt.ts";
import { mbedtlsParse } from "../support/mbedtls.ts";
import { countersign } from "./countersign.ts";

const run = promisify(execFile);
const DEVICES = 4;

let dir: string;
let out: string;
let ids: string[];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "countersign-scenario-"));
  await chmod(dir, 0o711); // the database runs as an account of its own
  out = join(dir, "out");
  const env = { HUB_PORT: "0", TMPDIR: dir };
  const result = await countersign(
    ["start", "--once", "--devices", String(DEVICES), "--images", "3", "--out", out],
    env,
  );
  expect(result.code, result.stderr).toBe(0);
  ids = (await readdir(join(out, "devices"))).sort();
}, 300_000);

afterAll(async () => {
  await rm(dir, { recursive: true, force: true });
});

const pinned = (folder = out) => ["--root", join(out, "root.pem"), "--policy", join(folder, "policy.json")];
const device = (id: string, name: string, folder = out) => join(folder, "devices", id, name);

describe("the custody chain, from one command", () => {
  it("writes what the contract says, and leaves nothing else behind", async () => {
    expect((await readdir(out)).sort()).toEqual(
      ["devices", "firmware", "ledger", "parties", "policy.json", "root.pem", "summary.json"].sort(),
    );
    // The stack's own state was temporary.
    expect((await readdir(dir)).sort()).toEqual(["out"]);
    const summary = JSON.parse(await readFile(join(out, "summary.json"), "utf8"));
    expect(summary).toMatchObject({ devices: DEVICES, hub: { connected: 3, telemetry: 15 } });
    expect(summary.parties.map((p: { id: string; parent: string | null }) => [p.id, p.parent])).toEqual([
      ["company-x", null],
      ["factory-y", "company-x"],
      ["technician-z", "factory-y"],
    ]);
    const policy = JSON.parse(await readFile(join(out, "policy.json"), "utf8"));
    const { stdout } = await run("openssl", ["x509", "-in", join(out, "root.pem"), "-outform", "DER"], {
      encoding: "buffer",
    });
    expect(policy.rootSha256).toBe(createHash("sha256").update(stdout).digest("hex"));
    expect(ids).toHaveLength(DEVICES);
  });

  it("gives chains and CRLs that openssl accepts", async () => {
    for (const id of ids) {
      const chain = device(id, "chain.pem");
      const args = [
        "verify",
        "-x509_strict",
        "-CAfile",
        join(out, "root.pem"),
        "-untrusted",
        chain,
        "-purpose",
        "sslclient",
        chain,
      ];
      expect((await run("openssl", args)).stdout).toContain("OK");
    }
    const crls = await Promise.all(
      ["company-x", "factory-y", "technician-z"].map((p) => readFile(join(out, "parties", p, "crl.pem"), "utf8")),
    );
    const cas = await Promise.all(
      ["factory-y", "technician-z"].map((p) => readFile(join(out, "parties", p, "ca.pem"), "utf8")),
    );
    await writeFile(join(dir, "crls.pem"), crls.join(""));
    await writeFile(join(dir, "cas.pem"), cas.join(""));
    const leaf = device(ids[0]!, "chain.pem");
    const checked = await run("openssl", [
      "verify", "-x509_strict", "-crl_check_all", "-CRLfile", join(dir, "crls.pem"),
      "-CAfile", join(out, "root.pem"), "-untrusted", join(dir, "cas.pem"), leaf,
    ]); // prettier-ignore
    expect(checked.stdout).toContain("OK");
  });

  it("signs the CSR's key and name, and nothing else of it", async () => {
    for (const id of ids) {
      const request = await run("openssl", ["req", "-in", device(id, "csr.pem"), "-noout", "-pubkey", "-verify"]);
      const certificate = await run("openssl", [
        "x509",
        "-in",
        device(id, "chain.pem"),
        "-noout",
        "-pubkey",
        "-subject",
        "-ext",
        "basicConstraints,keyUsage",
      ]);
      expect(certificate.stdout).toContain(request.stdout.trim());
      expect(certificate.stdout).toContain(`CN = ${id}`);
      expect(certificate.stdout).not.toContain("CA:TRUE");
    }
  });

  it("injects every other device's chain in the other format, with receipts that hold", async () => {
    const formats = new Set<string>();
    for (const id of ids.slice(0, 3)) {
      const receipt = receiptSchema.parse(JSON.parse(await readFile(device(id, "receipt.json"), "utf8")));
      formats.add(receipt.format);
      for (const file of [receipt.image, receipt.original]) {
        expect(
          createHash("sha256")
            .update(await readFile(join(out, file.path)))
            .digest("hex"),
        ).toBe(file.sha256);
      }
      const extracted = await countersign([
        "firmware",
        "extract",
        "--format",
        receipt.format,
        "--image",
        join(out, receipt.image.path),
      ]);
      expect(extracted.stdout.trim()).toBe((await readFile(device(id, "chain.pem"), "utf8")).trim());
    }
    expect([...formats].sort()).toEqual(["esp-secure-cert", "intel-hex"]);
    expect(await readdir(join(out, "devices", ids[3]!))).toEqual(["chain.pem", "csr.pem", "passport.json"]);
  });

  it("puts chains where mbedTLS reads them whole, as the device would", async () => {
    const root = pemDecode(await readFile(join(out, "root.pem"), "utf8"), "CERTIFICATE")[0]!;
    for (const id of ids.slice(0, 3)) {
      const receipt = receiptSchema.parse(JSON.parse(await readFile(device(id, "receipt.json"), "utf8")));
      const format = firmwareFormat(receipt.format);
      const { chainBytes } = await format.extract(bytesReader(await readFile(join(out, receipt.image.path))));
      const answer = mbedtlsParse(chainBytes, root);
      if (!answer.ok) throw new Error(answer.why);
      expect(answer.certificates).toHaveLength(3);
      expect(createHash("sha256").update(chainBytes).digest("hex")).toBe(receipt.chain.sha256);
    }
  });

  it("verifies every passport offline, small enough to travel", async () => {
    for (const id of ids) {
      const path = device(id, "passport.json");
      passportSchema.parse(JSON.parse(await readFile(path, "utf8")));
      const verdict = await countersign(["verify", path, ...pinned()]);
      expect(verdict, verdict.stderr).toMatchObject({ code: 0 });
    }
  });

  it("audits all ledgers together", async () => {
    const result = await countersign(["audit", out, ...pinned(), "--json"]);
    const report = JSON.parse(result.stdout);
    expect(report.findings).toEqual([]);
    expect(result.code, result.stderr).toBe(0);
    expect(report.quorum).toBe("met");
    expect(report.lots).toMatchObject([
      { id: expect.any(String), slots: DEVICES, built: DEVICES, certified: DEVICES, injected: 3, installed: DEVICES },
    ]);
  });

  it("audits one ledger by itself", async () => {
    const { parties } = JSON.parse(await readFile(join(out, "summary.json"), "utf8"));
    for (const { id, vkey } of parties) {
      const others = parties.filter((other: { id: string }) => other.id !== id);
      const witnesses = others.flatMap((other: { witnessVkey: string }) => ["--witness", other.witnessVkey]);
      const audit = ["audit", "log", join(out, "ledger", id), "--vkey", vkey, ...witnesses];
      expect(await countersign(audit)).toMatchObject({ code: 0 });
    }
    const own = ["--vkey", parties[1].vkey, "--witness", parties[1].witnessVkey];
    const alone = await countersign(["audit", "log", join(out, "ledger", "factory-y"), ...own]);
    expect(alone).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/isn't cosigned by .*checkpoint-invalid/) as string,
    });
    const swapped = await countersign(["audit", "log", join(out, "ledger", "factory-y"), "--vkey", parties[0].vkey]);
    expect(swapped.code).toBe(1);
  });

  it("traces a device by ID and by serial number", { timeout: 90_000 }, async () => {
    const acts = JSON.parse((await countersign(["trace", ids[0]!, "--from", out, "--json"])).stdout);
    expect(acts.map((act: { type: string }) => act.type)).toEqual([
      "built",
      "handoff-released",
      "handoff-received",
      "certified",
      "injected",
      "installed",
    ]);
    const serial = (await run("openssl", ["x509", "-in", device(ids[0]!, "chain.pem"), "-noout", "-serial"])).stdout
      .trim()
      .split("=")[1]!;
    expect((await countersign(["trace", serial, "--from", out, "--json"])).stdout).toBe(
      (await countersign(["trace", ids[0]!, "--from", out, "--json"])).stdout,
    );
    expect((await countersign(["trace", "nobody", "--from", out])).code).toBe(1);
  });

  it("validates a chain, and says why not", { timeout: 90_000 }, async () => {
    const chain = device(ids[0]!, "chain.pem");
    const root = ["--root", join(out, "root.pem")];
    const crl = ["--crl", join(out, "parties/company-x/crl.pem"), "--crl", join(out, "parties/factory-y/crl.pem")];
    expect(await countersign(["chain", "verify", chain, ...root, ...crl])).toMatchObject({ code: 0 });
    expect(await countersign(["chain", "verify", chain, ...root, "--at", "2001-01-01T00:00:00Z"])).toMatchObject({
      code: 1,
    });
    expect(
      await countersign(["chain", "verify", chain, "--root", join(out, "parties/technician-z/ca.pem")]),
    ).toBeDefined();
    await writeFile(
      join(dir, "leaf.pem"),
      (await readFile(chain, "utf8")).split(/(?<=-----END CERTIFICATE-----\n)/)[0]!,
    );
    expect(await countersign(["chain", "verify", join(dir, "leaf.pem"), ...root])).toMatchObject({ code: 1 });
    await writeFile(join(dir, "garbage.pem"), "no certificate");
    expect(await countersign(["chain", "verify", join(dir, "garbage.pem"), ...root])).toMatchObject({ code: 1 });
  });
});

describe("tampered evidence is refused", () => {
  const tamper = async (change: (folder: string) => Promise<void>) => {
    const folder = await mkdtemp(join(dir, "tampered-"));
    await cp(out, folder, { recursive: true });
    await change(folder);
    const result = await countersign([
      "audit",
      folder,
      "--root",
      join(out, "root.pem"),
      "--policy",
      join(folder, "policy.json"),
      "--json",
    ]);
    await rm(folder, { recursive: true });
    expect(result.code).toBe(1);
    return JSON.parse(result.stdout.slice(0, result.stdout.indexOf("\n}\n") + 3)).findings[0].code as string;
  };
  const flip = async (path: string, at = 100) => {
    const bytes = await readFile(path);
    bytes[at]! ^= 1;
    await writeFile(path, bytes);
  };

  it("a changed entry", async () => {
    const bundle = (folder: string) => join(folder, "ledger/technician-z/tile/entries");
    const code = await tamper(async (folder) => {
      const names = await readdir(bundle(folder), { recursive: true, withFileTypes: true });
      const file = names.find((name) => name.isFile())!;
      await flip(join(file.parentPath, file.name), 5000);
    });
    expect(code).toBe("ledger-invalid");
  });

  it("another checkpoint", async () => {
    expect(
      await tamper((folder) =>
        cp(join(out, "ledger/factory-y/checkpoint"), join(folder, "ledger/technician-z/checkpoint")),
      ),
    ).toBe("ledger-invalid");
  });

  it("a missing ledger", async () => {
    expect(await tamper((folder) => rm(join(folder, "ledger/factory-y"), { recursive: true }))).toBe("ledger-missing");
  });

  it("a changed image", async () => {
    expect(await tamper(async (folder) => flip(join(folder, "devices", ids[0]!, "image.hex")))).toBe("file-mismatch");
  });

  it("another device's chain", async () => {
    expect(await tamper((folder) => cp(device(ids[1]!, "chain.pem"), device(ids[0]!, "chain.pem", folder)))).toBe(
      "file-mismatch",
    );
  });

  it("a device that no ledger knows", async () => {
    expect(
      await tamper((folder) =>
        cp(join(out, "devices", ids[0]!), join(folder, "devices", "dev-9-9999"), { recursive: true }),
      ),
    ).toBe("file-mismatch");
  });

  it("a passport with any act changed, cut or swapped", async () => {
    const passport = JSON.parse(await readFile(device(ids[0]!, "passport.json"), "utf8"));
    const other = JSON.parse(await readFile(device(ids[1]!, "passport.json"), "utf8"));
    const variants = [
      // Without its last act it is an older passport, and a true one.
      ...passport.acts
        .slice(0, -1)
        .map((_: unknown, i: number) => ({ ...passport, acts: passport.acts.toSpliced(i, 1) })),
      { ...passport, device: { ...passport.device, id: ids[1] } },
      { ...passport, values: other.values },
      { ...passport, hashes: other.hashes },
      { ...passport, acts: passport.acts.with(-1, other.acts.at(-1)) },
      { ...passport, logs: passport.logs.slice(1) },
      { ...passport, extra: true },
      {},
    ];
    for (const [i, variant] of variants.entries()) {
      const path = join(dir, "passport.json");
      await writeFile(path, JSON.stringify(variant));
      const verdict = await countersign(["verify", path, ...pinned()]);
      expect(verdict.code, `variant ${i}: ${verdict.stdout}`).toBe(1);
    }
  }, 120_000);
});
