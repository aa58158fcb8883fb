import { CountersignError } from "../lib/domain/errors.ts";
import type { Results, Work } from "./connector-protocol.ts";
import { Connector } from "./connector.ts";
import type { Handle } from "./cryptoki.ts";
import { ckrOf, hsmError, isSessionLost, isTokenLost } from "./errors.ts";
import type { KeyName, TokenKeyPair } from "./keys.ts";
import type { HsmLimits } from "./limits.ts";
import type { Pkcs11Module } from "./module.ts";
import { pinAccess, rememberRefused } from "./pin-guard.ts";
import type { PinSource } from "./pin.ts";
import type { SessionSource } from "./session-source.ts";
import type { TokenSlot } from "./slots.ts";
import type { OpenRequest } from "./token-access.ts";

/** One connector a module: its work is the whole process's, as the module is. */
const connectors = new WeakMap<Pkcs11Module, Connector>();

function connectorOf(module: Pkcs11Module): Connector {
  let connector = connectors.get(module);
  if (connector === undefined) {
    connector = new Connector(module);
    connectors.set(module, connector);
  }
  return connector;
}

/** Restarts of the module that didn't help are this far apart at most; ms */
const MAX_RESTART_GAP_MS = 30_000;
/** How long calls under way may take to end before a restart is put off; ms */
const RESTART_WAIT_MS = 1_000;
/**
 * A SoftHSM token is a file, and another process's login writes to it: who looks in that moment is told
 * CKR_GENERAL_ERROR, and it is over at once. In a row of failures the first looks aren't believed, after these times in
 * ms; every further one is, so that a lasting fault costs this wait once.
 */
const LOOK_AGAIN_MS = [20, 100];

/** The way to one token: finds it, opens sessions, logs in, looks keys up, and notices when all of that is lost. */
export class TokenLink implements SessionSource {
  readonly module: Pkcs11Module;
  readonly #uri: string;
  readonly #pin: PinSource;
  readonly #limits: HsmLimits;
  readonly #connector: Connector;
  readonly #closing = new Set<Promise<unknown>>();
  #slot: TokenSlot | undefined;
  #last: TokenSlot | undefined;
  #proven = false;
  #epoch = 0;
  #generation: number;
  /** handles of earlier epochs were numbered by an earlier initialisation of the module */
  #firstEpoch = 0;
  #restartAt = 0;
  #restarts = 0;
  #unreadable = 0;

  constructor(module: Pkcs11Module, uri: string, pin: PinSource, limits: HsmLimits) {
    this.module = module;
    this.#uri = uri;
    this.#pin = pin;
    this.#limits = limits;
    this.#connector = connectorOf(module);
    this.#generation = module.generation;
  }

  get label(): string {
    return this.#last?.label ?? this.#uri.replace("pkcs11:token=", "");
  }

  get serial(): string {
    return this.#last?.serial ?? "";
  }

  get epoch(): number {
    if (this.#generation !== this.module.generation) {
      this.#generation = this.module.generation;
      this.#forget();
      this.#firstEpoch = this.#epoch;
    }
    return this.#epoch;
  }

  /** Sessions and handles of that epoch no longer hold: what is needed is opened and looked up anew. */
  lost(epoch: number): void {
    if (epoch === this.epoch) this.#forget();
  }

  #forget(): void {
    this.#epoch++;
    // The token may come back in another slot.
    this.#slot = undefined;
  }

  async open(flags = 0): Promise<Handle> {
    const epoch = this.epoch;
    const { session, slot } = await this.#run(() => ({ op: "open", access: this.#access(flags) }));
    if (this.#last !== undefined && slot.serial !== this.#last.serial) {
      this.close(session, epoch);
      throw new CountersignError(
        "hsm-token-missing",
        `token "${slot.label}" has serial ${slot.serial} now instead of ${this.#last.serial}: another token was put in ` +
          "its place; restart this process if that was meant",
        { details: { token: slot.label } },
      );
    }
    this.#last = slot;
    this.#proven = true;
    if (epoch === this.epoch) this.#slot = slot;
    return session;
  }

  /** @returns undefined when the token has no such private key */
  find(name: KeyName): Promise<TokenKeyPair | undefined> {
    return this.#run(() => ({ op: "find", access: this.#access(0), name }));
  }

  count(label: string): Promise<number> {
    return this.#run(() => ({ op: "count", access: this.#access(0), label }));
  }

  close(handle: Handle, epoch: number): void {
    // After the module was initialised anew, the number may be another session's.
    if (this.epoch >= this.#firstEpoch && epoch < this.#firstEpoch) return;
    const closing = this.#connector
      .run(() => ({ op: "close", sessions: [handle] }), this.label, this.#limits.callTimeoutMs)
      .catch(() => undefined)
      .finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  /** Waits until every session is closed, or can't be. */
  async closed(): Promise<void> {
    await Promise.all(this.#closing);
  }

  /** The token answered. */
  answered(): void {
    this.#restarts = 0;
    this.#restartAt = 0;
  }

  /** After a failure: initialises the module anew where that may bring the token back, more and more rarely. */
  async recover(error: unknown): Promise<void> {
    if (!isTokenLost(error) || Date.now() < this.#restartAt) return;
    this.#restartAt = Date.now() + Math.min(this.#limits.retryAfterMs * 2 ** this.#restarts++, MAX_RESTART_GAP_MS);
    try {
      await this.module.restart(Math.min(RESTART_WAIT_MS, this.#limits.callTimeoutMs));
    } catch (cause) {
      throw hsmError(cause, { doing: "initialise the PKCS#11 module", token: this.label, module: this.module.path });
    }
  }

  #access(flags: number): OpenRequest {
    const pin = pinAccess(this.module.path, this.#pin);
    return { uri: this.#uri, slot: this.#slot, flags, pin, prove: !this.#proven };
  }

  async #run<W extends Work>(work: () => W): Promise<Results[W["op"]]> {
    for (;;) {
      const { epoch } = this;
      try {
        const result = await this.#connector.run(work, this.label, this.#limits.callTimeoutMs, (refused) => {
          rememberRefused(this.module.path, refused);
        });
        this.#unreadable = 0;
        return result;
      } catch (error) {
        const pauseMs = ckrOf(error) === "CKR_GENERAL_ERROR" ? LOOK_AGAIN_MS[this.#unreadable++] : undefined;
        if (pauseMs === undefined) {
          if (isSessionLost(error)) this.lost(epoch);
          throw error;
        }
        await new Promise((wake) => setTimeout(wake, pauseMs));
      }
    }
  }
}
