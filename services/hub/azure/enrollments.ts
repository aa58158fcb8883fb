import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { EnrollmentGroupView, EnrollmentRegistry } from "../registry.ts";
import { unreachable, type Rest, type RestAnswer } from "./rest.ts";

/** Fields unknown here are kept when it is written back. */
const group = z.looseObject({
  enrollmentGroupId: z.string().min(1).max(128),
  etag: z.string().max(256).optional(),
  provisioningStatus: z.enum(["enabled", "disabled"]).default("enabled"),
  attestation: z.looseObject({
    type: z.string().max(64),
    x509: z
      .looseObject({
        caReferences: z
          .looseObject({ primary: z.string().max(256).nullish(), secondary: z.string().max(256).nullish() })
          .nullish(),
      })
      .nullish(),
  }),
});
type Group = z.output<typeof group>;

const READ_ONLY = ["etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"];
const PLACE = "provisioning service";
const ROUNDS = 3;

function attestation(cas: readonly string[]) {
  const [primary, secondary] = cas;
  return {
    type: "x509",
    x509: { caReferences: { primary, ...(secondary === undefined ? {} : { secondary }) } },
  };
}

/** A provisioning service's enrollment groups by CA: each takes one CA of its own certificates, or two. */
export function azureEnrollments(rest: Rest): EnrollmentRegistry {
  const at = (name: string): string => `/enrollmentGroups/${encodeURIComponent(name)}`;

  async function find(name: string): Promise<Group | undefined> {
    const answer = await rest({ method: "GET", path: at(name) });
    return answer.status === 404 ? undefined : read(answer);
  }

  /** @param change of what is there; undefined when it is as it should be */
  async function write(name: string, change: (found: Group | undefined) => object | undefined): Promise<Group> {
    for (let round = 1; ; round++) {
      const found = await find(name);
      const body = change(found);
      if (body === undefined) return found as Group;
      const ifMatch = found === undefined ? undefined : (found.etag ?? "*");
      const answer = await rest({ method: "PUT", path: at(name), ifMatch, body });
      if (answer.status < 300) return read(answer);
      if (round >= ROUNDS)
        throw new CountersignError("hub-busy", `${PLACE}: the group ${name} is being changed by others`);
    }
  }

  return {
    async put(name, cas) {
      const wanted = attestation(cas);
      const written = await write(name, (found) => {
        if (found === undefined) {
          return { enrollmentGroupId: name, attestation: wanted, provisioningStatus: "enabled" };
        }
        if (found.attestation.type !== "x509") {
          throw new CountersignError("already-exists", `${PLACE} has a group ${name} that isn't one of certificates`);
        }
        return sameCas(found, cas) ? undefined : { ...kept(found), attestation: wanted };
      });
      return view(written);
    },

    async show(name) {
      const found = await find(name);
      return found && view(found);
    },

    async setState(name, state) {
      const written = await write(name, (found) => {
        if (found === undefined) throw new CountersignError("not-found", `${PLACE} has no enrollment group ${name}`);
        return found.provisioningStatus === state ? undefined : { ...kept(found), provisioningStatus: state };
      });
      return view(written);
    },

    async remove(name) {
      const found = await find(name);
      if (found === undefined) return false;
      const answer = await rest({ method: "DELETE", path: at(name), ifMatch: found.etag ?? "*" });
      if (answer.status === 412 || answer.status === 409) {
        throw new CountersignError("hub-busy", `${PLACE}: the group ${name} was changed meanwhile`);
      }
      return true;
    },
  };
}

function read(answer: RestAnswer): Group {
  if (answer.status >= 300) {
    throw new CountersignError("hub-busy", `${PLACE}: the group was changed meanwhile (${answer.status})`);
  }
  const parsed = group.safeParse(answer.body);
  if (!parsed.success) throw unreachable(PLACE, "its answer isn't an enrollment group");
  return parsed.data;
}

function kept(found: Group): object {
  return Object.fromEntries(Object.entries(found).filter(([name]) => !READ_ONLY.includes(name)));
}

function casOf({ attestation: { x509 } }: Group): string[] {
  const references = x509?.caReferences;
  return [references?.primary, references?.secondary].filter((name) => name !== undefined && name !== null);
}

function sameCas(found: Group, cas: readonly string[]): boolean {
  const there = casOf(found);
  return there.length === cas.length && there.every((name, i) => name === cas[i]);
}

function view(found: Group): EnrollmentGroupView {
  return { name: found.enrollmentGroupId, cas: casOf(found), state: found.provisioningStatus };
}
