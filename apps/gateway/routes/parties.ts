import { randomBytes, randomUUID } from "node:crypto";
import { WorkflowIdReusePolicy } from "@temporalio/client";
import { z } from "zod";
import { asked, invited, workflowIds } from "../../../contracts/parties.ts";
import { QUEUES } from "../../../contracts/queues.ts";
import { fromBase64 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { keyAlgorithmOf, keyId } from "../../../lib/pki/spki.ts";
import { parseCsr } from "../../../lib/pki/csr.ts";
import { delegationRequest, invitation as invitationSchema, type Invitation } from "../../../lib/records/message.ts";
import { partyId, timestamp } from "../../../lib/records/primitives.ts";
import { contactOf } from "../../../services/parties/identity.ts";
import { alertOf, expiring } from "../../../services/parties/expiring.ts";
import { assertOriginFree, nonceDigest } from "../../../services/parties/join.ts";
import { checkTerms } from "../../../services/parties/terms.ts";
import { inTransaction } from "../../../store/db.ts";
import {
  findDelegation,
  getDelegation,
  listDelegations,
  requestDelegation,
  requestRenewal,
  type Delegation,
} from "../../../store/delegations.ts";
import { findCurrentGrant } from "../../../store/grants.ts";
import {
  findEnrolment,
  findPeer,
  getPeer,
  listEnrolments,
  listPeers,
  pinPeer,
  storeInvitation,
  takeInvitation,
  type Enrolment,
  type Peer,
} from "../../../store/parties.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

const DAY_MS = 86_400_000;

const inviteBody = z.strictObject({ to: partyId, days: z.int().min(1).max(90).default(7) });
const joinBody = z.strictObject({ invitation: invitationSchema });
const renewalBody = z.strictObject({ notAfter: timestamp.optional() });
const partyParams = z.strictObject({ id: partyId });

/** Inviting, joining, delegating: `/api/v1/invitations|joins|parties|delegations`, for operators. */
export function registerParties(app: HttpsServer, deps: GatewayDeps): void {
  const { db, identity } = deps;
  const operator = { onRequest: requireClient("operator") };

  app.post("/api/v1/invitations", operator, async (request, reply) => {
    const { to, days } = parseInput(inviteBody, request.body, "request body");
    if (to === identity.party) throw new CountersignError("input-invalid", "a site doesn't invite itself");
    if (await findPeer(db, to)) throw new CountersignError("already-exists", `${to} is known to this site already`);
    const invitation: Invitation = {
      schema: 1,
      id: randomUUID(),
      to,
      from: contactOf(identity),
      nonce: randomBytes(32).toString("base64url"),
      expires: new Date(Date.now() + days * DAY_MS).toISOString(),
    };
    await storeInvitation(db, {
      id: invitation.id,
      party: to,
      nonceSha256: nonceDigest(invitation.nonce),
      expires: new Date(invitation.expires),
    });
    request.log.info({ to, invitation: invitation.id }, "invited");
    return reply.code(201).header("cache-control", "no-store").send(invitation);
  });

  app.post("/api/v1/joins", operator, async (request, reply) => {
    const { invitation } = parseInput(joinBody, request.body, "request body");
    const { from } = invitation;
    assertForUs(invitation);
    const act = fromBase64(from.act);
    keyAlgorithmOf(act);
    await inTransaction(db, async (tx) => {
      await takeInvitation(tx, invitation);
      await assertOriginFree(tx, from.party, from.origin);
      await pinPeer(tx, {
        party: from.party,
        direction: "parent",
        contact: from,
        actSpki: act,
        actKeyId: keyId(act),
      });
    });
    await deps.workflows.signalWithStart("acceptance", {
      workflowId: workflowIds.acceptance(identity.party),
      taskQueue: QUEUES.site,
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: invited,
      signalArgs: [{ parent: from.party, invitation: invitation.id }],
    });
    request.log.info({ parent: from.party }, "joining");
    return reply.code(202).send(enrolmentView(await findEnrolment(db, from.party)));
  });

  app.get("/api/v1/joins", operator, async () => ({
    asked: (await listEnrolments(db)).map(enrolmentView),
    pending: (await listDelegations(db)).map(delegationView),
  }));

  app.get("/api/v1/parties", operator, async () => ({ parties: (await listPeers(db)).map(peerView) }));
  app.get("/api/v1/parties/:id", operator, async (request) => {
    const { id } = parseInput(partyParams, request.params, "path");
    const delegation = await findDelegation(db, id);
    const enrolment = await findEnrolment(db, id);
    return {
      ...peerView(await getPeer(db, id)),
      ...(delegation ? { delegation: delegationView(delegation) } : {}),
      ...(enrolment ? { enrolment: enrolmentView(enrolment) } : {}),
    };
  });

  app.post("/api/v1/delegations", operator, async (request, reply) => {
    const { to, grant } = parseInput(delegationRequest, request.body, "request body");
    if (!deps.onlineCa) {
      throw new CountersignError("unauthorized", "this site's CA is offline: delegate in its ceremony");
    }
    const own = await findCurrentGrant(db);
    if (!own) throw new CountersignError("grant-missing", "this site holds no grant yet, so it can't delegate");
    checkTerms(grant, own.fields, new Date());
    await inTransaction(db, (tx) => requestDelegation(tx, to, grant, "site"));
    await deps.workflows.signalWithStart("delegation", {
      workflowId: workflowIds.delegation(to),
      taskQueue: QUEUES.site,
      args: [{ child: to }],
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: asked,
    });
    request.log.info({ to }, "delegating");
    return reply.code(202).send(delegationView(await getDelegation(db, to)));
  });

  /** The child's CA certificate anew, for the same key and under the same terms; only the end may be later. */
  app.post("/api/v1/delegations/:id/renewals", operator, async (request, reply) => {
    const { id } = parseInput(partyParams, request.params, "path");
    const { notAfter } = parseInput(renewalBody, request.body, "request body");
    if (deps.onlineCa) await askForRenewal(id, notAfter);
    else await assertSignedByRoot(id);
    await deps.workflows.signalWithStart("delegation", {
      workflowId: workflowIds.delegation(id),
      taskQueue: QUEUES.site,
      args: [{ child: id }],
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: asked,
    });
    request.log.info({ to: id }, "renewing");
    return reply.code(202).send(delegationView(await getDelegation(db, id)));
  });

  app.get("/api/v1/expiring", operator, async () => {
    const now = new Date();
    const items = await expiring(db, identity);
    return { items: items.map((one) => ({ ...one, alert: alertOf(one, now) ?? null })) };
  });

  app.get("/api/v1/delegations/:id", operator, async (request) => {
    const { id } = parseInput(partyParams, request.params, "path");
    return delegationView(await getDelegation(db, id));
  });

  async function askForRenewal(id: string, notAfter: string | undefined): Promise<void> {
    const own = await findCurrentGrant(db);
    if (!own) throw new CountersignError("grant-missing", "this site holds no grant yet, so it can't renew one");
    const { terms } = await getDelegation(db, id);
    if (terms && notAfter !== undefined && notAfter < terms.notAfter) {
      throw new CountersignError("input-invalid", `the grant to ${id} lasts until ${terms.notAfter} already`);
    }
    if (terms) checkTerms({ ...terms, notAfter: notAfter ?? terms.notAfter }, own.fields, new Date());
    await inTransaction(db, (tx) => requestRenewal(tx, id, notAfter));
  }

  /** What an offline root has signed in a sitting is recorded and sent by the site. */
  async function assertSignedByRoot(id: string): Promise<void> {
    const { revision, certificate } = await getDelegation(db, id);
    if (revision > 1 && certificate !== null) return;
    throw new CountersignError("unauthorized", "this site's CA is offline: countersign ceremony renew CHILD");
  }

  function assertForUs(invitation: Invitation): void {
    if (invitation.to !== identity.party || invitation.from.party === identity.party) {
      throw new CountersignError("invitation-invalid", `the invitation is for ${invitation.to}, not for this site`);
    }
    if (Date.parse(invitation.expires) <= Date.now()) {
      throw new CountersignError(
        "invitation-invalid",
        `the invitation expired at ${invitation.expires}; ask for a new one`,
      );
    }
    if (!deps.onlineCa) throw new CountersignError("unauthorized", "this site's CA is a root: it joins nobody");
  }
}

function peerView({ party, direction, contact, actKeyId }: Peer): Record<string, unknown> {
  const { gateway, publicUrl, origin, vkey } = contact;
  return { party, direction, gateway, publicUrl, origin, vkey, actKeyId };
}

function enrolmentView(enrolment: Enrolment | undefined): Record<string, unknown> {
  if (!enrolment) return {};
  const { parent, state, errorCode, errorMessage } = enrolment;
  return { parent, state, ...errorView(errorCode, errorMessage) };
}

/** An operator's request that isn't signed yet looks as before to the outside: `joined`. */
function delegationView(row: Delegation): Record<string, unknown> {
  const csr = parseCsr(row.csr);
  return {
    child: row.child,
    state: row.state === "requested" ? "joined" : row.state,
    requested: row.terms !== null,
    csrSha256: row.csrSha256,
    caKeyId: keyId(csr.spki),
    caKey: csr.keyAlgorithm,
    joined: row.joined.toISOString(),
    revision: row.revision,
    ...(row.terms === null ? {} : { grant: row.terms, signer: row.signer }),
    ...(row.actLeafHash === null ? {} : { act: { origin: row.actOrigin, leafHash: row.actLeafHash } }),
    ...errorView(row.errorCode, row.errorMessage),
  };
}

function errorView(code: string | null, message: string | null): Record<string, unknown> {
  return code === null ? {} : { error: { code, message: message ?? "" } };
}
