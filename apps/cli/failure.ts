import { CommanderError } from "commander";
import { ZodError } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";

/** What a path given by the user can be: the fault is in the command line, not in us. */
const PATH_FAULTS = new Map([
  ["ENOENT", "doesn't exist"],
  ["EISDIR", "is a folder where a file belongs"],
  ["ENOTDIR", "leads through a file where a folder belongs"],
  ["EEXIST", "is there already, as something else"],
  ["EACCES", "may not be read or written by you"],
  ["EPERM", "may not be changed by you"],
  ["EROFS", "lies on a read-only file system"],
  ["ENAMETOOLONG", "is too long a name"],
  ["ELOOP", "is a circle of links"],
]);

/** Says what was thrown in the user's words where it came from the command line or a file; anything else stays itself. */
export function asCountersignError(error: unknown): unknown {
  if (error instanceof CommanderError) {
    const message = error.message.replace(/^error: /, "").replace(/\.?$/, "");
    return new CountersignError("usage", `${message}; --help says how to use it`, { cause: error });
  }
  if (error instanceof ZodError) return new CountersignError("input-invalid", issueOf(error), { cause: error });
  const { code, path, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  const fault = PATH_FAULTS.get(code ?? "");
  if (!(error instanceof Error) || fault === undefined || syscall === undefined) return error;
  return new CountersignError("input-invalid", path === undefined ? error.message : `${path} ${fault}`, {
    cause: error,
  });
}

/** The first thing that is wrong, with its place: zod's own message is all of them as JSON. */
export function issueOf(error: ZodError): string {
  const issue = error.issues[0];
  const place = issue?.path.join(".") ?? "";
  return `${place === "" ? "" : `${place}: `}${issue?.message ?? "not valid"}`;
}
