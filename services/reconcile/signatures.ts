import type { TokenAuditSource } from "../../hsm/index.ts";
import { keyId } from "../../lib/pki/spki.ts";
import {
  noteSignatures,
  readAccount,
  readBaseline,
  storeBaseline,
  type Baseline,
} from "../../store/signature-account.ts";
import { raiseSetBackAlarm, raiseSignatureAlarm } from "./alarm.ts";
import type { ReconcileContext } from "./context.ts";

export interface CountedKey {
  /** of the CA's key by whose id the count is kept */
  readonly spki: Uint8Array;
  /** SHA-256 of their SPKIs, hex: all keys that the source counts together; that one alone unless given */
  readonly counted?: () => Promise<readonly string[]>;
  readonly source: TokenAuditSource;
  /** signatures of this process, and of its issuing processes, that were asked for again; only grows */
  readonly repeats: () => number;
}

/** Both unchanged for so long: nothing is under way any more. Longer than any signature or its process may take. */
const QUIET_MS = 5 * 60_000;
/** At the first look, what was noted and not signed yet. */
const UNDER_WAY = 16;

/**
 * Holds a token's own count of signatures against what this site asked for: every device's intent accounts for one, and
 * everything else is noted before the token is asked. More than that was signed by somebody else: an `alarm` act says
 * how many, once. What was asked for and never signed (a crash in between) leaves room under which a theft could hide; it
 * is closed as soon as both counts rest. A counter that goes back (another token in its place, or somebody who hides
 * signatures) is an alarm as well: what was signed since the last look can't be counted any more. One at a time.
 */
export class SignatureAudit {
  readonly #context: ReconcileContext;
  readonly #key: CountedKey;
  readonly #keyId: string;
  readonly #quietMs: number;
  #repeatsNoted = 0;

  constructor(context: ReconcileContext, key: CountedKey, quietMs = QUIET_MS) {
    this.#context = context;
    this.#key = key;
    this.#keyId = keyId(key.spki);
    this.#quietMs = quietMs;
  }

  /**
   * @returns the alarm that was raised now; `excess` undefined: the counter went back
   * @throws what the source, the database or the act's signer throws
   */
  async compare(): Promise<{ leafHash: string; excess: number | undefined } | undefined> {
    const { db } = this.#context;
    // The counter first: what it holds was asked for before, so the account read afterwards has it.
    const counted = await this.#key.source.signatures();
    await this.#noteRepeats();
    const { accounted, open } = await readAccount(db, (await this.#key.counted?.()) ?? [this.#keyId]);
    const now = (this.#context.now ?? (() => new Date()))();
    const seen = { seenCounted: counted, seenAccounted: accounted, seenAt: now };
    const base = await readBaseline(db, this.#keyId);
    const fresh = { counted, accounted: accounted - open - UNDER_WAY, ...seen };
    if (base === undefined) {
      await storeBaseline(db, this.#keyId, fresh);
      return undefined;
    }
    if (counted < base.seenCounted) {
      const evidence = { caKey: this.#keyId, counted, before: base.seenCounted, seen: base.seenAt };
      const { leafHash } = await raiseSetBackAlarm(this.#context, evidence);
      await storeBaseline(db, this.#keyId, fresh);
      return { leafHash, excess: undefined };
    }
    const excess = counted - base.counted - (accounted - base.accounted);
    if (excess > 0) {
      const evidence = { caKey: this.#keyId, counted, since: base.counted, accounted: accounted - base.accounted };
      const { leafHash } = await raiseSignatureAlarm(this.#context, evidence);
      // The act first: after a crash in between it is found again under the same name.
      await storeBaseline(db, this.#keyId, { counted: base.counted + excess, accounted: base.accounted, ...seen });
      return { leafHash, excess };
    }
    await storeBaseline(db, this.#keyId, this.#settled(base, seen));
    return undefined;
  }

  #settled(base: Baseline, seen: Pick<Baseline, "seenCounted" | "seenAccounted" | "seenAt">): Baseline {
    const same = seen.seenCounted === base.seenCounted && seen.seenAccounted === base.seenAccounted;
    if (!same) return { ...base, ...seen };
    if (seen.seenAt.getTime() - base.seenAt.getTime() < this.#quietMs) return base;
    return { ...base, counted: seen.seenCounted, accounted: seen.seenAccounted };
  }

  async #noteRepeats(): Promise<void> {
    const repeats = this.#key.repeats();
    await noteSignatures(this.#context.db, this.#keyId, Math.max(0, repeats - this.#repeatsNoted));
    this.#repeatsNoted = repeats;
  }
}
