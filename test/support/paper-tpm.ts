import { signingKey, AK_ATTRIBUTES } from "../../apps/device/tpm/templates.ts";
import {
  evidenceOf,
  readPublic,
  summaryOf,
  tpm2b,
  u16,
  u32,
  verifyTpmAttestation,
} from "../../lib/attestation/index.ts";
import { concatBytes, fromHex, toBase64 } from "../../lib/domain/bytes.ts";
import { sha256, sha256Hex } from "../../lib/domain/hash.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { ecdsaRaw } from "../../lib/pki/verify.ts";
import type { AttestationRecord } from "../../lib/records/attestation.ts";
import { opensslVerify, testKey, type TestKey } from "./memory-log.ts";
import { testCertificate, type TestCertificate } from "./test-pki.ts";
import { DEVICE_KEY } from "./tpm-device.ts";

/**
 * A TPM on paper: what one would say of keys that lie in memory, for tests of those who read it later. Real ones are
 * swtpm.ts's.
 */
export class PaperTpm {
  readonly root: TestCertificate;
  readonly #ek: TestCertificate;
  readonly #ak = testKey("p256");

  private constructor(root: TestCertificate, ek: TestCertificate) {
    this.root = root;
    this.#ek = ek;
  }

  static async create(): Promise<PaperTpm> {
    const root = await testCertificate("CN=TPM vendor", { ca: true });
    const ek = await testCertificate("CN=TPM", {
      issuer: root,
      keyAgreement: true,
      eku: ["2.23.133.8.1"],
      san: [{ type: "dn", value: "2.23.133.2.1=id:54455354, 2.23.133.2.2=paper, 2.23.133.2.3=id:00010000" }],
    });
    return new PaperTpm(root, ek);
  }

  /** The evidence's canonical JSON, and what an act says of it. */
  async attest(device: { id: string; lot: string; slot: number; key: TestKey }, nonce = "ab".repeat(32)) {
    const ak = publicArea(this.#ak, AK_ATTRIBUTES);
    const key = publicArea(device.key, DEVICE_KEY);
    const attest = concatBytes(
      ...[fromHex("ff5443478017"), tpm2b(qualified(0x4000000b, ak)), tpm2b(fromHex(nonce))],
      ...[u32(0), u32(123_456), u32(7), u32(0), Uint8Array.of(1), u32(1), u32(2)],
      ...[tpm2b(nameOf(key)), tpm2b(qualified(0x40000001, key))],
    );
    const raw = ecdsaRaw(await this.#ak.sign(attest), 32);
    const signature = concatBytes(u16(0x18), u16(0x0b), tpm2b(raw.subarray(0, 32)), tpm2b(raw.subarray(32)));
    const record: AttestationRecord = {
      schema: 1,
      kind: "tpm2",
      deviceId: device.id,
      lot: device.lot,
      nonce,
      evidence: {
        ekCertificates: [toBase64(this.#ek.der)],
        ak: { public: toBase64(ak), parents: [] },
        key: { public: toBase64(key), parents: [] },
        attest: toBase64(attest),
        signature: toBase64(signature),
      },
    };
    const { spki } = readPublic(key, "the key");
    const demand = { nonce: fromHex(nonce), spki, roots: [this.root.der], at: new Date(), verify: opensslVerify };
    const verified = await verifyTpmAttestation(evidenceOf(record.evidence), demand);
    const evidence = canonicalJson(record);
    const fields = { lot: device.lot, slot: device.slot, evidence: sha256Hex(evidence), ...summaryOf(verified) };
    return { record, evidence, fields };
  }
}

function publicArea({ privateKey }: TestKey, attributes: number): Uint8Array {
  const { x, y } = privateKey.export({ format: "jwk" });
  const [px, py] = [x, y].map((text) => tpm2b(Buffer.from(text ?? "", "base64url")));
  return concatBytes(signingKey(attributes).slice(0, -4), px!, py!);
}

const nameOf = (area: Uint8Array): Uint8Array => concatBytes(u16(0x0b), sha256(area));
const qualified = (hierarchy: number, area: Uint8Array): Uint8Array =>
  concatBytes(u16(0x0b), sha256(concatBytes(u32(hierarchy), nameOf(area))));
