import { z } from "zod";
import { equalBytes, fromUtf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { canonicalJson } from "../domain/json.ts";
import { ACT_CLASSES, ACT_FIELDS, type ActFields, type ActType } from "./acts.ts";
import { PAYLOAD_TYPES, parseDsse, type OpenedDsse } from "./dsse.ts";
import { actRef, blobRef, origin, partyId, prevRef, sha256Hex, timestamp } from "./primitives.ts";

/** An act is an in-toto Statement v1; its exact bytes (or the DSSE envelope around them) are the ledger's leaf. */

export const STATEMENT_TYPE = "https://in-toto.io/Statement/v1";
const PREDICATE = /^urn:countersign:act:([a-z-]{1,40}):v1$/;
export const predicateType = (type: ActType): string => `urn:countersign:act:${type}:v1`;

const subject = z.strictObject({
  name: z.string().min(1).max(128),
  digest: z.strictObject({ sha256: sha256Hex }),
});
export type Subject = z.infer<typeof subject>;

const common = {
  origin,
  party: partyId,
  retryKey: sha256Hex,
  /** what the party's clock claims; cosignatures bound it */
  time: timestamp,
  /** the grant under which the party acts; absent for the root's own acts */
  grant: actRef.optional(),
  prev: z.array(prevRef).max(8),
  blobs: z.array(blobRef).max(16),
};
export type ActCommon = z.infer<z.ZodObject<typeof common>>;

export interface Act<T extends ActType = ActType> extends ActCommon {
  readonly type: T;
  readonly subject: Subject[];
  readonly fields: ActFields<T>;
}
/** Any act, discriminated by `type`. */
export type AnyAct = { [T in ActType]: Act<T> }[ActType];

const statement = z.strictObject({
  _type: z.literal(STATEMENT_TYPE),
  subject: z.array(subject).min(1).max(16),
  predicateType: z.string().regex(PREDICATE),
  predicate: z.strictObject({ ...common, fields: z.unknown() }),
});

/** The schema of one act type's whole Statement, for documentation. */
export function statementOf(type: ActType, fields: z.ZodType): z.ZodType {
  return statement.extend({
    predicateType: z.literal(predicateType(type)),
    predicate: z.strictObject({ ...common, fields }),
  });
}

/**
 * The Statement's bytes, canonical JSON. Validates what it writes.
 * @throws CountersignError `act-invalid`
 */
export function buildStatement<T extends ActType>(act: Act<T>): Uint8Array {
  const { type, subject: subjects, fields, ...rest } = act;
  const bytes = canonicalJson({
    _type: STATEMENT_TYPE,
    subject: subjects,
    predicateType: predicateType(type),
    predicate: { ...rest, fields },
  });
  parseStatement(bytes);
  return bytes;
}

/**
 * Reads a Statement strictly: unknown types, unknown fields and non-canonical bytes are refused.
 * @throws CountersignError `act-invalid`
 */
export function parseStatement(bytes: Uint8Array): AnyAct {
  if (bytes.length > 65_535)
    throw new CountersignError("act-invalid", `the act has ${bytes.length} bytes, more than an entry holds`);
  let parsed: z.infer<typeof statement>;
  try {
    const json: unknown = JSON.parse(fromUtf8(bytes));
    // One spelling for each act: a duplicate key or another order would let two readers see two acts in one leaf.
    if (!equalBytes(canonicalJson(json), bytes)) throw new Error("its bytes aren't canonical JSON");
    parsed = statement.parse(json);
  } catch (cause) {
    throw new CountersignError("act-invalid", `not an act: ${firstIssue(cause)}`, { cause });
  }
  const type = PREDICATE.exec(parsed.predicateType)?.[1] ?? "";
  if (!Object.hasOwn(ACT_FIELDS, type))
    throw new CountersignError("act-invalid", `unknown act type ${JSON.stringify(type)}`);
  const { fields, ...rest } = parsed.predicate;
  const checked = ACT_FIELDS[type as ActType].safeParse(fields);
  if (!checked.success)
    throw new CountersignError("act-invalid", `not a valid ${type} act: ${firstIssue(checked.error)}`);
  return { ...rest, type, subject: parsed.subject, fields: checked.data } as AnyAct;
}

export interface ParsedEntry {
  readonly act: AnyAct;
  /** the exact Statement bytes */
  readonly statement: Uint8Array;
  /** present for signed acts: check it against the party's act key */
  readonly dsse?: OpenedDsse;
}

/**
 * Reads a ledger entry: a DSSE envelope for signed acts, a bare Statement for line records. Each type is accepted in
 * its own class only. Signatures aren't checked here.
 * @throws CountersignError `act-invalid`, `envelope-invalid`
 */
export function parseEntry(entry: Uint8Array): ParsedEntry {
  const isDsse = startsWithPayload(entry);
  const dsse = isDsse ? parseDsse(entry, PAYLOAD_TYPES.statement) : undefined;
  // As for the Statement in it: a repeated key or another spelling would let two readers see two acts in one leaf, or
  // one act lie under two leaves.
  if (dsse && !equalBytes(canonicalJson(dsse.envelope), entry)) {
    throw new CountersignError("envelope-invalid", "the envelope's bytes aren't canonical JSON");
  }
  const bytes = dsse?.payload ?? entry;
  const act = parseStatement(bytes);
  const expected = ACT_CLASSES[act.type].class;
  if (expected === "signed" && !dsse) throw new CountersignError("act-invalid", `a ${act.type} act must be signed`);
  if (expected === "line" && dsse)
    throw new CountersignError("act-invalid", `a ${act.type} act is a line record, not a signed act`);
  return dsse ? { act, statement: bytes, dsse } : { act, statement: bytes };
}

// Canonical JSON sorts keys: a Statement begins with "_type", a DSSE envelope with "payload".
function startsWithPayload(entry: Uint8Array): boolean {
  const head = '{"payload"';
  for (let i = 0; i < head.length; i++) if (entry[i] !== head.charCodeAt(i)) return false;
  return true;
}

function firstIssue(cause: unknown): string {
  if (cause instanceof z.ZodError) {
    const issue = cause.issues[0];
    return issue ? `${issue.path.join(".") || "(top)"}: ${issue.message}` : "invalid";
  }
  return cause instanceof Error ? cause.message.slice(0, 200) : "invalid";
}
