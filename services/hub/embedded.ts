import { sha256Hex } from "../../lib/domain/hash.ts";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import {
  createDevice,
  listCas,
  offerCa,
  readDevice,
  removeCa,
  removeDevice,
  setDevice,
  verifyCa,
  type HubAccess,
} from "./management.ts";
import type { HubRegistry } from "./registry.ts";

const PLACE = "the hub";

/** This program's own hub, driven like any other. Its provisioning is set up at the hub itself. */
export function embeddedHub(access: HubAccess): HubRegistry {
  const pem = (der: Uint8Array): string => pemEncode("CERTIFICATE", der);
  return {
    kind: "embedded",
    cas: [
      {
        place: PLACE,
        async offer({ name, certificate, succeeds }) {
          try {
            const { code } = await offerCa(access, name, { certificate: pem(certificate), succeeds });
            if (code === undefined) throw new CountersignError("hub-refused", `${PLACE} gave no code for ${name}`);
            return { code };
          } catch (error) {
            if (errorCodeOf(error) !== "already-exists") throw error;
            const held = (await listCas(access)).find((one) => one.name === name);
            if (held?.sha256 !== sha256Hex(certificate)) throw error;
            return undefined;
          }
        },
        async verify({ name, certificate }, _offer, verification) {
          try {
            await verifyCa(access, name, { ca: pem(certificate), verification: pem(verification) });
          } catch (error) {
            if (errorCodeOf(error) !== "already-exists") throw error;
            // An earlier attempt may have got through: what counts is whose certificate the hub has.
            const held = (await listCas(access)).find((one) => one.name === name);
            if (held?.sha256 !== sha256Hex(certificate)) throw error;
          }
        },
        async list() {
          return (await listCas(access)).map(({ name, state, sha256 }) => ({
            place: PLACE,
            name,
            verified: state === "verified",
            thumbprint: sha256 === null ? undefined : { algorithm: "sha256", value: sha256 },
          }));
        },
        remove: (name) => removeCa(access, name),
      },
    ],
    devices: {
      async create(deviceId) {
        try {
          return await createDevice(access, deviceId);
        } catch (error) {
          if (errorCodeOf(error) !== "already-exists") throw error;
          const held = await readDevice(access, deviceId);
          if (held === undefined) throw error;
          return held;
        }
      },
      show: (deviceId) => readDevice(access, deviceId),
      async disable(deviceId) {
        const held = await setDevice(access, deviceId, "disable");
        if (held !== undefined) return held;
        // One that hasn't come yet must not come later either.
        await createDevice(access, deviceId).catch((error: unknown) => {
          if (errorCodeOf(error) !== "already-exists") throw error;
        });
        const made = await setDevice(access, deviceId, "disable");
        if (made === undefined) throw new CountersignError("hub-busy", `${PLACE}: ${deviceId} was removed meanwhile`);
        return made;
      },
      async enable(deviceId) {
        const held = await setDevice(access, deviceId, "enable");
        if (held === undefined) throw new CountersignError("not-found", `${PLACE} has no device ${deviceId}`);
        return held;
      },
      remove: (deviceId) => removeDevice(access, deviceId),
    },
  };
}
