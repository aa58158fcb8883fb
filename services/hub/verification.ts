import { generateKeyPairSync, randomBytes } from "node:crypto";
import type { CaKey } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { sha256Hex } from "../../lib/domain/hash.ts";
import { parseTbsCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { issuerFromCertificate, validityFor } from "../../lib/pki/issuer.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { storeIntent } from "../../store/authority.ts";
import type { Db } from "../../store/db.ts";
import { requireIntent, signIntent } from "../parties/ca.ts";

/** What a hub's code may be: it becomes a CN, and no hub's code is longer. */
const CODE = /^[A-Za-z0-9_-]{8,64}$/;

/** Under which the bytes for a hub's code are kept: a code is one certificate's, whichever place gave it. */
export function verificationIntent(ca: Certificate, code: string): string {
  return `hub-verification/${keyId(ca.spki)}/${sha256Hex(ca.der).slice(0, 16)}/${code}`;
}

/**
 * Has the CA's key sign a certificate whose CN is the hub's code. Its key purpose is our own, so that whatever a hub
 * calls its code, the certificate is no device's. The same code gives the same certificate.
 * @param id under which the bytes are kept before they are signed
 * @throws CountersignError `hub-refused` (no code), and those of signIntent
 */
export async function signVerification(
  db: Db,
  key: CaKey,
  ca: Certificate,
  { id, code, request, now }: { id: string; code: string; request: unknown; now: Date },
): Promise<Uint8Array> {
  if (!CODE.test(code)) throw new CountersignError("hub-refused", "the hub's verification code isn't one to be signed");
  const issuer = issuerFromCertificate(ca);
  const profile = profileNamed("hub-verification");
  await storeIntent(db, {
    id,
    kind: "hub-verification",
    profile: profile.name,
    issuerKeyId: keyId(key.spki),
    subjectKeyId: null,
    request,
    tbs: buildTbs(profile, {
      issuer,
      serial: newSerial(randomBytes),
      ...validityFor(profile, now, issuer),
      subject: { commonName: code },
      spki: forgottenKey(),
    }),
  });
  const intent = await requireIntent(db, id);
  if (parseTbsCertificate(intent.tbs).subject.cn !== code) {
    throw new CountersignError("state-conflict", `another code was signed for already as ${id}`);
  }
  return signIntent(db, id, key, issuer, { kind: "hub-verification", profile: profile.name });
}

/** The verification certificate proves what signed it; nobody needs its own private key, so nobody keeps it. */
function forgottenKey(): Uint8Array {
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return new Uint8Array(publicKey.export({ type: "spki", format: "der" }));
}
