import type { SignatureAlgorithm } from "../domain/signing.ts";
import { sequence, unsignedInteger } from "../pki/der-write.ts";
import { ALG, hashOf } from "./algorithms.ts";
import { TpmReader } from "./cursor.ts";

const TPM_GENERATED_VALUE = 0xff544347;
const TPM_ST_ATTEST_CERTIFY = 0x8017;
const MAX_ATTEST_OCTETS = 2048;
/** TPM2B_NAME: a TPM_ALG_ID and its longest digest */
const MAX_NAME = 66;

/** TPMS_ATTEST with a TPMS_CERTIFY_INFO (Part 2 section 10.12): what TPM2_Certify signs. */
export interface CertifyInfo {
  /** TPMS_ATTEST: the signed bytes */
  readonly bytes: Uint8Array;
  readonly qualifiedSigner: Uint8Array;
  readonly extraData: Uint8Array;
  readonly clock: {
    /** milliseconds that the TPM has run */
    readonly milliseconds: bigint;
    readonly resetCount: number;
    readonly restartCount: number;
    /** the clock never ran back below what it reported */
    readonly safe: boolean;
  };
  readonly firmwareVersion: bigint;
  /** of the key that is certified */
  readonly name: Uint8Array;
  readonly qualifiedName: Uint8Array;
}

/** Reads a TPMS_ATTEST. @throws CountersignError `attestation-malformed`, also for what isn't a TPM's own or no certification */
export function readCertifyInfo(bytes: Uint8Array): CertifyInfo {
  const reader = new TpmReader(bytes, "the attestation");
  if (bytes.length > MAX_ATTEST_OCTETS) throw reader.fail(`it has more than ${MAX_ATTEST_OCTETS} octets`);
  if (reader.u32() !== TPM_GENERATED_VALUE) throw reader.fail("it doesn't begin with TPM_GENERATED: no TPM made it");
  if (reader.u16() !== TPM_ST_ATTEST_CERTIFY) throw reader.fail("it isn't TPM2_Certify's");
  const qualifiedSigner = reader.buffer(MAX_NAME);
  const extraData = reader.buffer(64);
  const clock = {
    milliseconds: reader.u64(),
    resetCount: reader.u32(),
    restartCount: reader.u32(),
    safe: readYesNo(reader),
  };
  const firmwareVersion = reader.u64();
  const name = reader.buffer(MAX_NAME);
  const qualifiedName = reader.buffer(MAX_NAME);
  reader.end();
  return { bytes, qualifiedSigner, extraData, clock, firmwareVersion, name, qualifiedName };
}

function readYesNo(reader: TpmReader): boolean {
  const value = reader.u8();
  if (value > 1) throw reader.fail("a TPMI_YES_NO is neither");
  return value === 1;
}

export interface TpmSignature {
  /** TPM_ALG_ID of scheme and hash */
  readonly scheme: { readonly algorithm: number; readonly hash: number };
  readonly algorithm: SignatureAlgorithm;
  /** ECDSA: DER; RSASSA: as it is */
  readonly signature: Uint8Array;
}

/**
 * Reads a TPMT_SIGNATURE (Part 2 section 11.3): ECDSA by a key on `curve`, or RSASSA.
 * @throws CountersignError `attestation-malformed`
 */
export function readSignature(bytes: Uint8Array, curve: "p256" | "p384"): TpmSignature {
  const reader = new TpmReader(bytes, "the attestation's signature");
  const algorithm = reader.u16();
  if (algorithm !== ALG.ecdsa && algorithm !== ALG.rsassa) throw reader.fail("it is neither ECDSA nor RSASSA");
  const hash = reader.u16();
  const name = hashOf(hash)?.name;
  if (name === undefined) throw reader.fail("its hash isn't SHA-256, SHA-384 or SHA-512");
  const scheme = { algorithm, hash };
  if (algorithm === ALG.rsassa) {
    const signature = reader.buffer(512);
    reader.end();
    return { scheme, algorithm: `rsa-pkcs1-${name}`, signature };
  }
  const r = reader.buffer(48);
  const s = reader.buffer(48);
  reader.end();
  if (r.length === 0 || s.length === 0) throw reader.fail("an ECDSA integer is empty");
  return {
    scheme,
    algorithm: `ecdsa-${curve}-${name}`,
    signature: sequence(unsignedInteger(r), unsignedInteger(s)),
  };
}
