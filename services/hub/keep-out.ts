import { createHash } from "node:crypto";
import { sha256Hex } from "../../lib/domain/hash.ts";
import type { Db } from "../../store/db.ts";
import {
  addBlock,
  findBlock,
  removeBlock,
  standingOf,
  type BlockKind,
  type UntoldSubject,
} from "../../store/hub-blocks.ts";
import { eachOf, present } from "./attempts.ts";
import { childDevices } from "./child-devices.ts";
import type { CaRegistry, HubRegistry, ProvisioningEntry } from "./registry.ts";

/**
 * Brings a hub that follows no CRL to what the ledger says of a device or of a child's CA now: whichever step was ordered,
 * the last recorded ones count. Made again, it finds itself done, or goes on where it was.
 * @param until milliseconds of the clock; no further one of a child's devices is begun after it
 * @returns whether there is more to do
 * @throws CountersignError those of the registry
 */
export async function followRevocation(
  db: Db,
  hub: string,
  registry: HubRegistry,
  { target, subject }: Pick<UntoldSubject, "target" | "subject">,
  until = Infinity,
): Promise<{ left: boolean }> {
  const block = blocker(db, hub);
  const standing = async () => standingOf(db, target, subject);
  for (let was = await standing(); ;) {
    if (target === "device") await followDevice(was);
    else if (await followCa(was)) return { left: true };
    // What was recorded meanwhile counts: an attempt that hangs must not let in what a later one has kept out.
    const now = await standing();
    if (now.map(({ effect }) => effect).join() === was.map(({ effect }) => effect).join()) return { left: false };
    was = now;
  }

  type Standing = Awaited<ReturnType<typeof standing>>;

  async function followDevice(certificates: Standing): Promise<void> {
    const out = certificates.some(({ effect }) => effect !== "lift");
    const { devices, blocks } = registry;
    const identity: ProvisioningEntry = {
      show: async () => (await devices.show(subject))?.state,
      disable: async () => void (await devices.disable(subject)),
      enable: () => present(devices.enable(subject)),
      // It was made to keep the device out; its hold is over.
      remove: () => present(devices.enable(subject)),
    };
    const known = certificates.map(({ certificate }) => certificate);
    const entry = blocks?.device(subject, known);
    const refusals: unknown[] = [];
    await eachOf(
      [
        () => block("device", subject, identity, out),
        async () => entry && (await block("enrollment", subject, entry, out)),
      ],
      refusals,
    );
    if (refusals.length > 0) throw refusals[0];
  }

  /** @returns whether there are more devices */
  async function followCa(certificates: Standing): Promise<boolean> {
    const refusals: unknown[] = [];
    for (const { certificate, effect } of certificates) {
      const name = `countersign-revoked-${sha256Hex(certificate).slice(0, 32)}`;
      const group = registry.blocks?.ca(name, certificate);
      // A hold leaves what is registered: only the child's key could prove it again.
      const places = effect === "final" ? registry.cas : [];
      await eachOf(
        [
          ...places.map((place) => () => unregister(place, certificate)),
          async () => group && (await block("group", name, group, effect !== "lift")),
        ],
        refusals,
      );
    }
    const out = certificates.some(({ effect }) => effect !== "lift");
    const given = childDevices(db, hub, registry.devices, subject);
    const left = await (out ? given.keepOut(until, refusals) : given.giveBack(until, refusals));
    if (!left && refusals.length > 0) throw refusals[0];
    return left;
  }
}

/** The child's own site may have registered it at the same hub, or somebody by hand. */
async function unregister(place: CaRegistry, certificate: Uint8Array): Promise<void> {
  const sha1 = createHash("sha1").update(certificate).digest("hex");
  const there = (await place.list()).filter(({ thumbprint }) => thumbprint?.value === sha1);
  for (const { name } of there) await place.remove(name);
}

function blocker(db: Db, hub: string) {
  return async (kind: BlockKind, name: string, entry: ProvisioningEntry, out: boolean): Promise<void> => {
    const found = await findBlock(db, hub, kind, name);
    if (out) {
      // Before it is changed: a run after a crash must not take its own doing for what was there.
      if (found === undefined) await addBlock(db, hub, kind, name, (await entry.show()) ?? "absent");
      return entry.disable();
    }
    // What is held no longer may still be in the hands of a child who mustn't have it.
    if (found === undefined || found.child !== null) return;
    if (found.found === "enabled") await entry.enable();
    if (found.found === "absent") await entry.remove();
    await removeBlock(db, hub, kind, name);
  };
}
