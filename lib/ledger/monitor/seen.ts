import { sha256Hex } from "../../domain/hash.ts";
import type { VerifySignature } from "../../domain/signing.ts";
import { isSignedBy } from "../../pki/algorithms.ts";
import type { Certificate } from "../../pki/certificate.ts";
import type { MonitorStore } from "./store.ts";

export interface SeenCertificate {
  readonly sha256: string;
  /**
   * `logged`: a ledger holds it; `unlogged`: a party's CA key signed it, and no ledger holds it; `unsure`: the same, but
   * that party's ledger couldn't be followed to its end; `foreign`: none of the parties signed it
   */
  readonly state: "logged" | "unlogged" | "unsure" | "foreign";
  /** whose ledger holds it, or whose CA key signed it */
  readonly party?: string;
}

/**
 * Holds certificates that were seen anywhere against the ledgers: a party that signs one beside its ledger is found by
 * whoever meets the certificate. By its signature alone: a thief writes what issuer he likes.
 * @param current parties whose ledgers were followed to their ends in this round
 */
export async function checkSeen(
  certificates: readonly Certificate[],
  current: ReadonlySet<string>,
  { store, verify }: { store: MonitorStore; verify: VerifySignature },
): Promise<SeenCertificate[]> {
  const keys = await store.caKeys();
  const seen: SeenCertificate[] = [];
  for (const certificate of certificates) {
    const sha256 = sha256Hex(certificate.der);
    const holder = await store.certificate(sha256);
    if (holder !== undefined) {
      seen.push({ sha256, state: "logged", party: holder.party });
      for (const { party } of keys) await store.settle({ code: "unlogged-certificate", party, subject: sha256 });
      continue;
    }
    const signers = new Set<string>();
    for (const { party, ca } of keys) {
      if (await isSignedBy(certificate, ca, verify)) signers.add(party);
    }
    const [signer] = signers;
    // Whoever else names the key as its own, and keeps its ledger away, takes nothing from that.
    const answering = [...signers].filter((party) => current.has(party));
    if (signer === undefined) {
      seen.push({ sha256, state: "foreign" });
    } else if (answering.length === 0) {
      seen.push({ sha256, state: "unsure", party: signer });
    } else {
      seen.push({ sha256, state: "unlogged", party: answering[0]! });
      const { serial, subject } = certificate;
      const message = `its CA key signed a certificate that no ledger holds: serial ${serial}, ${subject.cn ?? "without a name"}, SHA-256 ${sha256}`;
      for (const party of answering) {
        await store.raise({ code: "unlogged-certificate", party, subject: sha256, message });
      }
    }
  }
  return seen;
}
