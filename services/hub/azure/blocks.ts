import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import type { ProvisioningBlocks, ProvisioningEntry } from "../registry.ts";
import { unreachable, type Rest, type RestAnswer } from "./rest.ts";

/** Fields unknown here are kept when it is written back. */
const entry = z.looseObject({
  etag: z.string().max(256).optional(),
  provisioningStatus: z.enum(["enabled", "disabled"]).default("enabled"),
});
type Entry = z.output<typeof entry>;

const READ_ONLY = ["etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "registrationState"];
const PLACE = "provisioning service";
const ROUNDS = 3;

/**
 * What a provisioning service lets nobody in by: a disabled individual enrollment comes before the groups, and a disabled
 * group of a CA before that of a CA above it.
 */
export function azureBlocks(rest: Rest): ProvisioningBlocks {
  const pem = (certificate: Uint8Array) => ({ certificate: pemEncode("CERTIFICATE", certificate) });
  return {
    device(deviceId, certificates) {
      const [primary, secondary] = certificates.slice(-2).reverse().map(pem);
      const clientCertificates = { primary, ...(secondary === undefined ? {} : { secondary }) };
      return entryAt(rest, `/enrollments/${encodeURIComponent(deviceId)}`, {
        registrationId: deviceId,
        attestation: { type: "x509", x509: { clientCertificates } },
      });
    },
    ca(name, certificate) {
      return entryAt(rest, `/enrollmentGroups/${encodeURIComponent(name)}`, {
        enrollmentGroupId: name,
        attestation: { type: "x509", x509: { signingCertificates: { primary: pem(certificate) } } },
      });
    },
  };
}

function entryAt(rest: Rest, path: string, made: object): ProvisioningEntry {
  async function find(): Promise<Entry | undefined> {
    const answer = await rest({ method: "GET", path });
    return answer.status === 404 ? undefined : read(answer);
  }

  /** @param missing what is written where there is none */
  async function set(status: Entry["provisioningStatus"], missing: object | undefined): Promise<void> {
    for (let round = 1; ; round++) {
      const found = await find();
      const before = found === undefined ? missing : kept(found);
      if (before === undefined || found?.provisioningStatus === status) return;
      // Keeping a device out wins over whatever else is being changed about it.
      const forced = round >= ROUNDS && status === "disabled" ? "*" : (found?.etag ?? "*");
      const ifMatch = found === undefined ? undefined : forced;
      const answer = await rest({ method: "PUT", path, ifMatch, body: { ...before, provisioningStatus: status } });
      if (answer.status < 300) return;
      if (round >= ROUNDS && found === undefined) {
        throw new CountersignError(
          "state-conflict",
          `${PLACE}: ${path} can't be made: another entry has its certificate`,
        );
      }
      if (round >= ROUNDS) throw new CountersignError("hub-busy", `${PLACE}: ${path} is being changed by others`);
    }
  }

  return {
    show: async () => (await find())?.provisioningStatus,
    disable: () => set("disabled", made),
    enable: () => set("enabled", undefined),
    async remove() {
      const found = await find();
      if (found === undefined) return;
      const answer = await rest({ method: "DELETE", path, ifMatch: found.etag ?? "*" });
      if (answer.status === 409 || answer.status === 412) {
        throw new CountersignError("hub-busy", `${PLACE}: ${path} was changed meanwhile`);
      }
    },
  };
}

function read(answer: RestAnswer): Entry {
  const parsed = entry.safeParse(answer.body);
  if (answer.status >= 300 || !parsed.success) throw unreachable(PLACE, "its answer isn't an enrollment");
  return parsed.data;
}

function kept(found: Entry): object {
  return Object.fromEntries(Object.entries(found).filter(([name]) => !READ_ONLY.includes(name)));
}
