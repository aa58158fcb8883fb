import type { Db } from "./db.ts";

const AGAIN_MS = 2_000;

export interface Subscription {
  close(): void;
}

/**
 * A connection of its own that listens on a channel until `close`. `onLost` is called once when it breaks; one that
 * can't be made throws instead.
 */
export async function listen(
  db: Db,
  channel: string,
  onNotify: (payload: string) => void,
  onLost: (error: Error) => void,
): Promise<Subscription> {
  const client = await db.connect();
  let open = true;
  const lost = (error: Error): void => {
    if (!open) return;
    open = false;
    client.release(error);
    onLost(error);
  };
  client.on("error", lost);
  client.on("notification", (message) => onNotify(message.payload ?? ""));
  try {
    await client.query(`LISTEN ${channel}`);
  } catch (error) {
    if (open) client.release(error as Error);
    open = false;
    throw error;
  }
  return {
    close() {
      if (!open) return;
      open = false;
      // The connection ends with its subscription; it isn't given back to the pool.
      client.release(true);
    },
  };
}

/**
 * Listens until `close`, over however many connections that takes. What was notified while there was none is lost: the
 * caller is told '' once there is one again, and polls as well. The first connection is made before this resolves.
 */
export async function keepListening(
  db: Db,
  channel: string,
  onNotify: (payload: string) => void,
): Promise<Subscription> {
  let current: Subscription | undefined;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  const again = (): void => {
    if (closed) return;
    timer = setTimeout(() => void subscribe().then(() => onNotify(""), again), AGAIN_MS);
  };
  async function subscribe(): Promise<void> {
    const made = await listen(db, channel, onNotify, again);
    if (closed) made.close();
    else current = made;
  }
  await subscribe();
  return {
    close() {
      closed = true;
      clearTimeout(timer);
      current?.close();
    },
  };
}
