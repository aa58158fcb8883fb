import { Command } from "commander";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { exitCodeOf } from "../../../lib/domain/errors.ts";
import { encodeChain, erasedPartition } from "../../../lib/firmware/index.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { TestChains, type TestChain } from "../../../test/support/chains.ts";
import { firmware, tempDir } from "../../../test/support/index.ts";
import { registerFirmware } from "./firmware.ts";

const pem = ({ chain }: TestChain) => chain.map((der) => pemEncode("CERTIFICATE", der)).join("");
const sha256 = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");

let one: TestChain;
let other: TestChain;
let dir: string;
beforeAll(async () => {
  const cas = await TestChains.create();
  [one, other] = [await cas.leaf("device-1"), await cas.leaf("device-2")];
});
beforeEach(() => {
  dir = tempDir("cli");
  writeFileSync(join(dir, "chain.pem"), pem(one));
  writeFileSync(join(dir, "other.pem"), pem(other));
  writeFileSync(join(dir, "erased.bin"), erasedPartition());
  writeFileSync(join(dir, "old.hex"), ":00000001FF\n");
});

/** Runs `countersign firmware ...` in the test's folder; returns what it printed. */
async function run(line: string): Promise<string> {
  let printed = "";
  const write = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    printed += String(text);
    return true;
  });
  try {
    const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
    registerFirmware(program);
    const args = line.split(" ").map((word) => word.replace("@", `${dir}/`));
    await program.parseAsync(["node", "countersign", "firmware", ...args]);
  } finally {
    write.mockRestore();
  }
  return printed;
}

async function exit(line: string): Promise<[number, string]> {
  try {
    await run(line);
    return [0, ""];
  } catch (error) {
    return [exitCodeOf(error), (error as { code: string }).code];
  }
}

