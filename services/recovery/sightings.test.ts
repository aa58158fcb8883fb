import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { utf8 } from "../../lib/domain/bytes.ts";
import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { formatPolicy, parsePolicy } from "../../lib/ledger/policy.ts";
import { MemoryLog, opensslVerify, testKey } from "../../test/support/memory-log.ts";
import { ledgerSightings } from "./sightings.ts";

/** A database that was restored on a machine without the ledger's copy: only the witnesses can tell. */
describe("witnesses of a ledger that has no copy beside its database", () => {
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
  });

  type Answer = "knows" | "denies" | "silent";
  async function sightings(threshold: number | "all" | "any", answers: readonly Answer[]) {
    const log = new MemoryLog("factory-y.example/log");
    const note = await log.append([utf8("one"), utf8("two")]);
    const urls = new Map<NoteKey, string>();
    for (const [i, answer] of answers.entries()) {
      const server = createServer((_request, response) => {
        if (answer === "knows") return void response.end(note);
        response.writeHead(answer === "denies" ? 404 : 503).end();
      });
      await new Promise<void>((up) => server.listen(0, "127.0.0.1", up));
      servers.push(server);
      const key = noteKey(`w${i}.example/witness`, KEY_TYPE.cosignature, ed25519Raw(testKey("ed25519").spki));
      urls.set(key, `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    }
    const policy = parsePolicy(formatPolicy(log.key, [...urls.keys()], threshold, urls));
    const options = { log: log.key, spki: log.signer.spki, verify: opensslVerify, copy: undefined };
    return ledgerSightings({ ...options, policy: async () => policy }, { size: 1 }).then(
      (seen) => seen.map(({ size }) => size),
      (error: { code: string }) => error.code,
    );
  }

  it("are told apart from one that denies what it knows, while the others can't be asked", async () => {
    const [missing, knows, denies, silent] = ["witnesses-missing", "knows", "denies", "silent"] as const;
    // Both had cosigned what was released: one that denies it is contradicted by the other, if that one answers.
    expect(await sightings("all", [denies, silent])).toBe(missing);
    expect(await sightings("all", [denies, knows])).toEqual([2]);
    expect(await sightings("all", [silent, silent])).toBe(missing);
    // Any one of them might have been the one.
    expect(await sightings("any", [denies, denies, silent])).toBe(missing);
    expect(await sightings("any", [denies, denies, knows])).toEqual([2]);
    expect(await sightings("any", [denies, denies, denies])).toEqual([]);
    // Two of three: the third and the one that denies it may have been the two.
    expect(await sightings(2, [denies, denies, silent])).toBe(missing);
    expect(await sightings(3, [denies, knows, denies, knows, silent])).toEqual([2, 2]);
    expect(await sightings(3, [denies, knows, denies, silent, silent])).toBe(missing);
  });
});
