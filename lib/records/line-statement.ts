import { fromUtf8, utf8 } from "../domain/bytes.ts";
import { DEVICE_ID, LOT_ID, PARTY_ID } from "../domain/ids.ts";
import { ACT_FIELDS } from "./acts.ts";
import { origin, profileRef, slotNumber, timestamp } from "./primitives.ts";
import { buildStatement, parseEntry, predicateType, type Act, type AnyAct, type ParsedEntry } from "./statement.ts";

/**
 * The Statements of the line records that every device has, written straight in canonical order. A lot writes several a
 * device, and building one from an object, reading it back and comparing costs ten times as much. Only what is known to
 * the last field and character is written here: each value is held against its schema, each object's fields are counted,
 * and whatever doesn't fit goes to `buildStatement`, which writes it or says what is wrong with it. So this file decides
 * how fast an act is written, never what a valid act is; tests hold it to the same bytes.
 */

/**
 * As `buildStatement`, byte for byte.
 * @throws CountersignError `act-invalid`
 */
export function buildLine(act: AnyAct): Uint8Array {
  const text = lineText(act);
  return text === undefined ? buildStatement(act) : utf8(text);
}

/**
 * As `parseEntry`, several times as fast for what this file knows: what is read is written again, which holds every value
 * against its schema, and the same text comes out. Nothing in it was unknown, spelt otherwise or said twice then.
 * @throws CountersignError `act-invalid`, `envelope-invalid`
 */
export function readEntry(entry: Uint8Array): ParsedEntry {
  const act = lineAct(entry);
  return act === undefined ? parseEntry(entry) : { act, statement: entry };
}

const LINE_TYPES = new Map((["built", "certified", "installed"] as const).map((type) => [predicateType(type), type]));

/** Undefined for whatever isn't such a record to the last byte: `parseEntry` judges that. For the tests' comparison. */
export function lineAct(entry: Uint8Array): AnyAct | undefined {
  try {
    const text = fromUtf8(entry);
    // Not yet known to be one; writing it decides.
    const {
      predicate,
      predicateType: name,
      subject,
    } = JSON.parse(text) as {
      predicate: Omit<AnyAct, "type" | "subject">;
      predicateType: string;
      subject: AnyAct["subject"];
    };
    const type = LINE_TYPES.get(name);
    if (type === undefined) return undefined;
    const act = { ...predicate, type, subject } as AnyAct;
    return lineText(act) === text ? act : undefined;
  } catch {
    return undefined;
  }
}

/** The Statement's text, or undefined for one that is left to `buildStatement`. For the tests' comparison. */
export function lineText(act: AnyAct): string | undefined {
  try {
    const fields = fieldsText(act);
    const text =
      `{"_type":"https://in-toto.io/Statement/v1","predicate":{"blobs":${none(act.blobs)},"fields":${fields},` +
      `${act.grant === undefined ? "" : `"grant":${refText(act.grant)},`}"origin":"${is(ORIGIN, act.origin)}",` +
      `"party":"${is(PARTY, act.party)}","prev":[${list(act.prev, 8).map(prevText).join(",")}],` +
      `"retryKey":"${is(HASH, act.retryKey)}","time":"${is(TIME, act.time)}"},` +
      `"predicateType":"urn:countersign:act:${act.type}:v1","subject":[${only(act.subject, 1).map(subjectText).join(",")}]}`;
    counted(act, act.grant === undefined ? 9 : 10);
    return text.length <= 65_535 ? text : undefined;
  } catch (error) {
    if (error === UNFIT || error instanceof TypeError) return undefined;
    throw error;
  }
}

const UNFIT = new Error("left to buildStatement");

function fieldsText(act: AnyAct): string {
  if (act.type === "certified") return certifiedText(act);
  if (act.type === "built") return builtText(act);
  if (act.type === "installed") return installedText(act);
  throw UNFIT;
}

function certifiedText({ fields }: Act<"certified">): string {
  const { certificate, intake, intent, lot, profile, purpose, slot } = counted(fields, 7);
  if (purpose !== "initial" && purpose !== "renewal") throw UNFIT;
  counted(intent, 3);
  counted(profile, 2);
  return (
    `{"certificate":"${is(CERTIFICATE, certificate)}","intake":${intakeText(intake)},` +
    `"intent":{"index":${count(intent.index)},"leafHash":"${is(HASH, intent.leafHash)}","path":${pathText(intent.path)}},` +
    `"lot":"${is(LOT, lot)}","profile":{"name":"${is(PROFILE, profile.name)}","sha256":"${is(HASH, profile.sha256)}"},` +
    `"purpose":"${purpose}","slot":${is(SLOT, slot)}}`
  );
}

