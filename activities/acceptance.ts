import { parseCertificate } from "../lib/pki/certificate.ts";
import type { AcceptanceActivities } from "../contracts/parties.ts";
import { workflowIds } from "../contracts/parties.ts";
import { nodeVerify, type CaKey } from "../hsm/index.ts";
import { equalBytes, fromBase64, fromHex, toBase64, toHex } from "../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../lib/domain/errors.ts";
import { leafHash } from "../lib/ledger/tree.ts";
import { parseCsr } from "../lib/pki/csr.ts";
import { keyId } from "../lib/pki/spki.ts";
import type { Grant } from "../lib/records/grant.ts";
import type { Invitation } from "../lib/records/message.ts";
import type { ActRef } from "../lib/records/primitives.ts";
import { rotationChallenge } from "../lib/records/rotation.ts";
import { parseEntry } from "../lib/records/statement.ts";
import type { Acts, RecordedAct } from "../services/ledger/acts.ts";
import { sha256Hex } from "../services/ledger/sha256.ts";
import { readBody } from "../services/parties/envelope.ts";
import { checkGrant, checkRenewal, type CheckedGrant } from "../services/parties/grant-check.ts";
import { contactOf, type Identity } from "../services/parties/identity.ts";
import { nonceDigest } from "../services/parties/join.ts";
import { acceptanceStep } from "../services/parties/acceptance-act.ts";
import { makeKeyset } from "../services/parties/keyset.ts";
import { enqueue } from "../services/parties/outbox.ts";
import { keepCrls } from "../services/parties/own-cas.ts";
import {
  isRotation,
  proveRotation,
  recordRotation,
  refuseAnswered,
  restoreRotation,
} from "../services/parties/rotate.ts";
import { author, openSignedAct, type CheckedAct } from "../services/parties/signed-act.ts";
import type { CaToken } from "../services/reconcile/accounted.ts";
import { FIRST_CA_LABEL, storeCaCertificate } from "../store/authority.ts";
import { inTransaction, type Db, type Tx } from "../store/db.ts";
import { acceptedGrants, findCurrentGrant, pinRoot, rootPin, storeGrant, type CurrentGrant } from "../store/grants.ts";
import { storeBlob } from "../store/ledger.ts";
import { findInbox } from "../store/messages.ts";
import {
  findEnrolment,
  getPeer,
  joinSent,
  listEnrolments,
  ownKeyset,
  setEnrolment,
  storeOwnKeyset,
  storeRequest,
  type OwnKeyset,
} from "../store/parties.ts";
import { findRotation, listRotations, setRotation } from "../store/rotations.ts";
import { withFailures } from "./failures.ts";

export interface AcceptanceDeps {
  readonly db: Db;
  readonly identity: Identity;
  readonly acts: Acts;
  /** the online CA's token */
  readonly caToken: CaToken;
  readonly now?: () => Date;
}

interface ReceivedGrant {
  readonly parent: string;
  /** in force until this one is accepted */
  readonly held: CurrentGrant | undefined;
  readonly checked: CheckedGrant;
  readonly act: CheckedAct<"delegation">;
  readonly upstream: Uint8Array[];
}

/** A grant is named by the leaf hash of its act, hex. */
const grantIdOf = (delegation: Uint8Array): string =>
  toHex(leafHash(fromBase64(readBody("delegation", delegation).act)));

/** What it grants, whoever signed it; undefined where it can't be read. */
function grantOf(delegation: Uint8Array): Grant | undefined {
  try {
    const { act } = parseEntry(fromBase64(readBody("delegation", delegation).act));
    return act.type === "delegation" ? act.fields : undefined;
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    return undefined;
  }
}

