import "reflect-metadata";
import * as x509 from "@peculiar/x509";

/** Certificate chains for tests of what carries them: real keys and signatures, made by another library than ours. */

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

export interface TestChain {
  /** DER, leaf first, without the root */
  readonly chain: Uint8Array[];
  /** DER SubjectPublicKeyInfo of the leaf */
  readonly spki: Uint8Array;
  readonly root: Uint8Array;
}

interface Issuer {
  readonly name: string;
  readonly keys: CryptoKeyPair;
  readonly certificate: x509.X509Certificate;
}

/** CAs below one root, made once; `leaf(cn, length)` then costs one key and one signature. */
export class TestChains {
  readonly #issuers: readonly Issuer[];

  private constructor(issuers: readonly Issuer[]) {
    this.#issuers = issuers;
  }

  /** @param depth CAs, the root included */
  static async create(depth = 6): Promise<TestChains> {
    const issuers: Issuer[] = [];
    for (let level = 0; level < depth; level++) {
      const name = level === 0 ? "CN=Test Root" : `CN=Test CA ${level}`;
      const keys = await newKeys();
      const certificate = await issue(issuers.at(-1), name, keys, true);
      issuers.push({ name, keys, certificate });
    }
    return new TestChains(issuers);
  }

  /** @param length certificates in the chain; with 1 the leaf stands alone, below the root */
  async leaf(cn: string, length = 3): Promise<TestChain> {
    const keys = await newKeys();
    const issuers = this.#issuers.slice(0, length);
    const leaf = await issue(issuers.at(-1), `CN=${cn}`, keys, false);
    const above = issuers.slice(1).reverse();
    return {
      chain: [leaf, ...above.map(({ certificate }) => certificate)].map(({ rawData }) => new Uint8Array(rawData)),
      spki: new Uint8Array(leaf.publicKey.rawData),
      root: new Uint8Array(this.#issuers[0]!.certificate.rawData),
    };
  }
}

async function newKeys(): Promise<CryptoKeyPair> {
  return (await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"])) as CryptoKeyPair;
}

async function issue(
  issuer: Issuer | undefined,
  subject: string,
  keys: CryptoKeyPair,
  ca: boolean,
): Promise<x509.X509Certificate> {
  return await x509.X509CertificateGenerator.create({
    subject,
    issuer: issuer?.name ?? subject,
    publicKey: keys.publicKey,
    signingKey: (issuer?.keys ?? keys).privateKey,
    signingAlgorithm: ALGORITHM,
    notBefore: new Date("2026-01-01T00:00:00Z"),
    notAfter: new Date("2036-01-01T00:00:00Z"),
    extensions: [new x509.BasicConstraintsExtension(ca, undefined, true)],
  });
}
