import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { UnreadOutput } from "./unread.ts";

const LIMIT_MS = 400;
const server = createServer();
const open: Socket[] = [];
beforeAll(async () => void (await once(server.listen(0, "127.0.0.1"), "listening")));
afterAll(() => {
  for (const socket of open) socket.destroy();
  server.close();
});

/** A connection whose peer doesn't read yet. */
async function pair(): Promise<{ ours: Socket; theirs: Socket }> {
  const came = once(server, "connection") as Promise<[Socket]>;
  const theirs = connect((server.address() as AddressInfo).port, "127.0.0.1").pause();
  const [ours] = await came;
  for (const socket of [ours, theirs]) open.push(socket.on("error", () => undefined));
  return { ours, theirs };
}

/** Until something waits here, as the kernel takes no more. */
async function fill(socket: Socket): Promise<void> {
  do {
    socket.write(Buffer.alloc(1 << 16));
    await pause(1);
  } while (socket.writableLength === 0);
}

it("ends a connection whose peer doesn't read, and none whose peer does, late or slowly", async () => {
  const unread = new UnreadOutput(LIMIT_MS);
  const [deaf, late, idle] = [await pair(), await pair(), await pair()];
  for (const { ours } of [deaf, late, idle]) unread.watch(ours);
  await pause(2 * LIMIT_MS);
  // What was idle for long has the whole time.
  await Promise.all([deaf, late].map(({ ours }) => fill(ours)));
  await pause(LIMIT_MS / 4);
  expect([deaf, late, idle].map(({ ours }) => ours.destroyed)).toEqual([false, false, false]);
  late.theirs.resume();
  await expect.poll(() => deaf.ours.destroyed).toBe(true);
  await pause(2 * LIMIT_MS);
  expect([late, idle].map(({ ours }) => ours.destroyed)).toEqual([false, false]);
  unread.stop();
});