describe("countersign firmware", () => {
  it("injects into a HEX image and gives the chain back", async () => {
    const image = firmware("microbit-micropython").path;
    const inject = `inject --format intel-hex --chain @chain.pem --image ${image} --out @out.hex --offset 0x3E000`;
    const receipt = JSON.parse(await run(`${inject} --length 0x1C00 --json`)) as unknown;
    const bytes = encodeChain(one.chain);
    expect(receipt).toEqual({
      format: "intel-hex",
      original: { path: image, sha256: sha256(image) },
      image: { path: join(dir, "out.hex"), sha256: sha256(join(dir, "out.hex")) },
      region: { offset: 0x3e000, length: bytes.length },
      chain: { sha256: createHash("sha256").update(bytes).digest("hex"), encoding: "pem-nul" },
      readBack: true,
    });
    expect(await run("extract --format intel-hex --image @out.hex")).toBe(pem(one));
    expect(await run("extract --format intel-hex --image @out.hex --offset 253952 --out @found.pem")).toBe("");
    expect(readFileSync(join(dir, "found.pem"), "utf8")).toBe(pem(one));
    expect(await run("detect @out.hex")).toBe("intel-hex\n");
    expect(await run(inject)).toContain("3 certificates");
  });

  it("injects into an erased partition and gives the chain back", async () => {
    await run("inject --format esp-secure-cert --chain @chain.pem --image @erased.bin --out @out.bin");
    expect(await run("extract --format esp-secure-cert --image @out.bin")).toBe(pem(one));
    expect(JSON.parse(await run("detect @out.bin --json"))).toEqual({
      image: join(dir, "out.bin"),
      format: "esp-secure-cert",
    });
    const over = "inject --format esp-secure-cert --chain @other.pem --image @out.bin --out @out.bin";
    expect(await exit(over)).toEqual([1, "image-holds-other-chain"]);
    expect(await exit(`${over} --replace`)).toEqual([0, ""]);
    expect(await run("extract --format esp-secure-cert --image @out.bin")).toBe(pem(other));
  });

  it.each([
    [
      "an address in use",
      "inject --format intel-hex --chain @chain.pem --image @micro.hex --out @old.hex --offset 0x1000",
      1,
      "image-region-overlap",
    ],
    [
      "too small a region",
      "inject --format intel-hex --chain @chain.pem --image @micro.hex --out @old.hex --offset 0x3E000 --length 99",
      1,
      "image-region-too-small",
    ],
    ["no offset", "inject --format intel-hex --chain @chain.pem --image @micro.hex --out @old.hex", 2, "usage"],
    [
      "a cut off image",
      "inject --format intel-hex --chain @chain.pem --image @cut.hex --out @old.hex --offset 0x3E000",
      2,
      "image-invalid",
    ],
    [
      "another format's image",
      "inject --format esp-secure-cert --chain @chain.pem --image @old.hex --out @old.hex",
      2,
      "image-invalid",
    ],
    [
      "a chain that is none",
      "inject --format intel-hex --chain @micro.hex --image @micro.hex --out @old.hex --offset 0x3E000",
      2,
      "pem-invalid",
    ],
    [
      "a missing image",
      "inject --format intel-hex --chain @chain.pem --image @none --out @old.hex --offset 0x3E000",
      2,
      "input-invalid",
    ],
    ["an unknown format", "inject --format zip --chain @chain.pem --image @micro.hex --out @old.hex", 2, "usage"],
    ["an image without a chain", "extract --format intel-hex --image @micro.hex", 1, "image-no-chain"],
    ["an unknown image", "detect @erased.bin", 2, "image-unknown-format"],
    ["a missing file", "detect @none", 2, "input-invalid"],
    ["a folder", "extract --format intel-hex --image @.", 2, "input-invalid"],
  ])("refuses %s and leaves what was there", async (_what, line, code, error) => {
    const image = readFileSync(firmware("microbit-micropython").path);
    writeFileSync(join(dir, "micro.hex"), image);
    writeFileSync(join(dir, "cut.hex"), image.subarray(0, 100_000));
    const before = readdirSync(dir).map((name) => [name, sha256(join(dir, name))]);
    expect(await exit(line)).toEqual([code, error]);
    expect(readdirSync(dir).map((name) => [name, sha256(join(dir, name))])).toEqual(before);
    expect(existsSync(join(dir, "none"))).toBe(false);
  });

  it("shows an example in the help of each command", async () => {
    for (const command of ["inject", "extract", "detect"]) {
      let help = "";
      const program = new Command().exitOverride().configureOutput({ writeOut: (text) => (help += text) });
      registerFirmware(program);
      const group = program.commands[0]!;
      const sub = group.commands.find((one) => one.name() === command)!;
      sub.configureOutput({ writeOut: (text) => (help += text) }).outputHelp();
      expect(help).toContain(`Example:\n  countersign firmware ${command}`);
      expect(help).toContain("esp-secure-cert");
    }
  });

  it("refuses a number that is none", async () => {
    await expect(run("extract --format intel-hex --image @old.hex --offset 12k")).rejects.toMatchObject({
      code: "commander.invalidArgument",
    });
  });

  it("takes each format's own options, and no other's", async () => {
    writeFileSync(join(dir, "nvs.bin"), new Uint8Array(0x6000).fill(0xff));
    const into = "inject --format esp-nvs --chain @chain.pem --image @nvs.bin --out @out.bin";
    await run(`${into} --namespace factory --key chain --type string`);
    expect(await run("detect @out.bin")).toBe("esp-nvs\n");
    expect(await run("extract --format esp-nvs --image @out.bin --namespace factory --key chain")).toBe(pem(one));
    expect(await exit(into)).toEqual([2, "usage"]);
    expect(await exit(`${into} --namespace factory --key chain --offset 0x10`)).toEqual([2, "usage"]);
    expect((await exit(`${into} --namespace factory --key chain --type number`))[1]).toBe("commander.invalidArgument");
    expect((await exit(`${into} --mode 999`))[1]).toBe("commander.invalidArgument");
    const other = "inject --format esp-nvs --chain @other.pem --image @out.bin --out @out.bin";
    expect(await exit(`${other} --namespace factory --key chain`)).toEqual([1, "image-holds-other-chain"]);
    await run(`${other} --namespace factory --key chain --replace`);
    expect(await run("extract --format esp-nvs --image @out.bin")).toMatch(/BEGIN/);
  });

  it("takes no pipe or device for an image, and no endless chain", async () => {
    execFileSync("mkfifo", [join(dir, "pipe")]);
    for (const image of ["@pipe", "/dev/zero", dir]) {
      expect((await exit(`detect ${image}`))[1]).toBe("input-invalid");
      expect((await exit(`extract --format raw --image ${image}`))[1]).toBe("input-invalid");
    }
    const inject = "inject --format esp-secure-cert --chain /dev/zero --image @erased.bin --out @out.bin";
    expect((await exit(inject))[1]).toBe("input-too-large");
  });

  it("leaves nothing behind when it is told to stop", async () => {
    const image = join(dir, "flash.bin");
    writeFileSync(image, "firmware");
    truncateSync(image, 96 << 20);
    const before = readdirSync(dir).sort();
    const main = join(import.meta.dirname, "..", "main.ts");
    const args = ["--format", "raw", "--offset", "0x100000", "--chain", join(dir, "chain.pem"), "--image", image];
    const child = spawn(process.execPath, [main, "firmware", "inject", ...args, "--out", join(dir, "out.bin")]);
    const ended = once(child, "exit");
    await vi.waitFor(() => expect(readdirSync(dir).length).toBeGreaterThan(before.length), {
      timeout: 30_000,
      interval: 2,
    });
    child.kill("SIGINT");
    expect(await ended).toEqual([130, null]);
    expect(readdirSync(dir).sort()).toEqual(before);
  }, 60_000);
});
