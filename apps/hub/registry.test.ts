import "reflect-metadata";
import { EventEmitter } from "node:events";
import * as x509 from "@peculiar/x509";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { connect, type Db } from "../../store/db.ts";
import { migrateHub } from "../../store/hub.ts";
import { followCrl, storeCrl } from "../../store/hub-revocations.ts";
import { testDatabase } from "../../test/support/index.ts";
import { testCertificate } from "../../test/support/test-pki.ts";
import { Registry } from "./registry.ts";

let db: Db;

beforeAll(async () => {
  db = connect((await testDatabase()).url);
  await migrateHub(db);
});

afterAll(() => db?.end());

class Line extends EventEmitter {
  destroyed = false;
  destroy(): void {
    this.destroyed = true;
    this.emit("close");
  }
}

describe("looking again at who is connected", () => {
  it("ends no device that comes in while the database is asked, and has it looked at again", async () => {
    const registry = new Registry(db, pino({ level: "silent" }));
    const [coming, here] = [new Line(), new Line()];
    const entry = registry.live.enter("coming", coming);
    registry.live.enter("here", here).admitted = true;
    const looking = registry.recheck(["coming", "here"]);
    // As when its own answer overtakes: the database has it, but hadn't when it was asked.
    entry.admitted = true;
    await looking;
    expect([coming.destroyed, entry.touched]).toEqual([false, true]);
    // The database has none of them.
    expect(here.destroyed).toBe(true);
    await registry.recheck(["coming"]);
    expect(coming.destroyed).toBe(true);
  });
});

describe("looking at revocation lists", () => {
  it("reads each once, and a newer one as soon as it is there", async () => {
    const ca = await testCertificate("CN=ca", { ca: true });
    await followCrl(db, { name: "ca", url: null, issuer: ca.der });
    const bring = async (number: number, nextUpdate: Date): Promise<Uint8Array> => {
      const thisUpdate = new Date(Date.now() - 60_000 + number * 1000);
      const signing = { signingAlgorithm: { name: "ECDSA", hash: "SHA-256" }, signingKey: ca.keys.privateKey };
      const made = await x509.X509CrlGenerator.create({ issuer: ca.subject, thisUpdate, nextUpdate, ...signing });
      const der = new Uint8Array(made.rawData);
      const crl = { der, thisUpdate, nextUpdate, number: BigInt(number), issuer: ca.der };
      expect(await storeCrl(db, "ca", crl)).toBe(true);
      return der;
    };
    const query = vi.spyOn(db, "query");
    const registry = new Registry(db, pino({ level: "silent" }));
    /** How often these bytes came from the database. */
    const timesRead = async (der: Uint8Array): Promise<number> => {
      const answers = (await Promise.all(query.mock.results.map(({ value }) => value as unknown))) as {
        rows: Record<string, unknown>[];
      }[];
      query.mockClear();
      return answers
        .flatMap(({ rows }) => rows.flatMap((row) => Object.values(row)))
        .filter((value) => value instanceof Uint8Array && Buffer.compare(value, der) === 0).length;
    };
    const first = await bring(1, new Date(Date.now() - 1000));
    for (const times of [1, 0, 0]) {
      await registry.reload();
      expect(await timesRead(first)).toBe(times);
      expect(registry.staleCrls(new Date())).toBe(1);
    }
    const second = await bring(2, new Date(Date.now() + 3_600_000));
    await registry.reload();
    expect(await timesRead(second)).toBe(1);
    expect(registry.staleCrls(new Date())).toBe(0);
    query.mockRestore();
  });
});
