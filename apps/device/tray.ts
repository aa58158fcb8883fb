import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { chipTokenLabel, type Chip } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import { pkcs11Module, tpmModule } from "./places.ts";

/** Devices that share one token store, as on a line's tray: slots of a module are looked through one by one. */
export const TRAY_SIZE = 100;

const TraySchema = z.strictObject({
  schema: z.literal("countersign/tray/v1"),
  /** Path of the PKCS#11 module. */
  module: z.string().min(1).max(4096),
  /** Device IDs; the token's label and the PIN file follow from each. */
  devices: z.array(z.string().regex(DEVICE_ID)).max(10_000),
  /** of a device with a TPM 2: where it is, as tpm2-tools name it */
  tpm: z.string().min(1).max(200).optional(),
});

/**
 * A folder of device tokens: `tray.json`, `softhsm2.conf`, `tokens/`, `pins/<label>.pin` (0600). Only a process whose
 * SOFTHSM2_CONF names this folder's file reaches the tokens; `trayEnvironment` says so to a child. Of a device with a TPM
 * `tokens/` is tpm2-pkcs11's store: what the TPM has wrapped.
 */
export interface Tray {
  dir: string;
  module: string;
  devices: string[];
  /** The one device's TPM 2, `device:/dev/tpmrm0` or `swtpm:host=...,port=...`; its tokens are tpm2-pkcs11's. */
  tpm?: string;
}

/** Opens the folder's tray, or makes an empty one. @throws CountersignError `input-invalid`, `component-missing` */
export function openTray(dir: string, options: { create?: boolean; module?: string; tpm?: string } = {}): Tray {
  const folder = resolve(dir);
  const file = join(folder, "tray.json");
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if (options.create === true) {
      const { tpm } = options;
      return createTray(folder, options.module ?? (tpm === undefined ? pkcs11Module() : tpmModule()), tpm);
    }
    const message = `${folder} holds no device tokens (no tray.json); make them with \`countersign device keygen\``;
    throw new CountersignError("component-missing", message, { cause });
  }
  const parsed = TraySchema.safeParse(jsonOf(text, file));
  if (!parsed.success) throw new CountersignError("input-invalid", `${file} is not a tray's description`);
  const { module, devices, tpm } = parsed.data;
  if (options.tpm !== undefined && options.tpm !== tpm) {
    throw new CountersignError("usage", `${folder} holds the tokens of another TPM, or of none: name a new folder`);
  }
  return { dir: folder, module, devices, ...(tpm === undefined ? {} : { tpm }) };
}

function createTray(dir: string, module: string, tpm?: string): Tray {
  if (!isAbsolute(module)) throw new CountersignError("usage", "name the PKCS#11 module by its absolute path");
  mkdirSync(join(dir, "tokens"), { recursive: true, mode: 0o700 });
  mkdirSync(join(dir, "pins"), { recursive: true, mode: 0o700 });
  const conf = [
    `directories.tokendir = ${join(dir, "tokens")}`,
    "objectstore.backend = file",
    "log.level = ERROR",
    "slots.removable = false",
    "",
  ];
  if (tpm === undefined) writeFileSync(join(dir, "softhsm2.conf"), conf.join("\n"), { mode: 0o600 });
  const tray = { dir, module, devices: [], ...(tpm === undefined ? {} : { tpm }) };
  saveTray(tray);
  return tray;
}

/** Whole or not at all: a crash leaves the old list, whose tokens are found again by their labels. */
export function saveTray(tray: Tray): void {
  const { module, devices, tpm } = tray;
  const file = join(tray.dir, "tray.json");
  writeFileSync(`${file}.new`, `${JSON.stringify({ schema: "countersign/tray/v1", module, tpm, devices }, null, 2)}\n`);
  renameSync(`${file}.new`, file);
}

/** A device's chip in this tray. */
export function chipOf(tray: Tray, deviceId: string): Chip & { pin: { file: string } } {
  const token = chipTokenLabel(deviceId);
  return { module: tray.module, token, pin: { file: join(tray.dir, "pins", `${token}.pin`) } };
}

/** What a child process needs to reach these tokens, by PKCS#11 and by OpenSSL's engine. No secret is among it. */
export function trayEnvironment(tray: Tray, engineFolder?: string): NodeJS.ProcessEnv {
  const where: NodeJS.ProcessEnv =
    tray.tpm === undefined
      ? { SOFTHSM2_CONF: join(tray.dir, "softhsm2.conf") }
      : {
          TPM2_PKCS11_STORE: tpmStore(tray),
          TPM2_PKCS11_TCTI: tray.tpm,
          TPM2_PKCS11_LOG_LEVEL: "0",
          TSS2_LOG: "all+none",
        };
  return {
    ...where,
    PKCS11_MODULE_PATH: tray.module,
    ...(engineFolder === undefined ? {} : { OPENSSL_ENGINES: engineFolder }),
  };
}

/** tpm2-pkcs11's store of a device with a TPM. */
export const tpmStore = ({ dir }: Tray): string => join(dir, "tokens");

function jsonOf(text: string, file: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new CountersignError("input-invalid", `${file} is not JSON`, { cause });
  }
}
