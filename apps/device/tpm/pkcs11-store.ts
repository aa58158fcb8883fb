import { createDecipheriv, createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fromHex } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { LoadedKey, Tpm } from "./tpm.ts";

/**
 * A key of tpm2-pkcs11 as the TPM sees it. PKCS#11 has no word for TPM2_Certify, so the key that a token made is loaded from
 * the token's store: a SQLite file with what the TPM wrapped, each key's authorization value encrypted under a key that is
 * sealed in the TPM under the token's PIN. Nothing here is outside the TPM that wasn't there before but that value.
 */

const CKA_LABEL = 3;
const CKA_CLASS = 0;
const CKO_PRIVATE_KEY = "3";
const CKA_TPM2_OBJAUTH_ENC = 0x8f000001;
const CKA_TPM2_PUB_BLOB = 0x8f000002;
const CKA_TPM2_PRIV_BLOB = 0x8f000003;

interface StoredToken {
  /** handle of the persistent key that everything of the token lies under */
  readonly parent: number;
  readonly parentAuth: Uint8Array;
  readonly seal: { readonly publicArea: Uint8Array; readonly wrapped: Uint8Array; readonly salt: string };
  readonly key: { readonly publicArea: Uint8Array; readonly wrapped: Uint8Array; readonly encryptedAuth: string };
}

/**
 * Loads a token's private key by its label.
 * @param store TPM2_PKCS11_STORE
 * @returns the loaded key, its authorization value, and the TPMT_PUBLIC of what it lies under
 * @throws CountersignError `hsm-token-missing`, `hsm-key-missing`, `hsm-pin-wrong`, `hsm-unavailable`
 */
export async function loadTokenKey(
  tpm: Tpm,
  store: string,
  { token, label, pinFile }: { token: string; label: string; pinFile: string },
): Promise<{ key: LoadedKey; auth: Uint8Array; parents: Uint8Array[] }> {
  const { parent, parentAuth, seal, key } = readToken(store, token, label);
  const sealed = await tpm.load(parent, seal.wrapped, seal.publicArea, parentAuth);
  const pin = readFileSync(pinFile, "utf8").trim();
  const sealAuth = createHash("sha256").update(pin).update(seal.salt).digest("hex").slice(0, 32);
  const wrappingKey = await tpm.unseal(sealed.handle, Buffer.from(sealAuth)).catch((cause: unknown) => {
    throw new CountersignError("hsm-pin-wrong", `the TPM refuses the PIN of token "${token}"`, { cause });
  });
  await tpm.flush(sealed.handle);
  const auth = decrypt(fromHex(Buffer.from(wrappingKey).toString("latin1")), key.encryptedAuth);
  const loaded = await tpm.load(parent, key.wrapped, key.publicArea, parentAuth);
  return { key: loaded, auth, parents: [await tpm.readPublic(parent)] };
}

function readToken(store: string, token: string, label: string): StoredToken {
  const file = join(store, "tpm2_pkcs11.sqlite3");
  if (!existsSync(file)) throw missing(`there are no tokens in ${store}`);
  const db = new DatabaseSync(file, { readOnly: true });
  try {
    const row = db
      .prepare(
        `SELECT t.id, p.config, p.objauth, s.userpub, s.userpriv, s.userauthsalt FROM tokens t
         JOIN pobjects p ON p.id = t.pid JOIN sealobjects s ON s.tokid = t.id WHERE t.label = ?`,
      )
      .get(token) as Record<string, unknown> | undefined;
    if (row === undefined) throw missing(`there is no token "${token}" in ${store}`);
    const objects = db.prepare("SELECT attrs FROM tobjects WHERE tokid = ?").all(row["id"] as number);
    const wanted = Buffer.from(label).toString("hex");
    const key = objects
      .map(({ attrs }) => attributesOf(String(attrs)))
      .find((attributes) => attributes.get(CKA_CLASS) === CKO_PRIVATE_KEY && attributes.get(CKA_LABEL) === wanted);
    if (key === undefined) throw new CountersignError("hsm-key-missing", `token "${token}" has no key "${label}"`);
    const hex = (type: number): Buffer => Buffer.from(key.get(type) ?? "", "hex");
    return {
      parent: parentHandle(String(row["config"]), token),
      parentAuth: Buffer.from(String(row["objauth"])),
      seal: {
        publicArea: inTpm2b(row["userpub"] as Uint8Array),
        wrapped: inTpm2b(row["userpriv"] as Uint8Array),
        salt: String(row["userauthsalt"]),
      },
      key: {
        publicArea: inTpm2b(hex(CKA_TPM2_PUB_BLOB)),
        wrapped: inTpm2b(hex(CKA_TPM2_PRIV_BLOB)),
        encryptedAuth: hex(CKA_TPM2_OBJAUTH_ENC).toString("latin1"),
      },
    };
  } finally {
    db.close();
  }
}

/** The store's YAML has one line a type and one a value, and some types twice: the last counts. */
function attributesOf(yaml: string): Map<number, string> {
  const found = yaml.matchAll(/\? !!int "(\d+)"\s*: !!(?:str|int|bool) "([^"]*)"/g);
  return new Map(Array.from(found, ([, type, value]) => [Number(type), value!]));
}

/** A persistent primary key's serialised ESYS_TR begins with its handle. */
function parentHandle(config: string, token: string): number {
  const handle = Number.parseInt(/"esys-tr"\s*: !!str "([0-9a-f]{8})/.exec(config)?.[1] ?? "", 16);
  if (handle >>> 24 === 0x81) return handle;
  throw new CountersignError("hsm-unavailable", `token "${token}" doesn't lie under a persistent key of the TPM`);
}

function inTpm2b(bytes: Uint8Array): Uint8Array {
  if (bytes.length > 2 && bytes[0]! * 256 + bytes[1]! === bytes.length - 2) return bytes.subarray(2);
  throw new CountersignError("hsm-unavailable", "the token's store holds what is no TPM2B");
}

/** `iv:tag:ciphertext` in hex, AES-GCM. */
function decrypt(key: Uint8Array, text: string): Uint8Array {
  const [iv, tag, ciphertext] = text.split(":").map((part) => Buffer.from(part, "hex"));
  if (iv === undefined || tag?.length !== 16 || ciphertext === undefined) {
    throw new CountersignError("hsm-unavailable", "the token's store holds no encrypted authorization value");
  }
  const decipher = createDecipheriv(key.length === 16 ? "aes-128-gcm" : "aes-256-gcm", key, iv, { authTagLength: 16 });
  decipher.setAuthTag(tag);
  return Buffer.concat([decipher.update(ciphertext), decipher.final()]);
}

function missing(message: string): CountersignError {
  return new CountersignError("hsm-token-missing", `${message}; make one with \`countersign device keygen --tpm\``);
}
