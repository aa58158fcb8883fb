import { fromBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { signatureAlgorithmForKey } from "../../lib/pki/algorithms.ts";
import { keyAlgorithmOf, keyId } from "../../lib/pki/spki.ts";
import { verifyDsse } from "../../lib/records/dsse.ts";
import type { Body, Message, MessageType } from "../../lib/records/message.ts";
import { inTransaction, type Db, type Tx } from "../../store/db.ts";
import {
  findInbox,
  findInboxByNumber,
  lockInPosition,
  moveInPosition,
  storeInbox,
  type InboxMessage,
} from "../../store/messages.ts";
import { findPeer, lockInvitation, type Peer } from "../../store/parties.ts";
import type { JoinedChild } from "../../store/delegations.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { assertSize, readBody, readHead, splitWire, type EnvelopeHead, type ReceivedEnvelope } from "./envelope.ts";
import { admitChild, checkInvitation, checkJoin } from "./join.ts";
import { admitRotation } from "./rotation-request.ts";
import { author, openSignedAct } from "./signed-act.ts";

/** The same for the first delivery and every repetition of it. */
export interface InboxAnswer {
  readonly id: string;
  readonly sequence: number;
  readonly state: "stored";
}

/** An envelope whose line is read, and whose body isn't. */
export interface OpenedEnvelope {
  /** the known party that signed it; undefined for a stranger's join, of which nothing is authenticated yet */
  readonly peer: string | undefined;
  /** how long its body is said to be, within the limit of its type */
  readonly size: number;
  readonly take: (body: Uint8Array) => Promise<InboxAnswer>;
}

/** Who may send what to this site. */
const SENDERS: Readonly<Record<MessageType, readonly Peer["direction"][]>> = {
  join: [],
  delegation: ["parent"],
  acceptance: ["child"],
  "grant-refused": ["child"],
  rotation: ["child"],
  "handoff-release": ["parent", "child"],
  "handoff-receipt": ["parent", "child"],
  recovered: ["parent", "child"],
};

export interface InboxOptions {
  readonly db: Db;
  readonly party: string;
  readonly verify: VerifySignature;
  readonly now?: () => Date;
}

/**
 * Takes envelopes in. An answer means: authenticated, in order, and durable; what it causes happens afterwards
 * (applier.ts). A repeated envelope gets the first answer and changes nothing.
 */
export class Inbox {
  readonly #options: InboxOptions;

  constructor(options: InboxOptions) {
    this.#options = options;
  }

  /**
   * @throws CountersignError `envelope-invalid`, `input-too-large` (malformed); `envelope-forged` (not the sender's, not
   *   for us, or not the body it was signed for); `envelope-replayed` (its number or id holds another envelope);
   *   `envelope-out-of-order`; `envelope-expired`; `sender-unknown`; of a recovery `act-invalid`; of a join also `invitation-invalid`,
   *   `invitation-spent`, `possession-unproven` and what the CSR and keyset checks throw. Nothing is kept then.
   */
  async receive(wire: Uint8Array): Promise<InboxAnswer> {
    const { line, body } = splitWire(wire);
    return (await this.open(line)).take(body);
  }

  /**
   * Reads the line before the body: a known party's is authenticated by it; a stranger's can only be a join's. What it
   * announces is within its limit, so that a caller may wait for that much and no more.
   * @throws CountersignError those of {@link receive} that the line alone decides
   */
  async open(line: Uint8Array): Promise<OpenedEnvelope> {
    const head = readHead(line);
    const { message } = head;
    if (message.receiver !== this.#options.party) {
      throw new CountersignError(
        "envelope-forged",
        `the envelope is addressed to ${message.receiver}, not to this site`,
      );
    }
    const { size } = message.body;
    const peer = await findPeer(this.#options.db, message.sender);
    if (peer) {
      await this.#authenticate(peer.actSpki, head);
      assertSize(message, size);
      return { peer: peer.party, size, take: (body) => this.#fromPeer(peer, { ...head, body }) };
    }
    if (message.type === "join") {
      assertSize(message, size);
      return { peer: undefined, size, take: (body) => this.#fromStranger({ ...head, body }) };
    }
    throw new CountersignError("sender-unknown", `this site exchanges no envelopes with ${message.sender}: join first`);
  }

  async #fromPeer(peer: Peer, envelope: ReceivedEnvelope): Promise<InboxAnswer> {
    const { message } = envelope;
    assertBody(envelope);
    if (message.type === "recovered") await this.#checkRecovery(peer, envelope.body);
    return inTransaction(this.#options.db, async (tx) => {
      const repeated = await this.#takeNumber(tx, envelope);
      if (repeated) return answerTo(message);
      if (!SENDERS[message.type].includes(peer.direction)) {
        throw new CountersignError("unauthorized", `${peer.party}, a ${peer.direction}, sends no ${message.type} here`);
      }
      readBody(message.type, envelope.body);
      // Refused at once, or begun with the message: the child hears of it with the answer.
      if (message.type === "rotation") {
        await admitRotation(tx, peer.party, readBody("rotation", envelope.body), this.#options.verify);
      }
      await this.#store(tx, envelope);
      return answerTo(message);
    });
  }

  /** What was sent before goes out again for nobody who doesn't say, for its own ledger, that it was restored. */
  async #checkRecovery(peer: Peer, body: Uint8Array): Promise<void> {
    const { act } = readBody("recovered", body);
    await openSignedAct(fromBase64(act), { ...author(peer), type: "recovered" }, this.#options.verify);
  }

  /** Only a join, and only by an invitation: its cheap checks come before every signature and every byte kept. */
  async #fromStranger(envelope: ReceivedEnvelope): Promise<InboxAnswer> {
    const { message } = envelope;
    const now = this.#now();
    assertBody(envelope);
    const body = readBody("join", envelope.body);
    await inTransaction(this.#options.db, async (tx) => {
      const invitation = await lockInvitation(tx, body.invitation);
      // Somebody else's join may be just committing it: then the sender is a peer by now, and asked as one below.
      if (invitation?.spent !== null && invitation?.party === message.sender && (await findPeer(tx, message.sender))) {
        return;
      }
      checkInvitation(invitation, { sender: message.sender, nonce: body.nonce, now });
    });
    await this.#authenticate(fromBase64(body.contact.act), envelope);
    const checked = await checkJoin(message.sender, body, this.#options.verify);
    return inTransaction(this.#options.db, (tx) => this.#admit(tx, envelope, checked, body, now));
  }

  async #admit(
    tx: Tx,
    envelope: ReceivedEnvelope,
    checked: JoinedChild,
    body: Body<"join">,
    now: Date,
  ): Promise<InboxAnswer> {
    const { message } = envelope;
    // Two deliveries of one join meet at the invitation's lock; the later one finds the number taken.
    await lockInvitation(tx, body.invitation);
    if (await findPeer(tx, message.sender)) {
      if (await this.#takeNumber(tx, envelope)) return answerTo(message);
      throw new CountersignError("state-conflict", `${message.sender} has joined this site already`);
    }
    await admitChild(tx, { checked, body, message: message.id, now });
    await this.#takeNumber(tx, envelope);
    await this.#store(tx, envelope);
    return answerTo(message);
  }

  async #authenticate(spki: Uint8Array, { message, dsse }: EnvelopeHead): Promise<void> {
    const key = { spki, keyId: keyId(spki), algorithm: signatureAlgorithmForKey(keyAlgorithmOf(spki)) };
    if (message.keyId === key.keyId && (await verifyDsse(dsse, key, this.#options.verify))) return;
    throw new CountersignError("envelope-forged", `the envelope isn't signed by the act key of ${message.sender}`);
  }

  /** True for a repetition of a stored envelope; otherwise its number must be the sender's next. */
  async #takeNumber(tx: Tx, { message, sha256 }: ReceivedEnvelope): Promise<boolean> {
    const last = await lockInPosition(tx, message.sender);
    const held = await findInboxByNumber(tx, message.sender, message.epoch, message.sequence);
    if (held?.envelopeSha256 === sha256) return true;
    // A sender whose database was restored begins again, under an epoch of its own for that.
    const anew = last !== undefined && message.epoch > last.epoch && message.sequence === 1;
    const next = anew || (message.epoch === last?.epoch && message.sequence === last.sequence + 1);
    const follows = next && message.previous === (anew ? null : last!.digest);
    const known = await findInbox(tx, message.id);
    if (!held && follows && known && isSame(known, message)) {
      // It doesn't know any more that it sent this one before; its numbers go on.
      await moveInPosition(tx, message.sender, { ...message, digest: sha256 });
      return true;
    }
    if (held || known) {
      throw new CountersignError(
        "envelope-replayed",
        `number ${message.sequence} (or its message id) of ${message.sender} holds another envelope`,
      );
    }
    if (!next) {
      throw new CountersignError(
        "envelope-out-of-order",
        `envelope ${message.epoch}/${message.sequence} of ${message.sender} isn't the next one`,
        { details: { epoch: last?.epoch ?? 1, next: (last?.sequence ?? 0) + 1 } },
      );
    }
    if (!follows) {
      throw new CountersignError("envelope-forged", `the envelope doesn't follow the last one of ${message.sender}`);
    }
    if (Date.parse(message.expires) <= this.#now().getTime()) {
      throw new CountersignError("envelope-expired", `the envelope expired at ${message.expires}; send it anew`);
    }
    return false;
  }

  async #store(tx: Tx, { message, bytes, sha256, body }: ReceivedEnvelope): Promise<void> {
    await storeInbox(tx, {
      id: message.id,
      sender: message.sender,
      epoch: message.epoch,
      sequence: message.sequence,
      type: message.type,
      inReplyTo: message.inReplyTo ?? null,
      envelope: bytes,
      envelopeSha256: sha256,
      body,
    });
  }

  #now(): Date {
    return this.#options.now?.() ?? new Date();
  }
}

/** What was sent before the sender's recovery and is sent once more after it. */
function isSame(known: InboxMessage, { sender, epoch, type, body }: Message): boolean {
  const earlier = known.sender === sender && known.epoch < epoch;
  return earlier && known.type === type && sha256Hex(known.body) === body.sha256;
}

function assertBody({ message, body }: ReceivedEnvelope): void {
  if (message.body.size === body.length && message.body.sha256 === sha256Hex(body)) return;
  throw new CountersignError("envelope-forged", "the body isn't the one that the envelope was signed for");
}

function answerTo(message: Message): InboxAnswer {
  return { id: message.id, sequence: message.sequence, state: "stored" };
}
