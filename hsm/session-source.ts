import type { Handle } from "./cryptoki.ts";

export interface SessionSource {
  /** the token's label, for messages */
  readonly label: string;
  /** Changes when all sessions opened before are lost. */
  readonly epoch: number;
  /** Opens a logged-in session. */
  open(): Promise<Handle>;
  /** Closes one of the present epoch or an earlier one; must not throw for one that is gone already. */
  close(handle: Handle, epoch: number): void;
}

export interface PoolState {
  size: number;
  /** at work, someone waiting for the result */
  inUse: number;
  /** given up, the native call hasn't returned yet */
  abandoned: number;
  /** not leased yet */
  waiting: number;
}
