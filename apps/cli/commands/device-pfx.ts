import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { equalBytes } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { parseCertificatesPem } from "../../../lib/pki/certificate.ts";
import { encodePfx } from "../../device/pfx.ts";
import { openSoftwareKey } from "../../device/software-key.ts";
import { readNeeded } from "../evidence/folder.ts";
import { print, printJson } from "../output.ts";
import { readPassword } from "../password.ts";

/** `countersign device export-pfx`: what tutorials hand to clients that read nothing else. */
export function registerDevicePfx(device: Command): void {
  device
    .command("export-pfx")
    .description("put a test-only software key and the device's chain into one .pfx (PKCS #12)")
    .requiredOption(
      "--software-key <file>",
      "the key, made by `device keygen --software-key`; a chip's key never leaves it",
    )
    .requiredOption("--chain <pem>", "the device's chain, leaf first")
    .requiredOption("--out <file>", "the .pfx, which must not be there yet")
    .option("--password-file <file>", "8 to 256 characters in a file of mode 600; asked for on a terminal without it")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  countersign device export-pfx --software-key dev-1.test.key --chain chain.pem --out dev-1.pfx \\\n" +
        "    --password-file pfx.password\n",
    )
    .action(
      async (options: { softwareKey: string; chain: string; out: string; passwordFile?: string; json?: boolean }) => {
        const { key, spki } = openSoftwareKey(options.softwareKey);
        const chain = parseCertificatesPem(Buffer.from(await readNeeded(options.chain, "the chain")).toString("utf8"));
        const [leaf] = chain;
        if (leaf === undefined || leaf.basicConstraints?.ca === true) {
          throw new CountersignError(
            "certificate-invalid",
            `${options.chain} doesn't begin with a device's certificate`,
          );
        }
        if (!equalBytes(leaf.spki, spki)) {
          const message = `the first certificate in ${options.chain} is not for the key in ${options.softwareKey}`;
          throw new CountersignError("certificate-invalid", message);
        }
        const name = leaf.subject.cn ?? "device";
        const password = await readPassword(options.out, options.passwordFile);
        const pfx = encodePfx({ key, chain: chain.map(({ der }) => der), name }, password);
        try {
          await writeFile(options.out, pfx, { mode: 0o600, flag: "wx" });
        } catch (cause) {
          throw new CountersignError("input-invalid", `can't write ${options.out}: ${(cause as Error).message}`, {
            cause,
          });
        }
        if (options.json) return printJson({ deviceId: name, out: options.out, certificates: chain.length });
        print(`${options.out}: the test-only key of ${name} and ${chain.length} certificates`);
      },
    );
}
