/** What the file system's thread (ext4-thread.ts) is asked, asks itself, and answers. */

export interface Look {
  readonly op: "look";
  readonly path: string;
  /** a larger file isn't read */
  readonly limit: number;
}

export interface Write {
  readonly op: "write";
  readonly path: string;
  readonly mode: number;
  readonly bytes: Uint8Array;
}

export interface Search {
  readonly op: "search";
  /** a larger file isn't read */
  readonly limit: number;
}

export type Work = Look | Write | Search;

export interface Results {
  /** what is at the path, and the names beside it */
  look: {
    readonly directory: readonly string[] | "missing" | "no-directory";
    readonly file:
      { readonly mode: number; readonly size: number; readonly bytes?: Uint8Array } | "missing" | "no-file";
  };
  /** the pages that differ from the image, by their number, ascending */
  write: { readonly pages: readonly (readonly [number, Uint8Array])[] };
  /** small files that may hold certificates; `more` where they are too many to be all given */
  search: { readonly files: readonly { readonly path: string; readonly bytes: Uint8Array }[]; readonly more: boolean };
}

export const PAGE = 1024;

/** Seconds since 1970: the time that the file system's clock stands at, so that the same work gives the same bytes. */
export interface Request {
  readonly work: Work;
  readonly size: number;
  readonly clock: number;
}

export type ToThread = Request | { readonly bytes: Uint8Array } | { readonly unreadable: string };

export type FromThread =
  | { readonly read: { readonly offset: number; readonly length: number } }
  | { readonly value: Results[Work["op"]] }
  /** `full`: there was no room; `sound`: the library said no and goes on, else the WebAssembly module itself failed */
  | { readonly failed: { readonly full: boolean; readonly sound: boolean; readonly message: string } };
