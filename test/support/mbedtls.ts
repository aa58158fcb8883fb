import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fromHex } from "../../lib/domain/bytes.ts";
import { PROJECT_ROOT, tempDir, tool } from "./index.ts";

export type MbedtlsAnswer =
  | { readonly ok: true; /** DER, in the order parsed */ readonly certificates: Uint8Array[] }
  | { readonly ok: false; readonly why: string };

/**
 * What Debian's mbedTLS makes of a region's bytes: PEM in one call, as firmware does, DER in a call for each certificate,
 * since one call would stop behind the first. With `root` (DER) the chain is
 * verified to it as well, at the machine's own time.
 */
export function mbedtlsParse(region: Uint8Array, root?: Uint8Array): MbedtlsAnswer {
  const args: string[] = [];
  if (root !== undefined) {
    const file = join(tempDir("mbedtls"), "root.der");
    writeFileSync(file, root);
    args.push(file);
  }
  const run = spawnSync(program(), args, { input: region, encoding: "utf8", timeout: 30_000 });
  if (run.error !== undefined) throw run.error;
  if (run.status !== 0) return { ok: false, why: run.stderr.trim() };
  const lines = run.stdout.split("\n").filter((line) => line !== "");
  return { ok: true, certificates: lines.map((line) => fromHex(line)) };
}

/** Compiled once for each version of its source. */
function program(): string {
  const source = join(PROJECT_ROOT, "test", "support", "mbedtls-parse.c");
  const digest = createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16);
  const folder = join(PROJECT_ROOT, ".cache", "test");
  const binary = join(folder, `mbedtls-parse-${digest}`);
  if (!existsSync(binary)) {
    mkdirSync(folder, { recursive: true });
    const fresh = `${binary}.${process.pid}`;
    execFileSync(tool("gcc"), ["-O2", "-Wall", "-Werror", "-o", fresh, source, "-lmbedx509", "-lmbedcrypto"], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    renameSync(fresh, binary);
  }
  return binary;
}
