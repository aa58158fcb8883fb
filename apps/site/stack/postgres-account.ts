import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { which } from "./machine.ts";

/** Postgres refuses to run as root. When we are root it runs under this account, made when missing. */
const ACCOUNT = "postgres";

/** Where things go that the account couldn't reach in place, for example from a clone under /root (0700). */
const REACHABLE_ROOT = "/var/lib/countersign";

export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/** Undefined when we aren't root: Postgres then runs as we do. @throws CountersignError component-missing */
export function postgresAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const known = lookUp();
  if (known !== undefined) return known;
  const useradd = which("useradd");
  if (useradd !== undefined) {
    const flags = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"];
    execFileSync(useradd, [...flags, "--shell", "/usr/sbin/nologin", ACCOUNT], { stdio: "ignore" });
  }
  const made = lookUp();
  if (made === undefined) {
    throw new CountersignError(
      "component-missing",
      `Postgres won't run as root and there is no account "${ACCOUNT}": create it, run as another user, or set DATABASE_URL`,
    );
  }
  return made;
}

function lookUp(): Account | undefined {
  try {
    const id = (flag: string) =>
      Number(execFileSync("id", [flag, ACCOUNT], { encoding: "utf8", stdio: "pipe" }).trim());
    return { uid: id("-u"), gid: id("-g") };
  } catch {
    return undefined;
  }
}

/** Can the account walk down to `path`? Looks at the mode bits of every folder above it. */
export function reachable(path: string, account: Account): boolean {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const { mode, uid, gid } = statSync(folder);
    const bit = uid === account.uid ? 0o100 : gid === account.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return false;
    if (folder === dirname(folder)) return true;
  }
}

/** The folder of binaries, or a copy of it that the account can run. */
export function reachableBinaries(native: string, version: string, account: Account | undefined): string {
  if (account === undefined || reachable(join(native, "bin", "postgres"), account)) return native;
  const copy = join(REACHABLE_ROOT, `postgres-${version}`);
  if (!existsSync(copy)) {
    mkdirSync(REACHABLE_ROOT, { recursive: true, mode: 0o711 });
    const next = `${copy}.${process.pid}`;
    cpSync(native, next, { recursive: true, verbatimSymlinks: true });
    try {
      renameSync(next, copy);
    } catch (error) {
      // Another start put it there first.
      if (!existsSync(copy)) throw error;
      rmSync(next, { recursive: true });
    }
  }
  return copy;
}

/**
 * Makes the cluster's folder (0700, the account's) and returns its real path. The state folder above it gets o+x when
 * needed: names in it can't be listed, and all secrets are in 0700 folders. Where a folder higher up is closed, the
 * cluster lies in /var/lib/countersign and `dataDir` is a link to it; it stays there when the state folder is deleted,
 * since a folder that was moved or isn't mounted looks the same.
 */
export function reachableDataDir(dataDir: string, account: Account | undefined): string {
  const parent = dirname(dataDir);
  mkdirSync(parent, { recursive: true, mode: 0o700 });
  if (lstatSync(dataDir, { throwIfNoEntry: false }) !== undefined && existsSync(dataDir)) {
    const real = realpathSync(dataDir);
    if (account !== undefined) openParent(real, account);
    return real;
  }
  rmSync(dataDir, { force: true }); // a link whose target is gone
  if (account !== undefined && !openParent(dataDir, account)) {
    const elsewhere = join(REACHABLE_ROOT, `${basename(dataDir)}-${randomBytes(6).toString("hex")}`);
    mkdirSync(elsewhere, { recursive: true, mode: 0o711 });
    symlinkSync(elsewhere, dataDir);
  } else {
    mkdirSync(dataDir, { mode: 0o700 });
  }
  const real = realpathSync(dataDir);
  chmodSync(real, 0o700);
  if (account !== undefined) chownSync(real, account.uid, account.gid);
  return real;
}

/** o+x on the state folder, and on the private temporary folders (mkdtemp) that it may lie in. */
function openParent(path: string, account: Account): boolean {
  if (reachable(path, account)) return true;
  const parent = dirname(path);
  const temporary = [tmpdir(), "/tmp"].some((root) => parent.startsWith(`${realpathSync(root)}/`));
  if (!(temporary ? openParent(parent, account) : reachable(parent, account))) return false;
  chmodSync(parent, (statSync(parent).mode & 0o7777) | 0o001);
  return true;
}
