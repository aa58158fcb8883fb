import type { HubChanged } from "../contracts/hubs.ts";
import { utf8 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import type { CaRegistry, HubRegistry } from "../services/hub/registry.ts";
import { verificationIntent } from "../services/hub/verification.ts";
import { actCosigned, type Cosigned } from "../services/witness/release.ts";
import { findCaCertificate, findIntent, lastCeremony } from "../store/authority.ts";
import type { Db } from "../store/db.ts";
import { addHubLine, hubLineCa, noteHubCode, setHubLineCa, type HubLineCa } from "../store/hub-lines.ts";
import { listHubOffers, setHubOffer } from "../store/hub-offers.ts";

export interface HubRootDeps {
  readonly db: Db;
  readonly cosigned: Cosigned | undefined;
  readonly record: (hub: string, name: string, prev: string) => Promise<void>;
}

/**
 * An offline root at a hub that takes a certificate before it gives its code: the codes are fetched, signed where the
 * root's token is, and handed in by the site.
 */
export function hubRoot({ db, cosigned, record }: HubRootDeps) {
  async function rootAt(hub: string, name: string): Promise<HubLineCa> {
    const ca = await findCaCertificate(db);
    if (ca?.role !== "root") {
      throw new CountersignError("usage", "this site has no offline root: its CA is registered by hub ca register");
    }
    await addHubLine(db, { hub, line: name });
    return hubLineCa(db, { hub, line: name }, { certificate: ca.certificate, sha256: sha256Hex(ca.certificate) });
  }

  /** No hub trusts a root whose making could still be told differently. */
  async function ceremonyAct(): Promise<string> {
    const leafHash = (await lastCeremony(db))?.actLeafHash;
    if (leafHash == null) throw new CountersignError("state-conflict", "the ceremony isn't recorded yet");
    if (cosigned !== undefined) await actCosigned(db, cosigned, leafHash);
    return leafHash;
  }

  /** What a ceremony has signed of a place's code; undefined where the place has this very certificate verified. */
  async function proofFor(hub: string, ca: HubLineCa, place: CaRegistry) {
    const code = (await listHubOffers(db, hub, ca.name)).find((one) => one.place === place.place)?.code;
    if (code === undefined) {
      if ((await place.list()).some(({ name, verified }) => verified && name === ca.name)) return undefined;
      throw new CountersignError("state-conflict", `${place.place} gave no code for ${ca.name}: ask by hub ca code`);
    }
    const signed = (await findIntent(db, verificationIntent(parseCertificate(ca.certificate), code)))?.result;
    if (signed) return { place, code, signed };
    throw new CountersignError(
      "state-conflict",
      `no ceremony has signed the code of ${place.place} yet: countersign ceremony prove FILE`,
    );
  }

  return {
    /** Uploads the root wherever it isn't yet, and keeps the codes that are to be signed. A later one replaces them. */
    async offer(hub: string, registry: HubRegistry, name: string): Promise<HubChanged> {
      const ca = await rootAt(hub, name);
      const codes: string[] = [];
      for (const place of registry.cas) {
        const offer = await place.offer({ name: ca.name, certificate: ca.certificate });
        await setHubOffer(db, hub, ca.name, { place: place.place, code: offer?.code });
        if (offer !== undefined) codes.push(`${place.place}: ${offer.code}`);
      }
      return { name: ca.name, state: codes.length === 0 ? "verified" : "unverified", codes };
    },

    /** Hands in what a ceremony has signed. Nothing is sent before there is something for every place. */
    async prove(hub: string, registry: HubRegistry, name: string): Promise<HubChanged> {
      const ca = await rootAt(hub, name);
      const prev = await ceremonyAct();
      const proofs = [];
      for (const place of registry.cas) proofs.push(await proofFor(hub, ca, place));
      for (const proof of proofs) {
        if (proof === undefined) continue;
        const { place, code, signed } = proof;
        await noteHubCode(db, hub, ca.name, place.place, sha256Hex(utf8(code)));
        await place.verify({ name: ca.name, certificate: ca.certificate }, { code }, signed);
      }
      await record(hub, ca.name, prev);
      await setHubLineCa(db, hub, ca.name, { state: "registered" });
      return { name: ca.name, state: "registered", caSha256: ca.caSha256 };
    },
  };
}
