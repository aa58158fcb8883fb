import { createHash, createPublicKey, generateKeyPairSync, sign, verify, type KeyObject } from "node:crypto";
import { TreeEdge } from "../../lib/ledger/edge.ts";
import { signCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { encodeBundle, TILE_WIDTH, tilePath } from "../../lib/ledger/tiles.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import type { SignatureAlgorithm, Signer, VerifySignature } from "../../lib/domain/signing.ts";
import { nodeSha256 } from "../../services/ledger/sha256.ts";

/** Keys outside a token, for tests whose subject is not the token. */
export interface TestKey extends Signer {
  readonly privateKey: KeyObject;
  /** SHA-256 of the SPKI, hex */
  readonly keyId: string;
}

export function testKey(kind: "ed25519" | "p256"): TestKey {
  const { privateKey, publicKey } =
    kind === "p256" ? generateKeyPairSync("ec", { namedCurve: "P-256" }) : generateKeyPairSync("ed25519");
  return testKeyOf(privateKey, new Uint8Array(publicKey.export({ format: "der", type: "spki" })));
}

export function testKeyOf(privateKey: KeyObject, spki: Uint8Array): TestKey {
  const p256 = privateKey.asymmetricKeyType === "ec";
  const algorithm: SignatureAlgorithm = p256 ? "ecdsa-p256-sha256" : "ed25519";
  return {
    spki,
    algorithm,
    privateKey,
    keyId: createHash("sha256").update(spki).digest("hex"),
    sign: async (message) => new Uint8Array(sign(p256 ? "sha256" : null, message, privateKey)),
  };
}

/** OpenSSL's verdict, for ECDSA P-256 and Ed25519. */
export const opensslVerify: VerifySignature = ({ spki, algorithm, message, signature }) => {
  try {
    const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
    return verify(algorithm === "ed25519" ? null : "sha256", message, key, signature);
  } catch {
    return false;
  }
};

/** A whole log in memory: every resource by path, as a server or a folder would give it. */
export class MemoryLog {
  readonly key: NoteKey;
  readonly signer: TestKey;
  readonly resources = new Map<string, Uint8Array>();
  readonly entries: Uint8Array[] = [];
  readonly #edge = new TreeEdge(0, [], nodeSha256);

  constructor(origin: string, signer = testKey("ed25519")) {
    this.signer = signer;
    this.key = noteKey(origin, KEY_TYPE.ed25519, ed25519Raw(signer.spki));
  }

  /** Appends, publishes under a new checkpoint, and gives its note. */
  async append(entries: readonly Uint8Array[]): Promise<Uint8Array> {
    const first = this.entries.length;
    this.entries.push(...entries);
    for (const { bytes, ...tile } of this.#edge.append(entries.map((e) => leafHash(e, nodeSha256)))) {
      this.resources.set(tilePath(tile), bytes);
    }
    for (let index = Math.floor(first / TILE_WIDTH); index * TILE_WIDTH < this.entries.length; index++) {
      const bundle = this.entries.slice(index * TILE_WIDTH, (index + 1) * TILE_WIDTH);
      this.resources.set(tilePath({ level: "entries", index, width: bundle.length }), encodeBundle(bundle));
    }
    const { size } = this.#edge;
    const note = await signCheckpoint({ origin: this.key.name, size, root: this.#edge.root() }, this.signer);
    this.resources.set("checkpoint", note);
    return note;
  }

  readonly fetch = async (path: string): Promise<Uint8Array | undefined> => this.resources.get(path);
}
