import { randomBytes } from "node:crypto";
import { CK, findObjects, newPkcs11Api } from "./cryptoki.ts";

/** What a token gives when nothing but C_SignInit and C_Sign is done with it: the ceiling that a benchmark names. */

export interface RawSpeed {
  readonly signatures: number;
  readonly seconds: number;
  /** of this process, in which the token works when it is SoftHSM */
  readonly cpuSeconds: number;
}

/**
 * Signs random digests on one session with one P-256 key, for a while. For a process of its own: it loads the module anew
 * and holds the thread. The key's signatures are thrown away.
 */
export function rawSignSpeed(options: {
  module: string;
  token: string;
  pin: string;
  label: string;
  seconds: number;
}): RawSpeed {
  const api = newPkcs11Api();
  api.load(options.module);
  api.C_Initialize({ flags: CK.CKF_OS_LOCKING_OK });
  try {
    const slot = api
      .C_GetSlotList(true)
      .find((one) => api.C_GetTokenInfo(one).label.replace(/[\u0000 ]+$/, "") === options.token);
    if (slot === undefined) throw new Error(`no token ${options.token}`);
    const session = api.C_OpenSession(slot, CK.CKF_SERIAL_SESSION);
    api.C_Login(session, CK.CKU_USER, options.pin);
    const [key] = findObjects(
      api,
      session,
      [
        { type: CK.CKA_CLASS, value: CK.CKO_PRIVATE_KEY },
        { type: CK.CKA_LABEL, value: options.label },
      ],
      1,
    );
    if (key === undefined) throw new Error(`no key ${options.label}`);
    const digest = randomBytes(32);
    const output = Buffer.alloc(128);
    const signFor = (seconds: number): RawSpeed => {
      const cpu = process.cpuUsage();
      const since = performance.now();
      let signatures = 0;
      while (performance.now() - since < seconds * 1000) {
        for (let i = 0; i < 50; i++, signatures++) {
          digest.writeUInt32BE(signatures);
          api.C_SignInit(session, { mechanism: CK.CKM_ECDSA }, key);
          api.C_Sign(session, digest, output);
        }
      }
      const { user, system } = process.cpuUsage(cpu);
      return { signatures, seconds: (performance.now() - since) / 1000, cpuSeconds: (user + system) / 1e6 };
    };
    signFor(Math.min(0.3, options.seconds / 4));
    return signFor(options.seconds);
  } finally {
    api.C_Finalize();
  }
}
