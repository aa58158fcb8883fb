import { chmodSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import { beforeAll, describe, expect, it } from "vitest";
import { tempDir } from "../test/support/index.ts";
import { type PinSource, createPinFile, readPin } from "./pin.ts";

let dir: string;
beforeAll(() => {
  dir = tempDir("pin");
});

function pinFile(name: string, content: string | Uint8Array, mode = 0o600): { file: string } {
  const file = join(dir, name);
  writeFileSync(file, content);
  chmodSync(file, mode);
  return { file };
}

const reading = async (source: PinSource): Promise<string> => readPin(source);

describe("PIN sources", () => {
  it("read a file's one line, and a variable", async () => {
    expect(readPin(pinFile("plain", "hunter-2"))).toBe("hunter-2");
    expect(readPin(pinFile("newline", "hunter-2\n"))).toBe("hunter-2");
    expect(readPin(pinFile("crlf", "ключ 2\r\n"))).toBe("ключ 2");
    process.env["TEST_PIN"] = "from-env";
    expect(readPin({ env: "TEST_PIN" })).toBe("from-env");
    delete process.env["TEST_PIN"];
    await expect(reading({ env: "TEST_PIN" })).rejects.toMatchObject({ code: "hsm-unavailable" });
  });

  it.each([0o640, 0o604, 0o660, 0o644, 0o610])("refuse a file of mode %o", async (mode) => {
    const source = pinFile(`mode-${mode}`, "hunter-2", mode);
    await expect(reading(source)).rejects.toMatchObject({
      code: "hsm-unavailable",
      message: expect.stringContaining("chmod 600") as string,
    });
  });

  it("judge the file a link points to", async () => {
    const { file } = pinFile("target", "hunter-2", 0o644);
    symlinkSync(file, join(dir, "link"));
    await expect(reading({ file: join(dir, "link") })).rejects.toMatchObject({ code: "hsm-unavailable" });
  });

  it.each([
    ["empty", ""],
    ["only a newline", "\n"],
    ["two lines", "hunter-2\nhunter-3"],
    ["a NUL", "hunter\u0000-2"],
    ["too long", "hunter-2".repeat(40)],
    ["not UTF-8", Uint8Array.of(0x68, 0xff, 0xfe)],
  ])("refuse content that is %s, without repeating it", async (name, content) => {
    const source = pinFile(name, content);
    const error: unknown = await reading(source).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "hsm-unavailable" });
    expect(inspect(error, { depth: 10 })).not.toContain("hunter");
  });

  it("refuse what isn't a file", async () => {
    mkdirSync(join(dir, "folder"), { mode: 0o700 });
    await expect(reading({ file: join(dir, "folder") })).rejects.toMatchObject({ code: "hsm-unavailable" });
    await expect(reading({ file: join(dir, "none") })).rejects.toMatchObject({ code: "hsm-unavailable" });
  });

  it("are made with a random PIN, mode 0600, and never overwritten", async () => {
    const path = join(dir, "new.pin");
    const source = await createPinFile(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const pin = readPin(source);
    expect(pin).toMatch(/^[A-Za-z0-9_-]{22}$/);
    await expect(createPinFile(path)).rejects.toMatchObject({ code: "already-exists" });
    expect(readFileSync(path, "utf8")).toBe(pin);
    expect(readPin(await createPinFile(join(dir, "other.pin")))).not.toBe(pin);
  });
});
