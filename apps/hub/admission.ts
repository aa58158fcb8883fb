import { createHash } from "node:crypto";
import { CountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { validatePath } from "../../lib/pki/path.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import type { Db } from "../../store/db.ts";
import { admitDevice, listCas, type ChainLink, type HubDevice } from "../../store/hub.ts";

/** Leaf and intermediates a device may upload; more is refused before any of it is parsed. */
export const MAX_CHAIN = 8;

interface RegisteredRoot {
  caName: string;
  sha256: string;
  certificate: Certificate;
}

/**
 * Decides who is let in. The TLS handshake has proven possession of the leaf's key; nothing else about the uploaded
 * certificates is believed: the path is validated here (RFC 5280) from the registered roots alone.
 */
export class Admission {
  readonly #db: Db;
  readonly #onPath: (path: readonly Certificate[]) => void;
  #roots: RegisteredRoot[] = [];

  /** @param onPath told of each valid path, also of one whose device isn't let in for another reason; must not throw */
  constructor(db: Db, onPath: (path: readonly Certificate[]) => void = () => undefined) {
    this.#db = db;
    this.#onPath = onPath;
  }

  /** Takes the verified CAs from the database; called at start and after each verification. */
  async loadRoots(): Promise<void> {
    const cas = await listCas(this.#db);
    this.#roots = cas.flatMap((ca) =>
      ca.state === "verified" && ca.certificate !== null && ca.sha256 !== null
        ? [{ caName: ca.name, sha256: ca.sha256, certificate: parseCertificate(ca.certificate) }]
        : [],
    );
  }

  /**
   * @param chain DER as uploaded, leaf first
   * @param claimed the device ID of CONNECT: client ID and username already agree on it
   * @throws CountersignError `hub-no-path`, `hub-device-mismatch`, `hub-device-disabled`
   */
  async admit(chain: readonly Uint8Array[], claimed: string, at: Date): Promise<HubDevice> {
    if (chain.length === 0) throw noPath("the device sent no certificate");
    if (chain.length > MAX_CHAIN) throw noPath(`the device sent more than ${MAX_CHAIN} certificates`);
    const parsed = chain.map(parseUploaded);
    const result = await validatePath({
      chain: parsed,
      roots: this.#roots.map((root) => root.certificate),
      at,
      crls: [],
      purpose: "clientAuth",
      verify: webCryptoVerify,
    });
    if (!result.ok) throw noPath(`no valid path to a registered CA: ${result.reason} (${result.message})`);
    this.#onPath(result.path);
    const leaf = parsed[0];
    const anchor = result.path.at(-1);
    const root = anchor === undefined ? undefined : this.#roots.find((one) => one.sha256 === sha256(anchor.der));
    if (leaf === undefined || root === undefined) throw noPath("no valid path to a registered CA");
    if (leaf.basicConstraints?.ca === true) throw noPath("the first certificate is a CA's, not a device's");
    const named = leaf.subject.cn;
    if (named === undefined || !DEVICE_ID.test(named) || named !== claimed) {
      const shown = JSON.stringify((named ?? "").slice(0, 80));
      throw new CountersignError("hub-device-mismatch", `the certificate names ${shown}, the connection ${claimed}`);
    }
    return admitDevice(this.#db, {
      deviceId: claimed,
      caName: root.caName,
      keySha256: keyId(leaf.spki),
      chain: result.path.map(chainLink),
    });
  }
}

function parseUploaded(der: Uint8Array): Certificate {
  try {
    return parseCertificate(der);
  } catch (cause) {
    throw noPath("an uploaded certificate can't be parsed", cause);
  }
}

function chainLink(certificate: Certificate): ChainLink {
  return {
    sha256: sha256(certificate.der),
    commonName: certificate.subject.cn ?? null,
    serial: certificate.serial,
    notAfter: certificate.notAfter.toISOString(),
  };
}

export function sha256(der: Uint8Array): string {
  return createHash("sha256").update(der).digest("hex");
}

function noPath(message: string, cause?: unknown): CountersignError {
  return new CountersignError("hub-no-path", message, { cause });
}
