import { expect, it } from "vitest";
import { Thread } from "./thread.ts";

const script = (body: string): URL =>
  new URL(
    `data:text/javascript,${encodeURIComponent(`import { parentPort } from "node:worker_threads"; ${body}
      parentPort.postMessage({ id: 0 });`)}`,
  );

it("refuses what it is asked when it ends, and after it has ended", async () => {
  const mortal = script(`parentPort.on("message", () => { throw new Error("mortal"); });`);
  const thread = new Thread<string, string>(mortal, { name: "mortal", does: "ends" });
  await thread.ready;
  expect(thread.usable).toBe(true);
  const gone = { code: "hsm-unavailable", message: "the thread that ends ended, or didn't start" };
  await expect(thread.ask("now")).rejects.toMatchObject(gone);
  expect(thread.usable).toBe(false);
  await expect(thread.ask("at once")).rejects.toMatchObject(gone);
  await thread.end();
  await expect(thread.ask("late")).rejects.toMatchObject(gone);
});
