import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { utf8 } from "../../lib/domain/bytes.ts";
import { formatAddCheckpoint } from "../../lib/ledger/add-checkpoint.ts";
import { formatVkey, KEY_TYPE, noteKey, ed25519Raw, parseVkey } from "../../lib/ledger/note.ts";
import { formatPolicy } from "../../lib/ledger/policy.ts";
import { logVkey, witnessVkey, type Identity } from "../../services/parties/identity.ts";
import { tempDir } from "../../test/support/index.ts";
import { MemoryLog, testKey } from "../../test/support/memory-log.ts";
import { siteDatabase } from "../../test/support/parties.ts";
import type { Db } from "../../store/db.ts";
import type { SiteConfig } from "./config.ts";
import { sitePolicy, witnessSides } from "./witness.ts";

/** What a site's configuration says about witnessing, both ways. */
describe("a site's witness settings", () => {
  const dir = tempDir("witness-config");
  const keys = { log: testKey("ed25519"), witness: testKey("ed25519") };
  const identity = { party: "factory-y", origin: "factory-y.example/log", ...keys } as unknown as Identity;
  const log = parseVkey(logVkey(identity));
  const other = noteKey("outside.example/w", KEY_TYPE.cosignature, ed25519Raw(testKey("ed25519").spki));
  let db: Db;
  beforeAll(async () => {
    db = await siteDatabase();
  });
  afterAll(() => db.end());
  const sides = (witness: Omit<SiteConfig["witness"], "dir">) => {
    const config = { witness: { ...witness, dir: join(dir, "memory") } } as SiteConfig;
    return witnessSides(config, db, identity, sitePolicy(config, db, identity), pino({ level: "silent" }));
  };
  const file = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };

  it("name witnesses that no parent or child is", async () => {
    const policyFile = file("policy", formatPolicy(log, [other], "all", new Map([[other, "http://127.0.0.1:9"]])));
    expect((await sides({ policyFile }).feed.status()).map(({ name, url, size }) => [name, url, size])).toEqual([
      ["outside.example/w", "http://127.0.0.1:9", 0],
    ]);
    expect(await sides({}).feed.status()).toEqual([]);
  });

  it("name logs to cosign that no parent or child has", async () => {
    const stranger = new MemoryLog("outside.example/log");
    const request = formatAddCheckpoint({ oldSize: 0, proof: [], checkpoint: await stranger.append([utf8("entry")]) });
    expect(await sides({}).witness.addCheckpoint(request)).toMatchObject({ status: 404 });
    const logsFile = file("logs", `log ${formatVkey(stranger.key)}\nquorum none\n`);
    const answer = await sides({ logsFile }).witness.addCheckpoint(request);
    expect(answer).toMatchObject({ status: 200 });
    expect(answer.status === 200 && answer.lines).toContain(`\u2014 factory-y.example/log/witness `);
  });

  it("are refused when they aren't there, aren't a policy, or count the site itself", () => {
    const own = parseVkey(witnessVkey(identity));
    const counted = formatPolicy(log, [own], "all", new Map([[own, "http://127.0.0.1:9"]]));
    for (const [settings, code] of [
      [{ policyFile: join(dir, "none") }, "component-missing"],
      [{ logsFile: join(dir, "none") }, "component-missing"],
      [{ policyFile: file("junk", "quorum\n") }, "policy-invalid"],
      [{ policyFile: file("own", counted) }, "policy-invalid"],
    ] as const) {
      expect(() => sides(settings)).toThrow(expect.objectContaining({ code }) as Error);
    }
  });
});
