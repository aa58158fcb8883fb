import { randomBytes } from "node:crypto";
import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";
import { CK, type Handle, type Pkcs11Api, type Template, findObjects, readAttribute, readBoolean } from "./cryptoki.ts";
import { EC_PARAMS, type PublicKeyInfo, readPublicKey } from "./public-key.ts";

/** How a key is named: by label (unique in a token), by CKA_ID, or by both. */
export interface KeyName {
  label?: string;
  id?: Uint8Array;
}

/** A key pair in a token. Handles are good on every session of this process while it is logged in. */
export interface TokenKeyPair extends PublicKeyInfo {
  label: string;
  id: Uint8Array;
  privateKey: Handle;
  publicKey: Handle;
}

function selector(objectClass: number, name: KeyName): Template {
  const template: Template = [{ type: CK.CKA_CLASS, value: objectClass }];
  if (name.label !== undefined) template.push({ type: CK.CKA_LABEL, value: name.label });
  if (name.id !== undefined) template.push({ type: CK.CKA_ID, value: Buffer.from(name.id) });
  return template;
}

export function showKeyName(name: KeyName): string {
  return name.label ?? `id ${Buffer.from(name.id ?? []).toString("hex")}`;
}

/**
 * @returns undefined when the token has no such private key
 * @throws CountersignError `hsm-key-missing` when the name fits two keys or the public half isn't there,
 * `key-unsupported` for a private key that could leave the token
 */
export function findKeyPair(api: Pkcs11Api, session: Handle, name: KeyName, token: string): TokenKeyPair | undefined {
  const [privateKey, second] = findObjects(api, session, selector(CK.CKO_PRIVATE_KEY, name), 2);
  if (privateKey === undefined) return undefined;
  const shown = showKeyName(name);
  if (second !== undefined) {
    throw new CountersignError(
      "hsm-key-missing",
      `token "${token}" has more than one private key ${shown}: name it by its id, or remove the wrong one`,
    );
  }
  const label = readAttribute(api, session, privateKey, CK.CKA_LABEL).toString("utf8");
  if (
    readBoolean(api, session, privateKey, CK.CKA_EXTRACTABLE) ||
    !readBoolean(api, session, privateKey, CK.CKA_SENSITIVE)
  ) {
    throw new CountersignError(
      "key-unsupported",
      `key "${label}" in token "${token}" can be read out of it: only keys made in the token are used, make a new one`,
    );
  }
  const id = new Uint8Array(readAttribute(api, session, privateKey, CK.CKA_ID));
  const [publicKey] = findObjects(api, session, selector(CK.CKO_PUBLIC_KEY, id.length === 0 ? { label } : { id }), 1);
  if (publicKey === undefined) {
    throw new CountersignError(
      "hsm-key-missing",
      `token "${token}" holds the private key "${label}" without its public key object: import that beside it`,
    );
  }
  return { label, id, privateKey, publicKey, ...readPublicKey(api, session, publicKey, label) };
}

const yes = (type: number) => ({ type, value: true });
const no = (type: number) => ({ type, value: false });

function generation(algorithm: KeyAlgorithm): { mechanism: number; publicTemplate: Template } {
  if (algorithm === "ec-p256" || algorithm === "ec-p384" || algorithm === "ed25519") {
    return {
      mechanism: algorithm === "ed25519" ? CK.CKM_EC_EDWARDS_KEY_PAIR_GEN : CK.CKM_EC_KEY_PAIR_GEN,
      publicTemplate: [{ type: CK.CKA_EC_PARAMS, value: Buffer.from(EC_PARAMS[algorithm], "hex") }],
    };
  }
  return {
    mechanism: CK.CKM_RSA_PKCS_KEY_PAIR_GEN,
    publicTemplate: [
      { type: CK.CKA_MODULUS_BITS, value: Number(algorithm.slice("rsa-".length)) },
      { type: CK.CKA_PUBLIC_EXPONENT, value: Buffer.from([1, 0, 1]) },
    ],
  };
}

/**
 * Makes a key pair in the token: private half sensitive, never extractable, for signing only. Needs a read-write
 * session; runs off the main thread, since RSA takes seconds. The caller keeps labels unique.
 */
export async function generateKeyPair(
  api: Pkcs11Api,
  session: Handle,
  label: string,
  algorithm: KeyAlgorithm,
): Promise<Pick<TokenKeyPair, "id" | "privateKey" | "publicKey">> {
  const { mechanism, publicTemplate } = generation(algorithm);
  const id = randomBytes(20);
  const common: Template = [yes(CK.CKA_TOKEN), { type: CK.CKA_LABEL, value: label }, { type: CK.CKA_ID, value: id }];
  // tpm2-pkcs11 takes any word on encryption, a no as well, for the key's only use, and fails.
  const noEncryption = isTpm2(api) ? [] : [no(CK.CKA_ENCRYPT)];
  const noDecryption = isTpm2(api) ? [] : [no(CK.CKA_DECRYPT)];
  const handles = await api.C_GenerateKeyPairAsync(
    session,
    { mechanism },
    [...common, ...publicTemplate, yes(CK.CKA_VERIFY), no(CK.CKA_PRIVATE), ...noEncryption, no(CK.CKA_WRAP)],
    [
      ...common,
      yes(CK.CKA_PRIVATE),
      yes(CK.CKA_SENSITIVE),
      no(CK.CKA_EXTRACTABLE),
      yes(CK.CKA_SIGN),
      ...noDecryption,
      no(CK.CKA_UNWRAP),
      no(CK.CKA_DERIVE),
    ],
  );
  const { privateKey, publicKey } = handles;
  return { id: new Uint8Array(id), privateKey, publicKey };
}

/** Is this the PKCS#11 module over a TPM 2, tpm2-pkcs11? */
export function isTpm2(api: Pkcs11Api): boolean {
  return api.C_GetInfo().libraryDescription.startsWith("TPM2.0");
}

export function destroyKeyPair(
  api: Pkcs11Api,
  session: Handle,
  pair: Pick<TokenKeyPair, "privateKey" | "publicKey">,
): void {
  api.C_DestroyObject(session, pair.privateKey);
  api.C_DestroyObject(session, pair.publicKey);
}
