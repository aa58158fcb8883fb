import { type CaKey, openToken, type Token, type TokenConfig } from "../../../hsm/index.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { lintCrl } from "../../../lib/pki/crl.ts";
import type { IssuerInfo } from "../../../lib/pki/issuer.ts";
import { lintTbs } from "../../../lib/pki/lint.ts";
import { profileNamed } from "../../../lib/pki/profiles.ts";
import { type FromProcess, type Job, type Outcome, type Sign, type ToProcess, toWire } from "./protocol.ts";

/**
 * One issuing process: its own login to the CA's token, its own sessions. Started by issuing-process.ts, it ends when
 * the channel to its site closes. An HSM that is away is no reason to end: jobs are answered with why, until it is back.
 */

let config: TokenConfig | undefined;
let opening: Promise<Token> | undefined;
let token: Token | undefined;
const keys = new Map<string, Promise<CaKey>>();

/** A refused PIN is remembered by the hsm room, so that trying again never offers it twice. */
async function openedToken(): Promise<Token> {
  if (config === undefined)
    throw new CountersignError("internal", "an issuing process was given work before its token");
  opening ??= openToken(config);
  try {
    return (token = await opening);
  } catch (error) {
    opening = undefined;
    throw error;
  }
}

function keyLabelled(label: string): Promise<CaKey> {
  let key = keys.get(label);
  if (key === undefined) {
    key = openedToken().then((opened) => opened.caKey(label));
    keys.set(label, key);
    // A key that isn't there yet may be there at the next request.
    key.catch(() => keys.delete(label));
  }
  return key;
}

async function perform(job: Job, issuers: readonly IssuerInfo[]): Promise<Outcome> {
  const { id } = job;
  try {
    const key = await keyLabelled(job.label);
    switch (job.kind) {
      case "describe":
        return { id, key: { spki: key.spki, algorithm: key.algorithm } };
      case "request":
        return { id, der: await key.signRequest(job.subject) };
      case "crl":
        return { id, der: await key.signCrl(lintCrl(job.tbs, issuers[job.issuer]!)) };
      case "certificate": {
        const linted = lintTbs(job.tbs, profileNamed(job.profile), issuers[job.issuer]!);
        return { id, der: await key.signCertificate(linted) };
      }
      default:
        job satisfies never;
        throw new CountersignError("input-invalid", "an issuing process signs certificates, CRLs and its own requests");
    }
  } catch (error) {
    return { id, error: toWire(error) };
  }
}

function send(message: FromProcess): void {
  if (process.connected) process.send!(message, undefined, undefined, () => undefined);
}

/** A message costs as much as half a signature: while there is more to come, several outcomes share one. */
const TOGETHER = 32;
const GATHER_MS = 2;
let underWay = 0;
let finished: Outcome[] = [];
let gathering: NodeJS.Timeout | undefined;

function answer(outcome: Outcome): void {
  underWay--;
  finished.push(outcome);
  if (underWay === 0 || finished.length >= TOGETHER) sendFinished();
  else gathering ??= setTimeout(sendFinished, GATHER_MS);
}

function sendFinished(): void {
  clearTimeout(gathering);
  gathering = undefined;
  const outcomes = finished;
  finished = [];
  if (outcomes.length === 0) return;
  send({ type: "outcomes", outcomes, ...(outcomes.some((one) => "error" in one) ? { health: token?.health() } : {}) });
}

function sign({ jobs, issuers }: Sign): void {
  underWay += jobs.length;
  for (const job of jobs) void perform(job, issuers).then(answer);
}

process.on("message", (message: ToProcess) => {
  switch (message.type) {
    case "configure":
      config = message.token;
      openedToken().then(
        () => send({ type: "ready" }),
        (error: unknown) => send({ type: "ready", error: toWire(error) }),
      );
      return;
    case "sign":
      sign(message);
      return;
    case "ping":
      // Work goes where the token answers: without this one, a circuit that opened here would never be tried again.
      if (token !== undefined && token.health().circuit !== "closed") token.hasKey("ca").catch(() => undefined);
      send({ type: "pong", health: token?.health() });
      return;
  }
});
// A terminal's Ctrl-C reaches the whole group; the site decides when its processes end.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);
process.on("disconnect", () => {
  const ending = token?.close() ?? Promise.resolve();
  void ending.finally(() => process.exit(0));
});
