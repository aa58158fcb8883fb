import type { SignatureAlgorithm, VerifySignature } from "../../lib/domain/signing.ts";
import { nodeVerifyAside } from "../../hsm/verify.ts";
import { sha256Hex } from "../ledger/sha256.ts";

/** About 2 MB, and as many certificates as a large hub's devices show. */
const REMEMBERED = 20_000;

/**
 * Checks signatures, and remembers good ones by the digest of everything that goes into the check: key, algorithm, message
 * and signature. The CAs' own certificates come with every connect, and devices come again. It is arithmetic alone that is
 * remembered: whether a path holds, what is valid now and what is revoked is asked each time. A bad signature isn't
 * remembered, so nobody can fill this without signing.
 */
export function rememberingVerify(
  verify: VerifySignature = nodeVerifyAside,
  most: number = REMEMBERED,
): VerifySignature & { readonly remembered: () => number } {
  const good = new Set<string>();
  const check = async (what: Parameters<VerifySignature>[0]): Promise<boolean> => {
    const name = nameOf(what);
    if (good.delete(name)) {
      // Put last: a Set keeps insertion order, so the first is the one unused for longest.
      good.add(name);
      return true;
    }
    if ((await verify(what)) !== true) return false;
    good.add(name);
    if (good.size > most) good.delete(good.values().next().value!);
    return true;
  };
  return Object.assign(check, { remembered: () => good.size });
}

interface Check {
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly message: Uint8Array;
  readonly signature: Uint8Array;
}

/** Each part under its own digest, so that none can be mistaken for a piece of another. */
function nameOf({ spki, algorithm, message, signature }: Check): string {
  return sha256Hex(`${algorithm} ${sha256Hex(spki)} ${sha256Hex(message)} ${sha256Hex(signature)}`);
}
