import { spawn } from "node:child_process";
import { tool } from "./index.ts";

/**
 * Runs QEMU's mps2-an385 board until its console has said enough, or for 20 seconds.
 * @param uart which of the board's UARTs is the console
 * @returns what the console said
 */
export async function board(args: readonly string[], until: (said: string) => boolean, uart: 0 | 1): Promise<string> {
  const machine = ["-cpu", "cortex-m3", "-machine", "mps2-an385", "-display", "none", "-monitor", "none"];
  const serial = [...(uart === 1 ? ["-serial", "null"] : []), "-serial", "stdio"];
  const qemu = spawn(tool("qemu-system-arm"), [...machine, ...serial, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  const timer = setTimeout(() => qemu.kill("SIGKILL"), 20_000);
  qemu.stdout.setEncoding("latin1").on("data", (text: string) => {
    said += text;
    if (until(said)) qemu.kill("SIGKILL");
  });
  await new Promise((resolve, reject) => qemu.once("close", resolve).once("error", reject));
  clearTimeout(timer);
  return said;
}
