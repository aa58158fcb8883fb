import { beforeAll, describe, expect, it } from "vitest";
import { parseGroupQuery } from "../../../lib/records/group-query.ts";
import { testWorld, type TestWorld } from "../../../test/support/world.ts";
import { devicesOfGroup } from "./group.ts";
import { formatVkey } from "../../../lib/ledger/index.ts";
import type { LedgerSource } from "./history.ts";

describe("devices of a group", () => {
  let world: TestWorld;
  let sources: LedgerSource[];
  beforeAll(async () => {
    world = await testWorld(3);
    sources = [world.x, world.y, world.z].map(({ id, log }) => ({
      party: id,
      vkey: formatVkey(log.key),
      fetch: log.fetch,
    }));
  });
  const found = async (query: string): Promise<string[]> =>
    (await devicesOfGroup(sources, parseGroupQuery(query))).map(({ device }) => device!);
  const all = ["DEV-00001", "DEV-00002", "DEV-00003"];

  it.each([
    ["installer = technician-z and installed > 2020-01", all],
    ["installer = technician-z and installed > 2090", []],
    ["under factory-y and builder = factory-y", all],
    ["under company-x and device = *2", []],
    ["under company-x and device in (DEV-00002, nobody)", ["DEV-00002"]],
    ["issuer = factory-y", []],
    ["not issuer = factory-y", all],
    ["expires > 2020 and profile in (idevid, ldevid)", all],
  ])("%s", async (query, expected) => {
    // A value begins with a letter or digit: a leading star is refused.
    if (query.includes("*2")) await expect(found(query)).rejects.toMatchObject({ code: "input-invalid" });
    else expect(await found(query)).toEqual(expected);
  });

  it("is of entries in the signed tree only", async () => {
    const forged = sources.map((source) => ({
      ...source,
      fetch: async (path: string) => {
        const bytes = await source.fetch(path);
        if (bytes === undefined || !path.includes("entries")) return bytes;
        const changed = Uint8Array.from(bytes);
        changed[100]! ^= 1;
        return changed;
      },
    }));
    await expect(devicesOfGroup(forged, parseGroupQuery("lot = L"))).rejects.toThrow();
  });
});
