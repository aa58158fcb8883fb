import { createServer, connect, type AddressInfo, type Server, type Socket } from "node:net";
import { StatementReader, errorAnswer } from "./wire.ts";

/**
 * What befalls one statement on its way to Postgres.
 * `refuse`: it isn't run, and an error (disk full) comes back; `cut-before`: the connection ends and it isn't run;
 * `cut-after`: it is run, and the connection ends before its answer; `hang`: it is run, and nothing comes back any more,
 * on a connection that stays open.
 */
export type Strike = "refuse" | "cut-before" | "cut-after" | "hang";
export const STRIKES: readonly Strike[] = ["refuse", "cut-before", "cut-after", "hang"];

/** A TCP proxy in front of a real Postgres that lets one chosen statement fail, run or not. */
export class PostgresProxy {
  /** the texts of the statements since `arm`, over all connections, in the order in which they were sent */
  statements: string[] = [];
  /** the fault that was armed has happened */
  struck = false;
  readonly #server: Server;
  readonly #target: URL;
  readonly #links = new Set<Link>();
  #armed: { at: number; strike: Strike } | undefined;

  private constructor(server: Server, target: URL) {
    this.#server = server;
    this.#target = target;
  }

  static async start(url: string): Promise<PostgresProxy> {
    const server = createServer({ noDelay: true });
    const proxy = new PostgresProxy(server, new URL(url));
    server.on("connection", (client) => proxy.#accept(client));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  /** The same database by way of this proxy. */
  get url(): string {
    const url = new URL(this.#target);
    url.hostname = "127.0.0.1";
    url.port = String((this.#server.address() as AddressInfo).port);
    return url.href;
  }

  /** Strikes at the statement number `at` (from 0) from now on; without arguments it only counts. */
  arm(at?: number, strike: Strike = "cut-before"): void {
    this.statements = [];
    this.struck = false;
    this.#armed = at === undefined ? undefined : { at, strike };
  }

  /** Ends the connections that hang. */
  heal(): void {
    for (const link of this.#links) if (link.hanging) link.cut();
  }

  async stop(): Promise<void> {
    for (const link of this.#links) link.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** @returns what to do with this statement */
  next(text: string): Strike | undefined {
    const at = this.statements.push(text) - 1;
    if (this.#armed?.at !== at) return undefined;
    this.struck = true;
    return this.#armed.strike;
  }

  #accept(client: Socket): void {
    const server = connect({ host: this.#target.hostname, port: Number(this.#target.port || 5432), noDelay: true });
    const link = new Link(client, server, this);
    this.#links.add(link);
    client.on("close", () => this.#links.delete(link));
  }
}

/** One client's connection and its own connection to the server. */
class Link {
  hanging = false;
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #statements = new StatementReader();
  #afterRun: Strike | undefined;

  constructor(client: Socket, server: Socket, proxy: PostgresProxy) {
    this.#client = client;
    this.#server = server;
    client.on("data", (data: Buffer) => {
      if (this.hanging) return;
      for (const { bytes, statement } of this.#statements.fromClient(data)) {
        const strike = statement === undefined ? undefined : proxy.next(statement);
        if (strike === "cut-before") return this.cut();
        if (strike === "refuse") {
          client.write(errorAnswer("53100", "could not extend file: No space left on device", this.#statements.status));
          continue;
        }
        if (strike !== undefined) this.#afterRun = strike;
        server.write(bytes);
      }
    });
    server.on("data", (data: Buffer) => {
      const ready = this.#statements.fromServer(data);
      if (this.#afterRun === undefined) return void (this.hanging || client.write(data));
      // Run to its end, a commit included: the answer is what gets lost.
      if (!ready) return;
      if (this.#afterRun === "hang") this.hanging = true;
      else this.cut();
    });
    for (const socket of [client, server]) socket.on("error", () => undefined);
    client.on("close", () => this.hanging || server.destroy());
    server.on("close", () => this.hanging || client.destroy());
  }

  cut(): void {
    this.#client.destroy();
    this.#server.destroy();
  }
}
