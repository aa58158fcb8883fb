import { beforeAll, describe, expect, it } from "vitest";
import { dice } from "../../test/support/fuzz.ts";
import { enlarge, witnessedPolicy } from "../../test/support/large-passport.ts";
import { MemoryLog, opensslVerify } from "../../test/support/memory-log.ts";
import { sourceOf, testWorld, type TestWorld } from "../../test/support/world.ts";
import { nodeSha256 } from "../../services/ledger/sha256.ts";
import { fromUtf8, utf8 } from "../domain/bytes.ts";
import { CountersignError, isCountersignError } from "../domain/errors.ts";
import type { Policy } from "../records/policy.ts";
import { auditLog } from "./audit-log.ts";
import { openCheckpoint } from "./checkpoint.ts";
import { gatherEvidence } from "./passport-build.ts";
import { formatPassport, packPassport } from "./passport-pack.ts";
import { verifyPassport } from "./passport.ts";
import { openUnderPolicy, parsePolicy } from "./policy.ts";
import { formatTlogProof, parseTlogProof } from "./proof.ts";
import { LogReader } from "./reader.ts";
import { leafHash, verifyInclusion } from "./tree.ts";

/** Evidence with something changed in it, by hand or by a bad disk: always a no with a reason, and soon. */

const SEED = Number(process.env["COUNTERSIGN_SEED"] ?? 20_261_122);
type Roll = ReturnType<typeof dice>;

/** One change of bytes: some other, gone, twice, from elsewhere, more, or cut. */
function mutate(bytes: Uint8Array, roll: Roll): Uint8Array {
  const at = roll(bytes.length);
  const some = 1 + roll(40);
  const put = (from: number, to: number, ...middle: Uint8Array[]) =>
    new Uint8Array(Buffer.concat([bytes.subarray(0, from), ...middle, bytes.subarray(to)]));
  switch (roll(8)) {
    case 0:
    case 1:
    case 2:
      return put(at, at + 1, Uint8Array.of(bytes[at]! ^ (1 + roll(255))));
    case 3:
      return put(at, at + some);
    case 4:
      return put(at, at, bytes.subarray(at, at + some));
    case 5:
      return put(at, at + some, bytes.subarray(roll(bytes.length)).subarray(0, some));
    case 6:
      return put(
        at,
        at,
        Uint8Array.from({ length: some }, () => roll(256)),
      );
    default:
      return bytes.slice(0, at);
  }
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** A place in a JSON document, and another value there: of its neighbours, of another type, or none. */
function mutateJson(text: string, roll: Roll): string {
  const whole = JSON.parse(text) as unknown;
  const places: { holder: Record<string, unknown>; name: string }[] = [];
  const collect = (value: unknown): void => {
    if (value === null || typeof value !== "object") return;
    for (const [name, item] of Object.entries(value)) {
      places.push({ holder: value as Record<string, unknown>, name });
      collect(item);
    }
  };
  collect(whole);
  const { holder, name } = places[roll(places.length)]!;
  const other = places[roll(places.length)]!;
  const value = holder[name];
  const choices = [
    () => (holder[name] = other.holder[other.name]),
    () => (holder[name] = typeof value === "number" ? value + 1 + roll(3) : [value]),
    () => (holder[name] = typeof value === "string" ? value.slice(1) : null),
    () => (Array.isArray(holder) ? holder.splice(Number(name), 1) : delete holder[name]),
    () => (Array.isArray(holder) ? holder.push(value) : (holder[`${name}2`] = value)),
  ];
  const was = structuredClone(holder);
  choices[roll(choices.length)]!();
  try {
    return JSON.stringify(whole);
  } catch {
    // The value was put into itself: no document.
    return JSON.stringify(was);
  }
}

/** Runs `check` on `count` changed copies; it gives a reason, or undefined for what it took. */
async function allRefused(
  count: number,
  make: (roll: Roll) => Uint8Array | undefined,
  check: (bytes: Uint8Array) => Promise<string | undefined>,
): Promise<void> {
  const roll = dice(SEED);
  for (let done = 0; done < count;) {
    const bytes = make(roll);
    if (bytes === undefined) continue;
    const began = performance.now();
    const reason = await check(bytes);
    const text = () => `number ${done} of seed ${SEED}: ${fromUtf8Loosely(bytes)}`;
    if (reason === undefined) expect.fail(`taken: ${text()}`);
    expect(reason.length, text()).toBeGreaterThan(5);
    expect(performance.now() - began, text()).toBeLessThan(5000);
    done++;
  }
}

function fromUtf8Loosely(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).slice(0, 2000);
}

async function reasonOf(work: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    if (!isCountersignError(error) || (error.kind !== "unverified" && error.kind !== "invalid")) throw error;
    return `${error.code}: ${error.message}`;
  }
}

