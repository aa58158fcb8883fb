import type { AddressInfo } from "node:net";
import { pino } from "pino";
import { createPlainServer, type HttpServer } from "../../apps/http/server.ts";
import { registerWitness } from "../../apps/gateway/routes/witness.ts";
import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { Witness } from "../../services/witness/witness.ts";
import type { Db } from "../../store/db.ts";
import { opensslVerify, testKey, type TestKey } from "./memory-log.ts";

/** A witness on a port of its own, which can be taken away and brought back. */
export class TestWitness {
  readonly signer: TestKey = testKey("ed25519");
  readonly key: NoteKey;
  readonly db: Db;
  readonly logs: readonly NoteKey[];
  /** what it answered */
  readonly statuses: number[] = [];
  #app: HttpServer | undefined;
  #port = 0;

  constructor(name: string, db: Db, ...logs: readonly NoteKey[]) {
    this.key = noteKey(name, KEY_TYPE.cosignature, ed25519Raw(this.signer.spki));
    this.db = db;
    this.logs = logs;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}/witness`;
  }

  async up(): Promise<void> {
    const { key, signer, db, logs } = this;
    const witness = new Witness({ db, name: key.name, signer, verify: opensslVerify, logKeys: async () => [...logs] });
    const addCheckpoint = async (body: Uint8Array) => {
      const answer = await witness.addCheckpoint(body);
      this.statuses.push(answer.status);
      return answer;
    };
    this.#app = createPlainServer({ logger: pino({ level: "silent" }), bodyLimit: 1024 });
    registerWitness(this.#app, { witness: { addCheckpoint }, db });
    await this.#app.listen({ host: "127.0.0.1", port: this.#port });
    this.#port = (this.#app.server.address() as AddressInfo).port;
  }

  async down(): Promise<void> {
    this.#app?.server.closeAllConnections();
    await this.#app?.close();
    this.#app = undefined;
  }
}
