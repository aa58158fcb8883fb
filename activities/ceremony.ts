import { randomBytes } from "node:crypto";
import type { CeremonyActivities } from "../contracts/parties.ts";
import type { CaKey, Token } from "../hsm/index.ts";
import { equalBytes } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import { canonicalJson } from "../lib/domain/json.ts";
import { parseCertificate, parseTbsCertificate, type Certificate } from "../lib/pki/certificate.ts";
import { selfIssuer } from "../lib/pki/issuer.ts";
import { PROFILES } from "../lib/pki/profiles.ts";
import { newSerial } from "../lib/pki/serial.ts";
import { keyAlgorithmOf, keyId } from "../lib/pki/spki.ts";
import { buildTbs } from "../lib/pki/tbs.ts";
import { wholeSeconds } from "../lib/pki/time.ts";
import { parseCeremony, type CeremonyDocument } from "../lib/records/ceremony.ts";
import { signVerification } from "../services/hub/verification.ts";
import { crlName, requireIntent, signIntent } from "../services/parties/ca.ts";
import { keepCrl } from "../services/parties/crl.ts";
import { prepareChild, signChild, type Issuer } from "../services/parties/delegate.ts";
import { checkTerms } from "../services/parties/terms.ts";
import { currentCrl, findCaCertificate, hubIntent, storeCaCertificate, storeIntent } from "../store/authority.ts";
import { inTransaction, type Db } from "../store/db.ts";
import { getDelegation, requestDelegation } from "../store/delegations.ts";
import { pinRoot } from "../store/grants.ts";
import { withFailures } from "./failures.ts";

const DAYS_A_MONTH = 30.4375;

export interface CeremonyDeps {
  readonly db: Db;
  /** the root's token; no other process opens it */
  readonly rootToken: Token;
  /** the reviewed file's bytes, as this process was given them: nothing else is signed for, whatever a workflow asks */
  readonly document: Uint8Array;
  readonly publicUrl: string;
  readonly now?: () => Date;
}

export function ceremonyActivities(deps: CeremonyDeps): CeremonyActivities {
  const { db, rootToken } = deps;
  const now = (): Date => deps.now?.() ?? new Date();
  const document = parseCeremony(deps.document);
  const sha256 = sha256Hex(deps.document);

  function assertDocument(asked: string): void {
    if (asked === sha256) return;
    throw new CountersignError("unauthorized", `this ceremony is the one of document ${sha256}, not of ${asked}`);
  }

  async function rootKey(): Promise<CaKey> {
    const key = (await rootToken.hasKey("root"))
      ? await rootToken.caKey("root")
      : await rootToken.generateCaKey({ label: "root", algorithm: document.root.key });
    const algorithm = keyAlgorithmOf(key.spki);
    if (algorithm === document.root.key) return key;
    throw new CountersignError(
      "state-conflict",
      `the token's root key is ${algorithm}, the document asks for ${document.root.key}`,
    );
  }

  async function rootCertificate(): Promise<Certificate> {
    const ca = await findCaCertificate(db);
    if (ca?.role !== "root") throw new CountersignError("state-conflict", "the root isn't signed yet");
    return parseCertificate(ca.certificate);
  }

  async function rootIssuer(): Promise<Issuer> {
    const certificate = await rootCertificate();
    return { signer: "ceremony", certificate, upstream: [], grant: undefined, publicUrl: deps.publicUrl };
  }

  /** Before a key is made or a byte signed: everything in the document can be done. */
  async function assertFeasible({ delegations }: CeremonyDocument): Promise<void> {
    for (const { to, csrSha256, grant } of delegations) {
      const row = await getDelegation(db, to);
      if (row.csrSha256 !== csrSha256) {
        throw new CountersignError(
          "state-conflict",
          `the document names another request of ${to} than the one in hand, ${row.csrSha256}`,
        );
      }
      checkTerms(grant, undefined, now());
    }
  }

  async function signRoot(key: CaKey): Promise<Uint8Array> {
    const { commonName, organization, notAfter: until, pathLen } = document.root;
    const name = { organization, commonName };
    const id = `root/${keyId(key.spki)}`;
    const notBefore = wholeSeconds(now());
    const notAfter = wholeSeconds(new Date(until));
    await storeIntent(db, {
      id,
      kind: "root",
      profile: "root",
      issuerKeyId: keyId(key.spki),
      subjectKeyId: keyId(key.spki),
      request: document.root,
      tbs: buildTbs(PROFILES.root, {
        issuer: selfIssuer({ name, spki: key.spki, notBefore, notAfter }),
        serial: newSerial(randomBytes),
        notBefore,
        notAfter,
        subject: name,
        spki: key.spki,
        ...(pathLen === undefined ? {} : { pathLen }),
      }),
    });
    const intent = await requireIntent(db, id);
    if (!equalBytes(canonicalJson(intent.request), canonicalJson(document.root))) {
      throw new CountersignError("state-conflict", "this root key was about to be signed for by another document");
    }
    const stored = parseTbsCertificate(intent.tbs);
    const issuer = selfIssuer({ name, spki: key.spki, notBefore: stored.notBefore, notAfter: stored.notAfter });
    if (stored.notAfter.getTime() !== notAfter.getTime() || stored.basicConstraints?.pathLen !== pathLen) {
      throw new CountersignError("unauthorized", "the bytes stored for the root aren't what the document asks for");
    }
    return signIntent(db, id, key, issuer, { kind: "root", profile: "root" });
  }

  return withFailures<CeremonyActivities>({
    async makeRoot({ documentSha256 }) {
      assertDocument(documentSha256);
      await assertFeasible(document);
      const key = await rootKey();
      const der = await signRoot(key);
      await inTransaction(db, async (tx) => {
        await pinRoot(tx, der, sha256Hex(der));
        await storeCaCertificate(tx, { keyId: keyId(key.spki), role: "root", certificate: der });
        for (const { to, grant } of document.delegations) await requestDelegation(tx, to, grant, "ceremony");
      });
      return { rootSha256: sha256Hex(der), children: document.delegations.map(({ to }) => to) };
    },

    async signChild({ documentSha256, child }) {
      assertDocument(documentSha256);
      const granted = document.delegations.find(({ to }) => to === child);
      const row = await getDelegation(db, child);
      // The database may have been written by others: the document that people reviewed has the last word.
      if (
        !granted ||
        granted.csrSha256 !== sha256Hex(row.csr) ||
        row.terms === null ||
        !equalBytes(canonicalJson(granted.grant), canonicalJson(row.terms))
      ) {
        throw new CountersignError("unauthorized", `the document doesn't grant this to ${child}`);
      }
      const issuer = await rootIssuer();
      await prepareChild(db, child, issuer, now());
      return { certificateSha256: sha256Hex(await signChild(db, child, issuer, await rootKey())) };
    },

    async signRootCrl({ documentSha256 }) {
      assertDocument(documentSha256);
      const key = await rootKey();
      if (await currentCrl(db, crlName(keyId(key.spki)))) return;
      const days = document.crl.months * DAYS_A_MONTH;
      await keepCrl(db, key, await rootCertificate(), { now: now(), days });
    },

    async signHubVerification({ documentSha256 }) {
      assertDocument(documentSha256);
      const { hub } = document;
      if (!hub) return { hub: null };
      const key = await rootKey();
      await signVerification(db, key, await rootCertificate(), {
        id: hubIntent(hub.name),
        code: hub.code,
        request: hub,
        now: now(),
      });
      return { hub: hub.name };
    },
  });
}