describe("changed evidence", () => {
  const ENTRIES = 300;
  const log = new MemoryLog("factory-y.example/log");
  let world: TestWorld;
  let policy: Policy;
  let passport: Uint8Array;
  beforeAll(async () => {
    await log.append(Array.from({ length: ENTRIES }, (_, i) => utf8(`entry ${i} ${"x".repeat(i % 50)}`)));
    world = await testWorld(3);
    policy = witnessedPolicy(world);
    const evidence = await gatherEvidence("DEV-00001", await sourceOf(world));
    const large = { ...(await enlarge(evidence, world, 1_000_000)), openings: [world.place] };
    passport = formatPassport(packPassport(large, world.root.der));
    expect(await verifyPassport(passport, world.root, policy, opensslVerify)).toMatchObject({ ok: true });
  });

  const verdictOf = async (bytes: Uint8Array) => {
    const verdict = await verifyPassport(bytes, world.root, policy, opensslVerify);
    return verdict.ok ? undefined : `${verdict.code}: ${verdict.message}`;
  };
  /** Written otherwise, a document may still say the same. */
  const saysTheSame = (bytes: Uint8Array): boolean => {
    try {
      return JSON.stringify(JSON.parse(fromUtf8(bytes))) === fromUtf8(passport).trim();
    } catch {
      return false;
    }
  };

  it("is refused in 800 passports, changed as bytes", async () => {
    const make = (roll: Roll) => {
      const bytes = mutate(passport, roll);
      return saysTheSame(bytes) ? undefined : bytes;
    };
    await allRefused(800, make, verdictOf);
  }, 60_000);

  it("is refused in 400 passports, changed as JSON", async () => {
    const text = fromUtf8(passport);
    const withoutBefore = (json: string): boolean => {
      // Without its lower bounds or openings a passport says less, and nothing false.
      const strip = (from: string) =>
        JSON.stringify({
          ...(JSON.parse(from) as object),
          openings: [],
          logs: (JSON.parse(from) as { logs: object[] }).logs.map((one) => ({ ...one, before: 0 })),
        });
      try {
        return strip(json) === strip(text) && json.length < text.trim().length;
      } catch {
        return false;
      }
    };
    const make = (roll: Roll) => {
      const json = mutateJson(text, roll);
      return saysTheSame(utf8(json)) || withoutBefore(json) ? undefined : utf8(json);
    };
    await allRefused(400, make, verdictOf);
  }, 60_000);

  it("is refused in 1,400 cosigned checkpoints", async () => {
    const { logs } = JSON.parse(fromUtf8(passport)) as { logs: { party: string; checkpoint: string }[] };
    const [{ party, checkpoint }] = logs as [(typeof logs)[number]];
    const note = utf8(checkpoint);
    const pinned = parsePolicy(policy.logs[party]!);
    expect(await reasonOf(() => openUnderPolicy(note, pinned, opensslVerify))).toBeUndefined();
    const make = (roll: Roll) => {
      const bytes = mutate(note, roll);
      return same(bytes, note) ? undefined : bytes;
    };
    await allRefused(1400, make, (bytes) => reasonOf(() => openUnderPolicy(bytes, pinned, opensslVerify)));
  }, 60_000);

  it("is refused in 1,400 proofs", async () => {
    const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify });
    const index = 137;
    const leaf = leafHash(log.entries[index]!);
    const proof = formatTlogProof({
      index,
      path: await reader.inclusionProof(index),
      checkpoint: reader.checkpoint.note,
    });
    const check = (bytes: Uint8Array) =>
      reasonOf(async () => {
        const parsed = parseTlogProof(bytes);
        const { size, root } = await openCheckpoint(parsed.checkpoint, log.key, opensslVerify);
        const claim = { leafHash: leaf, index: parsed.index, size, path: parsed.path, root };
        if (!verifyInclusion(claim)) throw new CountersignError("proof-invalid", "the entry isn't included");
      });
    expect(await check(proof)).toBeUndefined();
    const make = (roll: Roll) => {
      const bytes = mutate(proof, roll);
      return same(bytes, proof) ? undefined : bytes;
    };
    await allRefused(1400, make, check);
  }, 60_000);

  it.each(["tile", "entry bundle"])(
    "is refused in 500 logs with a changed %s",
    async (what) => {
      const bundles = what === "entry bundle";
      const paths = [...log.resources.keys()].filter((p) => p !== "checkpoint" && p.includes("entries") === bundles);
      let path = "";
      const make = (roll: Roll) => {
        path = paths[roll(paths.length)]!;
        const good = log.resources.get(path)!;
        const bytes = mutate(good, roll);
        return same(bytes, good) ? undefined : bytes;
      };
      const check = async (bytes: Uint8Array) => {
        const fetch = async (asked: string) => (asked === path ? bytes : log.fetch(asked));
        const audit = await auditLog({ fetch, log: log.key, verify: opensslVerify, sha256: nodeSha256 });
        return audit.ok ? undefined : `${audit.code}: ${audit.message}`;
      };
      await allRefused(500, make, check);
    },
    60_000,
  );
});
