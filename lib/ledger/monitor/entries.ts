import { fromBase64, toHex } from "../../domain/bytes.ts";
import { sha256, type Sha256 } from "../../domain/hash.ts";
import { isCountersignError } from "../../domain/errors.ts";
import type { VerifySignature } from "../../domain/signing.ts";
import { signatureAlgorithmForKey } from "../../pki/algorithms.ts";
import { keyAlgorithmOf, keyId } from "../../pki/spki.ts";
import { verifyDsse } from "../../records/dsse.ts";
import { scanLine } from "../../records/line-scan.ts";
import { parseEntry, type ParsedEntry } from "../../records/statement.ts";
import { formatVkey, type NoteKey } from "../note.ts";
import { rotatedFault } from "../rotation.ts";
import type { LogEntry } from "../reader.ts";
import type { Alarm, Fact, MonitorStore, SlotFact, SlotHolder } from "./store.ts";

export interface EntryContext {
  readonly party: string;
  readonly log: NoteKey;
  /** as the policy pins it, hex */
  readonly rootSha256?: string;
  readonly store: MonitorStore;
  readonly verify: VerifySignature;
  readonly sha256?: Sha256;
}

/** A second certificate, or a second entry, for a slot that has one. */
export function slotReused(party: string, fact: SlotFact, holder: SlotHolder): Alarm {
  const { lot, slot, sha256, index } = fact;
  const what = holder.sha256 === sha256 ? "the same certificate" : `certificate ${sha256}`;
  const message = `used slot ${slot} of lot ${lot} again, for ${what}: entry ${holder.index} of ${holder.party} has it`;
  return { code: "slot-reused", party, subject: `${lot}/${slot}#${index}`, message, index };
}

/**
 * Reads a log's entries one after the other and gathers what they add and what is wrong with them, between two commits
 * of the store. An entry by itself: form, whose it is, signature, slot. What needs all ledgers together is an audit's.
 */
export class EntryBatch {
  readonly facts: Fact[] = [];
  readonly alarms: Alarm[] = [];
  readonly #context: EntryContext;
  #keys: { ca: Uint8Array; act: Uint8Array } | undefined;

  constructor(context: EntryContext) {
    this.#context = context;
  }

  async add(entry: LogEntry): Promise<void> {
    const { party, log } = this.#context;
    const { index } = entry;
    const line = scanLine(entry.bytes);
    // Nothing else can be wrong with a valid line record: the checkpoint signs it.
    if (line !== undefined && line.origin === log.name && line.party === party) {
      const { lot, slot, certificate, purpose } = line;
      if (certificate !== undefined) this.#takeCertified(index, { lot, slot, certificate, purpose });
      return;
    }
    const wrong = (why: string): void => this.#raise("act-invalid", `#${index}`, `entry ${index} ${why}`, index);
    let parsed: ParsedEntry;
    try {
      parsed = parseEntry(entry.bytes);
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      return wrong(`can't be read: ${error.message}`);
    }
    const { act } = parsed;
    if (act.origin !== log.name || act.party !== party) return wrong("belongs to another ledger");
    if (!(await this.#isSigned(parsed))) return wrong(`(${act.type}) is not signed by the party's act key`);
    switch (act.type) {
      case "keyset":
        return this.#takeKeys(act.fields.keyset, wrong);
      case "ceremony": {
        const root = this.#digestOf(act.fields.root);
        const { rootSha256 } = this.#context;
        if (rootSha256 !== undefined && root !== rootSha256) {
          this.#raise("root-mismatch", root, `its ceremony made another root than the pinned one: ${root}`, index);
        }
        this.facts.push({ kind: "certificate", sha256: root, index });
        return this.#takeKeys(act.fields.keyset, wrong);
      }
      case "delegation":
        this.facts.push({ kind: "certificate", sha256: this.#digestOf(act.fields.certificate), index });
        return;
      case "rotated": {
        // A key that isn't in its hands is another's to answer for.
        const supersedes = act.grant;
        const fault = supersedes && (await rotatedFault(act.fields, { party, supersedes }, this.#context.verify));
        if (supersedes === undefined || fault !== undefined)
          return wrong(`changes a CA key: ${fault ?? "of no grant"}`);
        this.facts.push({ kind: "ca", ca: fromBase64(act.fields.new.spki) });
        return;
      }
      case "certified":
        return this.#takeCertified(index, act.fields);
      case "alarm": {
        const about = act.subject[0]?.name ?? "";
        this.#raise("party-alarm", `#${index}`, `raised an alarm itself: ${act.fields.what} (${about})`, index);
        return;
      }
      default:
        return;
    }
  }

  #takeCertified(
    index: number,
    fields: { lot: string; slot: number; certificate: string; purpose: "initial" | "renewal" | undefined },
  ): void {
    const { lot, slot, purpose } = fields;
    const sha256 = this.#digestOf(fields.certificate);
    this.facts.push({ kind: "certificate", sha256, index });
    if (purpose === "initial") this.facts.push({ kind: "slot", lot, slot, sha256, index });
  }

  /** SHA-256 of what is written as base64, hex. */
  #digestOf(base64: string): string {
    return toHex((this.#context.sha256 ?? sha256)(fromBase64(base64)));
  }

  #takeKeys(keyset: { ca: string; act: string; log: { vkey: string } }, wrong: (why: string) => void): void {
    if (keyset.log.vkey !== formatVkey(this.#context.log)) return wrong("names another log key than the pinned one");
    const keys = { ca: fromBase64(keyset.ca), act: fromBase64(keyset.act) };
    this.#keys = keys;
    this.facts.push({ kind: "keys", ...keys });
  }

  /** The first act of a party carries its act key; the pinned log vouches for it. */
  async #isSigned({ act, dsse }: ParsedEntry): Promise<boolean> {
    if (dsse === undefined) return true;
    const { party, store, verify } = this.#context;
    this.#keys ??= await store.keys(party);
    const carried = act.type === "keyset" || act.type === "ceremony" ? fromBase64(act.fields.keyset.act) : undefined;
    const spki = this.#keys?.act ?? carried;
    if (spki === undefined) return false;
    const algorithm = signatureAlgorithmForKey(keyAlgorithmOf(spki));
    return verifyDsse(dsse, { spki, keyId: keyId(spki), algorithm }, verify);
  }

  #raise(code: Alarm["code"], subject: string, message: string, index: number): void {
    this.alarms.push({ code, party: this.#context.party, subject, message, index });
  }
}
