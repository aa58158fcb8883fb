import { Command } from "commander";
import { vi } from "vitest";

/** Runs commands in this process; what one prints on stdout comes back, what it throws is thrown. */
export function inProcess(...register: readonly ((program: Command) => void)[]) {
  return async (...argv: readonly string[]): Promise<string> => {
    let out = "";
    const spy = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      out += String(text);
      return true;
    });
    try {
      const program = new Command("countersign").exitOverride().configureOutput({ writeErr: () => undefined });
      for (const one of register) one(program);
      await program.parseAsync(argv, { from: "user" });
      return out.trimEnd();
    } finally {
      spy.mockRestore();
    }
  };
}
