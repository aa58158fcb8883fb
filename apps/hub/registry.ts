import { randomUUID } from "node:crypto";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCrl, type Crl } from "../../lib/pki/crl-parse.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { DeviceFacts } from "../../lib/records/group-query.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import type { Db } from "../../store/db.ts";
import { type HubCa, listCas } from "../../store/hub-cas.ts";
import { type Custody, readCustody } from "../../store/hub-custody.ts";
import {
  enabledAmong,
  type FollowedCrl,
  listBlocks,
  listCrls,
  readCrls,
  REGISTRY_CHANNEL,
} from "../../store/hub-revocations.ts";
import { type HubScope, listGroups } from "../../store/hub-groups.ts";
import { keepListening, type Subscription } from "../../store/listen.ts";
import type { Logger } from "../http/logger.ts";
import { asksCustody, groupsOf, isAllowed, SCOPES, type KnownGroup, parsePolicyQuery, withCustody } from "./groups.ts";
import { LiveDevices, type LiveEntry } from "./live.ts";

/** What a certificate of a path is recognised by. */
export interface Link {
  /** of the DER, lower-case hex */
  readonly sha256: string;
  /** SHA-256 of the SPKI, lower-case hex */
  readonly keyId: string;
  readonly serial: string;
}

export interface RegisteredCa {
  readonly name: string;
  readonly sha256: string;
  readonly certificate: Certificate;
  /** the name under which its key's holder is disabled: its own, or that of another of the key's certificates */
  readonly disabled: string | undefined;
  readonly enrolment: HubCa["enrolment"];
  readonly unlogged: HubCa["unlogged"];
  readonly lineage: string;
}

interface KnownCrl {
  readonly name: string;
  readonly sha256: string;
  readonly issuerKeyId: string;
  readonly crl: Crl;
}

interface State {
  readonly cas: readonly RegisteredCa[];
  readonly certificates: ReadonlyMap<string, string>;
  readonly keys: ReadonlyMap<string, string>;
  /** by their issuer's key */
  readonly crls: ReadonlyMap<string, readonly KnownCrl[]>;
  readonly groups: readonly KnownGroup[];
}

const EMPTY: State = { cas: [], certificates: new Map(), keys: new Map(), crls: new Map(), groups: [] };
const LOOK_MS = 10_000;
/** Notifications of this long are answered by one query: disabling ten thousand devices is one look, not ten thousand. */
const GATHER_MS = 5;

export interface RegistrySettings {
  /** A CA's newest CRL has run out: let its devices in by what it said, or keep them out */
  readonly staleCrl: "alarm" | "refuse";
}

/**
 * Who may be here: registered CAs, blocks and CRLs as this process knows them, and the connections held against them.
 * Every hub process on the database hears of a change when it commits, and looks by itself now and then besides.
 */
export class Registry {
  readonly live = new LiveDevices();
  /** Of this process, for as long as it runs: where a device is connected. */
  readonly processId = randomUUID();
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #settings: RegistrySettings;
  #state = EMPTY;
  #crlsByDigest = new Map<string, KnownCrl>();
  readonly #staleTold = new Set<string>();
  readonly #touched = new Set<string>();
  #all = false;
  #loadedAt = 0;
  #gathering: NodeJS.Timeout | undefined;
  #loading: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #poll: NodeJS.Timeout | undefined;
  #subscription: Subscription | undefined;

  constructor(db: Db, logger: Logger, settings: RegistrySettings = { staleCrl: "alarm" }) {
    this.#db = db;
    this.#logger = logger;
    this.#settings = settings;
  }

  /** Reads everything and listens for changes until `stop`. */
  async start(): Promise<void> {
    this.#subscription = await keepListening(this.#db, REGISTRY_CHANNEL, (deviceIds) => this.#hear(deviceIds));
    await this.reload();
    this.#poll = setInterval(() => this.#hear(""), LOOK_MS);
  }

