import { chmod, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { pemEncode } from "../../lib/pki/pem.ts";
import { makeCsr, throwawayKey } from "../support/issuing.ts";
import { opensslBytes } from "../support/judge.ts";
import { countersign, type Run } from "./countersign.ts";

/** A factory hands in what factories hand in: most of it right. Everything wrong is named, the rest goes through. */

const key = throwawayKey();
const csr = (cn: string, with_ = throwawayKey()) => pemEncode("CERTIFICATE REQUEST", makeCsr(with_, { cn }));
const good = ["dev-1", "dev-2", "sensor.3"].map((cn) => csr(cn));
const first = csr("dev-twice");

function badSignature(): string {
  const der = makeCsr(throwawayKey(), { cn: "dev-sig" }).slice();
  der[der.length - 3]! ^= 1;
  return pemEncode("CERTIFICATE REQUEST", der);
}

/** Made by openssl: what our own encoder wouldn't write. */
function opensslCsr(...args: string[]): string {
  const fixed = ["req", "-new", "-nodes", "-batch", "-keyout", "/dev/null"];
  return Buffer.from(opensslBytes([...fixed, ...args])).toString("utf8");
}

const weakRsa = () => opensslCsr("-newkey", "rsa:1024", "-subj", "/CN=dev-weak");
const bell = () => opensslCsr("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=dev\u0007bell");

const lines: [csr: string, refusal: RegExp | undefined][] = [
  [good[0]!, undefined],
  [badSignature(), /csr-signature-invalid/],
  [weakRsa(), /key-(weak|unsupported)/],
  [good[1]!, undefined],
  [csr("../../etc/passwd"), /device-id-invalid/],
  [bell(), /device-id-invalid/],
  [csr("dev-key-a", key), undefined],
  [csr("dev-key-b", key), /key-other-device-id/],
  [first, undefined],
  [csr("dev-twice"), /device-id-other-key/],
  [
    "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    /der-invalid|csr-invalid|pem-invalid/,
  ],
  ["no PEM at all", /pem-invalid/],
  [good[2]!, undefined],
  // Asked again, the same certificate is the answer.
  [good[2]!, undefined],
];

let dir: string;
let out: string;
let result: Run;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "countersign-csrs-"));
  await chmod(dir, 0o711); // the database runs as an account of its own
  out = join(dir, "out");
  const file = join(dir, "csrs.ndjson");
  await writeFile(file, lines.map(([text]) => `${JSON.stringify({ csr: text })}\n`).join(""));
  const env = { HUB_PORT: "0", TMPDIR: dir };
  result = await countersign(["start", "--once", "--csrs", file, "--out", out], env);
}, 300_000);

afterAll(async () => {
  await rm(dir, { recursive: true, force: true });
});

it("certifies what is right and names what isn't, line by line", async () => {
  expect(result.code, result.stderr).toBe(0);
  const refused = (await readFile(join(out, "refused.ndjson"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { index: number; code: string });
  const byIndex = new Map(refused.map((one) => [one.index, one.code]));
  lines.forEach(([, expected], index) => {
    if (expected) expect(byIndex.get(index), `line ${index + 1}`).toMatch(expected);
    else expect(byIndex.get(index), `line ${index + 1}`).toBeUndefined();
  });
  expect((await readdir(join(out, "devices"))).sort()).toEqual([
    "dev-1",
    "dev-2",
    "dev-key-a",
    "dev-twice",
    "sensor.3",
  ]);
  expect(JSON.parse(await readFile(join(out, "summary.json"), "utf8"))).toMatchObject({ devices: 5 });
});

it("records nothing by halves: the ledgers audit clean", async () => {
  const audit = await countersign([
    "audit",
    out,
    "--root",
    join(out, "root.pem"),
    "--policy",
    join(out, "policy.json"),
    "--json",
  ]);
  expect(JSON.parse(audit.stdout)).toMatchObject({ ok: true, findings: [], devices: 5 });
});