/** The grantee's activities. They take a parent's or a message's id and find everything else in the site's database. */
export function acceptanceActivities(deps: AcceptanceDeps): AcceptanceActivities {
  const { db, identity, acts, caToken } = deps;
  const now = (): Date => deps.now?.() ?? new Date();

  async function invitationOf(parent: string): Promise<{ invitation: Invitation; csr: Uint8Array | null }> {
    const enrolment = await findEnrolment(db, parent);
    if (!enrolment) throw new CountersignError("not-found", `no invitation of ${parent} is in hand`);
    return enrolment;
  }

  async function own(): Promise<OwnKeyset> {
    const held = await ownKeyset(db);
    if (!held) throw new CountersignError("state-conflict", "this site hasn't recorded its keyset yet");
    return held;
  }

  async function caKey(): Promise<CaKey> {
    return (await caToken.hasKey("ca"))
      ? caToken.caKey("ca")
      : caToken.generateCaKey({ label: "ca", algorithm: "ec-p256" });
  }

  /** The message's grant, checked from the beginning: nothing is taken from an earlier activity's word. */
  async function grantIn(message: string): Promise<ReceivedGrant> {
    const stored = await findInbox(db, message);
    if (stored?.type !== "delegation") throw new CountersignError("not-found", `no delegation arrived as ${message}`);
    const peer = await getPeer(db, stored.sender);
    const { invitation, csr } = await invitationOf(peer.party);
    if (!csr || peer.direction !== "parent") {
      throw new CountersignError("unauthorized", `this site asked ${peer.party} for no grant`);
    }
    const body = readBody("delegation", stored.body);
    const act = await openSignedAct(fromBase64(body.act), { type: "delegation", ...author(peer) }, nodeVerify);
    const upstream = body.upstream.map(fromBase64);
    const held = await findCurrentGrant(db);
    if (held !== undefined) checkRenewal(held, act.act.fields);
    const request = {
      ...{ party: identity.party, keyset: (await own()).keyset },
      ...(await requestFor(held, act, { csr, nonce: invitation.nonce })),
    };
    const pinnedRoot = (await rootPin(db))?.sha256;
    const checked = await checkGrant(act.act.fields, upstream, request, { pinnedRoot, now: now(), verify: nodeVerify });
    return { parent: peer.party, held, checked, act, upstream };
  }

  /** What was asked for that a grant may answer: with the join, or since, for another CA key. */
  async function requestFor(
    held: CurrentGrant | undefined,
    { ref, act: { fields: next } }: CheckedAct<"delegation">,
    join: { csr: Uint8Array; nonce: string },
  ) {
    if (held !== undefined && isRotation(held, next)) {
      await restoreRotation(deps, held, ref);
      const { of, proofs } = await proveRotation(deps, held);
      return { csr: proofs.new, csrSha256: undefined, nonceSha256: sha256Hex(rotationChallenge(of)) };
    }
    // A renewal after a change of key answers what that one asked for, as the grant in force says it.
    const { csrSha256, nonceSha256 } =
      held?.fields.ca === undefined
        ? { csrSha256: sha256Hex(join.csr), nonceSha256: nonceDigest(join.nonce) }
        : held.fields;
    return { csr: await requestOf(held, join.csr), csrSha256, nonceSha256 };
  }

  async function requestOf(held: CurrentGrant | undefined, joined: Uint8Array): Promise<Uint8Array> {
    if (held?.fields.ca === undefined) return joined;
    const made = (await listRotations(db)).find(
      ({ newSpki }) => newSpki !== null && toBase64(newSpki) === held.fields.ca,
    );
    if (made?.newProof) return made.newProof;
    throw new CountersignError("state-conflict", "the request for this site's CA key isn't in its database");
  }

  const named = (leafHash: string) => acceptanceStep(identity.party, leafHash);

  /** The acceptance of the message's grant, if it is recorded: what it accepted isn't asked about again. */
  async function recordedAcceptance(message: string): Promise<RecordedAct | undefined> {
    const stored = await findInbox(db, message);
    if (stored?.type !== "delegation") return undefined;
    const { workflowId, stepKey } = named(grantIdOf(stored.body));
    return acts.find(workflowId, stepKey);
  }

  /** One transaction for the act and what it lets this site do: nothing is signed under a grant that isn't accepted. */
  async function accept(message: string): Promise<RecordedAct> {
    const received = await grantIn(message);
    const { held, checked, act } = received;
    const { fields } = act.act;
    const certificate = checked.chain[0]!;
    const keyset = await own();
    const rotates = held !== undefined && isRotation(held, fields);
    const rotated = rotates ? await recordRotation(deps, held, { ref: act.ref, fields }) : undefined;
    const caKeyId = keyId(parseCertificate(certificate).spki);
    return acts.recordSigned(
      {
        type: "acceptance",
        ...named(act.ref.leafHash),
        subject: [{ name: identity.party, digest: { sha256: caKeyId } }],
        grant: act.ref,
        prev: [
          keyset.ref,
          act.ref,
          ...(await earlier(held?.ref)),
          ...(rotated === undefined ? [] : [{ origin: identity.origin, leafHash: rotated.leafHash }]),
        ],
        fields: { keyset: keyset.ref, chainSha256: checked.chainSha256 },
      },
      identity.act,
      (tx) => takeUp(tx, message, received),
    );
  }

  /** What accepting it lets this site do. */
  async function takeUp(tx: Tx, message: string, received: ReceivedGrant): Promise<void> {
    const { parent, held, checked, act, upstream } = received;
    const certificate = checked.chain[0]!;
    await pinRoot(tx, checked.root.der, sha256Hex(checked.root.der));
    const { fields } = act.act;
    await storeGrant(tx, { ref: act.ref, parent, entry: act.entry, fields, certificate, upstream });
    const rotates = held !== undefined && isRotation(held, fields);
    const label = rotates ? (await findRotation(tx, held.ref.leafHash))!.label : FIRST_CA_LABEL;
    await storeCaCertificate(tx, { keyId: keyId(parseCertificate(certificate).spki), role: "ca", certificate, label });
    if (rotates) await setRotation(tx, held.ref.leafHash, { state: "accepted" });
    await setEnrolment(tx, parent, { state: "accepted", delegation: message });
  }

  /** In a database that was restored the acceptance is the ledger's, and the grant comes again: it is looked at as ever. */
  async function adopt(message: string, { entry }: RecordedAct): Promise<void> {
    const { act } = parseEntry(entry);
    if ((await acceptedGrants(db)).some(({ leafHash: held }) => held === act.grant?.leafHash)) return;
    const received = await grantIn(message);
    if (act.type !== "acceptance" || act.fields.chainSha256 !== received.checked.chainSha256) {
      throw new CountersignError("grant-mismatch", "this site's ledger holds the acceptance of another chain");
    }
    await inTransaction(db, (tx) => takeUp(tx, message, received));
  }

  /** A renewed grant rests on the acceptance of the one it takes the place of. */
  async function earlier(superseded: ActRef | undefined): Promise<ActRef[]> {
    if (superseded === undefined) return [];
    const { workflowId, stepKey } = named(superseded.leafHash);
    const accepted = await acts.find(workflowId, stepKey);
    return accepted === undefined ? [] : [{ origin: identity.origin, leafHash: accepted.leafHash }];
  }

  return withFailures<AcceptanceActivities>({
    async prepareRequest({ parent }) {
      const { invitation, csr } = await invitationOf(parent);
      if (csr) return { csrSha256: sha256Hex(csr) };
      const key = await caKey();
      const made = await key.signRequest({
        cn: `${identity.organization} CA`,
        organization: identity.organization,
        challengePassword: invitation.nonce,
      });
      return { csrSha256: sha256Hex(await storeRequest(db, parent, made)) };
    },

    async recordKeyset() {
      const held = await ownKeyset(db);
      if (held) return { leafHash: held.ref.leafHash };
      const enrolment = (await listEnrolments(db)).find((row) => row.csr !== null);
      if (!enrolment?.csr) throw new CountersignError("state-conflict", "the CA's request isn't made yet");
      const { csr } = enrolment;
      const { certificate } = identity.infrastructure;
      const keyset = await makeKeyset(identity, { spki: parseCsr(csr).spki, kind: "csr", der: csr });
      const infrastructure = { name: "infrastructure", sha256: sha256Hex(certificate), size: certificate.length };
      await storeBlob(db, fromHex(infrastructure.sha256), certificate);
      const act = await acts.recordSigned(
        {
          type: "keyset",
          workflowId: workflowIds.acceptance(identity.party),
          stepKey: "keyset",
          subject: [{ name: identity.party, digest: { sha256: keyId(fromBase64(keyset.ca)) } }],
          blobs: [infrastructure],
          fields: { keyset },
        },
        identity.act,
      );
      const ref = { origin: identity.origin, leafHash: act.leafHash };
      await storeOwnKeyset(db, { keyset, ref, entry: act.entry, infrastructure: certificate, request: csr });
      return { leafHash: act.leafHash };
    },

    async sendJoin({ parent }) {
      const { invitation, csr } = await invitationOf(parent);
      if (!csr) throw new CountersignError("state-conflict", "the CA's request isn't made yet");
      const keyset = await own();
      // A second invitation's request carries another nonce than the one that the keyset, recorded once, names.
      const { request } = keyset;
      const earlier = request === null || equalBytes(request, csr) ? {} : { earlier: toBase64(request) };
      await inTransaction(db, async (tx) => {
        await enqueue(tx, {
          receiver: parent,
          type: "join",
          retryKey: `join/${invitation.id}`,
          body: {
            invitation: invitation.id,
            nonce: invitation.nonce,
            contact: contactOf(identity),
            csr: toBase64(csr),
            keyset: toBase64(keyset.entry),
            ...earlier,
            infrastructure: toBase64(keyset.infrastructure),
          },
        });
        await joinSent(tx, parent);
      });
    },

    async refuseJoin({ parent, invitation, refusal }) {
      await setEnrolment(db, parent, { state: "refused", refusal, invitation });
    },

    async acceptGrant({ message }) {
      const recorded = await recordedAcceptance(message);
      if (recorded) await adopt(message, recorded);
      const { entry } = recorded ?? (await accept(message));
      return { grant: parseEntry(entry).act.grant!.leafHash };
    },

    async refuseGrant({ message, refusal }) {
      const stored = await findInbox(db, message);
      if (stored?.type !== "delegation") return;
      await inTransaction(db, async (tx) => {
        await setEnrolment(tx, stored.sender, { state: "refused", delegation: message, refusal });
        await enqueue(tx, {
          receiver: stored.sender,
          type: "grant-refused",
          retryKey: `grant-refused/${message}`,
          inReplyTo: message,
          body: {
            grant: grantIdOf(stored.body),
            code: refusal.code,
            message: refusal.message.slice(0, 1000).toWellFormed(),
          },
        });
      });
      const next = grantOf(stored.body);
      if (next !== undefined) await refuseAnswered(db, refusal, next);
    },

    async recordAcceptance({ message }) {
      const recorded = (await recordedAcceptance(message)) ?? (await accept(message));
      const { sender: parent } = (await findInbox(db, message))!;
      const { grant } = parseEntry(recorded.entry).act;
      await inTransaction(db, (tx) =>
        enqueue(tx, {
          receiver: parent,
          type: "acceptance",
          retryKey: `acceptance/${grant!.leafHash}`,
          inReplyTo: message,
          body: { act: toBase64(recorded.entry) },
        }),
      );
      return { leafHash: recorded.leafHash };
    },

    async publishCrl() {
      await keepCrls(db, caToken, now());
    },
  });
}
