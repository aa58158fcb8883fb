/** C2SP tlog-policy: which logs are known, which witnesses, and how many of them must have cosigned a checkpoint. */
import { toHex, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { openCheckpoint, parseCheckpoint, type SignedCheckpoint } from "./checkpoint.ts";
import { formatVkey, KEY_TYPE, parseNote, parseVkey, type NoteKey } from "./note.ts";

const MAX_POLICY_BYTES = 64 * 1024;
const MAX_LINES = 1024;
const MAX_NAMES = 256;

export interface PolicyGroup {
  readonly threshold: number;
  readonly members: readonly string[];
}
export interface TlogPolicy {
  readonly logs: readonly NoteKey[];
  readonly witnesses: ReadonlyMap<string, NoteKey>;
  readonly groups: ReadonlyMap<string, PolicyGroup>;
  /** a witness, a group, or `none` */
  readonly quorum: string;
  /** where a log is read, and a witness's submission prefix (tlog-witness), for those that the policy gives one */
  readonly urls: ReadonlyMap<NoteKey, string>;
}

/**
 * A policy for one log. With no witnesses the quorum is `none`, else `threshold` of them (default: all). Witnesses are
 * called by their keys' names.
 * @param urls submission prefixes, for those who ask for cosignatures
 */
export function formatPolicy(
  log: NoteKey,
  witnesses: readonly NoteKey[] = [],
  threshold: number | "all" | "any" = "all",
  urls: ReadonlyMap<NoteKey, string> = new Map(),
): string {
  const lines = [`log ${formatVkey(log)}`];
  if (witnesses.length === 0) return `${lines[0]}\nquorum none\n`;
  for (const key of witnesses) {
    const url = urls.get(key);
    lines.push(`witness ${key.name} ${formatVkey(key)}${url === undefined ? "" : ` ${url}`}`);
  }
  lines.push(`group quorum-of-witnesses ${threshold} ${witnesses.map(({ name }) => name).join(" ")}`);
  lines.push("quorum quorum-of-witnesses");
  return `${lines.join("\n")}\n`;
}

/** @throws CountersignError `policy-invalid`, naming the line */
export function parsePolicy(text: string): TlogPolicy {
  if (utf8(text).length > MAX_POLICY_BYTES) throw invalid(0, `it exceeds ${MAX_POLICY_BYTES} bytes`);
  const lines = text.split("\n");
  if (lines.length > MAX_LINES) throw invalid(0, `it has more than ${MAX_LINES} lines`);
  if (lines.pop() !== "") throw invalid(lines.length + 1, "the last line has no newline");
  const logs: NoteKey[] = [];
  const witnesses = new Map<string, NoteKey>();
  const groups = new Map<string, PolicyGroup>();
  const urls = new Map<NoteKey, string>();
  const placed = new Set<string>();
  let quorum: string | undefined;
  const defined = (name: string): boolean => witnesses.has(name) || groups.has(name);

  for (const [i, raw] of lines.entries()) {
    const at = i + 1;
    // eslint-disable-next-line no-control-regex -- the specification names the allowed octets
    if (/[\u0000-\u0008\u000a-\u001f\u007f]/.test(raw)) throw invalid(at, "it holds a control character");
    const words = raw.split(/[ \t]+/).filter((word) => word !== "");
    const [keyword, ...args] = words;
    if (keyword === undefined || keyword.startsWith("#")) continue;
    if (keyword === "log") {
      if (args.length < 1 || args.length > 2) throw invalid(at, "expected `log <vkey> [<url>]`");
      const key = policyKey(args[0]!, KEY_TYPE.ed25519, at);
      if (hasKey(logs, key)) throw invalid(at, "this log's key is already listed");
      logs.push(key);
      if (args[1] !== undefined) urls.set(key, args[1]);
    } else if (keyword === "witness") {
      if (args.length < 2 || args.length > 3) throw invalid(at, "expected `witness <name> <vkey> [<url>]`");
      const name = newName(args[0]!, at);
      const key = policyKey(args[1]!, KEY_TYPE.cosignature, at);
      if (hasKey(witnesses.values(), key)) throw invalid(at, "this witness's key is already listed");
      witnesses.set(name, key);
      if (args[2] !== undefined) urls.set(key, args[2]);
    } else if (keyword === "group") {
      const [name, count, ...members] = args;
      if (name === undefined || count === undefined || members.length === 0) {
        throw invalid(at, "expected `group <name> all|any|<k> <name>...`");
      }
      newName(name, at);
      for (const member of members) {
        if (!defined(member)) throw invalid(at, `${member} is not defined above`);
        if (placed.has(member)) throw invalid(at, `${member} is already a member of a group`);
        placed.add(member);
      }
      groups.set(name, { threshold: threshold(count, members.length, at), members });
    } else if (keyword === "quorum") {
      if (args.length !== 1) throw invalid(at, "expected `quorum <name>`");
      if (quorum !== undefined) throw invalid(at, "there is already a quorum line");
      if (args[0] !== "none" && !defined(args[0]!)) throw invalid(at, `${args[0]} is not defined above`);
      quorum = args[0]!;
    } else {
      throw invalid(at, `unknown keyword ${JSON.stringify(keyword.slice(0, 40))}`);
    }
  }
  if (quorum === undefined) throw invalid(lines.length, "there is no quorum line");
  // A log that counted as its own witness would vouch for itself.
  for (const witness of witnesses.values()) {
    if (hasKey(logs, witness)) throw invalid(lines.length, `witness ${witness.name} has the key of a log`);
  }
  return { logs, witnesses, groups, quorum, urls };

  function newName(name: string, at: number): string {
    if (name === "none" || defined(name)) throw invalid(at, `the name ${name} is taken`);
    if (witnesses.size + groups.size >= MAX_NAMES) throw invalid(at, `more than ${MAX_NAMES} names`);
    return name;
  }
}

function invalid(line: number, message: string): CountersignError {
  return new CountersignError("policy-invalid", `log policy${line === 0 ? "" : `, line ${line}`}: ${message}`);
}

function hasKey(keys: Iterable<NoteKey>, key: NoteKey): boolean {
  const hex = toHex(key.publicKey);
  for (const other of keys) if (toHex(other.publicKey) === hex) return true;
  return false;
}

function policyKey(vkey: string, type: number, line: number): NoteKey {
  let key: NoteKey;
  try {
    key = parseVkey(vkey);
  } catch (cause) {
    throw new CountersignError("policy-invalid", `log policy, line ${line}: ${(cause as Error).message}`, { cause });
  }
  if (key.type !== type) throw invalid(line, `the key is of type ${key.type}, expected ${type}`);
  return key;
}

function threshold(count: string, members: number, line: number): number {
  if (count === "all") return members;
  if (count === "any") return 1;
  const k = /^[1-9][0-9]{0,3}$/.test(count) ? Number(count) : 0;
  if (k < 1 || k > members) throw invalid(line, `the threshold is not all, any or 1 to ${members}`);
  return k;
}

/** Do cosignatures by these witness keys meet the quorum? */
export function meetsQuorum(policy: TlogPolicy, cosigned: ReadonlySet<NoteKey>): boolean {
  const met = (name: string): boolean => {
    const witness = policy.witnesses.get(name);
    if (witness !== undefined) return cosigned.has(witness);
    const group = policy.groups.get(name);
    return group !== undefined && group.members.filter(met).length >= group.threshold;
  };
  return policy.quorum === "none" || met(policy.quorum);
}

/**
 * Opens a checkpoint under a policy: signed by one of its logs and cosigned by a quorum.
 * @throws CountersignError `note-invalid`, `checkpoint-invalid`
 */
export async function openUnderPolicy(
  note: Uint8Array,
  policy: TlogPolicy,
  verify: VerifySignature,
): Promise<SignedCheckpoint> {
  const { text, signatures } = parseNote(note);
  const { origin } = parseCheckpoint(text);
  const named = policy.logs.filter((key) => key.name === origin);
  const log = named.find((key) => signatures.some((s) => s.name === key.name && s.keyId === key.keyId)) ?? named[0];
  if (log === undefined) {
    throw new CountersignError("checkpoint-invalid", `the policy knows no log ${origin.slice(0, 80)}`);
  }
  const opened = await openCheckpoint(note, log, verify, [...policy.witnesses.values()]);
  if (!meetsQuorum(policy, new Set(opened.signatures.map((s) => s.key)))) {
    throw new CountersignError("checkpoint-invalid", `the checkpoint of ${origin} lacks the cosignatures of a quorum`);
  }
  return opened;
}
