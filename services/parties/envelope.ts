import { fromUtf8 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { parseDsse, PAYLOAD_TYPES, signDsse, type OpenedDsse } from "../../lib/records/dsse.ts";
import {
  BODIES,
  message as messageSchema,
  type Body,
  type Message,
  type MessageType,
} from "../../lib/records/message.ts";
import { sha256Hex } from "../ledger/sha256.ts";

/** The wire format of envelopes: the DSSE envelope as one line of JSON, a line feed, the body's bytes. */

export const ENVELOPE_MEDIA_TYPE = "application/vnd.countersign.envelope";
/** A DSSE envelope around a message; its body isn't in it. */
export const MAX_ENVELOPE_BYTES = 8192;
export const MAX_BODY_BYTES = 64 << 20;
/** Only a list of devices is long. A stranger may send a join: what it says is parsed before anybody is known. */
const MAX_BODIES: Readonly<Record<MessageType, number>> = {
  join: 256 << 10,
  delegation: 512 << 10,
  acceptance: 128 << 10,
  "grant-refused": 8 << 10,
  rotation: 16 * 1024,
  "handoff-release": MAX_BODY_BYTES,
  "handoff-receipt": 128 << 10,
  recovered: 128 << 10,
};

const LINE_FEED = 0x0a;

export interface SignedEnvelope {
  /** the exact DSSE bytes: what is stored, digested and sent */
  readonly bytes: Uint8Array;
  readonly sha256: string;
}

/** @throws CountersignError `envelope-invalid` for a message that no receiver would read, and what the signer throws */
export async function signEnvelope(content: Message, signer: Signer): Promise<SignedEnvelope> {
  const checked = messageSchema.safeParse(content);
  if (!checked.success) {
    throw new CountersignError("envelope-invalid", "the message to send is malformed", { cause: checked.error });
  }
  const bytes = await signDsse(PAYLOAD_TYPES.message, canonicalJson(checked.data), signer, content.keyId);
  return { bytes, sha256: sha256Hex(bytes) };
}

export function encodeWire(envelope: Uint8Array, body: Uint8Array): Uint8Array {
  return Buffer.concat([envelope, Uint8Array.of(LINE_FEED), body]);
}

/** What comes before the body: who sends what to whom, and which bytes will follow. */
export interface EnvelopeHead {
  readonly message: Message;
  readonly dsse: OpenedDsse;
  readonly bytes: Uint8Array;
  readonly sha256: string;
}
export interface ReceivedEnvelope extends EnvelopeHead {
  readonly body: Uint8Array;
}

/**
 * Takes what arrived apart. Whose it is and whether the body is the one that was signed for isn't known yet.
 * @throws CountersignError `envelope-invalid`, `input-too-large`
 */
export function readWire(wire: Uint8Array): ReceivedEnvelope {
  const { line, body } = splitWire(wire);
  const head = readHead(line);
  assertSize(head.message, body.length);
  return { ...head, body };
}

/** @throws CountersignError `envelope-invalid` */
export function splitWire(wire: Uint8Array): { line: Uint8Array; body: Uint8Array } {
  const end = wire.subarray(0, MAX_ENVELOPE_BYTES + 1).indexOf(LINE_FEED);
  if (end < 0) {
    throw new CountersignError(
      "envelope-invalid",
      `the envelope doesn't end with a line feed within ${MAX_ENVELOPE_BYTES} bytes`,
    );
  }
  return { line: wire.slice(0, end), body: wire.subarray(end + 1) };
}

/** @throws CountersignError `envelope-invalid` */
export function readHead(bytes: Uint8Array): EnvelopeHead {
  const dsse = parseDsse(bytes, PAYLOAD_TYPES.message, MAX_ENVELOPE_BYTES);
  return { message: readMessage(dsse.payload), dsse, bytes, sha256: sha256Hex(bytes) };
}

/** @throws CountersignError `input-too-large` */
export function assertSize({ type }: Message, size: number): void {
  const limit = MAX_BODIES[type];
  if (size <= limit) return;
  throw new CountersignError("input-too-large", `the body of a ${type} message has at most ${limit} bytes`);
}

function readMessage(payload: Uint8Array): Message {
  try {
    return messageSchema.parse(JSON.parse(fromUtf8(payload)));
  } catch (cause) {
    throw new CountersignError("envelope-invalid", "the envelope holds no message of schema 1", { cause });
  }
}

/** @throws CountersignError `envelope-invalid` when the body isn't one of that type */
export function readBody<T extends MessageType>(type: T, body: Uint8Array): Body<T> {
  try {
    return BODIES[type].parse(JSON.parse(fromUtf8(body))) as Body<T>;
  } catch (cause) {
    throw new CountersignError("envelope-invalid", `the body isn't one of a ${type} message`, { cause });
  }
}
