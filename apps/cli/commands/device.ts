import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { keyId } from "../../../lib/pki/spki.ts";
import { makeSoftwareKey, openSoftwareKey, softwareCsr, type SoftwareKey } from "../../device/software-key.ts";
import { openTray } from "../../device/tray.ts";
import { type MakeOutcome, only, runInTray } from "../../device/tray-process.ts";
import { print, printJson } from "../output.ts";
import { registerAttest } from "./device-attest.ts";
import { registerDeviceConnect } from "./device-connect.ts";
import { registerDevicePfx } from "./device-pfx.ts";

/** `countersign device ...`: what a device does itself, with its key in a token of its own. */
export function registerDevice(program: Command): void {
  const device = program.command("device").description("a device's own side: key and CSR on the chip, first connect");

  device
    .command("keygen")
    .description("make a device's token and its key in it; the key never leaves the token")
    .option("--token-dir <dir>", "folder of device tokens, made if it isn't there")
    .option("--software-key <file>", SOFTWARE_KEY)
    .requiredOption("--id <id>", "device ID")
    .option("--module <path>", "PKCS#11 module for a new folder (default: SoftHSM 2; with --tpm tpm2-pkcs11)")
    .option("--tpm <tcti>", "make it in this TPM 2, of which the device is the only one: device:/dev/tpmrm0")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  countersign device keygen --token-dir tokens --id dev-0001\n" +
        "  countersign device keygen --token-dir my-tpm --tpm device:/dev/tpmrm0 --id dev-0002\n",
    )
    .action(async (options: KeyPlace & { id: string; module?: string; tpm?: string; json?: boolean }) => {
      if (inSoftware(options)) {
        const keyId = keyIdOf(makeSoftwareKey(options.softwareKey));
        if (options.json) return printJson({ deviceId: options.id, keyId, created: true, testOnly: true });
        return print(`${options.id}: test-only key ${keyId} made in ${options.softwareKey}`);
      }
      const { module, tpm } = options;
      const kind = { ...(module === undefined ? {} : { module }), ...(tpm === undefined ? {} : { tpm }) };
      const tray = openTray(options.tokenDir, { create: true, ...kind });
      const { keyId, created } = await onChip(options.tokenDir, options.id, true, tray.module);
      if (options.json) return printJson({ deviceId: options.id, keyId, created });
      print(`${options.id}: key ${keyId} ${created ? "made" : "was there already"}`);
    });

  device
    .command("csr")
    .description("make a certification request, signed by the device's key in its token")
    .option("--token-dir <dir>", "folder of device tokens")
    .option("--software-key <file>", SOFTWARE_KEY)
    .requiredOption("--id <id>", "device ID")
    .option("--out <file>", "write the PEM there instead of printing it")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  countersign device csr --token-dir tokens --id dev-0001 --out dev-0001.csr.pem\n",
    )
    .action(async (options: KeyPlace & { id: string; out?: string; json?: boolean }) => {
      const { csr, keyId } = inSoftware(options)
        ? csrOf(openSoftwareKey(options.softwareKey), options.id)
        : await onChip(options.tokenDir, options.id, false);
      if (options.out !== undefined) await writeFile(options.out, csr);
      if (options.json) printJson({ deviceId: options.id, keyId, csr });
      else if (options.out === undefined) print(csr.trimEnd());
    });

  registerAttest(device);
  registerDevicePfx(device);
  registerDeviceConnect(device);
}

const SOFTWARE_KEY = "instead: a test-only key in a file, for tutorials; never for production";

type KeyPlace = { tokenDir: string; softwareKey?: never } | { softwareKey: string; tokenDir?: never };

/** @throws CountersignError `usage` unless exactly one place is named */
function inSoftware(options: KeyPlace): options is KeyPlace & { softwareKey: string } {
  if ((options.tokenDir === undefined) === (options.softwareKey === undefined)) {
    throw new CountersignError("usage", "name the key's place by either --token-dir DIR or --software-key FILE");
  }
  return options.softwareKey !== undefined;
}

function csrOf(key: SoftwareKey, deviceId: string): { csr: string; keyId: string } {
  return { csr: softwareCsr(key, deviceId), keyId: keyIdOf(key) };
}

const keyIdOf = ({ spki }: SoftwareKey): string => keyId(spki);

async function onChip(dir: string, deviceId: string, make: boolean, module?: string) {
  const tray = openTray(dir, module === undefined ? {} : { create: true, module });
  const outcomes: MakeOutcome[] = [];
  const job = { kind: "make", tray: tray.dir, devices: [deviceId], makeKeys: make } as const;
  await runInTray(tray, { ...job, devices: [...job.devices] }, (outcome: MakeOutcome) => outcomes.push(outcome));
  return only(outcomes);
}
