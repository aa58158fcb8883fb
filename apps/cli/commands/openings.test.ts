import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { countersign } from "../../../test/scenarios/countersign.ts";
import { tempDir } from "../../../test/support/index.ts";
import { sourceOf, testWorld, type TestWorld } from "../../../test/support/world.ts";
import { formatVkey } from "../../../lib/ledger/note.ts";
import { buildPassport } from "../../../lib/ledger/passport-build.ts";
import { formatPassport } from "../../../lib/ledger/passport-pack.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";

/** An auditor is shown a value beside the passport, or beside the ledgers. */

describe("--opening", () => {
  const dir = tempDir("out");
  let world: TestWorld;
  const file = (name: string, value: unknown): string => {
    const path = join(dir, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, value instanceof Uint8Array || typeof value === "string" ? value : JSON.stringify(value));
    return path;
  };
  const openings = (more: object = {}) => ({
    schema: 1,
    deviceId: "DEV-00001",
    openings: [{ ...world.place, ...more }],
  });
  beforeAll(async () => {
    world = await testWorld(2);
    const source = await sourceOf(world);
    for (const id of world.devices) file(`${id}.json`, formatPassport(await buildPassport(id, source)));
    file("root.pem", pemEncode("CERTIFICATE", world.root.der));
    file("policy.json", world.policy);
    const parties = [world.x, world.y, world.z];
    file("summary.json", { parties: parties.map(({ id, log }) => ({ id, vkey: formatVkey(log.key) })) });
    for (const { id, log } of parties) {
      for (const [path, bytes] of log.resources) file(`ledger/${id}/${path}`, bytes);
    }
    file("good.json", openings());
    file("lie.json", openings({ value: "Hall 4" }));
    file("no.json", "{}");
  });
  const verify = (device: string, shown: string, ...more: string[]) => {
    const pinned = ["--root", join(dir, "root.pem"), "--policy", join(dir, "policy.json")];
    return countersign(["verify", join(dir, `${device}.json`), ...pinned, "--opening", join(dir, shown), ...more]);
  };
  const trace = (device: string, shown: string, ...more: string[]) =>
    countersign(["trace", device, "--from", dir, "--opening", join(dir, shown), ...more]);

  it("lets verify show what an act commits to, and nothing else", async () => {
    const [shown, json, lie, other, none] = await Promise.all([
      verify("DEV-00001", "good.json"),
      verify("DEV-00001", "good.json", "--json"),
      verify("DEV-00001", "lie.json"),
      verify("DEV-00002", "good.json"),
      verify("DEV-00001", "no.json"),
    ]);
    expect(shown, shown.stderr).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('installed.place: "Hall 3"'),
    });
    expect(JSON.parse(json.stdout)).toMatchObject({
      ok: true,
      openings: [{ domain: "installed.place", value: "Hall 3" }],
    });
    // Another value, another device's act, no openings at all.
    expect([lie.code, other.code, none.code]).toEqual([1, 1, 2]);
  }, 60_000);

  it("lets trace show it in the history", async () => {
    const shown = await trace("DEV-00001", "good.json");
    expect(shown, shown.stderr).toMatchObject({ code: 0, stdout: expect.stringMatching(/installed .*place "Hall 3"/) });
    const acts = JSON.parse((await trace("DEV-00001", "good.json", "--json")).stdout) as { opened?: object }[];
    expect(acts.flatMap(({ opened }) => opened ?? [])).toEqual([{ place: "Hall 3" }]);
    expect(await trace("DEV-00002", "good.json")).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("[opening-invalid]"),
    });
  }, 60_000);
});
