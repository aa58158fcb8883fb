import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { isSignedBy } from "../../lib/pki/algorithms.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { checkCrl } from "../../lib/pki/crl-check.ts";
import { MAX_CRL_OCTETS, parseCrl, readSignedCrl } from "../../lib/pki/crl-parse.ts";
import { pemBlocks } from "../../lib/pki/pem.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import type { Db } from "../../store/db.ts";
import { crlsToFetch, findCrl, listCrls, noteLook, storeCrl } from "../../store/hub-revocations.ts";
import type { Logger } from "../http/logger.ts";

const TIMEOUT_MS = 10_000;
const LEAST_PAUSE_MS = 1_000;
/** A CA's clock may be this far ahead of ours. */
const SKEW_MS = 5 * 60_000;

/**
 * Takes a CRL for a CA that is followed: genuine, not from the future, and newer than what is there.
 * @returns false when what is there is as new
 * @throws CountersignError `not-found`, `crl-invalid`, `der-invalid`, `input-too-large`
 */
export async function takeCrl(db: Db, name: string, der: Uint8Array, at: Date): Promise<boolean> {
  const followed = await findCrl(db, name);
  if (followed === undefined) throw new CountersignError("not-found", `the hub follows no CRL named ${name}`);
  const crl = parseCrl(der);
  await checkCrl(crl, parseCertificate(followed.issuer), webCryptoVerify);
  if (crl.thisUpdate.getTime() > at.getTime() + SKEW_MS) {
    throw new CountersignError("crl-invalid", `the CRL is of ${crl.thisUpdate.toISOString()}, which is yet to come`);
  }
  return storeCrl(db, name, { ...crl, issuer: followed.issuer });
}

/**
 * Takes a CRL that anybody may bring, since its CA has signed it, for every followed CA whose it is. What isn't signed so,
 * or is here already, is put away unread: a long list takes a good part of a second to read, and devices wait meanwhile.
 * @throws CountersignError `not-found` when the hub follows no such CA; as {@link takeCrl}
 */
export async function takeAnyCrl(db: Db, der: Uint8Array, at: Date): Promise<boolean> {
  const signed = readSignedCrl(der);
  const followed = (await listCrls(db)).map((one) => ({ ...one, by: parseCertificate(one.issuer) }));
  let taken: boolean | undefined;
  let refused: unknown = new CountersignError("not-found", "the hub follows no CRL of this CA");
  const digest = sha256Hex(der);
  for (const { name, sha256, by } of followed) {
    // Two CAs of one name: it is one's of them.
    if (!equalBytes(by.subject.der, signed.issuer.der)) continue;
    if (!(await isSignedBy(signed, by.spki, webCryptoVerify))) {
      refused = new CountersignError("crl-invalid", "the CRL is refused: its signature is not its issuer's");
      continue;
    }
    if (sha256 === digest) {
      taken ??= false;
      continue;
    }
    try {
      taken = (await takeCrl(db, name, der, at)) || taken === true;
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      refused = error;
    }
  }
  if (taken === undefined) throw refused;
  return taken;
}

/** DER, or one PEM block of it. @throws CountersignError `pem-invalid`, `input-invalid` */
export function crlBytes(body: Uint8Array): Uint8Array {
  if (body[0] === 0x30) return body;
  const [block, more] = pemBlocks(Buffer.from(body).toString("latin1"));
  if (block?.label !== "X509 CRL" || more !== undefined) {
    throw new CountersignError("input-invalid", "a CRL is DER or exactly one PEM block X509 CRL");
  }
  return block.der;
}

/** Looks at the CRLs that have a URL, again and again. One that can't be had holds up no other and changes nothing. */
export class CrlFollower {
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #everyMs: number;
  /** learns of CRLs that are to be followed */
  readonly #learn: (stopping: AbortSignal) => Promise<void>;
  #lookedAt = 0;
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> | undefined;

  constructor(
    db: Db,
    logger: Logger,
    everyMs: number,
    learn: (stopping: AbortSignal) => Promise<void> = async () => undefined,
  ) {
    this.#db = db;
    this.#learn = learn;
    this.#logger = logger;
    this.#everyMs = everyMs;
    this.#later(0);
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    this.#stopping.abort();
    await this.#round;
  }

  /** Looks now, if the last look isn't of this second: anybody may ask for it. */
  async lookNow(): Promise<void> {
    if (this.#stopping.signal.aborted || Date.now() - this.#lookedAt < LEAST_PAUSE_MS) return this.#round;
    clearTimeout(this.#timer);
    this.#start();
    await this.#round;
  }

  #later(ms: number): void {
    this.#timer = setTimeout(() => this.#start(), ms);
  }

  #start(): void {
    this.#lookedAt = Date.now();
    const before = this.#round;
    this.#round = (async () => {
      await before;
      await this.#look();
    })()
      .catch((error: unknown) => this.#logger.warn({ err: error }, "CRLs can't be followed yet"))
      .finally(() => {
        clearTimeout(this.#timer);
        if (!this.#stopping.signal.aborted) this.#later(this.#everyMs);
      });
  }

  async #look(): Promise<void> {
    await this.#learn(this.#stopping.signal);
    await Promise.all((await crlsToFetch(this.#db)).map((one) => this.#fetch(one)));
  }

  async #fetch({ name, url }: { name: string; url: string }): Promise<void> {
    let fault: string | null = null;
    try {
      const der = crlBytes(await get(url, this.#stopping.signal));
      if (await takeCrl(this.#db, name, der, new Date())) return this.#logger.info({ crl: name }, "newer CRL taken");
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      const said = error instanceof Error ? error.message : "can't be fetched";
      fault = `${isCountersignError(error) ? "" : "can't be fetched: "}${said}`.slice(0, 500);
      this.#logger.warn({ crl: name, url, fault }, "CRL not taken");
    }
    await noteLook(this.#db, name, fault);
  }
}

async function get(url: string, stopping: AbortSignal): Promise<Uint8Array> {
  const signal = AbortSignal.any([stopping, AbortSignal.timeout(TIMEOUT_MS)]);
  const answer = await fetch(url, { redirect: "error", signal });
  if (answer.status !== 200 || answer.body === null) throw new Error(`HTTP ${answer.status}`);
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of answer.body as AsyncIterable<Uint8Array>) {
    size += part.length;
    if (size > MAX_CRL_OCTETS) throw new CountersignError("input-too-large", "above 16 MiB, some 300,000 entries");
    parts.push(part);
  }
  return Buffer.concat(parts);
}
