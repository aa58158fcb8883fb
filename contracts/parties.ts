import { defineSignal } from "@temporalio/workflow";

/**
 * What crosses Temporal between the party workflows and their activities. References only: requests, certificates and
 * envelopes stay in the site's database. Every activity is idempotent; a refusal is a non-retryable ApplicationFailure
 * whose type is the error code.
 */

export const workflowIds = {
  ceremony: (party: string) => `ceremony/${party}`,
  acceptance: (party: string) => `acceptance/${party}`,
  delegation: (child: string) => `delegation/${child}`,
  /** of this site's own CA key */
  rotation: (party: string) => `rotation/${party}`,
  hub: (name: string) => `hub/${name}`,
  /** one a site: it works off whatever is ordered */
  revocation: (party: string) => `revocation/${party}`,
};

/** The grantor's answer has been stored in the inbox; `message` is its id. */
export const delegationArrived = defineSignal<[{ message: string }]>("delegationArrived");
/** An operator's invitation of `parent` is in the site's database. */
export const invited = defineSignal<[{ parent: string; invitation: string }]>("invited");
/** The parent's inbox said no to the join that this invitation was for. */
export const joinRefused = defineSignal<[{ parent: string; invitation: string; refusal: Refusal }]>("joinRefused");
/** An operator asks for a delegation or a registration, whether or not a run is under way. */
export const asked = defineSignal("asked");
/** The child's acceptance has been stored in the inbox. */
export const acceptanceArrived = defineSignal<[{ message: string }]>("acceptanceArrived");

export interface Refusal {
  code: string;
  message: string;
}

/** The child's side, queue `site`. */
export interface AcceptanceActivities {
  /** Makes the CA key in the token when it isn't there, and the request with the invitation's nonce. */
  prepareRequest(input: { parent: string }): Promise<{ csrSha256: string }>;
  /** Records the `keyset` act. */
  recordKeyset(): Promise<{ leafHash: string }>;
  /** Queues the envelope; changes nothing when the invitation's join was sent or refused before. */
  sendJoin(input: { parent: string }): Promise<void>;
  /** Changes nothing when another invitation is in hand by now. */
  refuseJoin(input: { parent: string; invitation: string; refusal: Refusal }): Promise<void>;
  /** Checks grant, certificate and chain, records the `acceptance` act, and with it makes the grant current. */
  acceptGrant(input: { message: string }): Promise<{ grant: string }>;
  refuseGrant(input: { message: string; refusal: Refusal }): Promise<void>;
  /** Queues the envelope with the `acceptance` act. */
  recordAcceptance(input: { message: string }): Promise<{ leafHash: string }>;
  /** Signs the first CRL of the online CA. */
  publishCrl(): Promise<void>;
}

/** A party's own CA key, up to the request to its parent. What was asked for is in the site's database. */
export interface RotationActivities {
  /** Makes the new key where it isn't there, has both prove themselves, and queues the envelope. */
  sendRotation(): Promise<void>;
  refuseRotation(input: { refusal: Refusal }): Promise<void>;
}

/** The parent's side; `issueDelegation` on `site` for an online CA, on `ceremony` for the root. */
export interface DelegationActivities {
  /** Checks the asked terms against the own grant, debits the quota, and stores the bytes to be signed. */
  prepareDelegation(input: { child: string }): Promise<{ intent: string }>;
  signDelegation(input: { child: string }): Promise<{ certificateSha256: string }>;
  recordDelegation(input: { child: string }): Promise<{ leafHash: string }>;
  sendDelegation(input: { child: string }): Promise<void>;
  refuseDelegation(input: { child: string; refusal: Refusal }): Promise<void>;
  /** Checks the child's `acceptance` act. */
  confirmAcceptance(input: { child: string; message: string }): Promise<void>;
}

/** Queue `ceremony`: the only activities that reach the root key. Each works for the one document its process was given. */
export interface CeremonyActivities {
  makeRoot(input: { documentSha256: string }): Promise<{ rootSha256: string; children: string[] }>;
  signChild(input: { documentSha256: string; child: string }): Promise<{ certificateSha256: string }>;
  signRootCrl(input: { documentSha256: string }): Promise<void>;
  signHubVerification(input: { documentSha256: string }): Promise<{ hub: string | null }>;
}

/** Queue `site`: what the ceremony leaves to the site's own keys. */
export interface CeremonyRecordActivities {
  recordCeremony(input: { documentSha256: string }): Promise<{ leafHash: string }>;
  finishCeremony(input: { documentSha256: string }): Promise<void>;
}

export interface HubRegistrationActivities {
  /** Gives the hub the root and the verification certificate that the ceremony signed. */
  proveCaToHub(input: { name: string }): Promise<{ caSha256: string }>;
  recordHubRegistration(input: { name: string }): Promise<{ leafHash: string }>;
  refuseHubRegistration(input: { name: string; refusal: Refusal }): Promise<void>;
}

/** What operators have ordered to be revoked, held or held no longer is in the site's database. */
export interface RevocationActivities {
  /** Records the next orders as acts under a signed checkpoint; `left`: there may be more. */
  recordRevocations(): Promise<{ left: boolean }>;
  /** Makes the CRL that lists what is recorded. An offline CA's is a ceremony's to make. */
  publishRevocations(): Promise<void>;
  /** Tells every hub that doesn't look by itself soon enough; `left`: one couldn't be told yet. */
  tellHubs(): Promise<{ left: boolean }>;
}