  stop(): void {
    clearInterval(this.#poll);
    clearTimeout(this.#gathering);
    this.#subscription?.close();
  }

  /** When everything was last read, milliseconds since 1970. */
  get loadedAt(): number {
    return this.#loadedAt;
  }

  /** How many revocation lists have run out. */
  staleCrls(at: Date): number {
    return [...this.#crlsByDigest.values()].filter(({ crl }) => at >= crl.nextUpdate).length;
  }

  get cas(): readonly RegisteredCa[] {
    return this.#state.cas;
  }

  /** Resolves when what was committed before the call holds here, and whom it keeps out is cut off. */
  reload(): Promise<void> {
    // A load that runs already may have read too early.
    if (this.#loading !== undefined) {
      this.#next ??= this.#loading
        .catch(() => undefined)
        .then(() => {
          this.#next = undefined;
          return this.reload();
        });
      return this.#next;
    }
    this.#loading = this.#load().finally(() => (this.#loading = undefined));
    return this.#loading;
  }

  /** Cuts off those of these devices that are no longer let in. */
  async recheck(deviceIds: readonly string[]): Promise<void> {
    const here = deviceIds.filter((id) => this.live.of(id).length > 0);
    if (here.length === 0) return;
    // Whose answer is still on its way from the database is looked at again when it is here. It isn't judged now even if
    // it comes in meanwhile: the database was asked before.
    const asked: LiveEntry[] = [];
    for (const entry of here.flatMap((id) => this.live.of(id))) {
      if (entry.admitted) asked.push(entry);
      else entry.touched = true;
    }
    const [enabled, custody] = await Promise.all([
      enabledAmong(this.#db, here, this.processId),
      this.#custodyAmong(here),
    ]);
    const now = new Date();
    for (const entry of asked) {
      if (entry.connection.destroyed) continue;
      if (enabled.has(entry.deviceId)) this.#judge(entry, this.#state.groups, custody, now);
      else this.#end(entry, "disabled, removed, or connected to another process of the hub");
    }
  }

  /**
   * Why this path isn't let in, by what is known now.
   * @param path leaf first, the registered CA last
   */
  denial(path: readonly Link[], facts: DeviceFacts, at: Date): CountersignError | undefined {
    const { cas, certificates, keys, crls } = this.#state;
    const anchor = cas.find((ca) => ca.sha256 === path.at(-1)?.sha256);
    if (anchor === undefined) return new CountersignError("hub-no-path", "its registered CA was removed");
    if (anchor.disabled !== undefined) {
      return new CountersignError("hub-ca-disabled", `the CA ${anchor.disabled} is disabled`);
    }
    for (const [i, link] of path.entries()) {
      const reason = certificates.get(link.sha256) ?? keys.get(link.keyId);
      if (reason !== undefined) return revoked(i, `blocked on this hub: ${reason}`);
      const issuer = path[i + 1];
      if (issuer === undefined) continue;
      for (const { name, crl } of crls.get(issuer.keyId) ?? []) {
        const entry = crl.revoked.get(link.serial);
        if (entry !== undefined)
          return revoked(i, `revoked by ${name} at ${entry.revokedAt.toISOString()}, ${entry.reason}`);
        if (at >= crl.nextUpdate && !this.#toleratesStale(name, crl.nextUpdate)) {
          return new CountersignError("hub-crl-stale", `the CRL ${name} ran out at ${crl.nextUpdate.toISOString()}`);
        }
      }
    }
    const kept = this.groupsOf(facts).find((group) => group.disabledAt !== null);
    return kept && new CountersignError("hub-revoked", `its group ${kept.name} is disabled`);
  }

  /** Whether any group hangs on what passports say. */
  get asksCustody(): boolean {
    return this.#state.groups.some(({ parsed }) => asksCustody(parsed));
  }

  /** What is known of a device by its passport, where any group asks. */
  async custodyOf(deviceId: string): Promise<{ asked: boolean; custody: Custody | undefined }> {
    const custody = await this.#custodyAmong([deviceId]);
    return { asked: custody !== undefined, custody: custody?.get(deviceId) };
  }

  async #custodyAmong(deviceIds: readonly string[]): Promise<ReadonlyMap<string, Custody> | undefined> {
    return this.asksCustody ? readCustody(this.#db, deviceIds) : undefined;
  }

  /** The groups that a device with these facts is in. */
  groupsOf(facts: DeviceFacts): readonly KnownGroup[] {
    return groupsOf(this.#state.groups, facts);
  }

  /** Whether all groups of a connected device allow it this. */
  allows(deviceId: string, scope: HubScope): boolean {
    if (this.#state.groups.length === 0) return true;
    return this.live.of(deviceId).every((entry) => isAllowed(this.groupsOf(entry.facts), scope));
  }

  #toleratesStale(name: string, since: Date): boolean {
    if (this.#settings.staleCrl === "refuse") return false;
    if (!this.#staleTold.has(name)) {
      this.#staleTold.add(name);
      this.#logger.error({ crl: name, since }, "a CRL has run out: devices are let in by what it last said");
    }
    return true;
  }

  #hear(deviceIds: string): void {
    if (deviceIds === "") this.#all = true;
    else for (const id of deviceIds.split(" ")) this.#touched.add(id);
    this.#gathering ??= setTimeout(() => {
      this.#gathering = undefined;
      const all = this.#all;
      const ids = all ? this.live.ids() : [...this.#touched];
      this.#all = false;
      this.#touched.clear();
      Promise.all([all ? this.reload() : undefined, this.recheck(ids)]).catch((error: unknown) =>
        this.#logger.error({ err: error }, "the registry can't be read; what was known holds"),
      );
    }, GATHER_MS);
  }

  async #load(): Promise<void> {
    const began = Date.now();
    const [cas, blocks, rows, groups] = await Promise.all([
      listCas(this.#db),
      listBlocks(this.#db),
      listCrls(this.#db),
      listGroups(this.#db),
    ]);
    const crls = await this.#readCrls(rows);
    const parsed = groups.map((group) => ({ ...group, parsed: parsePolicyQuery(group.query) }));
    const custody = parsed.some((group) => asksCustody(group.parsed)) ? await this.#custodyOfAll() : undefined;
    const of = (kind: string): Map<string, string> =>
      new Map(blocks.filter((block) => block.kind === kind).map((block) => [block.sha256, block.reason]));
    const before = this.#state.groups;
    this.#state = {
      cas: registered(cas),
      certificates: of("certificate"),
      keys: of("key"),
      crls,
      groups: parsed,
    };
    this.#loadedAt = began;
    const now = new Date();
    for (const entry of this.live.entries()) this.#judge(entry, before, custody, now);
  }

  /** What isn't known by its digest is read, and no other. */
  async #readCrls(rows: readonly FollowedCrl[]): Promise<Map<string, KnownCrl[]>> {
    const fresh = rows.filter(({ name, sha256 }) => sha256 !== null && !this.#crlsByDigest.has(`${name} ${sha256}`));
    const read = await readCrls(
      this.#db,
      fresh.map(({ name }) => name),
    );
    const known = new Map<string, KnownCrl>();
    const byIssuer = new Map<string, KnownCrl[]>();
    for (const { name, issuer, sha256: listed } of rows) {
      // Of one that is replaced meanwhile the newer one is read; its own notification brings the rest.
      const der = read.get(name);
      const sha256 = der === undefined ? listed : sha256Hex(der);
      const held = this.#crlsByDigest.get(`${name} ${sha256}`);
      if (sha256 === null || (held === undefined && der === undefined)) continue;
      const one = held ?? {
        ...{ name, sha256, crl: parseCrl(der!) },
        issuerKeyId: keyId(parseCertificate(issuer).spki),
      };
      if (held === undefined) this.#staleTold.delete(name);
      known.set(`${name} ${sha256}`, one);
      byIssuer.set(one.issuerKeyId, [...(byIssuer.get(one.issuerKeyId) ?? []), one]);
    }
    this.#crlsByDigest = known;
    return byIssuer;
  }

  /** @param before the groups that its connection was made under; `custody` undefined: no group asks */
  #judge(
    entry: LiveEntry,
    before: readonly KnownGroup[],
    custody: ReadonlyMap<string, Custody> | undefined,
    now: Date,
  ): void {
    if (entry.path === undefined) return;
    const scopes = scopesBy(before, entry);
    const own = custody?.get(entry.deviceId);
    if (custody !== undefined) entry.facts = withCustody(entry.ofChain, entry.path[0]?.keyId, own);
    const denial = this.denial(entry.path, entry.facts, now);
    if (denial !== undefined) this.#end(entry, denial.message);
    else if (scopes !== scopesBy(this.#state.groups, entry)) this.#end(entry, "what its groups may use has changed");
  }

  /** Of every device that is judged by then: who comes in while it is read is read too. */
  async #custodyOfAll(): Promise<ReadonlyMap<string, Custody>> {
    const read = new Set<string>();
    const all = new Map<string, Custody>();
    for (;;) {
      const judged = [...this.live.entries()].flatMap(({ path, deviceId }) => (path === undefined ? [] : deviceId));
      const missing = judged.filter((id) => !read.has(id));
      if (missing.length === 0) return all;
      for (const id of missing) read.add(id);
      for (const [id, custody] of await readCustody(this.#db, missing)) all.set(id, custody);
    }
  }

  #end({ deviceId, connection }: LiveEntry, reason: string): void {
    this.#logger.warn({ deviceId, reason }, "connection ended");
    connection.destroy();
  }
}

/** What its groups allow a connection: links and subscriptions are checked when they are made. */
function scopesBy(groups: readonly KnownGroup[], { facts }: LiveEntry): string {
  const own = groupsOf(groups, facts);
  return SCOPES.filter((scope) => isAllowed(own, scope)).join(" ");
}

const links = new WeakMap<Certificate, Link>();

export function linkOf(certificate: Certificate): Link {
  let link = links.get(certificate);
  if (link === undefined) {
    link = { sha256: sha256Hex(certificate.der), keyId: keyId(certificate.spki), serial: certificate.serial };
    links.set(certificate, link);
  }
  return link;
}

/** Certificates for one key, a renewed CA's, can't be told apart by what is below them: disabling one disables the CA. */
function registered(all: readonly HubCa[]): RegisteredCa[] {
  const cas = all.flatMap(({ name, state, sha256, certificate, disabledAt, enrolment, unlogged, lineage }) => {
    if (state !== "verified" || certificate === null || sha256 === null) return [];
    return [{ name, sha256, certificate: parseCertificate(certificate), disabledAt, enrolment, unlogged, lineage }];
  });
  const disabled = new Map(
    cas.flatMap(({ name, certificate, disabledAt }) => (disabledAt === null ? [] : [[keyId(certificate.spki), name]])),
  );
  return cas.map(({ disabledAt, ...ca }) => ({
    ...ca,
    disabled: disabledAt === null ? disabled.get(keyId(ca.certificate.spki)) : ca.name,
  }));
}

function revoked(index: number, why: string): CountersignError {
  return new CountersignError("hub-revoked", `certificate ${index} of its chain is ${why}`, { details: { index } });
}
