import { readFile } from "node:fs/promises";
import { type Command, InvalidArgumentError } from "commander";
import { toBase64 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Layout } from "../../../lib/firmware/index.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { FIRMWARE_FORMATS } from "../../../lib/records/receipt.ts";
import { FIRMWARE_FORMATS as ALL_FORMATS } from "../../site/firmware.ts";
import { LAYOUT_SYNTAX, parseSetting } from "../layout-options.ts";
import { FIRMWARE_FORMATS as FORMATS } from "../../site/firmware.ts";
import { note, print, printJson, table } from "../output.ts";
import { type LotView, wholeNumber, withSite } from "../lot-view.ts";
import { registerInject, registerInstall } from "./lot-finish.ts";
import { registerBuild } from "./sign.ts";

/** `countersign lot ...`: production runs and how far they are. */

interface LayoutOption extends Layout {
  format: string;
  template: string;
}

const DEFAULT_SITE = "factory-y";

export function registerLot(program: Command): void {
  const lot = program.command("lot").description("production lots: numbered slots under one grant");
  registerBuild(lot);

  lot
    .command("open")
    .argument("<id>", "the lot's id")
    .description("open a lot that this site builds")
    .requiredOption("--slots <n>", "how many devices it is for", wholeNumber)
    .option("--issuer <party>", "who certifies the devices (default: this site)")
    .option("--profile <name>", "certificate profile: idevid or ldevid", "ldevid")
    .option("--days <n>", "validity of its certificates, within the profile's maximum; or no-expiry", validity)
    .option("--hardware-type <oid>", "idevid only: put a hardware module name of this type into each certificate")
    .option("--attest <file>", "demand that each key is in a TPM 2, by these vendors' root certificates (PEM)")
    .option("--attest-within <seconds>", "how long a TPM's challenge may be answered (default: 300)", wholeNumber)
    .option(
      "--layout <layout>",
      `image for the chain, as FORMAT:TEMPLATE[,SETTING...], SETTING one of ${LAYOUT_SYNTAX}; several take turns, slot by slot`,
      collectLayout,
    )
    .option("--layouts <file>", "the same as a JSON array")
    .option("--site <id>", "the builder's site", DEFAULT_SITE)
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign lot open lot-7 --slots 500 --issuer technician-z --layout esp-secure-cert:esp-secure-cert.bin",
    )
    .action(async (id: string, options: OpenOptions) => {
      const layouts = options.layout ?? (options.layouts === undefined ? [] : await readLayouts(options.layouts));
      if (layouts.length === 0) {
        throw new CountersignError("usage", "name at least one --layout: which template image the chain goes into");
      }
      await withSite(options.site, async (client) => {
        const { slots, profile, days, hardwareType } = options;
        const certificate = {
          ...(days === undefined ? {} : { days }),
          ...(hardwareType === undefined ? {} : { hardwareType }),
          ...(await attestationOf(options)),
        };
        const issuer = options.issuer ?? client.party;
        const view = await client.post<LotView>("/api/v1/lots", { id, slots, issuer, profile, layouts, certificate });
        for (const warning of new Set(layouts.map((layout) => warningOf(layout.format)))) if (warning) note(warning);
        if (options.json) return printJson(view);
        note(`lot ${view.id} is open: ${view.slots} slots, built by ${view.builder}, certified by ${view.issuer}`);
        for (const { name, warning } of ALL_FORMATS) {
          if (warning !== undefined && layouts.some(({ format }) => format === name)) note(`${name}: ${warning}`);
        }
        print(view.id);
      });
    });

  registerInject(lot);
  registerInstall(lot);

  lot
    .command("show")
    .argument("[id]", "one lot; without it, all of them")
    .description("how far a lot is at this site")
    .option("--site <id>", "whose view", DEFAULT_SITE)
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign lot show lot-7 --site technician-z")
    .action((id: string | undefined, options: { site: string; json?: boolean }) =>
      withSite(options.site, async (client) => {
        if (id === undefined) {
          const { lots } = await client.get<{ lots: LotView[] }>("/api/v1/lots");
          if (options.json) return printJson(lots);
          const rows = lots.map((l) => [l.id, l.state, String(l.slots), l.builder, l.issuer, l.profile]);
          return print(table([["LOT", "STATE", "SLOTS", "BUILT BY", "CERTIFIED BY", "PROFILE"], ...rows]));
        }
        const view = await client.get<LotView>(`/api/v1/lots/${encodeURIComponent(id)}`);
        if (options.json) return printJson(view);
        const { counts = {}, ...rest } = view;
        const shown = Object.entries(rest).filter(([, value]) => typeof value !== "object");
        print(table([...shown, ...Object.entries(counts)].map(([key, value]) => [key, String(value)])));
      }),
    );
}

function warningOf(format: string): string | undefined {
  return FORMATS.find(({ name }) => name === format)?.warning;
}

interface OpenOptions {
  slots: number;
  issuer?: string;
  profile: string;
  days?: number | "no-expiry";
  hardwareType?: string;
  attest?: string;
  attestWithin?: number;
  layout?: LayoutOption[];
  layouts?: string;
  site: string;
  json?: boolean;
}

/** @throws CountersignError `usage`, `pem-invalid` */
async function attestationOf({ attest, attestWithin: deadline }: OpenOptions) {
  if (attest === undefined) {
    if (deadline !== undefined) throw new CountersignError("usage", "--attest-within goes with --attest");
    return {};
  }
  const pem = await readFile(attest, "utf8").catch((cause: unknown) => {
    throw new CountersignError("usage", `can't read ${attest}`, { cause });
  });
  const vendorRoots = pemDecode(pem, "CERTIFICATE").map(toBase64);
  return { attestation: { kind: "tpm2", vendorRoots, ...(deadline === undefined ? {} : { deadline }) } };
}

/** @throws InvalidArgumentError */
function validity(text: string): number | "no-expiry" {
  return text === "no-expiry" ? text : wholeNumber(text);
}

/** @throws InvalidArgumentError */
export function parseLayout(text: string): LayoutOption {
  const [where = "", ...settings] = text.split(",");
  const [format = "", ...name] = where.split(":");
  const template = name.join(":");
  if (!(FIRMWARE_FORMATS as readonly string[]).includes(format) || template === "") {
    throw new InvalidArgumentError(`expected FORMAT:TEMPLATE, FORMAT one of ${FIRMWARE_FORMATS.join(", ")}`);
  }
  return Object.assign({ format, template }, ...settings.map(parseSetting)) as LayoutOption;
}

const collectLayout = (text: string, before: LayoutOption[] = []): LayoutOption[] => [...before, parseLayout(text)];

async function readLayouts(file: string): Promise<LayoutOption[]> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as LayoutOption[];
  } catch (cause) {
    throw new CountersignError("usage", `${file} holds no JSON array of layouts (${(cause as Error).message})`, {
      cause,
    });
  }
}
