import { CountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { validatePath } from "../../lib/pki/path.ts";
import type { Db } from "../../store/db.ts";
import { rememberingVerify } from "../../services/hub/signatures.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import type { HubCa } from "../../store/hub-cas.ts";
import { admitDevices, type ChainLink, type ValidatedConnect, type ValidatedDevice } from "../../store/hub-devices.ts";

import { Gather } from "./gather.ts";
import { factsOfPath, withCustody } from "./groups.ts";
import type { LedgerMonitor } from "./ledger-monitor.ts";
import type { Connection, LiveEntry } from "./live.ts";
import { type Link, linkOf, type RegisteredCa, type Registry } from "./registry.ts";

/** Leaf and intermediates a device may upload; more is refused before any of it is parsed. */
export const MAX_CHAIN = 8;
const MAX_ISSUERS = 1000;
/** Connects that share a commit. */
const MAX_AT_ONCE = 100;

/**
 * Decides who is let in. The TLS handshake has proven possession of the leaf's key; nothing else about the uploaded
 * certificates is believed: the path is validated here (RFC 5280) from the registered roots alone.
 */
export class Admission {
  readonly #admissions: Gather<ValidatedConnect, undefined>;
  readonly registry: Registry;
  readonly #verify = rememberingVerify();
  /** CAs of paths that held, by the digest of their DER: they come with every connect and needn't be read each time */
  readonly #issuers = new Map<string, Certificate>();
  readonly #onPath: (path: readonly Certificate[]) => void;
  readonly #monitor: Pick<LedgerMonitor, "judge"> | undefined;

  /**
   * @param onPath told of each valid path, also of one whose device isn't let in for another reason; must not throw
   * @param monitor holds paths against the ledgers; absent: none is followed
   */
  constructor(
    db: Db,
    registry: Registry,
    onPath: (path: readonly Certificate[]) => void = () => undefined,
    monitor?: Pick<LedgerMonitor, "judge">,
  ) {
    this.#monitor = monitor;
    this.#admissions = new Gather<ValidatedConnect, undefined>((connects) => admitDevices(db, connects), {
      most: MAX_AT_ONCE,
    });
    this.registry = registry;
    this.#onPath = onPath;
  }

  /**
   * @param chain DER as uploaded, leaf first
   * @param claimed the device ID of CONNECT: client ID and username already agree on it
   * @param connection ended by itself when, from now on, the device, a CA of its path or any of its certificates is
   *   disabled, removed or revoked
   * @throws CountersignError `hub-no-path`, `hub-revoked`, `hub-ca-disabled`, `hub-crl-stale`, `hub-device-mismatch`,
   *   `hub-unlogged`, `hub-device-disabled`, `hub-device-unregistered`
   */
  async admit(chain: readonly Uint8Array[], claimed: string, at: Date, connection: Connection): Promise<void> {
    const entry = this.registry.live.enter(claimed, connection);
    try {
      await this.#judge(chain, at, entry);
    } catch (error) {
      this.registry.live.leave(entry);
      throw error;
    }
  }

  /**
   * The same judgement without letting in: whose device this is. Nothing is recorded.
   * @throws CountersignError as `admit`, all but what only its record in the hub can tell
   */
  async identify(chain: readonly Uint8Array[], claimed: string, at: Date): Promise<ValidatedDevice> {
    const { certificates, path, ca } = await this.#validate(chain, claimed, at);
    const { custody } = await this.registry.custodyOf(claimed);
    const facts = withCustody(factsOfPath(certificates, ca.lineage), path[0]?.keyId, custody);
    const denial = this.registry.denial(path, facts, at);
    if (denial !== undefined) throw denial;
    await this.#monitor?.judge(
      certificates,
      path.map((link) => link.sha256),
      ca,
    );
    return deviceOf(claimed, path, ca);
  }

  async #validate(chain: readonly Uint8Array[], claimed: string, at: Date) {
    if (chain.length === 0) throw noPath("the device sent no certificate");
    if (chain.length > MAX_CHAIN) throw noPath(`the device sent more than ${MAX_CHAIN} certificates`);
    const parsed = chain.map((der, i) => (i > 0 && this.#issuers.get(sha256(der))) || parseUploaded(der));
    const { cas } = this.registry;
    const result = await validatePath({
      chain: parsed,
      roots: cas.map((ca) => ca.certificate),
      at,
      crls: [],
      purpose: "clientAuth",
      // Any CA may be registered, an intermediate by itself too.
      partialChain: true,
      verify: this.#verify,
    });
    if (!result.ok) throw noPath(`no valid path to a registered CA: ${result.reason} (${result.message})`);
    this.#onPath(result.path);
    const path = result.path.map(linkOf);
    for (const [i, { sha256: digest }] of path.entries()) if (i > 0) this.#know(digest, result.path[i]!);
    const leaf = parsed[0];
    const ca = cas.find((one) => one.sha256 === path.at(-1)?.sha256);
    if (leaf === undefined || ca === undefined) throw noPath("no valid path to a registered CA");
    if (leaf.basicConstraints?.ca === true) throw noPath("the first certificate is a CA's, not a device's");
    const named = leaf.subject.cn;
    if (named === undefined || !DEVICE_ID.test(named) || named !== claimed) {
      const shown = JSON.stringify((named ?? "").slice(0, 80));
      throw new CountersignError("hub-device-mismatch", `the certificate names ${shown}, the connection ${claimed}`);
    }
    return { certificates: result.path, path, ca };
  }

  #know(digest: string, issuer: Certificate): void {
    if (this.#issuers.has(digest)) return;
    this.#issuers.set(digest, issuer);
    if (this.#issuers.size > MAX_ISSUERS) this.#issuers.delete(this.#issuers.keys().next().value!);
  }

  async #judge(chain: readonly Uint8Array[], at: Date, entry: LiveEntry): Promise<void> {
    const claimed = entry.deviceId;
    const { certificates, path, ca } = await this.#validate(chain, claimed, at);
    let known = await this.registry.custodyOf(claimed);
    // A group that asks for it may have been loaded meanwhile.
    while (this.registry.asksCustody && !known.asked) known = await this.registry.custodyOf(claimed);
    // From here on a change that is loaded ends the connection; what was loaded before is asked here.
    entry.ofChain = factsOfPath(certificates, ca.lineage);
    entry.facts = withCustody(entry.ofChain, path[0]?.keyId, known.custody);
    entry.path = path;
    const denial = this.registry.denial(path, entry.facts, at);
    if (denial !== undefined) throw denial;
    await this.#monitor?.judge(
      certificates,
      path.map((link) => link.sha256),
      ca,
    );
    await this.#admissions.ask({
      ...deviceOf(claimed, path, ca),
      chain: certificates.map((one, i) => chainLink(one, path[i]!)),
      enrolment: this.#enrolment(entry, ca.enrolment),
      processId: this.registry.processId,
    });
    entry.admitted = true;
    if (entry.touched) await this.registry.recheck([claimed]);
  }

  /** The strictest of its groups' terms, or else its CA's. */
  #enrolment({ facts }: LiveEntry, ofCa: HubCa["enrolment"]): HubCa["enrolment"] {
    const own = this.registry.groupsOf(facts).flatMap(({ enrolment }) => enrolment ?? []);
    if (own.length === 0) return ofCa;
    return own.includes("registered") ? "registered" : "first-connect";
  }
}

function parseUploaded(der: Uint8Array): Certificate {
  try {
    return parseCertificate(der);
  } catch (cause) {
    throw noPath("an uploaded certificate can't be parsed", cause);
  }
}

function deviceOf(deviceId: string, path: readonly Link[], ca: RegisteredCa): ValidatedDevice {
  return { deviceId, caName: ca.name, lineage: ca.lineage, keySha256: path[0]!.keyId };
}

function chainLink(certificate: Certificate, link: Link): ChainLink {
  return {
    sha256: link.sha256,
    commonName: certificate.subject.cn ?? null,
    serial: certificate.serial,
    notAfter: certificate.notAfter.toISOString(),
  };
}

export const sha256: (der: Uint8Array) => string = sha256Hex;

function noPath(message: string, cause?: unknown): CountersignError {
  return new CountersignError("hub-no-path", message, { cause });
}
