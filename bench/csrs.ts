import { generateKeyPairSync, sign } from "node:crypto";
import { assembleCsr, csrInfo } from "../lib/pki/csr.ts";
import { pemEncode } from "../lib/pki/pem.ts";

/** One P-256 CSR (PEM) an id, with a key of its own that nobody keeps. Made before anything is measured. */
export function makeCsrs(ids: readonly string[]): string[] {
  return ids.map((cn) => {
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const info = csrInfo({ cn, spki: publicKey.export({ type: "spki", format: "der" }) });
    return pemEncode("CERTIFICATE REQUEST", assembleCsr(info, "ecdsa-p256-sha256", sign("sha256", info, privateKey)));
  });
}

export function deviceIds(prefix: string, count: number): string[] {
  const width = Math.max(5, String(count).length);
  return Array.from({ length: count }, (_, i) => `${prefix}-${String(i + 1).padStart(width, "0")}`);
}
