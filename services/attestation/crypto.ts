import {
  constants,
  createCipheriv,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  publicEncrypt,
  randomBytes,
} from "node:crypto";
import type { CredentialCrypto } from "../../lib/attestation/index.ts";
import { readSpki } from "../../lib/pki/spki.ts";

const keyOf = (spki: Uint8Array) => createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });

/** What MakeCredential needs, by OpenSSL. */
export const nodeCredentialCrypto: CredentialCrypto = {
  random: (octets) => randomBytes(octets),
  rsaOaep: (spki, hash, oaepLabel, message) =>
    publicEncrypt(
      {
        key: keyOf(spki),
        padding: constants.RSA_PKCS1_OAEP_PADDING,
        oaepHash: hash,
        oaepLabel: Buffer.from(oaepLabel),
      },
      message,
    ),
  ecdh: (spki) => {
    const publicKey = keyOf(spki);
    const namedCurve = publicKey.asymmetricKeyDetails!.namedCurve!;
    const own = generateKeyPairSync("ec", { namedCurve });
    const point = readSpki(own.publicKey.export({ type: "spki", format: "der" })).keyOctets;
    return { point, secret: diffieHellman({ privateKey: own.privateKey, publicKey }) };
  },
  aesCfb: (key, plaintext) => {
    const cipher = createCipheriv(`aes-${8 * key.length}-cfb`, key, new Uint8Array(16));
    return Buffer.concat([cipher.update(plaintext), cipher.final()]);
  },
};
