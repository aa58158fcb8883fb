import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../../lib/domain/ids.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { note, print } from "../output.ts";
import { startProgress, type Progress } from "../progress.ts";
import { SiteClient } from "../site-client.ts";
import { Station, type StationResult } from "../station.ts";
import type { LotView } from "../lot-view.ts";

interface SignOptions {
  lot: string;
  site: string;
  out?: string;
  json?: boolean;
}

/** `countersign sign`: the main job from files, a folder, or a pipe. */
export function registerSign(program: Command): void {
  program
    .command("sign")
    .argument("<csr...>", "CSR files (PEM or DER), folders of them, or - for NDJSON lines on stdin")
    .description(
      "have CSRs of a lot's devices certified; on a site that also builds the lot, the devices are recorded first",
    )
    .requiredOption("--lot <id>", "the lot")
    .option("--site <id>", "the site that certifies", "technician-z")
    .option("--out <dir>", "write each chain to DIR/<device id>.pem")
    .option("--json", "one JSON line a CSR, as with -")
    .addHelpText(
      "after",
      '\nWith -: lines {"csr": PEM} in; out, in the same order, {"deviceId","chain": PEM} or {"error":{"code","message"}}.' +
        "\nExit code 1 when any CSR was refused.\n\nExample:\n  $ countersign sign --lot lot-7 csrs/\n  $ countersign sign --lot lot-7 - < csrs.ndjson > chains.ndjson",
    )
    .action((inputs: string[], options: SignOptions) => handIn(inputs, options, "certified"));
}

/** `countersign lot build`: what a builder hands over must have been recorded. */
export function registerBuild(lot: Command): void {
  lot
    .command("build")
    .argument("<csr...>", "the built devices' CSR files (PEM or DER), folders of them, or - for NDJSON lines on stdin")
    .description("record devices as built, each in a slot of the lot, before they are released or certified")
    .requiredOption("--lot <id>", "the lot")
    .option("--site <id>", "the builder's site", "factory-y")
    .option("--json", "one JSON line a CSR, as with -")
    .addHelpText(
      "after",
      '\nWith -: lines {"csr": PEM} in; out, in the same order, {"deviceId","slot"} or {"error":{"code","message"}}.' +
        "\nExit code 1 when any CSR was refused.\n\nExample:\n  $ countersign lot build --lot lot-7 csrs/",
    )
    .action((inputs: string[], options: SignOptions) => handIn(inputs, options, "built"));
}

type Done = "certified" | "built";

async function handIn(inputs: readonly string[], options: SignOptions, what: Done): Promise<void> {
  const piped = inputs.length === 1 && inputs[0] === "-";
  if (inputs.includes("-") && !piped) throw new CountersignError("usage", "give either - or files, not both");
  const files = piped ? undefined : await listFiles(inputs);
  const client = await SiteClient.open(options.site, { role: "station" });
  try {
    const refused = await sign(client, options, files, what);
    if (refused > 0) process.exitCode = 1;
  } finally {
    client.close();
  }
}

/** @returns how many were refused */
async function sign(
  client: SiteClient,
  options: SignOptions,
  files: readonly string[] | undefined,
  what: Done,
): Promise<number> {
  const lot = await client.get<LotView>(`/api/v1/lots/${encodeURIComponent(options.lot)}`);
  const station = await Station.at(client);
  const ndjson = files === undefined || options.json === true;
  if (options.out !== undefined) await mkdir(options.out, { recursive: true });
  // A pipe's length isn't known: its progress is a plain count.
  const progress = process.stderr.isTTY
    ? startProgress(what === "built" ? "record" : "certify", files?.length ?? 0)
    : undefined;
  const onProgress = (done: number): void => progress?.update(done);

  const unreadable = new Map<number, CountersignError>();
  const csrs = files === undefined ? stdinCsrs(unreadable) : fileCsrs(files);
  const both = lot.builder === client.party && lot.issuer === client.party;
  const go = what === "built" ? "build" : both ? "sign" : "certify";
  const run = station[go](lot.id, csrs, { onProgress });
  let index = 0;
  let refused = 0;
  for await (const answer of run) {
    const error = unreadable.get(index);
    const result: StationResult =
      error === undefined ? answer : { error: { code: error.code, message: error.message } };
    if (result.error !== undefined) refused++;
    await show(result, ndjson, files?.[index], options.out);
    unreadable.delete(index++);
  }
  finish(progress, what, index, refused);
  return refused;
}

async function show(result: StationResult, ndjson: boolean, file: string | undefined, out: string | undefined) {
  const { deviceId, slot, chain, error } = result;
  if (ndjson)
    print(
      JSON.stringify(error !== undefined ? { error } : chain === undefined ? { deviceId, slot } : { deviceId, chain }),
    );
  else if (error !== undefined) note(`${file ?? "a CSR"}: ${error.message} [${error.code}]`);
  else if (chain === undefined) print(`${deviceId}  slot ${slot}`);
  else if (out === undefined) process.stdout.write(chain);
  if (out !== undefined && error === undefined && deviceId !== undefined && DEVICE_ID.test(deviceId)) {
    await writeFile(join(out, `${deviceId}.pem`), chain ?? "");
  }
}

function finish(progress: Progress | undefined, what: Done, all: number, refused: number): void {
  const detail = `${all - refused} ${what}${refused > 0 ? `, ${refused} refused` : ""}`;
  if (progress === undefined) note(detail);
  else progress.finish(detail);
}

/** One CSR a line; a line that isn't one keeps its place in the order. */
async function* stdinCsrs(unreadable: Map<number, CountersignError>): AsyncGenerator<string> {
  let index = 0;
  for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line.trim() === "") continue;
    const csr = csrOf(line);
    if (csr === undefined) {
      unreadable.set(index, new CountersignError("input-invalid", `line ${index + 1} is not {"csr": PEM}`));
    }
    index++;
    yield csr ?? "";
  }
}

function csrOf(line: string): string | undefined {
  try {
    const value = JSON.parse(line) as { csr?: unknown } | null;
    return typeof value?.csr === "string" ? value.csr : undefined;
  } catch {
    return undefined;
  }
}

async function listFiles(inputs: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for (const input of inputs) {
    const found = await stat(input).catch((cause: unknown) => {
      throw new CountersignError("usage", `there is no file or folder ${input}`, { cause });
    });
    if (!found.isDirectory()) files.push(input);
    else {
      const names = (await readdir(input)).filter((name) => /\.(pem|csr|der)$/i.test(name)).sort();
      files.push(...names.map((name) => join(input, name)));
    }
  }
  if (files.length === 0) throw new CountersignError("usage", "there are no .pem, .csr or .der files to sign");
  return files;
}

async function* fileCsrs(files: readonly string[]): AsyncGenerator<string> {
  for (const file of files) {
    const bytes = await readFile(file);
    yield bytes[0] === 0x30 ? pemEncode("CERTIFICATE REQUEST", bytes) : bytes.toString("utf8");
  }
}
