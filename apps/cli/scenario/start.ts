import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { removeState } from "../../site/stack/state.ts";
import { printWhere } from "../where.ts";
import { note, paint, print, printJson } from "../output.ts";
import { checkOut } from "../out/evidence.ts";
import { stateFolder } from "../site-client.ts";
import { playCustody, type CustodyPlan, type CustodyResult } from "./custody.ts";
import { runStack } from "./running.ts";
import { readCsrFile } from "./csr-file.ts";

export interface StartOptions {
  once?: boolean;
  devices: number;
  images?: number;
  csrs?: string;
  out?: string;
  json?: boolean;
}

const DEFAULT_IMAGES = 100;

/** `npm start`: the stack, the custody chain once, then either goes on serving or stops everything. */
export async function runStart(options: StartOptions): Promise<void> {
  const plan = await planOf(options);
  const ownHome = options.once === true && process.env["COUNTERSIGN_HOME"] === undefined;
  const home = ownHome ? await mkdtemp(join(tmpdir(), "countersign-")) : stateFolder();
  try {
    await runStack(home, async (stack, stopped) => {
      const result = await playCustody(stack.info, home, plan);
      report(result);
      if (options.json) printJson({ ...result, out: plan.out ?? null, ...(options.once ? {} : { stack: stack.info }) });
      else if (plan.out !== undefined) print(`evidence: ${plan.out}`);
      if (options.once === true) return;
      if (!options.json) {
        printWhere(stack.info);
        print(`console: ${stack.info.sites[0]!.url}/ (Ctrl-C stops everything)`);
      }
      await stopped;
    });
  } finally {
    if (ownHome) await removeState(home);
  }
}

function report(result: CustodyResult): void {
  const refused = result.refused > 0 ? `, ${paint("yellow", `${result.refused} refused`)}` : "";
  const rate = `${result.devicesPerSecond} a second`;
  note(
    `${paint("bold", `${result.certified} devices`)} certified (${rate}), ${result.connected} connected, ${result.telemetry} messages${refused}`,
  );
}

async function planOf(options: StartOptions): Promise<CustodyPlan> {
  const csrs = options.csrs === undefined ? undefined : await readCsrFile(options.csrs);
  if (csrs?.length === 0) throw new CountersignError("usage", `there is nothing to do: ${options.csrs} holds no CSR`);
  const devices = csrs?.length ?? options.devices;
  if (devices < 1) throw new CountersignError("usage", "there is nothing to do: --devices is at least 1");
  const out = options.out === undefined ? undefined : resolve(options.out);
  if (out !== undefined) await checkOut(out);
  return {
    devices,
    images: csrs ? 0 : Math.min(devices, options.images ?? DEFAULT_IMAGES),
    ...(csrs ? { csrs } : {}),
    ...(out === undefined ? {} : { out }),
  };
}
