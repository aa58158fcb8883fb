import { fromBase64 } from "../domain/bytes.ts";
import { parseCertificate } from "../pki/certificate.ts";
import type { DeviceFacts } from "../records/group-query.ts";
import type { AnyAct } from "../records/statement.ts";

type Known = { -readonly [F in keyof DeviceFacts]: DeviceFacts[F] };

/** What acts say of devices. Times are the acting parties' own; which acts are believed is the caller's to know. */
export class DeviceFactsIndex {
  readonly #devices = new Map<string, Known>();
  readonly #parents = new Map<string, string>();

  /** Each device's later acts after its earlier ones. */
  note(act: AnyAct, party: string): void {
    if (act.type === "delegation") {
      const { child } = act.fields;
      if (child !== party) this.#parents.set(child, party);
      return;
    }
    if (act.type !== "built" && act.type !== "certified" && act.type !== "injected" && act.type !== "installed") return;
    const device = act.subject[0]!.name;
    let facts = this.#devices.get(device);
    if (facts === undefined) this.#devices.set(device, (facts = { device }));
    facts.lot = act.fields.lot;
    facts[act.type] = Date.parse(act.time);
    if (act.type === "built") facts.builder = party;
    if (act.type === "installed") Object.assign(facts, { installer: party, technician: act.fields.technician });
    if (act.type === "certified") {
      const { serial, notAfter } = parseCertificate(fromBase64(act.fields.certificate));
      Object.assign(facts, { issuer: party, serial, expires: notAfter.getTime(), profile: act.fields.profile.name });
    }
  }

  *devices(): Generator<DeviceFacts> {
    for (const facts of this.#devices.values()) {
      const { issuer } = facts;
      yield issuer === undefined ? facts : { ...facts, under: [issuer, ...this.#above(issuer)] };
    }
  }

  #above(party: string): string[] {
    const found: string[] = [];
    // Ledgers may claim what they like: a ring of parents ends where it began.
    for (
      let next = this.#parents.get(party);
      next !== undefined && !found.includes(next);
      next = this.#parents.get(next)
    )
      found.push(next);
    return found;
  }
}
