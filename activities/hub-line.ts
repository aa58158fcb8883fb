import type { HubChange, HubChanged, HubChangeActivities, HubLineActivities } from "../contracts/hubs.ts";
import { hubWorkflowIds } from "../contracts/hubs.ts";
import { utf8 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { keyId } from "../lib/pki/spki.ts";
import type { ActRef } from "../lib/records/primitives.ts";
import { editHub } from "../services/hub/change.ts";
import type { CaRegistry, HubRegistry } from "../services/hub/registry.ts";
import { signVerification, verificationIntent } from "../services/hub/verification.ts";
import type { Acts } from "../services/ledger/acts.ts";
import { standingAct } from "../services/parties/acceptance-act.ts";
import type { Identity } from "../services/parties/identity.ts";
import { caKeyOf } from "../services/parties/own-cas.ts";
import type { Cosigned } from "../services/witness/release.ts";
import type { CaToken } from "../services/reconcile/accounted.ts";
import type { Db } from "../store/db.ts";
import { currentGrant } from "../store/grants.ts";
import {
  addLineEnrollment,
  getHubLineCa,
  hubLineCa,
  lineEnrollments,
  listHubLineCas,
  noteHubCode,
  removeLineEnrollment,
  setHubLineCa,
  type HubLine,
  type HubLineCa,
} from "../store/hub-lines.ts";
import { withFailures } from "./failures.ts";
import { hubRoot } from "./hub-root.ts";

export interface HubLineDeps {
  readonly db: Db;
  readonly identity: Identity;
  readonly acts: Acts;
  readonly caToken: CaToken | undefined;
  readonly hubs: ReadonlyMap<string, HubRegistry>;
  /** what a root's registration waits for; absent: nobody witnesses this site's ledger */
  readonly cosigned?: Cosigned;
  readonly now?: () => Date;
}

/** This site's online CA at its hubs, and what operators change there. */
export function hubLineActivities(deps: HubLineDeps): HubLineActivities & HubChangeActivities {
  const { db, identity, acts, hubs } = deps;
  const now = (): Date => deps.now?.() ?? new Date();

  function registry(hub: string): HubRegistry {
    const found = hubs.get(hub);
    if (found) return found;
    throw new CountersignError("not-found", `this site has no hub ${hub} in its configuration`);
  }

  async function present(line: HubLine) {
    const { certificate } = await currentGrant(db);
    return hubLineCa(db, line, { certificate, sha256: sha256Hex(certificate) });
  }

  async function caKey(spki: Uint8Array) {
    if (deps.caToken) return caKeyOf(db, deps.caToken, spki);
    throw new CountersignError("unauthorized", "this site's CA is offline: register it by its ceremony");
  }

  const root = hubRoot({ db, cosigned: deps.cosigned, record: (hub, name, prev) => record(hub, name, { prev }) });

  return withFailures<HubLineActivities & HubChangeActivities>({
    async registerCa(line) {
      const { cas } = registry(line.hub);
      const ca = await present(line);
      const earlier = (await listHubLineCas(db, line)).filter(({ ordinal }) => ordinal < ca.ordinal);
      const certificate = parseCertificate(ca.certificate);
      for (const place of cas) {
        const offered = { name: ca.name, certificate: ca.certificate, succeeds: await lastOf(earlier, place) };
        const offer = await place.offer(offered);
        if (offer === undefined) continue;
        const { code } = offer;
        const verification = await signVerification(db, await caKey(certificate.spki), certificate, {
          id: verificationIntent(certificate, code),
          code,
          request: { hub: line.hub, place: place.place, name: ca.name },
          now: now(),
        });
        // Before it is proven: a run that finds it proven must know what was signed for it.
        await noteHubCode(db, line.hub, ca.name, place.place, sha256Hex(utf8(code)));
        await place.verify(offered, offer, verification);
      }
      return { name: ca.name, caSha256: ca.caSha256 };
    },

    async followEnrollments(line) {
      const { enrollments } = registry(line.hub);
      const groups = await lineEnrollments(db, line);
      if (enrollments === undefined || groups.length === 0) return;
      const names = await namesOf(line);
      for (const group of groups) await enrollments.put(group, names);
    },

    async recordCaRegistration({ hub, name }) {
      const grant = await currentGrant(db);
      await record(hub, name, { grant: grant.ref, prev: await standingAct(acts, identity.party, grant.ref) });
      await setHubLineCa(db, hub, name, { state: "registered" });
    },

    async refuseCaRegistration({ hub, line, refusal }) {
      const last = (await listHubLineCas(db, { hub, line })).at(-1);
      if (last) await setHubLineCa(db, hub, last.name, { state: "refused", refusal });
    },

    changeHub: ({ hub, change }) => changed(hub, change),
  });

  /** An act for every place that a code was proven to. */
  async function record(hub: string, name: string, { grant, prev }: { grant?: ActRef; prev: string }): Promise<void> {
    const ca = await getHubLineCa(db, hub, name);
    const { spki } = parseCertificate(ca.certificate);
    for (const [place, codeSha256] of Object.entries(ca.codes)) {
      const step = {
        workflowId: hubWorkflowIds.line(hub, ca.line),
        stepKey: `registered/${place}/${ca.caSha256}`,
      };
      // What was recorded stands, though the grant was renewed since, or the place was emptied and gave another code.
      if (await acts.find(step.workflowId, step.stepKey)) continue;
      await acts.recordSigned(
        {
          type: "hub-registered",
          ...step,
          subject: [{ name: identity.party, digest: { sha256: sha256Hex(spki) } }],
          ...(grant === undefined ? {} : { grant }),
          prev: [{ origin: identity.origin, leafHash: prev }],
          fields: { hub: `${hub}/${place}/${name}`.slice(0, 128), caSha256: ca.caSha256, codeSha256 },
        },
        identity.act,
      );
    }
  }

  /**
   * The certificates of a line that a group takes, of which there can be two: the last one, unless the hub refused it, and
   * the last one for the key before, whose devices know no other; where there was but one key, the one before.
   */
  async function namesOf(line: HubLine): Promise<string[]> {
    const all = await listHubLineCas(db, line);
    const held = all.filter((ca) => ca.state === "registered" || (ca.state === "requested" && ca === all.at(-1)));
    const [present, ...before] = held.reverse();
    const keyOf = ({ certificate }: HubLineCa): string => keyId(parseCertificate(certificate).spki);
    const other = present && (before.find((ca) => keyOf(ca) !== keyOf(present)) ?? before[0]);
    if (present) return [present, ...(other ? [other] : [])].map(({ name }) => name);
    throw new CountersignError("not-found", `${line.line} isn't registered at ${line.hub}`);
  }

  /** The hub knows best: one that it refused or that was removed there is nobody's predecessor. */
  async function lastOf(earlier: readonly HubLineCa[], place: CaRegistry): Promise<string | undefined> {
    if (earlier.length === 0) return undefined;
    const verified = new Set((await place.list()).filter((one) => one.verified).map(({ name }) => name));
    return earlier.findLast(({ name, state }) => state !== "retired" && verified.has(name))?.name;
  }

  async function changed(hub: string, change: HubChange): Promise<HubChanged> {
    const { kind, subject } = change;
    if (kind === "offer-ca") return root.offer(hub, registry(hub), subject);
    if (kind === "prove-ca") return root.prove(hub, registry(hub), subject);
    if (kind === "put-enrollment") {
      const line = { hub, line: change.line };
      const done = await editHub(registry(hub), { kind, subject, cas: await namesOf(line) });
      await addLineEnrollment(db, line, subject);
      return done;
    }
    // Before the hub forgets it: no renewal takes it for the one that goes on.
    if (kind === "remove-ca") await setHubLineCa(db, hub, subject, { state: "retired" });
    const done = await editHub(registry(hub), { kind, subject });
    if (kind === "remove-enrollment") await removeLineEnrollment(db, hub, subject);
    return done;
  }
}