function builtText({ fields }: Act<"built">): string {
  const { csrSha256, intake, lot, slot, spki } = counted(fields, 5);
  return (
    `{"csrSha256":"${is(HASH, csrSha256)}","intake":${intakeText(intake)},"lot":"${is(LOT, lot)}",` +
    `"slot":${is(SLOT, slot)},"spki":"${is(SPKI, spki)}"}`
  );
}

function installedText({ fields }: Act<"installed">): string {
  const { intake, lot, place, slot, technician, time } = counted(fields, 6);
  return (
    `{"intake":${intakeText(intake)},"lot":"${is(LOT, lot)}","place":"${is(HASH, place)}","slot":${is(SLOT, slot)},` +
    `"technician":"${is(HASH, technician)}","time":"${is(HASH, time)}"}`
  );
}

function intakeText(intake: Act<"built">["fields"]["intake"]): string {
  if (intake.kind !== "manifest") throw UNFIT;
  const { digest, index, path } = counted(intake, 4);
  return `{"digest":"${is(HASH, digest)}","index":${count(index)},"kind":"manifest","path":${pathText(path)}}`;
}

function prevText(prev: AnyAct["prev"][number]): string {
  const { leafHash, listIndex, origin: log, path } = prev;
  counted(prev, 2 + (listIndex === undefined ? 0 : 1) + (path === undefined ? 0 : 1));
  return (
    `{"leafHash":"${is(HASH, leafHash)}",${listIndex === undefined ? "" : `"listIndex":${count(listIndex)},`}` +
    `"origin":"${is(ORIGIN, log)}"${path === undefined ? "" : `,"path":${pathText(path)}`}}`
  );
}

function refText(ref: NonNullable<AnyAct["grant"]>): string {
  const { leafHash, origin: log } = counted(ref, 2);
  return `{"leafHash":"${is(HASH, leafHash)}","origin":"${is(ORIGIN, log)}"}`;
}

function subjectText(subject: AnyAct["subject"][number]): string {
  const { digest, name } = counted(subject, 2);
  return `{"digest":{"sha256":"${is(HASH, counted(digest, 1).sha256)}"},"name":"${is(DEVICE, name)}"}`;
}

function pathText(path: readonly string[]): string {
  let text = "";
  for (const hash of list(path, 63)) text += `${text === "" ? "" : ","}"${is(HASH, hash)}"`;
  return `[${text}]`;
}

/** Knows a value of a schema that has no character which JSON escapes. `seen` spares what every act of a batch repeats. */
interface Known {
  readonly fits: (value: string | number) => boolean;
  readonly repeats: boolean;
  seen?: string | number;
}
const bySchema = (schema: { safeParse(value: unknown): { success: boolean } }) => (value: string | number) =>
  schema.safeParse(value).success;
const byPattern = (pattern: RegExp) => (value: string | number) => typeof value === "string" && pattern.test(value);

// As in primitives.ts, without a schema's machinery around it: an act has some twenty.
const HASH: Known = { fits: byPattern(/^[0-9a-f]{64}$/), repeats: false };
const DEVICE: Known = { fits: byPattern(DEVICE_ID), repeats: false };
const PARTY: Known = { fits: byPattern(PARTY_ID), repeats: true };
const LOT: Known = { fits: byPattern(LOT_ID), repeats: true };
const ORIGIN: Known = { fits: bySchema(origin), repeats: true };
const TIME: Known = { fits: bySchema(timestamp), repeats: true };
const PROFILE: Known = { fits: bySchema(profileRef.shape.name), repeats: true };
const SLOT: Known = { fits: bySchema(slotNumber), repeats: false };
const SPKI: Known = { fits: bySchema(ACT_FIELDS.built.shape.spki), repeats: false };
const CERTIFICATE: Known = { fits: bySchema(ACT_FIELDS.certified.shape.certificate), repeats: false };

function is<T extends string | number>(known: Known, value: T): T {
  if (known.repeats && value === known.seen) return value;
  if (!known.fits(value)) throw UNFIT;
  if (known.repeats) known.seen = value;
  return value;
}

function count(value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw UNFIT;
  return value;
}

/** Exactly these fields: one that a schema doesn't know is refused there, not left out here. */
function counted<T extends object>(value: T, fields: number): T {
  let own = 0;
  for (const _ in value) own++;
  if (own !== fields) throw UNFIT;
  return value;
}

/** Array.isArray, without making the items `any`. */
function isList(values: unknown): boolean {
  return Array.isArray(values);
}

function list<T>(values: readonly T[], most: number): readonly T[] {
  if (!isList(values) || values.length > most) throw UNFIT;
  return values;
}

function only<T>(values: readonly T[], length: number): readonly T[] {
  if (!isList(values) || values.length !== length) throw UNFIT;
  return values;
}

function none(values: readonly unknown[]): string {
  return only(values, 0).length === 0 ? "[]" : "";
}
