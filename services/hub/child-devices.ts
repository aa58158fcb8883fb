import type { Db } from "../../store/db.ts";
import {
  addBlock,
  blockedFor,
  devicesToBlock,
  removeBlock,
  setBlockChild,
  standingOf,
  type Found,
} from "../../store/hub-blocks.ts";
import { eachOf, present } from "./attempts.ts";
import type { DeviceRegistry } from "./registry.ts";

const PAGE = 64;

/**
 * The devices that this site gave to a child, at a hub that takes any chain up to the site's own CA: what the child's key
 * has signed passes there for each of them. Each is looked at, and disabled where it is there and enabled; none is made.
 * How far it has come is in the database.
 */
export function childDevices(db: Db, hub: string, devices: DeviceRegistry, child: string) {
  /** @returns whether time was up before the last one */
  async function each<T>(
    page: (after: string) => Promise<T[]>,
    nameOf: (one: T) => string,
    work: (one: T) => Promise<unknown>,
    { until, refusals }: { until: number; refusals: unknown[] },
  ): Promise<boolean> {
    for (let after = ""; ;) {
      const some = await page(after);
      for (const one of some) {
        if (Date.now() > until) return true;
        await eachOf([() => work(one)], refusals);
        after = nameOf(one);
      }
      if (some.length < PAGE) return false;
    }
  }

  async function keepOut(device: string): Promise<void> {
    const state = (await devices.show(device))?.state;
    // Before it is changed: a run after a crash must not take its own doing for what was there.
    await addBlock(db, hub, "device", device, state ?? "absent");
    await setBlockChild(db, hub, device, { child, done: false });
    if (state === "enabled") await devices.disable(device);
    await setBlockChild(db, hub, device, { child, done: true });
  }

  async function giveBack({ name, found }: { name: string; found: Found }): Promise<void> {
    const own = await standingOf(db, "device", name);
    if (own.some(({ effect }) => effect !== "lift")) {
      await setBlockChild(db, hub, name, { child: null, done: false });
      return;
    }
    // Where there was none, one is there now that its own revocation made, or that isn't ours.
    if (found === "enabled" || (found === "absent" && own.length > 0)) await present(devices.enable(name));
    await removeBlock(db, hub, "device", name);
  }

  return {
    keepOut: (until: number, refusals: unknown[]) =>
      each(
        (after) => devicesToBlock(db, hub, child, after, PAGE),
        (id) => id,
        keepOut,
        { until, refusals },
      ),
    giveBack: (until: number, refusals: unknown[]) =>
      each(
        (after) => blockedFor(db, hub, child, after, PAGE),
        ({ name }) => name,
        giveBack,
        { until, refusals },
      ),
  };
}
