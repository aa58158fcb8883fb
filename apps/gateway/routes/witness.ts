import { CountersignError } from "../../../lib/domain/errors.ts";
import { MAX_ADD_CHECKPOINT_BYTES, TLOG_SIZE_MEDIA_TYPE } from "../../../lib/ledger/add-checkpoint.ts";
import type { WitnessMemory } from "../../../services/witness/memory.ts";
import type { Witness } from "../../../services/witness/witness.ts";
import { witnessedCheckpoint } from "../../../services/witness/heads.ts";
import type { Db } from "../../../store/db.ts";
import type { HttpServer } from "../../http/server.ts";

export interface WitnessDeps {
  readonly witness: Pick<Witness, "addCheckpoint">;
  readonly witnessMemory?: WitnessMemory | undefined;
  readonly db: Db;
}

/** Requests at once: each holds a body, and a place in the queue for the token. */
const AT_ONCE = 16;

/**
 * `POST /witness/add-checkpoint` (C2SP tlog-witness): no authentication but the log's signature on the checkpoint.
 * `GET /witness/<SHA-256 of the origin, hex>/checkpoint`: what this witness last cosigned of a log, for monitors and for
 * a log that recovers.
 */
export function registerWitness(app: HttpServer, deps: WitnessDeps): void {
  let running = 0;
  void app.register(async (scope) => {
    // The specification names no media type: whatever it is sent as, the body is text.
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser("*", { parseAs: "buffer" }, (_request, body, done) => done(null, body));

    scope.post("/witness/add-checkpoint", { bodyLimit: MAX_ADD_CHECKPOINT_BYTES }, async (request, reply) => {
      if (running >= AT_ONCE) throw new CountersignError("timeout", "the witness is busy; send it again");
      running++;
      try {
        const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
        const answer = await deps.witness.addCheckpoint(body);
        reply.code(answer.status).header("cache-control", "no-store");
        if (answer.status === 200) return await reply.type("text/plain; charset=utf-8").send(answer.lines);
        if (answer.status === 409) return await reply.type(TLOG_SIZE_MEDIA_TYPE).send(`${answer.size}\n`);
        return await reply.type("text/plain; charset=utf-8").send(`${answer.message}\n`);
      } finally {
        running--;
      }
    });
  });

  app.get("/witness/:log/checkpoint", async (request, reply) => {
    const { log } = request.params as { log: string };
    const note = await witnessedCheckpoint(deps.db, deps.witnessMemory, log);
    if (note === undefined) throw new CountersignError("not-found", "this witness has cosigned no such log");
    return reply.type("text/plain; charset=utf-8").header("cache-control", "no-cache").send(Buffer.from(note));
  });
}
