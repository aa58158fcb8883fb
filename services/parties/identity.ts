import { toBase64 } from "../../lib/domain/bytes.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { ed25519Raw, formatVkey, KEY_TYPE, noteKey } from "../../lib/ledger/note.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { Contact } from "../../lib/records/message.ts";

/** Who this site is: its name, its addresses and its keys by role. The CA's key isn't among them. */
export interface Identity {
  readonly party: string;
  readonly organization: string;
  readonly origin: string;
  /** base URL of the HTTPS gateway, as other parties reach it */
  readonly gatewayUrl: string;
  /** base URL of the public HTTP port */
  readonly publicUrl: string;
  readonly act: Signer;
  readonly log: Signer;
  readonly witness: Signer;
  /** signs firmware images; absent where the party signs none */
  readonly imageSigning?: Signer | undefined;
  /** the infrastructure CA's self-signed certificate, DER, and its key */
  readonly infrastructure: { readonly certificate: Uint8Array; readonly spki: Uint8Array };
}

export const actKeyId = (identity: Identity): string => keyId(identity.act.spki);

/** The log's verifier key, named by its origin. */
export function logVkey(identity: Pick<Identity, "origin" | "log">): string {
  return formatVkey(noteKey(identity.origin, KEY_TYPE.ed25519, ed25519Raw(identity.log.spki)));
}

/** The witness's verifier key (type 0x04); its name is the log origin with `/witness`. */
export function witnessVkey(identity: Pick<Identity, "origin" | "witness">): string {
  return formatVkey(noteKey(`${identity.origin}/witness`, KEY_TYPE.cosignature, ed25519Raw(identity.witness.spki)));
}

/** Below a site's public URL: what other parties' logs post their checkpoints to (C2SP tlog-witness). */
export const witnessPrefix = (publicUrl: string): string => `${publicUrl.replace(/\/$/, "")}/witness`;

/** How others reach and recognise this site: goes into invitations and joins. */
export function contactOf(identity: Identity): Contact {
  return {
    party: identity.party,
    gateway: identity.gatewayUrl,
    publicUrl: identity.publicUrl,
    tlsCa: pemEncode("CERTIFICATE", identity.infrastructure.certificate),
    act: toBase64(identity.act.spki),
    origin: identity.origin,
    vkey: logVkey(identity),
    witness: witnessVkey(identity),
  };
}
